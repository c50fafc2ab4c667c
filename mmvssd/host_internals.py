"""Private names of MMEngine and MMPreTrain that this package needs, in one place.

No other module touches a private name of theirs, so a new version of MMEngine is checked and
mended here. Exempt are the patches of :mod:`mmvssd.compat`, whose subject such names are, and what
subclasses override or inherit (:data:`INHERITED`). Tests hold both, and that the names mean what is
assumed.
"""
import importlib
from typing import Any, Iterator, List, Optional

from mmengine._strategy import FSDPStrategy
from mmengine.runner import BaseLoop
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch.utils.data import DataLoader

#: Hooks that MMEngine's Runner adds by itself, by their names in ``default_hooks``.
DEFAULT_HOOKS = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler',
                 'checkpoint')

#: Protected names of MMEngine's that subclasses of this package use, by subclass.
INHERITED = {
    'mmvssd.engine.record.tensorboard.TensorboardVisBackend': ('_env_initialized', '_init_env'),
    'mmvssd.engine.train.sharding.ShardedStrategy': ('_prepared', ),
    'mmvssd.engine.train.loops._ResumableLoop': ('_decide_current_val_interval', ),
    'mmvssd.engine.train.loops.EpochBasedTrainLoop': ('_epoch', ),
}

__all__ = ['DEFAULT_HOOKS', 'INHERITED', 'FSDPStrategy', 'accumulated_batches', 'built_loop',
           'endless_batches', 'filled', 'has_loaded', 'head_losses', 'is_resuming',
           'scale_rate_for', 'scores_are_softmax', 'source_of', 'turns_channels']


def built_loop(runner: Any, phase: str) -> Optional[BaseLoop]:
    """Return a Runner's loop of 'train', 'val' or 'test'; None if nothing has asked for it.

    The Runner's property of that name would build it.
    """
    loop = getattr(runner, f'_{phase}_loop')
    return loop if isinstance(loop, BaseLoop) else None


def filled(dataset: Any, entries: List[dict]) -> Any:
    """Return a data set of MMEngine's that was built lazily, with entries in place of its own."""
    dataset.data_list, dataset.serialize_data = entries, False
    dataset._fully_initialized = True
    return dataset


def is_resuming(runner: Any) -> bool:
    """Tell whether a Runner was told to resume; there may be nothing to resume from."""
    return bool(runner._resume)


def source_of(runner: Any) -> Optional[str]:
    """Return the checkpoint that a Runner was told to load; None if it looks for one, or none."""
    # a FlexibleRunner may have it as its `resume`
    return runner._resume if isinstance(runner._resume, str) else runner._load_from


def has_loaded(runner: Any) -> bool:
    """Tell whether a Runner has loaded a checkpoint."""
    return runner._has_loaded


def accumulated_batches(wrapper: Any) -> int:
    """Return how many batches an optimizer wrapper sums up for one step of the optimizer."""
    return getattr(wrapper, '_accumulative_counts', 1)  # DeepSpeed's wrapper leaves it to DeepSpeed


def scale_rate_for(runner: Any, batches: int) -> None:
    """Have MMEngine's scaling of the learning rate count the batches that make up one step.

    It compares the images of one batch with the base. The Runner's own setting is changed, not the
    config that it writes down: a run of that one would count them twice.
    """
    owner, name = runner, 'auto_scale_lr'
    if not hasattr(runner, name):  # a FlexibleRunner
        owner, name = runner.strategy, '_auto_scale_lr'
    scaling = getattr(owner, name)
    if batches > 1 and scaling and scaling.get('enable'):
        setattr(owner, name, dict(scaling, base_batch_size=scaling['base_batch_size'] / batches))


def endless_batches(dataloader: DataLoader, epoch: int) -> Iterator:
    """Return MMEngine's iterator over a loader again and again, in its given pass."""
    batches = _InfiniteDataloaderIterator(dataloader)
    batches._epoch = epoch
    return batches


def head_losses(head: Any, logits: Any, data_samples: Any) -> dict:
    """Return the losses of a classification head of MMPreTrain from logits that are there."""
    return head._get_loss(logits, data_samples)


def scores_are_softmax(head: Any) -> bool:
    """Tell whether a classifier's head makes scores as MMPreTrain's ClsHead: softmax of logits."""
    heads = importlib.import_module('mmpretrain.models.heads')
    return getattr(type(head), '_get_predictions', None) is heads.ClsHead._get_predictions


def turns_channels(preprocessor: Any) -> bool:
    """Tell whether a preprocessor of MMEngine's or of a host's swaps blue and red."""
    return any(getattr(preprocessor, name, False)
               for name in ('_channel_conversion', 'channel_conversion', 'to_rgb'))
