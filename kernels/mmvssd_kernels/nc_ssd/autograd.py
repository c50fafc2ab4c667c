"""NC-SSD through Triton: launches, and the gradient.

Forward reads the tokens twice: once to sum the state, a stretch of tokens for each program, and
once to apply it. Backward does the same with gradients. What passes between the two is a state for
each head; the parts that stretches sum are added in the order of the stretches, so that results
are the same, bit for bit, in every run.
"""
from typing import Optional, Tuple

import torch
from torch import Tensor

from mmvssd_kernels import triton_support
from mmvssd_kernels.library import operator, register_backward
from mmvssd_kernels.nc_ssd import normalized
from mmvssd_kernels.numerics import sum_dtype
from mmvssd_kernels.triton_support import power_of_two

#: Largest state size and head width: a state is one tile.
LARGEST = 64
#: Tokens of the smallest tile.
LEAST_TOKENS = 32
#: Distance of two tokens at which a tile's offsets need 64 bits.
FAR = 2**31 // 64
#: Programs that keep a large GPU busy; more of them would only add states to write and read.
PROGRAMS = 512


def obstacle(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, *args, **kwargs) -> Optional[str]:
    """Why the kernels cannot run on these arguments of ``nc_ssd``; None if they can."""
    reason = triton_support.obstacle(x)
    if reason:
        return reason
    S, P = B.shape[3], x.shape[3]
    if max(S, P) > LARGEST:
        return (f'heads of width {P} and a state of {S}, of which the kernels take at most '
                f'{LARGEST} each')
    return triton_support.grid_obstacle(x, LEAST_TOKENS)


@triton_support.register('nc_ssd', obstacle)
def nc_ssd_triton(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Optional[Tensor], *,
                  normalize: bool, grid: Optional[Tuple[int, int]],
                  mask: Optional[Tensor]) -> Tensor:
    """Compute :func:`mmvssd_kernels.nc_ssd`, whose docstring has shapes and dtypes."""
    grid = list(grid) if normalize else None
    return torch.ops.mmvssd_kernels.nc_ssd_triton(x, dt, A, B, C, D, mask, grid)[0]


def _fake_forward(x, dt, A, B, C, D, mask, grid):
    (N, L, h, P), S = x.shape, B.shape[3]
    if grid is None and _halves(x, B, C):
        state = x.new_empty((2, N, h, S, P), dtype=torch.bfloat16)
    else:
        state = x.new_empty((1, N, h, S, P), dtype=sum_dtype(x.dtype))
    n = 0 if grid is None else N
    return (x.new_empty((N, L, h, P)), state, state.new_empty((n, h, S)),
            state.new_empty((n, h, 2)))


def _halves(x: Tensor, B: Tensor, C: Tensor) -> bool:
    """Whether tensor cores multiply the tokens as they are: they are half, and the GPU can."""
    return (x.dtype in (torch.bfloat16, torch.float16) and x.dtype == B.dtype == C.dtype
            and triton_support.capability(x.device) >= (8, 0))


@operator('nc_ssd_triton(Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, '
          'Tensor? mask, SymInt[]? grid) -> (Tensor, Tensor, Tensor, Tensor)', _fake_forward)
def _forward(x, dt, A, B, C, D, mask, grid):
    """y, and for backward states (parts, N, h, S, P), and of the normalized form sums of keys
    (N, h, S) and what the softmax subtracts and multiplies by (N, h, 2)."""
    results = y, state, keys, softmax = _fake_forward(x, dt, A, B, C, D, mask, grid)
    if y.numel() == 0:
        return y, state.zero_(), keys.zero_(), softmax.zero_()
    if grid is not None:
        normalized.forward(x, dt, A, B, C, D, mask, grid, *results)
        return results
    launch = _Launch(x, dt, A, B, C, D, mask)
    x, dt, A, B, C, D, mask = launch.tensors
    parts = launch.parts(state)
    launch.kernels.partial_states[launch.grid](
        x, dt, A, B, mask, parts, *launch.lengths, *x.stride()[:2], *dt.stride()[:2],
        *B.stride()[:2], WHOLE=parts is state, **launch.options)
    launch.combine(parts, state)
    launch.kernels.outputs[launch.grid](
        x, C, D, mask, state, y, *launch.lengths, *x.stride()[:2], *C.stride()[:2],
        SKIP=launch.SKIP, **launch.options)
    return results


def _fake_backward(dy, x, dt, A, B, C, D, mask, state, keys, softmax, grid):
    return triton_support.gradients_like(x, dt, A, B, C, D)


@operator('nc_ssd_triton_backward(Tensor dy, Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, '
          'Tensor? D, Tensor? mask, Tensor state, Tensor keys, Tensor softmax, SymInt[]? grid) '
          '-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)', _fake_backward)
