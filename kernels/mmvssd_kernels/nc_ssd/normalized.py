"""Launches of the normalized form; see :mod:`mmvssd_kernels.nc_ssd.autograd`."""
import math
from typing import List, Optional, Tuple

import torch
from torch import Tensor

from mmvssd_kernels import triton_support
from mmvssd_kernels.nc_ssd import launch
from mmvssd_kernels.numerics import sum_dtype
from mmvssd_kernels.triton_support import power_of_two

#: Tokens of a tile.
BL = 32
#: Channels of a tile, those of some heads.
COLUMNS = 128
#: Heads whose weights the gradients compute at once: as many as a product takes, and as published
#: models have. Blocks of any number of heads would overflow registers and shared memory.
HEADS = 16


def allocate(x: Tensor, B: Tensor, C: Tensor, grid: List[int]) -> Tuple[Tensor, ...]:
    """Allocate what forward keeps for backward.

    These are the states (parts, N, h, S, P) with sums of keys (parts, N, h, S) behind each part,
    and what the softmax subtracts and multiplies by (N, h, 2). The rotary table
    (2, positions, S / 4) serves rows and columns.
    """
    (N, _, h, P), S = x.shape, B.shape[3]
    dtype = sum_dtype(x.dtype)
    count, kind = (2, torch.bfloat16) if triton_support.halves(x, B, C) else (1, dtype)
    return (x.new_empty((count, N * h * S * (P + 1)), dtype=kind),
            x.new_empty((N, h, 2), dtype=dtype),
            x.new_empty((2, torch.sym_max(*grid), S // 4), dtype=dtype))


def forward(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Optional[Tensor],
            mask: Optional[Tensor], grid: List[int], y: Tensor, state: Tensor, softmax: Tensor,
            table: Tensor) -> None:
    """Write y, and what :func:`allocate` made."""
    call = _Call(x, dt, A, B, C, D, mask, grid)
    x, dt, A, B, C, D, mask = call.tensors
    N, L, h, _ = x.shape
    _prepare(call, dt, A, mask, softmax, table)
    parts = call.parts(state)
    call.kernels.partial_states[call.grid](
        x, B, mask, table, dt, A, softmax, dt, parts, *call.lengths, *call.aligned(x),
        *B.stride()[:2], *dt.stride()[:2], BACKWARD=False, WHOLE=parts is state, **call.sums())
    call.combine(parts, state)
    call.kernels.outputs[call.grid](
        x, C, D, mask, table, state, y, *call.lengths, *call.aligned(x), *C.stride()[:2],
        SKIP=call.SKIP, **call.wide())


def _prepare(call: '_Call', dt: Tensor, A: Tensor, mask: Tensor, softmax: Tensor,
             table: Tensor) -> None:
    """Write what the softmax subtracts and multiplies by, and the rotary table."""
    N, L, h = dt.shape
    length = -(-L // max(1, min(launch.PROGRAMS // (N * h), L // _LEAST_STRETCH)))
    length = -(-length // _LANES) * _LANES
    splits = -(-L // length)
    parts = softmax if splits == 1 else softmax.new_empty((splits, *softmax.shape))
    call.kernels.prepare[h, splits, N](
        dt, A, mask, parts, table, L, length, table.shape[1], *dt.stride()[:2], h=h,
        K=call.options['K'], LOG_BASE=math.log(10000), MASKED=call.options['MASKED'],
        WHOLE=parts is softmax, BK=power_of_two(table.shape[2]), BL=_LANES,
        ACC=call.options['ACC'], num_warps=4)
    if parts is not softmax:
        call.kernels.join_softmax[-(-N * h // 128), ](
            parts, softmax, splits, N * h, BE=128, ACC=call.options['ACC'], num_warps=4)


def backward(dy: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor,
             D: Optional[Tensor], mask: Optional[Tensor], state: Tensor, softmax: Tensor,
             table: Tensor, grid: List[int], results: Tuple[Tensor, ...]) -> None:
    """Write the gradients of x, dt, A, B, C and D."""
    dx, ddt, dA, dB, dC, dD = results
    call = _Call(x, dt, A, B, C, D, mask, grid, dy)
    x, dt, A, B, C, D, mask, dy = call.tensors
    N, L, h, _ = x.shape
    tile = call.narrow()
    tiles = -(-L // tile['BL'])
    weights = softmax.new_empty((2, N, L, h))
    call.kernels.query_gradients[tiles, N](
        C, mask, table, state, dy, dC, weights, L, *call.lengths[2:], *C.stride()[:2],
        *call.aligned(dy), **tile)
    dstate = torch.empty_like(state)
    parts = call.parts(dstate)
    call.kernels.partial_states[call.grid](
        dy, C, mask, table, dt, A, softmax, weights, parts, *call.lengths, *call.aligned(dy),
        *C.stride()[:2], *dt.stride()[:2], BACKWARD=True, WHOLE=parts is dstate, **call.sums())
    call.combine(parts, dstate)
    dw, sums = softmax.new_empty((N, L, h)), softmax.new_empty((2, h, N, tiles))
    if call.options['BS'] > 16:
        tile['num_stages'] = 1  # what is loaded ahead would leave too few registers
    call.kernels.gradients[tiles, N](
        x, dt, A, B, D, mask, table, softmax, dstate, dy, dx, dw, dB, sums, L,
        *call.lengths[2:], *call.aligned(x), *dt.stride()[:2], *B.stride()[:2],
        *call.aligned(dy), SKIP=call.SKIP, **tile)
    stretches = -(-L // _STRETCH)
    stretch_sums = softmax.new_empty((2, h, N, stretches))
    options = dict(h=h, MASKED=call.options['MASKED'], BL=_STRETCH, BT=_STRETCH // tile['BL'],
                   ACC=call.options['ACC'], num_warps=4)
    surplus = stretch_sums  # which a single stretch knows by itself
    if stretches > 1:
        surplus = softmax.new_empty((h, N, stretches))
        call.kernels.surpluses[h, stretches, N](
            dt, A, mask, softmax, dw, sums, surplus, L, tiles, *dt.stride()[:2], **options)
    call.kernels.step_gradients[h, stretches, N](
        dt, A, mask, softmax, dw, sums, surplus, ddt, stretch_sums, L, tiles, *dt.stride()[:2],
        SKIP=call.SKIP, WHOLE=stretches == 1, **options)
    call.add_parameters(stretch_sums, dA, dD)


#: Tokens that a program corrects the gradients of steps of.
_STRETCH = 1024
#: Tokens that a program takes at once for the softmax, and those that it takes at least.
_LANES, _LEAST_STRETCH = 1024, 4096


class _Call(launch.Call):
    """What the launches of one call share."""

    def __init__(self, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor,
                 D: Optional[Tensor], mask: Optional[Tensor], grid: List[int],
                 *others: Tensor) -> None:
        BP = max(16, power_of_two(x.shape[3]))
        halves = triton_support.halves(x, B, C)
        # what a tile holds shall fit the registers: less of it if states are large, and not halves
        size = B.shape[3]
        columns = COLUMNS if halves or size <= 16 else COLUMNS // 2
        # measured: on Hopper more columns are quicker, even if some of them are spilled
        if halves and triton_support.capability(x.device)[0] == launch.HOPPER:
            columns = 2 * COLUMNS
        BH = min(max(1, columns // BP), power_of_two(x.shape[2]))
        super().__init__(x, dt, A, B, C, D, mask, *others, heads=BH, halves=halves,
                         BL=BL if halves or size <= 32 else BL // 2)
        self.kernels = triton_support.kernels('nc_ssd', 'triton_normalized')
        self.lengths += grid[1], max(grid)
        x, *others = self.tensors[0], *self.tensors[7:]
        self.align = math.gcd(16, *(stride for t in (x, *others) for stride in t.stride()[:2]))
        self.options.update(K=B.shape[3] // 4, ALIGN=self.align, BH=BH, num_stages=2)

    def sums(self) -> dict:
        """Return the options of what sums states: of fewer tokens, if the sums leave few registers.

        As many tokens are loaded ahead as with tiles twice as large.
        """
        HALVES, BS = self.options['HALVES'], self.options['BS']
        if HALVES and (32 if self.hopper else 64) <= BS:
            return {**self.options, 'BL': BL // 2, 'num_stages': 3 if self.hopper else 2}
        return self.options

    def wide(self) -> dict:
        """Return the options of the outputs, which hold little but their tile.

        On Hopper 8 warps have room for that of a state of up to 32.
        """
        HALVES, BS = self.options['HALVES'], self.options['BS']
        tokens = 64 if HALVES and BS <= 32 else self.options['BL']
        many = HALVES and self.hopper and BS == 32
        return {**self.options, 'BL': tokens, 'num_warps': 8 if many else 4}

    def narrow(self) -> dict:
        """Return the options of kernels with one head at a time and two sums of a tile's features.

        More tokens, or fewer warps, and the sums overflow the registers. Hopper's products of 64
        tokens leave room.
        """
        HALVES, BS = self.options['HALVES'], self.options['BS']
        tokens = (32 if HALVES else 16) * (2 if BS == 16 or (HALVES and self.hopper) else 1)
        heads = min(HEADS, power_of_two(self.options['h']))
        if HALVES and BS > 16 and not self.hopper:
            heads = HEADS  # to hand few weights out takes more instructions than to compute more
        options = {**self.options, 'BL': tokens, 'H': heads, 'HK': HEADS if HALVES else heads,
                   'num_warps': 8 if BS == 64 and not self.hopper else 4,
                   # the next head is loaded while one is computed
                   'num_stages': 2 if HALVES and self.hopper else 1}
        del options['BH']
        return options

    def aligned(self, t: Tensor) -> Tuple[int, int]:
        """Return the strides over images and tokens, as kernels count them."""
        n, token = t.stride()[:2]
        return n // self.align, token // self.align
