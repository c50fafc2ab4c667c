"""NC-SSD through Triton: launches, and the gradient.

Forward reads the tokens twice: once to sum the state, a stretch of tokens for each program, and
once to apply it. Backward does the same with gradients. What passes between the two is a state for
each head; the parts that stretches sum are added in the order of the stretches, so that results
are the same, bit for bit, in every run.
"""
import math
from typing import List, Optional, Tuple

import torch
from torch import Tensor

from mmvssd_kernels import triton_support
from mmvssd_kernels.library import operator, register_backward
from mmvssd_kernels.numerics import common_dtype, sum_dtype
from mmvssd_kernels.triton_support import power_of_two, vector_stride

#: Largest state size and head width: a state is one tile.
LARGEST = 64
#: Tokens of a tile. With 32, tiles in flight fit 64 KiB, and what backward holds fits the registers
#: of 4 warps; with 64 it did not, and took minutes to compile.
BL = 32
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
    return triton_support.grid_obstacle(x, BL)


@triton_support.register('nc_ssd', obstacle)
def nc_ssd_triton(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Optional[Tensor], *,
                  normalize: bool, grid: Optional[Tuple[int, int]],
                  mask: Optional[Tensor]) -> Tensor:
    """Compute :func:`mmvssd_kernels.nc_ssd`, whose docstring has shapes and dtypes."""
    grid = list(grid) if normalize else None
    return torch.ops.mmvssd_kernels.nc_ssd_triton(x, dt, A, B, C, D, mask, grid)[0]


def _fake_forward(x, dt, A, B, C, D, mask, grid):
    (N, L, h, P), S = x.shape, B.shape[3]
    state = x.new_empty((N, h, S, P), dtype=sum_dtype(x.dtype))
    n = 0 if grid is None else N
    return (x.new_empty((N, L, h, P)), state, state.new_empty((n, h, S)),
            state.new_empty((n, h, 2)))


@operator('nc_ssd_triton(Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, '
          'Tensor? mask, SymInt[]? grid) -> (Tensor, Tensor, Tensor, Tensor)', _fake_forward)
