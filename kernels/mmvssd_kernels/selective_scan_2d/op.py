"""The public op: checks its arguments, then hands them to the implementation that can run."""
from typing import Optional

from torch import Tensor

from mmvssd_kernels import dispatch
from mmvssd_kernels.checks import check_choice, check_mask, check_optional, check_tensor
from mmvssd_kernels.cross_scan import PATTERNS
from mmvssd_kernels.selective_scan_2d import (  # noqa: F401  (register themselves)
    autograd,
    export,
    numba_operator,
    reference,
)


def selective_scan_2d(x: Tensor,
                      dt: Tensor,
                      dt_weight: Tensor,
                      A: Tensor,
                      B: Tensor,
                      C: Tensor,
                      D: Optional[Tensor] = None,
                      dt_bias: Optional[Tensor] = None,
                      *,
                      pattern: str = 'cross',
                      mask: Optional[Tensor] = None,
                      impl: str = 'auto') -> Tensor:
    r"""2-D selective scan (SS2D): four sequences over one grid, scanned and added up.

    It computes :func:`~mmvssd_kernels.cross_scan`, :func:`~mmvssd_kernels.selective_scan` and
    :func:`~mmvssd_kernels.cross_merge` one after the other, with
    :math:`\delta = softplus(W dt + b)`. Tokens are channels-last. Sequences and step sizes are
    never written out (VMamba, arXiv 2401.10166, Sec. 4.2). Channel d of sequence k is channel
    ``k * D + d`` of A, D and dt_bias.

    Args:
        x: Tokens (N, H, W, D), float32, bfloat16, float16 or float64.
        dt: Low-rank step sizes (N, H, W, 4, R), at the token's place on the grid.
        dt_weight: (4, D, R), what widens them.
        A: Decay (4*D, S), negative.
        B: Input projection (N, H, W, 4, S).
        C: Output projection (N, H, W, 4, S).
        D: Skip weight (4*D,), or None for no skip.
        dt_bias: (4*D,), added before softplus, or None.
        pattern: Orders of the sequences, as in :func:`~mmvssd_kernels.cross_scan`.
        mask: (N, H, W) bool, False = padding: the state passes it unchanged, whatever values it
            holds, and its outputs are zero.
        impl: 'auto' or the name of an implementation; see :mod:`mmvssd_kernels.dispatch`.

    Returns:
        (N, H, W, D) float32; float64 if ``x`` is.

    Raises:
        ValueError: Shapes, dtypes or devices that don't agree, or an unknown pattern, naming the
            argument.
        RuntimeError: The implementation chosen by name cannot run here.
    """
    check_tensor('x', x, ('N', 'H', 'W', 'D'))
    N, H, W, width = x.shape
    check_tensor('dt', dt, (N, H, W, 4, 'R'), device=x.device)
    check_tensor('dt_weight', dt_weight, (4, width, dt.shape[4]), device=x.device)
    check_tensor('A', A, (4 * width, 'S'), device=x.device)
    if A.shape[1] == 0:
        raise ValueError('A: got a state of size 0, expected at least 1')
    check_tensor('B', B, (N, H, W, 4, A.shape[1]), device=x.device)
    check_tensor('C', C, tuple(B.shape), device=x.device)
    check_optional('D', D, (4 * width,), x.device)
    check_optional('dt_bias', dt_bias, (4 * width,), x.device)
    check_choice('pattern', pattern, PATTERNS)
    check_mask(mask, (N, H, W), x.device)
    nothing = A.new_zeros(4 * width) if D is None or dt_bias is None else None
    return dispatch.call('selective_scan_2d', impl, x, dt, dt_weight, A, B, C,
                         nothing if D is None else D, nothing if dt_bias is None else dt_bias,
                         pattern=pattern, mask=mask)
