"""How the work of the scans' kernels for a CPU is cut."""
from typing import NamedTuple, Tuple

import torch
from torch import Tensor

#: Where the kernels are.
MODULE = 'mmvssd_kernels.selective_scan.numba_kernels'
#: Bytes of a vector, as the kernels have it.
BYTES = 64
#: Tokens of a tile.
TILE = 32
#: States that are kept of a sequence: about so many numbers for each one of x, unless tiles are too
#: short for that many.
KEPT = 1 / 16
#: Units that keep a large CPU busy in backward, and vectors of its blocks of channels at least:
#: what blocks add up costs more the more of them there are.
UNITS, BLOCK = 16, 4
#: Parts of the images at most: each has sums of its own for the gradients of parameters.
PARTS = 32


class Order(NamedTuple):
    """How a sequence runs over the grid, and the group of which it is."""

    transposed: bool
    reverse: bool
    group: int


def lanes(dtype: torch.dtype) -> int:
    """Return how many numbers a vector has."""
    return BYTES // dtype.itemsize


def whole(size: int, dtype: torch.dtype) -> int:
    """Return a size in whole vectors."""
    return -(-size // lanes(dtype)) * lanes(dtype)


def segment(S: int) -> int:
    """Return the tiles of a segment, before which states are kept.

    A segment of one tile saves backward a pass: it then finds every state that it starts from.
    """
    return max(1, round(S / (KEPT * TILE)))


def states_shape(N: int, K: int, L: int, S: int, D: int, dtype: torch.dtype) -> Tuple[int, ...]:
    """Return the shape of the states that are kept: before segments, but for the first."""
    kept = (max(L, 1) - 1) // (TILE * segment(S))
    # two rows more: a graph that is compiled for open sizes takes 0 and 1 for kinds of their own
    return N * K * kept + 2, S, whole(D, dtype)


def clear_unused(states: Tensor) -> None:
    """Write what no kernel does: two calls give the same."""
    states[-2:].zero_()
