"""What the maps of every op have in common.

A map is a matrix over the tokens of a grid: entry ``[t, s]`` says how much token t reads of token
s. Tokens count row by row, token ``y * W + x``. Maps describe one image and are float64.
"""
import math
from typing import Callable, List, Sequence, Tuple, Union

import torch
from torch import Tensor

from mmvssd.errors import NumericalFault

#: Kinds of maps. An op has all of them, or 'attention' and 'operator' only.
KINDS = ('attention', 'decayed', 'decay', 'operator')
#: Ways to scale a map for a picture.
SCALES = ('minmax', 'absmax', 'none')
#: Relative error above which maps of a float32 model do not describe its op.
TOLERANCE = 1e-4


def silent(done: float) -> None:
    """Take the share of a map that is done, 0 to 1, and say nothing."""


class OpMaps:
    """The maps of one call of an op; a subclass has an op's formulas.

    Args:
        grid: (H, W) of the tokens.

    Attributes:
        kinds: Kinds of maps that the op has, of :data:`KINDS`.
    """

    kinds: Tuple[str, ...] = KINDS

    def __init__(self, grid: Tuple[int, int]) -> None:
        height, width = grid
        self.grid = (height, width)

    @property
    def length(self) -> int:
        """Count the tokens L."""
        return math.prod(self.grid)

    def rows(self, kind: str, tokens: Sequence[int]) -> Tensor:
        """Compute what some tokens read of each token, (tokens, L), without the whole map."""
        raise NotImplementedError

    def diagonal(self, kind: str) -> Tensor:
        """Compute what each token reads of itself, (L,), without a matrix."""
        raise NotImplementedError

    def full(self, kind: str, tick: Callable[[float], None] = silent) -> Tensor:
        """Compute the whole map (L, L); ``tick`` gets the share that is done."""
        raise NotImplementedError

    def outputs(self, tokens: Sequence[int]) -> Tensor:
        """Compute the op's outputs at some tokens from the rows of each channel, (tokens, D)."""
        raise NotImplementedError

    def returned(self, tokens: Sequence[int]) -> Tensor:
        """Return the outputs that the op gave at some tokens, (tokens, D)."""
        raise NotImplementedError


def spread(length: int, count: int = 16) -> List[int]:
    """Choose up to ``count`` of ``length`` tokens, evenly, the first and the last among them."""
    return sorted({round(i * (length - 1) / max(count - 1, 1)) for i in range(count)})


def picked(values: Tensor, tokens: Union[Sequence[int], slice]) -> Tensor:
    """Take some tokens of (L, ...); PyTorch would take a tuple for places in several axes."""
    return values[tokens if isinstance(tokens, slice) else list(tokens)]


def self_check(maps: OpMaps, tokens: Sequence[int]) -> float:
    """Compare the op's outputs with those that the maps' rows give.

    Returns:
        The largest difference at ``tokens`` over the largest output there.

    Raises:
        RuntimeError: The error is above :data:`TOLERANCE`, or not finite.
        NumericalFault: The op's outputs are not finite.
    """
    expected = maps.returned(tokens).double()
    if not expected.isfinite().all():
        raise NumericalFault("the op's outputs are not finite on this image, so they have no maps; "
                             "the model's weights may be broken, try another checkpoint")
    largest = expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny)
    error = ((maps.outputs(tokens) - expected).abs().max() / largest).item()
    if not error <= TOLERANCE:  # a NaN is no small error
        raise RuntimeError(f'the maps do not describe this op: at {len(tokens)} tokens they give '
                           f'other outputs than it, relative error {error:.1e}, expected at most '
                           f'{TOLERANCE:.0e}')
    return error


def scaled(values: Tensor, scale: str) -> Tensor:
    """Scale a map, a row or a diagonal for a picture.

    Args:
        values: Any shape.
        scale: 'minmax' brings the least to 0 and the largest to 1; 'absmax' gives magnitudes over
            the largest one; 'none' changes nothing.

    Returns:
        The shape of ``values``; zeros if all values are equal ('minmax') or 0 ('absmax').
    """
    if scale == 'none':
        return values
    if scale == 'absmax':
        values = values.abs()
    lowest = values.min() if scale == 'minmax' else values.new_zeros(())
    extent = values.max() - lowest
    return (values - lowest) / extent if extent > 0 else torch.zeros_like(values)


def part_of(tick: Callable[[float], None], index: int, count: int) -> Callable[[float], None]:
    """Return what takes the progress of one of ``count`` equal parts."""
    return lambda done: tick((index + done) / count)


def token_at(x: float, y: float, grid: Tuple[int, int]) -> int:
    """Find the token at a place, 0 <= x, y <= 1 from the left and from the top of the image."""
    H, W = grid
    return min(math.floor(y * H), H - 1) * W + min(math.floor(x * W), W - 1)
