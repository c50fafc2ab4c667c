"""Launches of the plain form; see :mod:`mmvssd_kernels.nc_ssd.autograd`."""
from typing import Optional, Tuple

import torch
from torch import Tensor

from mmvssd_kernels import triton_support
from mmvssd_kernels.nc_ssd import launch
from mmvssd_kernels.numerics import sum_dtype

#: Tokens of a long head, and how many of them keep Hopper busy if a multiprocessor takes one at a
#: time. Then those in work, not all, are what its cache should hold until they are read again.
LONG, LONG_HEADS = 2048, 128


def allocate(x: Tensor, B: Tensor, C: Tensor, grid: None) -> Tuple[Tensor, ...]:
    """Allocate what forward keeps for backward: states (parts, N, h, S, P), and twice nothing."""
    (N, _, h, P), S = x.shape, B.shape[3]
    nothing = x.new_empty(0)
    if triton_support.halves(x, B, C):
        return x.new_empty((2, N, h, S, P), dtype=torch.bfloat16), nothing, x.new_empty(0)
    return x.new_empty((1, N, h, S, P), dtype=sum_dtype(x.dtype)), nothing, x.new_empty(0)


def forward(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Optional[Tensor],
            mask: Optional[Tensor], grid: None, y: Tensor, state: Tensor, *nothing: Tensor) -> None:
    """Write y and states."""
    call = _Call(x, dt, A, B, C, D, mask)
    x, dt, A, B, C, D, mask = call.tensors
    if call.grid[1] == 1:
        call.kernels.whole_heads[call.grid](
            x, dt, A, B, C, D, mask, state, y, call.lengths[0], *x.stride()[:2],
            *dt.stride()[:2], *B.stride()[:2], *C.stride()[:2], SKIP=call.SKIP,
            **call.whole_options())
        return
    parts = call.parts(state)
    call.kernels.partial_states[call.grid](
        x, dt, A, B, mask, parts, *call.lengths, *x.stride()[:2], *dt.stride()[:2],
        *B.stride()[:2], **call.options)
    call.combine(parts, state)
    call.kernels.outputs[call.grid](
        x, C, D, mask, state, y, *call.lengths, *x.stride()[:2], *C.stride()[:2],
        SKIP=call.SKIP, **call.options)


def backward(dy: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor,
             D: Optional[Tensor], mask: Optional[Tensor], state: Tensor, softmax: Tensor,
             table: Tensor, grid: None, results: Tuple[Tensor, ...]) -> None:
    """Write the gradients of x, dt, A, B, C and D."""
    dx, ddt, dA, dB, dC, dD = results
    call = _Call(x, dt, A, B, C, D, mask, dy)
    x, dt, A, B, C, D, mask, dy = call.tensors
    N, L, h, _ = x.shape
    dstate = torch.empty_like(state)
    parts = call.parts(dstate)
    call.kernels.partial_state_gradients[call.grid](
        dy, C, mask, parts, *call.lengths, *dy.stride()[:2], *C.stride()[:2],
        WHOLE=parts is dstate, **call.options)
    call.combine(parts, dstate)
    options = call.narrow_options()
    tiles = -(-L // options['BL'])
    sums = x.new_empty((2, h, N, tiles), dtype=call.dtype)
    call.kernels.gradients[B.shape[2], tiles, N](
        x, dt, A, B, C, D, mask, state, dstate, dy, dx, ddt, dB, dC, sums, L, *x.stride()[:2],
        *dt.stride()[:2], *B.stride()[:2], *dy.stride()[:2], SKIP=call.SKIP,
        TENSOR_MEMORY=call.tensor_memory, CUT=call.cut, **options)
    call.add_parameters(sums, dA, dD)


class _Call(launch.Call):
    """What the launches of one call share."""

    def __init__(self, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor,
                 D: Optional[Tensor], mask: Optional[Tensor], *others: Tensor) -> None:
        halves, (N, L, h, _) = triton_support.halves(x, B, C), x.shape
        # Triton 3.3's compiler stops at a state that eight warps share
        self.long = (halves and L > LONG and N * h >= LONG_HEADS
                     and triton_support.capability(x.device)[0] == launch.HOPPER
                     and triton_support.release() >= (3, 4))
        super().__init__(x, dt, A, B, C, D, mask, *others, BL=64 if halves else 32, halves=halves,
                         programs=N * h if self.long else launch.PROGRAMS)
        self.kernels = triton_support.kernels('nc_ssd')
        self.options.update(G=B.shape[2], num_stages=3)
        # of factors in registers each warp would cut all parts of a state for itself
        self.cut = self.options['PRECISION'] == 'bf16x6' and not self.tensor_memory

    def whole_options(self) -> dict:
        """Return the options of a program that takes all tokens of a head."""
        # this tile leaves no room for a second program on the multiprocessor
        return {**self.options, 'BL': 128, 'num_warps': 8} if self.long else self.options

    def narrow_options(self) -> dict:
        """Return the options of the gradients, whose products leave few registers."""
        HALVES = self.options['HALVES']
        # before Hopper, products keep their factors in registers, as products of parts do anywhere
        columns = 32 if HALVES and self.hopper else 16
        return {**self.options, 'BL': 64, 'BP': min(columns, self.options['BP']),
                'num_stages': 2 if HALVES else 1}
