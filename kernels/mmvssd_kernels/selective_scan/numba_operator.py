"""The selective scan on a CPU through Numba: operators, and the gradient."""
import functools
import importlib
from typing import Optional

from torch import Tensor

from mmvssd_kernels import numba_support
from mmvssd_kernels.library import call, operator, register_backward
from mmvssd_kernels.numerics import sum_dtype
from mmvssd_kernels.selective_scan import numba_plan as plan


def obstacle(u: Tensor, *others: Tensor, **options) -> Optional[str]:
    """Say why the kernels cannot run on arguments of ``selective_scan``; None if they can."""
    return numba_support.obstacle(u, plan.MODULE, *others)


@numba_support.register('selective_scan', obstacle)
def selective_scan_numba(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor,
                         delta_bias: Tensor, *, delta_softplus: bool,
                         mask: Optional[Tensor]) -> Tensor:
    """Compute :func:`mmvssd_kernels.selective_scan`, whose docstring has shapes and dtypes."""
    return call('selective_scan_numba', u, delta, A, B, C, D, delta_bias, mask, delta_softplus)[0]


def _fake_forward(u, delta, A, B, C, D, delta_bias, mask, delta_softplus):
    (N, channels, L), K, dtype = u.shape, B.shape[1], sum_dtype(u.dtype)
    states = plan.states_shape(N, K, L, A.shape[1], channels // K, dtype)
    return u.new_empty((N, channels, L), dtype=dtype), u.new_empty(states, dtype=dtype)


@operator('selective_scan_numba(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor D, '
          'Tensor delta_bias, Tensor? mask, bool delta_softplus) -> (Tensor, Tensor)',
          _fake_forward)
def _forward(u, delta, A, B, C, D, delta_bias, mask, delta_softplus):
    """Compute outputs (N, K*D, L), and the states that backward starts from."""
    inputs = (u, delta, A, B, C, D, delta_bias, mask, delta_softplus)
    y, states = _fake_forward(*inputs)
    plan.clear_unused(states)
    if y.numel():
        _scan(*inputs).outputs(_by_token(y, B.shape[1]), states)
    return y, states


def _fake_backward(dy, u, delta, A, B, C, D, delta_bias, mask, states, delta_softplus):
    new = functools.partial(u.new_empty, dtype=sum_dtype(u.dtype))
    N, K, S, L = B.shape
    # tokens first, as the kernels write them
    dB, dC = (new((N, L, K, S)).permute(0, 2, 3, 1) for _ in range(2))
    return (new(u.shape), new(delta.shape), new(A.shape), dB, dC, new(D.shape),
            new(delta_bias.shape))


@operator('selective_scan_numba_backward(Tensor dy, Tensor u, Tensor delta, Tensor A, Tensor B, '
          'Tensor C, Tensor D, Tensor delta_bias, Tensor? mask, Tensor states, '
          'bool delta_softplus) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)',
          _fake_backward)
def _backward(dy, u, delta, A, B, C, D, delta_bias, mask, states, delta_softplus):
    """Compute gradients of the seven inputs, in the dtype of the sums."""
    inputs = (u, delta, A, B, C, D, delta_bias, mask)
    results = _fake_backward(dy, *inputs, states, delta_softplus)
    if dy.numel() == 0:
        return tuple(t.zero_() for t in results)
    du, ddelta, *_ = results
    K = B.shape[1]
    _, dB, dC, sums = _scan(*inputs, delta_softplus).gradients(
        _by_token(dy, K), states, _by_token(du, K), _by_token(ddelta, K))
    return du, ddelta, sums.A, dB[:, :, 0].mT, dC[:, :, 0].mT, sums.D, sums.bias


def _scan(u, delta, A, B, C, D, delta_bias, mask, delta_softplus):
    # NumPy, which launching needs, may be absent where the op is not run
    launch = importlib.import_module('mmvssd_kernels.selective_scan.numba_launch')
    K = B.shape[1]
    inputs = launch.Inputs(_by_token(u, K), _by_token(delta, K), None, A, _by_state(B),
                           _by_state(C), D, delta_bias, None if mask is None else mask[:, None])
    orders = [plan.Order(transposed=False, reverse=False, group=k) for k in range(K)]
    return launch.Scan(inputs, orders, softplus=delta_softplus, dtype=sum_dtype(u.dtype))


def _by_token(t: Tensor, K: int) -> Tensor:
    """(N, K*D, L) -> (N, K, 1, L, D), a view."""
    return t.unflatten(1, (K, -1)).mT[:, :, None]


def _by_state(t: Tensor) -> Tensor:
    """(N, K, S, L) -> (N, K, 1, L, S), a view."""
    return t.mT[:, :, None]


register_backward('selective_scan_numba', tensors=8)
