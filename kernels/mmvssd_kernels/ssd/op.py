"""The public op: checks its arguments, then hands them to the implementation that can run."""
from typing import Optional

from torch import Tensor

from mmvssd_kernels import dispatch
from mmvssd_kernels.checks import check_duality, check_flag, check_positive
from mmvssd_kernels.ssd import autograd, reference  # noqa: F401  (register themselves)


def ssd(x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Optional[Tensor] = None,
        *,
        chunk_size: int = 256,
        reverse: bool = False,
        mask: Optional[Tensor] = None,
        impl: str = 'auto') -> Tensor:
    r"""Causal state space duality: a token reads the state of the tokens up to itself.

    Per head

    .. math:: state_t = e^{dt_t A} state_{t-1} + dt_t B_t \otimes x_t, \qquad
              y_t = C_t \cdot state_t + D x_t

    (Mamba-2, arXiv 2405.21060).

    Args:
        x: Tokens (N, L, h, P), float32, bfloat16, float16 or float64.
        dt: Step sizes (N, L, h), after softplus.
        A: Decay (h,), negative; a positive one makes the state grow, and may overflow.
        B: Input projection (N, L, G, S). Head j reads group j // (h / G), see
            :func:`~mmvssd_kernels.checks.check_groups`.
        C: Output projection (N, L, G, S).
        D: Skip weight (h,), or None for no skip.
        chunk_size: Tokens that the reference joins in one matrix product; it changes rounding,
            memory and time, and nothing else. Kernels have a length of their own.
        reverse: Run t from L down to 1; inputs and outputs stay in their places.
        mask: (N, L) bool, False = padding, wherever it lies: the state passes it unchanged,
            whatever values it holds, and its outputs are zero.
        impl: 'auto' or the name of an implementation; see :mod:`mmvssd_kernels.dispatch`.

    Returns:
        (N, L, h, P) in the dtype of ``x``. Sums and states are float32 (float64 if ``x`` is),
        also under autocast.

    Raises:
        ValueError: Shapes, dtypes or devices that don't agree, naming the argument.
        RuntimeError: The implementation chosen by name cannot run here.
    """
    check_duality(x, dt, A, B, C, D, mask)
    check_positive('chunk_size', chunk_size)
    check_flag('reverse', reverse)
    return dispatch.call('ssd', impl, x, dt, A, B, C, D, chunk_size=int(chunk_size),
                         reverse=reverse, mask=mask)