def _backward(dy, x, dt, A, B, C, D, mask, state, keys, softmax, grid):
    """Gradients of x, dt, A, B, C and D, contiguous."""
    results = _fake_backward(dy, x, dt, A, B, C, D, mask, state, keys, softmax, grid)
    if x.numel() == 0:
        return tuple(t.zero_() for t in results)
    if grid is not None:
        normalized.backward(dy, x, dt, A, B, C, D, mask, state, keys, softmax, grid, results)
        return results
    dx, ddt, dA, dB, dC, dD = results
    launch = _Launch(x, dt, A, B, C, D, mask, dy)
    x, dt, A, B, C, D, mask, dy = launch.tensors
    N, L, h, _ = x.shape
    dstate = torch.empty_like(state)
    parts = launch.parts(dstate)
    launch.kernels.partial_state_gradients[launch.grid](
        dy, C, mask, parts, *launch.lengths, *dy.stride()[:2], *C.stride()[:2],
        WHOLE=parts is dstate, **launch.options)
    launch.combine(parts, dstate)
    options = launch.narrow_options()
    tiles = -(-L // options['BL'])
    sums = x.new_empty((2, h, N, tiles), dtype=launch.dtype)
    launch.kernels.gradients[B.shape[2], tiles, N](
        x, dt, A, B, C, D, mask, state, dstate, dy, dx, ddt, dB, dC, sums, L, *x.stride()[:2],
        *dt.stride()[:2], *B.stride()[:2], *dy.stride()[:2], SKIP=launch.SKIP,
        **options)
    launch.kernels.parameter_gradients[h, 1 + launch.SKIP](
        sums, dA, dD, N * tiles, BE=2048, ACC=options['ACC'], num_warps=8)
    return results


register_backward('nc_ssd_triton', tensors=7)


def _dense(t: Tensor) -> Tensor:
    """Return the tensor, or a copy unless what a token has lies side by side."""
    if t.stride(-1) == 1 and (t.dim() < 4 or t.stride(2) == t.shape[3]):
        return t
    return t.contiguous()


class _Launch:
    """What the launches of one call of the plain form share."""

    def __init__(self, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor,
                 D: Optional[Tensor], mask: Optional[Tensor], *others: Tensor) -> None:
        N, L, h, P = x.shape
        G, S = B.shape[2:]
        self.kernels = triton_support.kernels('nc_ssd')
        self.SKIP, self.HALVES = D is not None, _halves(x, B, C)
        x, dt, A, B, C, D, *others = map(_dense, (x, dt, A, B, C, A if D is None else D, *others))
        self.tensors = x, dt, A, B, C, D, x if mask is None else mask.contiguous(), *others
        self.dtype = sum_dtype(x.dtype)
        self.capability = triton_support.capability(x.device)
        BL = 64 if self.HALVES else 32
        # stretches of whole tiles, and not so many that their states outweigh the tokens
        tiles = -(-L // BL)
        splits = max(1, min(PROGRAMS // (N * h), tiles // 4))
        split_length = -(-tiles // splits) * BL
        self.lengths = L, split_length
        self.grid = h, -(-L // split_length), N
        product, precision = triton_support.products(
            x.dtype if self.HALVES else self.dtype, x.device)
        self.options = dict(
            h=h, P=P, S=S, G=G, MASKED=mask is not None,
            FAR=max(t.stride(1) for t in (x, dt, B, C, *others)) >= FAR, BL=BL,
            BS=max(16, power_of_two(S)), BP=max(16, power_of_two(P)),
            DTYPE=triton_support.language(product), PRECISION=precision,
            ACC=triton_support.language(self.dtype), HALVES=self.HALVES, num_warps=4,
            num_stages=3 if self.HALVES else 2)

    def narrow_options(self) -> dict:
        """Options of the gradients, whose many products leave registers for narrow tiles only."""
        # before Hopper products keep their factors in registers
        wide = not self.HALVES or self.capability >= (9, 0)
        return {**self.options, 'BL': 64 if self.HALVES else 16,
                'BP': min(32 if wide else 16, self.options['BP']), 'num_stages': 1}

    def parts(self, state: Tensor) -> Tensor:
        """Allocate what stretches sum; it is the state itself if there is one stretch."""
        splits = self.grid[1]
        return state if splits == 1 else state.new_empty((splits, *state.shape[1:]),
                                                         dtype=self.dtype)

    def combine(self, parts: Tensor, state: Tensor) -> None:
        """Add what stretches summed."""
        if parts is not state:
            size, BE = state[0].numel(), 256
            self.kernels.combine[-(-size // BE), ](
                parts, state, self.grid[1], size, BE=BE, ACC=self.options['ACC'],
                HALVES=self.HALVES, num_warps=4)
