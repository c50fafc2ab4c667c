"""Cross scan and cross merge through Triton. Each is the other's gradient, of any order."""
from typing import Optional, Tuple

from torch import Tensor

from mmvssd_kernels import triton_support
from mmvssd_kernels.cross_scan.orders import ORDERS, ROWS
from mmvssd_kernels.library import call, operator, register_gradient
from mmvssd_kernels.numerics import sum_dtype

#: Channels, rows and columns of a tile, and warps that work on it.
TILE = dict(BLOCK=16, num_warps=8)


def obstacle(t: Tensor, *args, **kwargs) -> Optional[str]:
    """Return why the kernels cannot run on these arguments of either op; None if they can."""
    return triton_support.obstacle(t)


@triton_support.register('cross_scan', obstacle)
def cross_scan_triton(x: Tensor, pattern: str) -> Tensor:
    """Compute :func:`mmvssd_kernels.cross_scan`, whose docstring has shapes and dtypes."""
    if set(ORDERS[pattern]) == {ROWS}:
        # four times the same: a view, which an operator must not return
        return x.flatten(2)[:, None].expand(-1, 4, -1, -1)
    return call('cross_scan_triton', x, pattern)


@triton_support.register('cross_merge', obstacle)
def cross_merge_triton(y: Tensor, grid: Tuple[int, int], pattern: str) -> Tensor:
    """Compute :func:`mmvssd_kernels.cross_merge`, whose docstring has shapes and dtypes."""
    return call('cross_merge_triton', y, *grid, pattern)


def _fake_scan(x, pattern):
    N, C, H, W = x.shape
    return x.new_empty((N, 4, C, H * W))


@operator('cross_scan_triton(Tensor x, str pattern) -> Tensor', _fake_scan)
def _scan(x, pattern):
    """Return the sequences (N, 4, C, H * W), contiguous."""
    y = _fake_scan(x, pattern)
    if y.numel():
        triton_support.kernels('cross_scan').scan[_programs(x.shape)](
            x, y, *x.shape[1:], *x.stride(), **_bits(pattern), **TILE)
    return y


def _fake_merge(y, H, W, pattern):
    N, _, C, _ = y.shape
    return y.new_empty((N, C, H, W))


@operator('cross_merge_triton(Tensor y, SymInt H, SymInt W, str pattern) -> Tensor', _fake_merge)
def _merge(y, H, W, pattern):
    """Grid (N, C, H, W), contiguous."""
    x = _fake_merge(y, H, W, pattern)
    if x.numel():
        ACC = triton_support.language(sum_dtype(y.dtype))
        triton_support.kernels('cross_scan').merge[_programs(x.shape)](
            y, x, *x.shape[1:], *y.stride(), **_bits(pattern), **TILE, ACC=ACC)
    return x


def _save_scan(ctx, inputs, output):
    x, ctx.pattern = inputs
    ctx.grid = x.shape[2:]


def _differentiate_scan(ctx, dy):
    return call('cross_merge_triton', dy, *ctx.grid, ctx.pattern), None


def _save_merge(ctx, inputs, output):
    *_, ctx.pattern = inputs


def _differentiate_merge(ctx, dx):
    return cross_scan_triton(dx, ctx.pattern), None, None, None


register_gradient('cross_scan_triton', _save_scan, _differentiate_scan)
register_gradient('cross_merge_triton', _save_merge, _differentiate_merge)


def _programs(shape) -> Tuple[int]:
    """Return the number of programs, one for each tile of (N, C, H, W)."""
    programs = shape[0]
    for side in shape[1:]:
        programs *= -(-side // TILE['BLOCK'])
    return (programs, )


def _bits(pattern: str) -> dict:
    """Return which sequences run over columns, and which from the end, as the kernels know it."""
    orders = ORDERS[pattern]
    return dict(COLUMNS=sum(order.transposed << k for k, order in enumerate(orders)),
                REVERSED=sum(order.reverse << k for k, order in enumerate(orders)))
