"""Cross scan and cross merge in PyTorch. Each is the other's gradient."""
from typing import Tuple

import torch
from torch import Tensor

from mmvssd_kernels.cross_scan.orders import ORDERS, ROWS
from mmvssd_kernels.dispatch import register
from mmvssd_kernels.numerics import sum_dtype


@register('cross_scan', 'reference', priority=0)
def cross_scan_reference(x: Tensor, pattern: str) -> Tensor:
    """Compute :func:`mmvssd_kernels.cross_scan`, whose docstring has shapes and dtypes."""
    return _CrossScan.apply(x, pattern)


@register('cross_merge', 'reference', priority=0)
def cross_merge_reference(y: Tensor, grid: Tuple[int, int], pattern: str) -> Tensor:
    """Compute :func:`mmvssd_kernels.cross_merge`, whose docstring has shapes and dtypes."""
    return _CrossMerge.apply(y, grid, pattern)


class _CrossScan(torch.autograd.Function):

    generate_vmap_rule = True

    @staticmethod
    def forward(x, pattern):
        return _scan(x, pattern)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.pattern = inputs
        ctx.grid = tuple(x.shape[2:])

    @staticmethod
    def backward(ctx, dy):
        return _CrossMerge.apply(dy, ctx.grid, ctx.pattern), None


class _CrossMerge(torch.autograd.Function):

    generate_vmap_rule = True

    @staticmethod
    def forward(y, grid, pattern):
        return _merge(y, grid, pattern)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *_, ctx.pattern = inputs

    @staticmethod
    def backward(ctx, dx):
        return _CrossScan.apply(dx, ctx.pattern), None, None


def _scan(x: Tensor, pattern: str) -> Tensor:
    N, C, H, W = x.shape
    orders = ORDERS[pattern]
    if set(orders) == {ROWS}:
        return x.flatten(2)[:, None].expand(N, 4, C, H * W)
    y = x.new_empty(N, 4, C, H * W)
    for k, order in enumerate(orders):
        grid = x.mT if order.transposed else x
        if order.reverse:
            grid = grid.flip(2, 3)
        y[:, k].view(grid.shape).copy_(grid)
    return y


def _merge(y: Tensor, grid: Tuple[int, int], pattern: str) -> Tensor:
    N, _, C, _ = y.shape
    H, W = grid
    x = y.new_zeros(N, C, H, W, dtype=sum_dtype(y.dtype))
    for k, order in enumerate(ORDERS[pattern]):
        sequence = y[:, k].flip(2) if order.reverse else y[:, k]
        x += (sequence.view(N, C, W, H).mT if order.transposed else sequence.view(N, C, H, W))
    return x.to(y.dtype)
