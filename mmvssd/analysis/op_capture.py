"""Recording what a mixer's op takes and returns, from outside of the mixer."""
import inspect
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

from torch import Tensor, nn

from mmvssd.analysis.op_maps import OpMaps
from mmvssd.analysis.scan_maps import SelectiveScanMaps
from mmvssd.analysis.ssd_maps import AttentionMaps, NCSSDMaps, NormalizedNCSSDMaps, SSDMaps
from mmvssd.errors import ConfigError
from mmvssd.models.layers import SS2D, Attention, NCSSDMixer, SSDMixer
from mmvssd.phrases import counted


class Call(NamedTuple):
    """One call of an op: its arguments by name, defaults among them, and its result."""

    arguments: Dict[str, Any]
    result: Tensor


class Recording:
    """What a mixer's op was called with, in order, and the grid of the mixer's input.

    Attributes:
        calls: The op's calls.
        grid: (H, W) of the mixer's input, None before it ran.
    """

    def __init__(self) -> None:
        self.calls: List[Call] = []
        self.grid: Optional[Tuple[int, int]] = None

    def clear(self) -> None:
        """Forget what was recorded."""
        self.calls.clear()
        self.grid = None


def _copy(value):
    return value.detach().clone() if isinstance(value, Tensor) else value


@contextmanager
def recording(mixer: nn.Module) -> Iterator[Recording]:
    """Record the calls of a mixer's op while the block runs; the mixer is as before afterwards.

    Args:
        mixer: One with an ``op``, or an :class:`~mmvssd.models.layers.Attention`. Attention counts
            as one call, with the output of ``to_qkv`` as ``qkv`` and the heads' outputs, which go
            into ``to_out``, as its result.

    Raises:
        ConfigError: The mixer's op cannot be described by one matrix, or it has no op.
    """
    check_mixer(mixer)
    record = Recording()
    hook = mixer.register_forward_pre_hook(
        lambda _, inputs: setattr(record, 'grid', tuple(inputs[0].shape[1:3])))
    inner = (recording_attention(mixer.to_qkv, mixer.to_out, record.calls)
             if isinstance(mixer, Attention) else _recording_op(mixer, record.calls))
    try:
        with inner:
            yield record
    finally:
        hook.remove()


def check_mixer(mixer: nn.Module) -> None:
    """Raise ConfigError if a mixer's op has no map."""
    if getattr(mixer, 'pattern', None) == 'cascade':
        raise ConfigError("pattern='cascade' has no map: a norm stands between its scans of rows "
                          'and of columns, so that no single matrix describes it; the patterns '
                          "'cross', 'unidirectional' and 'bidirectional' have one")
    if not isinstance(mixer, (SS2D, NCSSDMixer, SSDMixer, Attention)):
        raise ConfigError(f'{type(mixer).__name__} is not a mixer whose op has a map; those of '
                          'SS2D, NCSSDMixer, SSDMixer and Attention have one')


@contextmanager
def _recording_op(mixer: nn.Module, calls: List[Call]) -> Iterator[None]:
    op = mixer.op
    signature = inspect.signature(op)

    def recorded(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        # copied before the call: what an op writes in place would be lost
        arguments = {name: _copy(value) for name, value in bound.arguments.items()}
        result = op(*args, **kwargs)
        calls.append(Call(arguments, _copy(result)))
        return result

    mixer.op = recorded
    try:
        yield
    finally:
        mixer.op = op


@contextmanager
def recording_attention(to_qkv: nn.Module, to_out: nn.Module,
                        calls: List[Call]) -> Iterator[None]:
    """Record attention between two layers: queries, keys and values, and the heads' outputs.

    Args:
        to_qkv: Layer that makes queries, keys and values.
        to_out: Layer that reads the heads' outputs.
        calls: Gets a call with the argument ``qkv``.
    """
    made = []
    hooks = [
        to_qkv.register_forward_hook(lambda _, inputs, output: made.append(_copy(output))),
        to_out.register_forward_pre_hook(
            lambda _, inputs: calls.append(Call({'qkv': made.pop()}, _copy(inputs[0])))),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def recorded_maps(mixer: nn.Module, record: Recording) -> OpMaps:
    """Make the maps of a mixer's op from a recording of one image's forward pass.

    Raises:
        ValueError: The forward pass was of several images, or of an image with padding.
    """
    _check_one_image(record)
    arguments, result = record.calls[0]
    assert record.grid is not None  # its mixer ran
    if isinstance(mixer, Attention):
        return AttentionMaps(record.grid, arguments['qkv'].flatten(1, 2), mixer.num_heads,
                             result=result.flatten(1, 2))
    if isinstance(mixer, SSDMixer):
        return SSDMaps(record.grid, [call.arguments for call in record.calls],
                       [call.result for call in record.calls])
    # of these, mask is None and impl of no meaning here
    names = 'x', 'dt', 'dt_weight', 'A', 'B', 'C', 'D', 'dt_bias'
    tensors = {name: arguments[name] for name in names if name in arguments}
    if isinstance(mixer, SS2D):
        return SelectiveScanMaps(**tensors, pattern=arguments['pattern'], result=result)
    maps = NormalizedNCSSDMaps if arguments['normalize'] else NCSSDMaps
    return maps(record.grid, **tensors, result=result)


def _check_one_image(record: Recording) -> None:
    if not record.calls:
        raise ValueError('the mixer did not run while it was recorded')
    for arguments, result in record.calls:
        if len(result) != 1 or arguments.get('mask') is not None:
            raise ValueError(f'maps describe one image without padding, got '
                             f'{counted(len(result), "image")}, '
                             f'padding: {arguments.get("mask") is not None}')
