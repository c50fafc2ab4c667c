"""SSD through Triton: launches, and the gradient.

Forward, a program runs a head of an image chunk by chunk, with the state in registers. If images
and heads are few, sequences are cut into segments. What each segment makes of a state of 0 is
summed first, and carried from one to the next. Backward always cuts segments, of 256 tokens at
most, and keeps states between them only. If images and heads are many, a program finds those of a
head. Every sum over programs has a fixed order, so that results are the same, bit for bit, in every
run.
"""
from typing import NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from mmvssd_kernels import triton_support
from mmvssd_kernels.compile_ahead import compiled_ahead
from mmvssd_kernels.library import call, operator, register_backward
from mmvssd_kernels.numerics import common_dtype, drop_padding, sum_dtype
from mmvssd_kernels.triton_support import power_of_two, vector_stride

#: Largest state size and head width.
LARGEST = 128
#: Tokens of a chunk at most.
CHUNK = 64
#: Tokens of a segment backward, of half inputs and of float32: in more, pairs of chunks would cost
#: more than a state does.
TOKENS = {True: 256, False: 128}
#: Elements of a state that one program carries over the segments.
CARRIED = 256
#: Programs that a large GPU runs at a time: two on each multiprocessor. If images and heads give
#: half or fewer, programs share a head's segments.
PROGRAMS = 256
#: Chunks of a segment at least, forward: else its state outweighs its tokens.
SEGMENT = 8


class Tiles(NamedTuple):
    """Tokens of a chunk, states and channels of a tile, and warps that work on it."""

    T: int
    BS: int
    BP: int
    num_warps: int


def _tiles(S: int, P: int) -> Tiles:
    BS, BP = (max(16, power_of_two(size)) for size in (S, P))
    # on GPUs with little shared memory and registers, twice the tokens would not fit
    return Tiles(32, BS, min(BP, 64), 4) if BS <= 64 else Tiles(16, BS, min(BP, 16), 4)


def _gradient_tiles(S: int, P: int, halves: bool, cuts: bool,
                    capability: Tuple[int, int]) -> Tiles:
    BS, BP = (max(16, power_of_two(size)) for size in (S, P))
    if BS > 64:
        return Tiles(32 if halves else 16, BS, min(BP, 32), 4)
    # Hopper's products have 64 rows. So have a newer chip's, but Triton cannot sum what these leave
    if capability[0] == 9:
        return Tiles(64, BS, min(BP, 64), 4)
    # blocks that are cut as they were loaded leave registers for twice the warps
    return Tiles(32 if capability >= (8, 0) else 16, BS, min(BP, 64), 4 if cuts else 2)


def _cuts(x: Tensor, B: Tensor, C: Tensor) -> bool:
    """Return whether kernels cut float32 blocks in parts themselves, see triton_products."""
    _, precision = triton_support.products(common_dtype(x, B), x.device)
    return not triton_support.halves(x, B, C) and precision in ('bf16x6', 'tf32x3')


def obstacle(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, *args, **kwargs) -> Optional[str]:
    """Return why the kernels cannot run on these arguments of ``ssd``; None if they can."""
    reason = triton_support.obstacle(x)
    if reason:
        return reason
    S, P = B.shape[3], x.shape[3]
    if max(S, P) > LARGEST:
        return (f'heads of width {P} and a state of {S}, of which the kernels take at most '
                f'{LARGEST} each')
    # of float32 no chunk is larger than of halves
    backward = _gradient_tiles(S, P, False, True, _capability(x.device))
    return triton_support.grid_obstacle(x, min(_tiles(S, P).T, backward.T))


# a tracer shall not see the query
@torch.compiler.assume_constant_result
def _capability(device: torch.device) -> Tuple[int, int]:
    return triton_support.capability(device)


@triton_support.register('ssd', obstacle)
def ssd_triton(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Optional[Tensor], *,
               chunk_size: int, reverse: bool, mask: Optional[Tensor]) -> Tensor:
    """Compute :func:`mmvssd_kernels.ssd`, whose docstring has shapes and dtypes."""
    x, dt, B, C = drop_padding(mask, x, dt, B, C)
    y, = drop_padding(mask, call('ssd_triton', x, dt, A, B, C, D, reverse))
    return y


def _widths(x, dt, A, B, *others):
    return (x.shape[2:], B.shape[2:])


def _fake_forward(x, dt, A, B, C, D, reverse):
    return x.new_empty(x.shape)


@operator('ssd_triton(Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, bool reverse) '
          '-> Tensor', _fake_forward)
