"""Cross scan and cross merge in standard operators, for exported models of open sizes."""
from typing import Tuple

import torch
from torch import Tensor

from mmvssd_kernels.cross_scan.orders import ORDERS, Order
from mmvssd_kernels.dispatch import register
from mmvssd_kernels.numerics import sum_dtype


@register('cross_scan', 'export', priority=-1, exportable=True)
def cross_scan_export(x: Tensor, pattern: str) -> Tensor:
    """Compute :func:`mmvssd_kernels.cross_scan`, whose docstring has shapes and dtypes."""
    tokens = x.movedim(1, -1)
    return torch.stack([take(tokens, order) for order in ORDERS[pattern]], 1).mT


@register('cross_merge', 'export', priority=-1, exportable=True)
def cross_merge_export(y: Tensor, grid: Tuple[int, int], pattern: str) -> Tensor:
    """Compute :func:`mmvssd_kernels.cross_merge`, whose docstring has shapes and dtypes."""
    sequences = y.to(sum_dtype(y.dtype)).mT.unbind(1)
    return merge(sequences, grid, pattern).movedim(-1, 1).to(y.dtype)


def take(x: Tensor, order: Order) -> Tensor:
    """Turn a grid (N, H, W, C) into a sequence (N, H * W, C)."""
    x = (x.transpose(1, 2) if order.transposed else x).flatten(1, 2)
    return x.flip(1) if order.reverse else x


def merge(sequences: Tuple[Tensor, ...], grid: Tuple[int, int], pattern: str) -> Tensor:
    """Add four sequences (N, H * W, C) up on their grid (N, H, W, C).

    Those of one axis are added before they are brought back: they share a copy.
    """
    axes = {}
    for y, order in zip(sequences, ORDERS[pattern]):
        y = y.flip(1) if order.reverse else y
        axes[order.transposed] = axes[order.transposed] + y if order.transposed in axes else y
    H, W = grid
    grids = [y.unflatten(1, (W, H)).transpose(1, 2) if transposed else y.unflatten(1, (H, W))
             for transposed, y in axes.items()]
    return sum(grids[1:], grids[0])