def _forward(x, dt, A, B, C, D, mask, grid):
    """y, and for backward states (N, h, S, P), and of the normalized form sums of keys (N, h, S)
    and what the softmax subtracts and multiplies by (N, h, 2)."""
    y, state, keys, softmax = _fake_forward(x, dt, A, B, C, D, mask, grid)
    if y.numel() == 0:
        return y, state.zero_(), keys.zero_(), softmax.zero_()
    launch = _Launch(x, B, mask, grid)
    N, L, h, P = x.shape
    S, splits = launch.S, launch.splits
    parts = state.new_empty(splits, N, h, S, P)
    sums = state.new_empty(splits if launch.NORMALIZE else 0, N, h, S + 2)
    kernels = launch.kernels
    kernels.partial_states[h, splits, N](
        x, dt, A, B, *launch.places, parts, sums, *launch.sizes, launch.split_length,
        *x.stride(), *dt.stride(), *A.stride(), *B.stride(), *launch.mask_strides,
        **launch.flags, **launch.tiles(num_stages=2))
    BE = 256
    kernels.combine[N * h, -(-S * P // BE)](
        parts, sums, state, keys, softmax, S * P, S, splits, parts.stride(0), sums.stride(0),
        NORMALIZE=launch.NORMALIZE,
        BS=launch.BS, BE=BE, BN=power_of_two(splits), ACC=launch.ACC, num_warps=4)
    kernels.outputs[h, splits, N](
        x, C, A if D is None else D, *launch.places, state, keys, y, *launch.sizes,
        launch.split_length, launch.scale, *x.stride(), *C.stride(), *vector_stride(D),
        *launch.mask_strides, **launch.flags, SKIP=D is not None,
        **launch.tiles(num_stages=2, BL=64 if launch.flags['PRECISION'] == 'bf16x3' else BL))
    return y, state, keys, softmax


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
    dx, ddt, dA, dB, dC, dD = results
    launch = _Launch(x, B, mask, grid)
    N, L, h, P = x.shape
    G, S, splits = B.shape[2], launch.S, launch.splits
    kernels = launch.kernels
    parts = state.new_empty(splits, N, h, S, P)
    key_parts = keys.new_empty(splits, *keys.shape)
    kernels.partial_state_gradients[h, splits, N](
        dy, C, *launch.places, state, keys, parts, key_parts, *launch.sizes, launch.split_length,
        launch.scale, *dy.stride(), *C.stride(), *launch.mask_strides, **launch.flags,
        **launch.tiles(num_stages=1 if launch.NORMALIZE else 2))
    dstate, dkeys = parts.sum(0), key_parts.sum(0)
    tiles = -(-L // BL)
    dm, sums = state.new_empty(N, L, h), state.new_empty(2, tiles, N, h)
    kernels.gradients[G, tiles, N](
        x, dt, A, B, C, A if D is None else D, *launch.places, state, keys, softmax, dstate,
        dkeys, dy, dx, dm, sums[0], dB, dC, sums[1], *launch.sizes, launch.scale, *x.stride(),
        *dt.stride(), *A.stride(), *B.stride(), *C.stride(), *vector_stride(D),
        *launch.mask_strides, *dy.stride(), **launch.flags, SKIP=D is not None,
        **launch.tiles(num_stages=1))
    if D is not None:
        dD.copy_(sums[1].sum((0, 1)))
    stretch = 1024
    tiles = -(-L // stretch)
    dA_parts = state.new_empty(tiles, N, h)
    kernels.step_gradients[h, tiles, N](
        dt, A, launch.places[0], softmax, dm, sums[0].sum(0) if launch.NORMALIZE else dm, ddt,
        dA_parts, L, h, *dt.stride(), *A.stride(), *launch.mask_strides,
        NORMALIZE=launch.NORMALIZE, MASKED=mask is not None, BL=stretch, ACC=launch.ACC,
        num_warps=4)
    dA.copy_(dA_parts.sum((0, 1)))
    return results


register_backward('nc_ssd_triton', tensors=7)


class _Launch:
    """What the launches of one call share."""

    def __init__(self, x: Tensor, B: Tensor, mask: Optional[Tensor],
                 grid: Optional[List[int]]) -> None:
        N, L, h, P = x.shape
        G, S = B.shape[2:]
        self.S = S
        self.kernels = triton_support.kernels('nc_ssd')
        self.NORMALIZE = grid is not None
        product, precision = triton_support.products(common_dtype(x, B), x.device)
        dtype = sum_dtype(x.dtype)
        self.ACC = triton_support.language(dtype)
        self.BS, self.BP = (max(16, power_of_two(size)) for size in (S, P))
        # stretches of whole tiles, and not so many that their states outweigh the tokens
        tiles = -(-L // BL)
        splits = max(1, min(PROGRAMS // (N * h), tiles // 4))
        self.split_length = -(-tiles // splits) * BL
        self.splits = -(-L // self.split_length)
        W, K = (grid[1], S // 4) if self.NORMALIZE else (1, 1)
        self.scale = 1 / (h * P)
        self.sizes = (L, h, P, S, G, W, K)
        self.places = (x if mask is None else mask, *self._rotary_table(grid, K, x, dtype))
        self.mask_strides = (0, 0) if mask is None else mask.stride()
        self.flags = dict(NORMALIZE=self.NORMALIZE, MASKED=mask is not None, PRECISION=precision,
                          DTYPE=triton_support.language(product), ACC=self.ACC)

    def tiles(self, num_stages: int, BL: int = BL) -> dict:
        """Tokens, states and channels of a tile, as a launch takes them."""
        return dict(BL=BL, BS=self.BS, BP=self.BP, num_warps=4, num_stages=num_stages)

    def _rotary_table(self, grid, K, x, dtype):
        """Cosines and sines (positions, K), for rows and columns alike."""
        if grid is None:
            return x, x
        cos, sin = x.new_empty((2, max(grid), K), dtype=dtype)
        self.kernels.rotary_table[max(grid), ](cos, sin, K, LOG_BASE=math.log(10000),
                                               BK=power_of_two(K), num_warps=1)
        return cos, sin