@compiled_ahead(_widths)
def _forward(x, dt, A, B, C, D, reverse):
    """y (N, L, h, P)."""
    y = _fake_forward(x, dt, A, B, C, D, reverse)
    if y.numel() == 0:
        return y
    x, dt, B, C = map(_within_reach, (x, dt, B, C))
    tiles = _tiles(B.shape[3], x.shape[3])
    launch = _Launch(x, B, C, reverse, tiles, _length(x.shape, tiles))
    x, dt, B, C, y_ = (launch.in_order(t) for t in (x, dt, B, C, y))
    starts = launch.starts(x, dt, A, B)
    launch.kernels.outputs[launch.programs](
        x.first, dt.first, A, B.first, C.first, A if D is None else D,
        A if starts is None else starts, y_.first, *launch.sizes, launch.length, *x.strides,
        *dt.strides, *A.stride(), *B.strides, *C.strides, *vector_stride(D), *y_.strides[:2],
        SKIP=D is not None, STARTS=starts is not None, HALVES=launch.halves, **launch.products,
        **launch.options)
    return y


def _length(shape: torch.Size, tiles: Tiles) -> int:
    """Return how many chunks a segment has forward, so that there are programs enough."""
    N, L, h, P = shape
    chunks = -(-L // tiles.T)
    segments = min(PROGRAMS // (N * h * -(-P // tiles.BP)), chunks // SEGMENT)
    return -(-chunks // max(1, segments))


def _fake_backward(dy, x, dt, A, B, C, D, reverse):
    return triton_support.gradients_like(x, dt, A, B, C, D)


@operator('ssd_triton_backward(Tensor dy, Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, '
          'Tensor? D, bool reverse) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)',
          _fake_backward)
@compiled_ahead(lambda dy, *others: _widths(*others))
def _backward(dy, x, dt, A, B, C, D, reverse):
    """Return the gradients of x, dt, A, B, C and D, contiguous."""
    results = _fake_backward(dy, x, dt, A, B, C, D, reverse)
    if x.numel() == 0:
        return tuple(t.zero_() for t in results)
    dy, x, dt, B, C = map(_within_reach, (dy, x, dt, B, C))
    halves = triton_support.halves(x, B, C)
    capability = triton_support.capability(x.device)
    tiles = _gradient_tiles(B.shape[3], x.shape[3], halves, _cuts(x, B, C), capability)
    launch = _Launch(x, B, C, reverse, tiles, TOKENS[halves] // tiles.T)
    dx, ddt, dA, dB, dC, dD = results
    dy, x, dt, B, C, dx, ddt, dB, dC = (
        launch.in_order(t) for t in (dy, x, dt, B, C, dx, ddt, dB, dC))
    kernels = triton_support.kernels('ssd', 'triton_gradients')
    (L, h, _, _, r), N = launch.sizes, launch.programs[2]
    chunks, length = launch.chunks, launch.length
    padded = chunks * tiles.T

    def buffer(*shape):
        return A.new_empty(shape, dtype=launch.dtype)

    # the kernels' docstrings say what these hold
    weights, totals = buffer(4, N, h, padded), buffer(N, h, chunks)
    direct, passed = buffer(2, launch.tiles, N, h, padded)
    arriving, entering = buffer(launch.tiles, N, h, length, padded), buffer(N, h, padded)
    leaving, dD_parts = buffer(2, launch.tiles, N, h, chunks)
    dA_parts = buffer(N, chunks, h)
    kernels.chunk_weights[h, chunks, N](
        dt.first, A, weights, totals, L, h, *dt.strides, *A.stride(), T=tiles.T,
        ACC=launch.options['ACC'], num_warps=1)
    states = launch.starts(x, dt, A, B)
    dstates, crossing = launch.ends(dy, dt, A, C, states)
    segmented = dict(STATES=states is not None, LENGTH=length)
    blocks = 1 if crossing is None else crossing.shape[-1]
    states, dstates, crossing = (weights if t is None else t for t in (states, dstates, crossing))
    products = dict(HALVES=halves, **segmented, **launch.products, **launch.options)
    kernels.token_gradients[launch.programs[0], chunks, N](
        x.first, dt.first, A, B.first, C.first, A if D is None else D, weights, totals, dstates,
        dy.first, dx.first, direct, passed, arriving, leaving, dD_parts, *launch.sizes, padded,
        *x.strides, *dt.strides, *A.stride(), *B.strides, *C.strides, *vector_stride(D),
        *dy.strides, *dx.strides[:2], SKIP=D is not None, **products)
    grouped = dict(products, TILES=launch.tiles)
    if launch.cuts and capability[0] == 9:  # of fewer channels at a time little spills
        BP = min(tiles.BP, 32)
        grouped.update(BP=BP, TILES=-(-launch.sizes[2] // BP))
    for one, other, factor, state, result, backward in ((dy, x, B, states, dC, False),
                                                        (x, dy, C, dstates, dB, True)):
        kernels.group_gradients[h // r, chunks, N](
            one.first, other.first, dt.first, A, factor.first, C.first, weights, totals, state,
            result.first, entering, *launch.sizes, padded, *one.strides, *other.strides,
            *dt.strides, *A.stride(), *factor.strides, *C.strides, *result.strides[:2],
            BACKWARD=backward, **grouped)
    kernels.step_gradients[h, chunks, N](
        dt.first, A, direct, passed, arriving, entering, leaving, crossing, ddt.first, dA_parts,
        L, h, launch.tiles, blocks, padded, *dt.strides, *A.stride(), *ddt.strides[:2],
        BE=power_of_two(blocks), T=tiles.T, ACC=launch.options['ACC'], num_warps=1, **segmented)
    dA.copy_(dA_parts.sum((0, 1)))
    if D is not None:
        dD.copy_(dD_parts.sum((0, 1, 3)))
    return results


register_backward('ssd_triton', tensors=6)


def _within_reach(t: Tensor) -> Tensor:
    """Return the tensor, or a copy if 32 bits do not hold offsets within a chunk."""
    reach = (CHUNK - 1) * t.stride(1)
    if t.dim() == 4:  # heads are counted in 64 bits
        reach += (t.shape[3] - 1) * t.stride(3)
    return t if reach < 2**31 else t.contiguous()


class _InOrder(NamedTuple):
    """A tensor (N, L, ...) from the token where the state starts, and its strides from there."""

    first: Tensor
    strides: Tuple[int, ...]


class _Launch:
    """What the launches of one call share."""

    def __init__(self, x: Tensor, B: Tensor, C: Tensor, reverse: bool, tiles: Tiles,
                 length: int) -> None:
        N, L, h, P = x.shape
        G, S = B.shape[2:]
        self.reverse, self.length = reverse, length
        self.kernels = triton_support.kernels('ssd')
        self.chunks = -(-L // tiles.T)
        self.tiles = -(-P // tiles.BP)
        self.programs = (h * self.tiles, -(-self.chunks // length), N)
        self.sizes = (L, h, P, S, h // G)
        self.dtype = sum_dtype(x.dtype)
        product, precision = triton_support.products(common_dtype(x, B), x.device)
        self.halves = triton_support.halves(x, B, C)
        # a program waits for its tokens, one chunk after the other: the next is on its way. On
        # Ampere registers have no room for cut blocks beside it
        self.cuts = _cuts(x, B, C)
        ampere = self.cuts and triton_support.capability(x.device)[0] != 9
        self.stages = 1 if ampere else 2
        self.options = dict(tiles._asdict(), num_stages=1, ACC=triton_support.language(self.dtype))
        self.products = dict(DTYPE=triton_support.language(product), PRECISION=precision,
                             CUT=self.cuts)

    def in_order(self, t: Tensor) -> _InOrder:
        """Return where the tokens of a tensor start, and how they go on."""
        if not self.reverse:
            return _InOrder(t, t.stride())
        n, token, *others = t.stride()
        return _InOrder(t[:, -1:], (n, -token, *others))

    def starts(self, x: _InOrder, dt: _InOrder, A: Tensor, B: _InOrder) -> Optional[Tensor]:
        """Return the state before each segment, (parts, N, h, segments, S, P).

        None if there is one segment, whose state is 0.
        """
        return self._carried(x, dt, A, B, None)[0]

    def ends(self, dy: _InOrder, dt: _InOrder, A: Tensor, C: _InOrder,
             starts: Optional[Tensor]) -> Tuple[Optional[Tensor], Optional[Tensor]]:
        """Return the gradient of the state after each segment, as :meth:`starts` does.

        And what crosses whole segments, in parts of sums (N, h, segments, blocks).
        """
        return self._carried(dy, dt, A, C, starts)

    def _carried(self, x: _InOrder, dt: _InOrder, A: Tensor, B: _InOrder,
                 starts: Optional[Tensor]) -> Tuple[Optional[Tensor], Optional[Tensor]]:
        (_, h, P, S, _), (_, segments, N), backward = self.sizes, self.programs, starts is not None
        if segments == 1:
            return None, None
        parts, dtype = (2, torch.bfloat16) if self.halves else (1, self.dtype)
        states = A.new_empty(parts, N, h, segments, S, P, dtype=dtype)
        before = starts if backward else states
        if N * self.programs[0] > PROGRAMS // 2:
            options = dict(self.options, num_stages=self.stages)
            crossing = A.new_empty(N, h, segments, self.tiles if backward else 0, dtype=self.dtype)
            self.kernels.states_in_turn[self.programs[0], 1, N](
                x.first, dt.first, A, B.first, states, before, crossing, *self.sizes, self.length,
                segments, *x.strides, *dt.strides, *A.stride(), *B.strides, BACKWARD=backward,
                HALVES=self.halves, **self.products, **options)
            return states, crossing
        own = A.new_empty(N, h, segments, S, P, dtype=self.dtype)
        decays = A.new_empty(N, h, segments, dtype=self.dtype)
        self.kernels.states[self.programs](
            x.first, dt.first, A, B.first, own, decays, *self.sizes, self.length, *x.strides,
            *dt.strides, *A.stride(), *B.strides, BACKWARD=backward, **self.products,
            **self.options)
        blocks = -(-S * P // CARRIED)
        crossing = A.new_empty(N, h, segments, blocks if backward else 0, dtype=self.dtype)
        self.kernels.carry[N * h, blocks](
            own, decays, states, before, crossing, segments, S * P,
            BACKWARD=backward, HALVES=self.halves, BE=CARRIED, ACC=self.options['ACC'],
            num_warps=4)
        return states, crossing
