"""Launches of the normalized form; see :mod:`mmvssd_kernels.nc_ssd.autograd`."""
import importlib
import math
from typing import List, Optional

from torch import Tensor

from mmvssd_kernels import triton_support
from mmvssd_kernels.numerics import common_dtype, sum_dtype
from mmvssd_kernels.triton_support import power_of_two, vector_stride

BL = 32
PROGRAMS = 512


def forward(x, dt, A, B, C, D, mask, grid, y, state, keys, softmax):
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


def backward(dy, x, dt, A, B, C, D, mask, state, keys, softmax, grid, results):
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


class _Launch:
    """What the launches of one call share."""

    def __init__(self, x: Tensor, B: Tensor, mask: Optional[Tensor],
                 grid: Optional[List[int]]) -> None:
        N, L, h, P = x.shape
        G, S = B.shape[2:]
        self.S = S
        self.kernels = importlib.import_module('mmvssd_kernels.nc_ssd.triton_normalized')
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
