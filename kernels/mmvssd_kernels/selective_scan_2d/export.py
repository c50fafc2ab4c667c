"""The selective scan over a grid in standard operators, for exported models of open sizes."""
import sys
from typing import Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mmvssd_kernels.cross_scan import ORDERS
from mmvssd_kernels.dispatch import register
from mmvssd_kernels.library import exporting, open_sizes, operator
from mmvssd_kernels.numerics import cast, drop_padding, sum_dtype
from mmvssd_kernels.selective_scan.export import chunk, scan, unchunk
from mmvssd_kernels.selective_scan_2d.autograd import SEQUENCES

#: The module that registers a translation with the ONNX exporter, once it is imported.
TRANSLATION = 'mmvssd_kernels.selective_scan_2d.onnx_translation'


@register('selective_scan_2d', 'export', priority=-1, exportable=True)
def selective_scan_2d_export(x: Tensor, dt: Tensor, dt_weight: Tensor, A: Tensor, B: Tensor,
                             C: Tensor, D: Tensor, dt_bias: Tensor, *, pattern: str,
                             mask: Optional[Tensor]) -> Tensor:
    """Compute :func:`mmvssd_kernels.selective_scan_2d`, whose docstring has shapes and dtypes."""
    dtype = sum_dtype(x.dtype)
    x, dt, weight, A, B, C, D, bias = cast(dtype, x, dt, dt_weight, A, B, C, D, dt_bias)
    x, dt, B, C = drop_padding(mask, x, dt, B, C)
    compute = _translated if _translates() else _decomposed
    with open_sizes():
        y = compute(x, dt, weight, A, B, C, D, bias, mask, pattern)
    return drop_padding(mask, y)[0]


def _translates() -> bool:
    """Tell whether the ONNX exporter runs, and has a translation of the operator."""
    # torch.compile cannot trace the first question
    return exporting() and torch.onnx.is_in_onnx_export() and TRANSLATION in sys.modules


def _decomposed(x: Tensor, dt: Tensor, weight: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor,
                bias: Tensor, mask: Optional[Tensor], pattern: str) -> Tensor:
    grid = x.shape[1:3]
    # what is narrow is cut before the steps are widened
    narrow = _chunks(torch.cat([dt, B, C], -1).unbind(3), pattern)
    dt, B, C = narrow.split([dt.shape[4], B.shape[4], B.shape[4]], -1)
    delta = F.softplus(dt @ weight.mT[:, None] + bias.view(4, 1, 1, -1))
    if mask is not None:
        # with a step of 0 the state passes padding as it is
        delta = delta * _chunks([mask[..., None].to(x.dtype)] * 4, pattern)
    y = scan(_chunks([x] * 4, pattern), delta, A.unflatten(0, (4, -1)), B, C)
    return _merge(y, grid, pattern) + x * D.view(4, -1).sum(0)


_translated = operator('selective_scan_2d_onnx(Tensor x, Tensor dt, Tensor dt_weight, Tensor A, '
                       'Tensor B, Tensor C, Tensor D, Tensor dt_bias, Tensor? mask, str pattern) '
                       '-> Tensor', lambda x, *others: torch.empty_like(x))(_decomposed)


def _chunks(grids: Sequence[Tensor], pattern: str) -> Tensor:
    """Cut the sequences of four grids (N, H, W, ...) into chunks, (T, 4, N, c, ...).

    Sequences from the end are cut as the others are, and turned around with their chunks. Then the
    filling of the last chunk comes first, and zeros leave the state at zero.
    """
    forward = SEQUENCES[pattern].forward
    sequences = [(grid.transpose(1, 2) if order.transposed else grid).flatten(1, 2)
                 for grid, order in zip(grids, ORDERS[pattern])]
    if all(grid is grids[0] for grid in grids):
        chunks = chunk(torch.stack(sequences[:forward]))
        return chunks if forward == 4 else torch.cat([chunks, chunks.flip(0, 3)], 1)
    chunks = chunk(torch.stack(sequences))
    if forward == 4:
        return chunks
    return torch.cat([chunks[:, :forward], chunks[:, forward:].flip(0, 3)], 1)


def _merge(y: Tensor, grid: Tuple[int, int], pattern: str) -> Tensor:
    """Add four sequences in chunks (T, 4, N, c, D) up on their grid (N, H, W, D)."""
    forward, (H, W) = SEQUENCES[pattern].forward, grid
    if forward < 4:
        y = y[:, :forward] + y[:, forward:].flip(0, 3)
    y = unchunk(y, H * W)  # (forward, N, L, D)
    if pattern != 'cross':
        return y.sum(0).unflatten(1, (H, W))
    rows, columns = y.unbind(0)
    return rows.unflatten(1, (H, W)) + columns.unflatten(1, (W, H)).transpose(1, 2)
