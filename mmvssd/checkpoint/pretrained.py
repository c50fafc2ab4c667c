"""Load a pretrained backbone, or say why the file is none for it."""
import re
from typing import Any, Mapping, Optional

from mmengine.logging import print_log
from torch import Tensor, nn

from mmvssd.checkpoint.comparison import Mismatch, compare, describe
from mmvssd.checkpoint.contents import entries_of, state_dict_of, without_compile
from mmvssd.checkpoint.fit import other_place, prefix_that_fits
from mmvssd.checkpoint.input_channels import (
    ADAPTATIONS,
    adapt_channels,
    differing_channels,
    first_convolution,
)
from mmvssd.checkpoint.reading import read_checkpoint
from mmvssd.errors import CheckpointError, printable
from mmvssd.phrases import counted, some


def load_pretrained(backbone: nn.Module, path: str, prefix: str = '',
                    adapt_stem: Optional[str] = None) -> None:
    """Load a pretrained backbone; stop if the checkpoint is another's.

    Output norms may be absent on either side: a classifier has the last one only, and a
    backbone keeps fresh ones for its other outputs. What the checkpoint has beyond the
    backbone's last stage is left out. Both are logged.

    Args:
        backbone: The backbone.
        path: A file, or any address that MMEngine's loader knows.
        prefix: What stands before the backbone's names in the file.
        adapt_stem: How the first convolution is made over if the file's images have another number
            of channels, one of :data:`~mmvssd.checkpoint.input_channels.ADAPTATIONS`; None for not
            at all.

    Raises:
        CheckpointError: The file cannot be read, or names or shapes don't fit.
    """
    checkpoint = read_checkpoint(path)
    if not state_dict_of(checkpoint):
        raise CheckpointError(f'{path}: holds no weights; its entries: '
                              f'{printable(some(list(checkpoint))) or "none"}. '
                              f'{other_place(checkpoint)}'.rstrip())
    whole = {without_compile(name): value for name, value in entries_of(checkpoint).items()}
    given = {name[len(prefix):]: value for name, value in whole.items() if name.startswith(prefix)}
    expected = backbone.state_dict()
    if not any(isinstance(value, Tensor) for value in given.values()):
        raise CheckpointError(f'{path}: has no weights under the prefix {prefix!r}. '
                              f'{_other_prefix(whole, expected)}'.rstrip())
    if adapt_stem is not None:
        given = _with_stem_for(backbone, path, given, adapt_stem)
    mismatch = compare(given, expected)
    dropped = [name for name in mismatch.unexpected if _is_beyond(name, len(backbone.stages))]
    fresh = [name for name in mismatch.missing if is_output_norm(name)]
    wrong = Mismatch([name for name in mismatch.missing if name not in fresh],
                     [name for name in mismatch.unexpected if name not in dropped],
                     mismatch.shapes, mismatch.unusable)
    channels = differing_channels(wrong)
    if channels:
        raise CheckpointError(
            f"{path}: in_channels is {channels[1]}, the file's is {channels[0]}; "
            f"adapt_stem={' or '.join(map(repr, ADAPTATIONS))} in init_cfg makes the first "
            'convolution over (docs/backbone.md)')
    if any(wrong):
        raise CheckpointError(f'{path}: not the weights of this {type(backbone).__name__}\n  '
                              f'{describe(wrong)}\n{_advice(whole, given, expected, checkpoint)}')
    loaded = {name: value for name, value in given.items() if name in expected}
    backbone.load_state_dict(loaded, strict=False)
    print_log(printable(f'{path}: loaded {counted(len(loaded), "entry")}; '
                        f'kept random: {", ".join(fresh) or "none"}; '
                        f'left out: {", ".join(dropped) or "none"}'), logger='current')


def _with_stem_for(backbone: nn.Module, path: str, given: Mapping[str, Any], how: str
                   ) -> Mapping[str, Any]:
    """Return a file's weights, the first convolution made over if its channels differ."""
    name = f'{first_convolution(backbone)}.weight'
    weight, channels = given.get(name), backbone.state_dict()[name].shape[1]
    if not isinstance(weight, Tensor) or weight.dim() != 4 or weight.shape[1] == channels:
        return given
    print_log(f'{path}: the first convolution, of {counted(weight.shape[1], "channel")}, is made '
              f'over for {channels} ({how})', logger='current')
    return {**given, name: adapt_channels(weight, channels, how)}


def is_output_norm(name: str) -> bool:
    """Tell if a backbone's entry belongs to the norm of an output, which may be fresh."""
    return re.match(r'norm\d+\.', name) is not None


def _is_beyond(name: str, num_stages: int) -> bool:
    part = re.match(r'(stages|downsamples)\.(\d+)\.', name)
    return is_output_norm(name) or (
        part is not None and int(part[2]) >= num_stages - (part[1] == 'downsamples'))


def _other_prefix(whole: Mapping[str, Any], expected: Mapping[str, Tensor]) -> str:
    """Say under which prefix a backbone's weights lie in a checkpoint; '' if they don't."""
    needed = {name: value for name, value in expected.items() if not is_output_norm(name)}
    weights = {name: value for name, value in whole.items() if isinstance(value, Tensor)}
    prefix = prefix_that_fits(weights, needed)
    if prefix is None:
        return ''
    return (f'The weights lie under {prefix!r}: set prefix={prefix!r} in init_cfg.' if prefix else
            'The names fit without a prefix: leave prefix out of init_cfg.')


def _advice(whole: Mapping[str, Any], given: Mapping[str, Any], expected: Mapping[str, Tensor],
            checkpoint: dict) -> str:
    if any(re.match(r'(backbone\.)?layers\.\d+\.', name) for name in given):
        return ("The names are the published code's: convert the file first with "
                'tools/model_converters/convert_checkpoint.py.')
    if any(name.startswith('backbone.') for name in given):
        return "The file holds a whole model: set prefix='backbone.' in init_cfg."
    if not given.keys() & expected.keys():
        elsewhere = _other_prefix(whole, expected) or other_place(checkpoint)
        if elsewhere:
            return elsewhere
    meta = checkpoint.get('meta')
    if isinstance(meta, dict) and {'family', 'arch'} <= set(meta):  # of a converted file
        return f"The file holds a {meta['family']} of arch {meta['arch']!r}: check type and arch."
    return 'Check that type and arch name the model that the checkpoint was trained as.'
