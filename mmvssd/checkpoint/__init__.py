"""Read checkpoints, choose one to resume, and tell whether one fits a model.

All errors about checkpoints start here.
"""
from mmvssd.checkpoint.comparison import Mismatch, compare, describe
from mmvssd.checkpoint.contents import (
    choose_weights,
    class_names,
    dataset_meta,
    named_as,
    state_dict_of,
    without_compile,
)
from mmvssd.checkpoint.fit import (
    advice_on_channels,
    mismatch_with,
    place_of_weights,
    require_fit,
    unwrapped,
    weights_of,
)
from mmvssd.checkpoint.input_channels import ADAPTATIONS, first_convolution
from mmvssd.checkpoint.pretrained import is_output_norm, load_pretrained
from mmvssd.checkpoint.reading import is_local_file, read_checkpoint
from mmvssd.checkpoint.resuming import (
    RESUMED,
    checkpoints_of,
    newest_checkpoint,
    require_progress,
    require_resumable,
    way_on,
)

__all__ = ['ADAPTATIONS', 'RESUMED', 'Mismatch', 'advice_on_channels', 'checkpoints_of',
           'choose_weights', 'class_names', 'compare', 'dataset_meta', 'describe',
           'first_convolution', 'is_local_file', 'is_output_norm', 'load_pretrained',
           'mismatch_with', 'named_as', 'newest_checkpoint', 'place_of_weights', 'read_checkpoint',
           'require_fit', 'require_progress', 'require_resumable', 'state_dict_of', 'unwrapped',
           'way_on', 'weights_of', 'without_compile']
