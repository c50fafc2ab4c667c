"""The public ops: check their arguments, then hand them to the implementation that can run."""
from typing import Tuple

from torch import Tensor

from mmvssd_kernels import dispatch
from mmvssd_kernels.checks import check_choice, check_grid, check_tensor
from mmvssd_kernels.cross_scan import autograd, export, reference  # noqa: F401  (register themselves)
from mmvssd_kernels.cross_scan.orders import ORDERS

PATTERNS = tuple(ORDERS)


def cross_scan(x: Tensor, pattern: str = 'cross', impl: str = 'auto') -> Tensor:
    """Turn a grid into four sequences (VMamba, arXiv 2401.10166, Sec. 4.3).

    'cross': by rows, by columns, by rows from the end, by columns from the end;
    'unidirectional': by rows, four times; 'bidirectional': twice by rows, twice from the end.

    Args:
        x: Grid (N, C, H, W), float32, bfloat16, float16 or float64.
        pattern: 'cross', 'unidirectional' or 'bidirectional'.
        impl: 'auto' or the name of an implementation; see :mod:`mmvssd_kernels.dispatch`.

    Returns:
        Sequences (N, 4, C, H*W) in the dtype of ``x``. Sequences that are equal may share memory:
        clone before writing to them.

    Raises:
        ValueError: A shape or dtype that does not fit, or an unknown pattern.
        RuntimeError: The implementation chosen by name cannot run here.
    """
    check_tensor('x', x, ('N', 'C', 'H', 'W'))
    check_choice('pattern', pattern, PATTERNS)
    return dispatch.call('cross_scan', impl, x, pattern)


def cross_merge(y: Tensor, grid: Tuple[int, int], pattern: str = 'cross',
                impl: str = 'auto') -> Tensor:
    """Bring four sequences back to their grid and add them: the transpose of :func:`cross_scan`.

    Args:
        y: Sequences (N, 4, C, H*W), float32, bfloat16, float16 or float64.
        grid: (H, W).
        pattern: As in :func:`cross_scan`.
        impl: As in :func:`cross_scan`.

    Returns:
        Grid (N, C, H, W) in the dtype of ``y``; bfloat16 and float16 are added in float32.

    Raises:
        ValueError: A shape, dtype or grid that does not fit, or an unknown pattern.
        RuntimeError: The implementation chosen by name cannot run here.
    """
    check_tensor('y', y, ('N', 4, 'C', 'L'))
    check_grid(grid, y.shape[3], 'y')
    check_choice('pattern', pattern, PATTERNS)
    return dispatch.call('cross_merge', impl, y, tuple(grid), pattern)
