"""The public op: checks its arguments, then hands them to the implementation that can run."""
from typing import Optional, Tuple

from torch import Tensor

from mmvssd_kernels import dispatch
from mmvssd_kernels.checks import check_duality, check_flag, check_grid
from mmvssd_kernels.nc_ssd import autograd, reference  # noqa: F401  (register themselves)


def nc_ssd(x: Tensor,
           dt: Tensor,
           A: Tensor,
           B: Tensor,
           C: Tensor,
           D: Optional[Tensor] = None,
           *,
           normalize: bool = False,
           grid: Optional[Tuple[int, int]] = None,
           mask: Optional[Tensor] = None,
           impl: str = 'auto') -> Tensor:
    r"""Non-causal state space duality: every token reads one state that sums all tokens.

    With :math:`m_l = -dt_l A`, per head

    .. math:: state = \sum_l B_l \otimes m_l x_l, \qquad y_l = C_l \cdot state + D x_l

    (VSSD, arXiv 2407.18559, Eq. 9). ``normalize=True`` computes the ICCV 2025 version instead:
    ELU features, softmax weights, a 2-D rotary embedding and a denominator, see
    :mod:`mmvssd_kernels.nc_ssd.reference`.

    Args:
        x: Tokens (N, L, h, P), float32, bfloat16, float16 or float64.
        dt: Step sizes (N, L, h), after softplus.
        A: Decay (h,), negative as published; the sign may be turned (the ``tiny_na`` ablation).
        B: Input projection (N, L, G, S). Head j reads group j % G, see
            :func:`~mmvssd_kernels.checks.check_groups`.
        C: Output projection (N, L, G, S).
        D: Skip weight (h,), or None for no skip.
        normalize: Compute the normalized form; then G = 1 and S is a multiple of 4.
        grid: (H, W) with H * W = L, for the rotary embedding; needed if ``normalize``.
        mask: (N, L) bool, False = padding. Padding adds nothing to a sum, a mean or a softmax,
            whatever values it holds, and its outputs are zero.
        impl: 'auto' or the name of an implementation; see :mod:`mmvssd_kernels.dispatch`.

    Returns:
        (N, L, h, P) in the dtype of ``x``. Sums and the state are float32 (float64 if ``x``
        is), also under autocast.

    Raises:
        ValueError: Shapes, dtypes or devices that don't agree, naming the argument.
        RuntimeError: The implementation chosen by name cannot run here.
    """
    check_duality(x, dt, A, B, C, D, mask)
    check_flag('normalize', normalize)
    if normalize:
        _check_normalized(x.shape[1], B.shape[2], B.shape[3], grid)
    return dispatch.call('nc_ssd', impl, x, dt, A, B, C, D, normalize=normalize, grid=grid,
                         mask=mask)


def _check_normalized(L: int, G: int, S: int, grid: Optional[Tuple[int, int]]) -> None:
    if G != 1:
        raise ValueError(f'B: got {G} groups, expected 1 if normalize=True')
    if S == 0 or S % 4:
        raise ValueError(f'B: got a state of size {S}, expected a multiple of 4 if '
                         'normalize=True (two axes, rotated in pairs)')
    if grid is None:
        raise ValueError('grid: got None, expected (H, W) if normalize=True')
    check_grid(grid, L, 'x')
