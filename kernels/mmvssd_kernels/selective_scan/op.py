"""The public op: checks its arguments, then hands them to the implementation that can run."""
from typing import Optional

from torch import Tensor

from mmvssd_kernels import dispatch
from mmvssd_kernels.checks import (
    check_flag,
    check_groups,
    check_mask,
    check_optional,
    check_tensor,
)
from mmvssd_kernels.selective_scan import (  # noqa: F401  (register themselves)
    autograd,
    export,
    numba_operator,
    reference,
)


def selective_scan(u: Tensor,
                   delta: Tensor,
                   A: Tensor,
                   B: Tensor,
                   C: Tensor,
                   D: Optional[Tensor] = None,
                   delta_bias: Optional[Tensor] = None,
                   *,
                   delta_softplus: bool = True,
                   mask: Optional[Tensor] = None,
                   impl: str = 'auto') -> Tensor:
    r"""Selective scan: a linear recurrence whose step size and projections follow the input.

    With :math:`\delta = softplus(delta + delta\_bias)`, per channel and entry s of the state

    .. math:: h_t = \exp(\delta_t A_s) h_{t-1} + \delta_t B_{t,s} u_t, \qquad
              y_t = \sum_s C_{t,s} h_t + D u_t

    (Mamba, arXiv 2312.00752, Eq. 2, discretized as in its published code.)

    Args:
        u: Input (N, K*D, L): K groups of D channels; float32, bfloat16, float16 or float64.
        delta: Step sizes (N, K*D, L).
        A: Decay (K*D, S), negative.
        B: Input projection (N, K, S, L), one for each group.
        C: Output projection (N, K, S, L).
        D: Skip weight (K*D,), or None for no skip.
        delta_bias: (K*D,), added to ``delta``, or None.
        delta_softplus: Whether softplus makes the step sizes positive; else they must be that.
        mask: (N, L) bool, False = padding, wherever it lies: the state passes it unchanged,
            whatever values it holds, and its outputs are zero.
        impl: 'auto' or the name of an implementation; see :mod:`mmvssd_kernels.dispatch`.

    Returns:
        (N, K*D, L) float32; float64 if ``u`` is.

    Raises:
        ValueError: Shapes, dtypes or devices that don't agree, naming the argument.
        RuntimeError: The implementation chosen by name cannot run here.
    """
    check_tensor('u', u, ('N', 'K*D', 'L'))
    N, channels, L = u.shape
    check_tensor('delta', delta, (N, channels, L), device=u.device)
    check_tensor('A', A, (channels, 'S'), device=u.device)
    if A.shape[1] == 0:
        raise ValueError('A: got a state of size 0, expected at least 1')
    check_tensor('B', B, (N, 'K', A.shape[1], L), device=u.device)
    check_tensor('C', C, tuple(B.shape), device=u.device)
    check_groups(B.shape[1], channels, 'channels of u')
    check_optional('D', D, (channels,), u.device)
    check_optional('delta_bias', delta_bias, (channels,), u.device)
    check_flag('delta_softplus', delta_softplus)
    check_mask(mask, (N, L), u.device)
    nothing = A.new_zeros(channels) if D is None or delta_bias is None else None
    return dispatch.call('selective_scan', impl, u, delta, A, B, C, nothing if D is None else D,
                         nothing if delta_bias is None else delta_bias,
                         delta_softplus=delta_softplus, mask=mask)
