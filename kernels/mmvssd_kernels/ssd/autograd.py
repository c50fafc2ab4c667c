"""SSD through Triton: launches, and the gradient.

A program runs a head of an image chunk by chunk, with the state in registers. If images and heads
are few, sequences are cut into segments. What each segment makes of a state of 0 is summed first,
and carried from one to the next. Backward makes the states again, runs their gradients the other
way, and computes the gradients of each chunk from the two. Every sum over programs has a fixed
order, so that results are the same, bit for bit, in every run.
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
CHUNK = 32
#: Elements of a state that one program carries over the segments.
CARRIED = 256
#: Channels that gradients take at a time: products of more of them would overflow the registers.
NARROW = 16
#: Rows of a product that a warp computes: more warps than tokens have such rows do work twice.
ROWS = 16
#: Programs that keep a large GPU busy. If images and heads give fewer, sequences are cut.
PROGRAMS = 1024
#: Chunks of a segment at least.
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
    return Tiles(CHUNK, BS, min(BP, 64), 4) if BS <= 64 else Tiles(16, BS, min(BP, 16), 4)


def obstacle(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, *args, **kwargs) -> Optional[str]:
    """Return why the kernels cannot run on these arguments of ``ssd``; None if they can."""
    reason = triton_support.obstacle(x)
    if reason:
        return reason
    S, P = B.shape[3], x.shape[3]
    if max(S, P) > LARGEST:
        return (f'heads of width {P} and a state of {S}, of which the kernels take at most '
                f'{LARGEST} each')
    return triton_support.grid_obstacle(x, _tiles(S, P).T)


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
    launch = _Launch(x, B, C, reverse)
    x, dt, B, C, y_ = (launch.in_order(t) for t in (x, dt, B, C, y))
    starts = launch.starts(x, dt, A, B, backward=False)
    launch.kernels.outputs[launch.programs](
        x.first, dt.first, A, B.first, C.first, A if D is None else D,
        A if starts is None else starts, y_.first, *launch.sizes, launch.length, *x.strides,
        *dt.strides, *A.stride(), *B.strides, *C.strides, *vector_stride(D), *y_.strides[:2],
        SKIP=D is not None, STARTS=starts is not None, **launch.products, **launch.options)
    return y


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
    launch = _Launch(x, B, C, reverse)
    G = B.shape[2]
    dx, ddt, dA, dB, dC, dD = results
    dy, x, dt, B, C, dx, ddt, dB, dC = (
        launch.in_order(t) for t in (dy, x, dt, B, C, dx, ddt, dB, dC))
    states = launch.states(x, dt, A, B, backward=False)
    dstates = launch.states(dy, dt, A, C, backward=True)
    N, h, chunks = dx.first.shape[0], launch.sizes[1], launch.chunks
    dA_parts, dD_parts = A.new_empty((2, N, chunks, h), dtype=launch.dtype)
    tokens = (*x.strides, *dt.strides, *A.stride(), *B.strides, *C.strides)
    launch.kernels.token_gradients[h, chunks, N](
        x.first, dt.first, A, B.first, C.first, A if D is None else D, states, dstates, dy.first,
        dx.first, ddt.first, dA_parts, dD_parts, *launch.sizes, *tokens, *vector_stride(D),
        *dy.strides, *dx.strides[:2], *ddt.strides[:2], SKIP=D is not None, EXACT=launch.exact,
        HALVES=launch.halves, **launch.products, **launch.of_tokens)
    launch.kernels.group_gradients[G, chunks, N](
        x.first, dt.first, A, B.first, C.first, states, dstates, dy.first, dB.first, dC.first,
        *launch.sizes, *tokens, *dy.strides, *dB.strides[:2], HALVES=launch.halves,
        **launch.products, **launch.narrow)
    dA.copy_(dA_parts.sum((0, 1)))
    if D is not None:
        dD.copy_(dD_parts.sum((0, 1)))
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

    def __init__(self, x: Tensor, B: Tensor, C: Tensor, reverse: bool) -> None:
        N, L, h, P = x.shape
        G, S = B.shape[2:]
        self.reverse = reverse
        self.kernels = triton_support.kernels('ssd')
        tiles = _tiles(S, P)
        self.chunks = -(-L // tiles.T)
        sequences = h * -(-P // tiles.BP)
        # no segment is so short that its state outweighs its tokens
        segments = min(-(-PROGRAMS // (N * sequences)), max(1, self.chunks // SEGMENT))
        self.length = -(-self.chunks // segments)
        self.programs = (sequences, -(-self.chunks // self.length), N)
        self.sizes = (L, h, P, S, h // G)
        self.dtype = sum_dtype(x.dtype)
        product, precision = triton_support.products(common_dtype(x, B), x.device)
        _, self.exact = triton_support.products(self.dtype, x.device)
        self.halves = triton_support.halves(x, B, C)
        self.options = dict(tiles._asdict(), num_stages=1, ACC=triton_support.language(self.dtype))
        self.narrow = {**self.options, 'BP': min(NARROW, tiles.BP)}
        # chunks of 16 tokens are of large states, which one warp has no registers for
        warps = tiles.T // ROWS if tiles.T > ROWS else tiles.num_warps
        self.of_tokens = {**self.narrow, 'num_warps': warps}
        self.products = dict(DTYPE=triton_support.language(product), PRECISION=precision)

    def in_order(self, t: Tensor) -> _InOrder:
        """Return where the tokens of a tensor start, and how they go on."""
        if not self.reverse:
            return _InOrder(t, t.stride())
        n, token, *others = t.stride()
        return _InOrder(t[:, -1:], (n, -token, *others))

    def states(self, x: _InOrder, dt: _InOrder, A: Tensor, B: _InOrder,
               backward: bool) -> Tensor:
        """Return the state before each chunk, (N, h, chunks, S, P).

        Backward, with dy for x and C for B: the gradient of the state after each chunk.
        """
        starts = self.starts(x, dt, A, B, backward)
        return self._run(x, dt, A, B, backward, starts, None, self.chunks)

    def starts(self, x: _InOrder, dt: _InOrder, A: Tensor, B: _InOrder,
               backward: bool) -> Optional[Tensor]:
        """Return the state before each segment, (N, h, segments, S, P); None if there is one."""
        h, segments, N = self.sizes[1], *self.programs[1:]
        if segments == 1:
            return None
        decays = A.new_empty(N, h, segments, dtype=self.dtype)
        states = self._run(x, dt, A, B, backward, None, decays, segments)
        size = states[0, 0, 0].numel()
        self.kernels.carry[N * h, -(-size // CARRIED)](
            states, decays, segments, size, BACKWARD=backward, BE=CARRIED,
            ACC=self.options['ACC'], num_warps=4)
        return states

    def _run(self, x: _InOrder, dt: _InOrder, A: Tensor, B: _InOrder, backward: bool,
             starts: Optional[Tensor], decays: Optional[Tensor], count: int) -> Tensor:
        """Run the state through all segments; return ``count`` states of each sequence."""
        _, h, P, S, _ = self.sizes
        shape = self.programs[2], h, count, S, P
        if decays is None and self.halves:
            states = A.new_empty(2, *shape, dtype=torch.bfloat16)
        else:
            states = A.new_empty(shape, dtype=self.dtype)
        self.kernels.states[self.programs](
            x.first, dt.first, A, B.first, A if starts is None else starts, states,
            A if decays is None else decays, *self.sizes, self.length, *x.strides, *dt.strides,
            *A.stride(), *B.strides, BACKWARD=backward, ENDS=decays is not None,
            STARTS=starts is not None, HALVES=self.halves, **self.products, **self.options)
        return states
