"""The selective scan over a grid on a CPU through Numba: operators, and the gradient."""
import importlib
from typing import Optional

import torch
from torch import Tensor

from mmvssd_kernels import numba_support
from mmvssd_kernels.cross_scan import ORDERS
from mmvssd_kernels.library import call, operator, register_backward
from mmvssd_kernels.numerics import sum_dtype
from mmvssd_kernels.selective_scan import numba_plan as plan


def obstacle(x: Tensor, dt: Tensor, *others: Tensor, **options) -> Optional[str]:
    """Say why the kernels cannot run on arguments of ``selective_scan_2d``; None if they can."""
    if dt.shape[4] == 0:
        return 'dt has rank 0'
    return numba_support.obstacle(x, plan.MODULE, dt, *others)


@numba_support.register('selective_scan_2d', obstacle)
def selective_scan_2d_numba(x: Tensor, dt: Tensor, dt_weight: Tensor, A: Tensor, B: Tensor,
                            C: Tensor, D: Tensor, dt_bias: Tensor, *, pattern: str,
                            mask: Optional[Tensor]) -> Tensor:
    """Compute :func:`mmvssd_kernels.selective_scan_2d`, whose docstring has shapes and dtypes."""
    return call('selective_scan_2d_numba', x, dt, dt_weight, A, B, C, D, dt_bias, mask, pattern)[0]


def _fake_forward(x, dt, dt_weight, A, B, C, D, dt_bias, mask, pattern):
    (N, H, W, width), dtype = x.shape, sum_dtype(x.dtype)
    states = plan.states_shape(N, 4, H * W, A.shape[1], width, dtype)
    return x.new_empty((N, H, W, width), dtype=dtype), x.new_empty(states, dtype=dtype)


@operator('selective_scan_2d_numba(Tensor x, Tensor dt, Tensor dt_weight, Tensor A, Tensor B, '
          'Tensor C, Tensor D, Tensor dt_bias, Tensor? mask, str pattern) -> (Tensor, Tensor)',
          _fake_forward)
def _forward(x, dt, dt_weight, A, B, C, D, dt_bias, mask, pattern):
    """Compute outputs (N, H, W, D), and the states that backward starts from."""
    inputs = (x, dt, dt_weight, A, B, C, D, dt_bias, mask, pattern)
    y, states = _fake_forward(*inputs)
    plan.clear_unused(states)
    if y.numel():
        _scan(*inputs).outputs(y[:, None], states)
    return y, states


def _fake_backward(dy, x, dt, dt_weight, A, B, C, D, dt_bias, mask, states, pattern):
    return tuple(torch.empty_like(t, dtype=sum_dtype(x.dtype),
                                  memory_format=torch.contiguous_format)
                 for t in (x, dt, dt_weight, A, B, C, D, dt_bias))


@operator('selective_scan_2d_numba_backward(Tensor dy, Tensor x, Tensor dt, Tensor dt_weight, '
          'Tensor A, Tensor B, Tensor C, Tensor D, Tensor dt_bias, Tensor? mask, Tensor states, '
          'str pattern) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)',
          _fake_backward)
def _backward(dy, x, dt, dt_weight, A, B, C, D, dt_bias, mask, states, pattern):
    """Compute gradients of the eight inputs, in the dtype of the sums."""
    inputs = (x, dt, dt_weight, A, B, C, D, dt_bias, mask)
    if dy.numel() == 0:
        return tuple(t.zero_() for t in _fake_backward(dy, *inputs, states, pattern))
    dx = x.new_empty(x.shape, dtype=sum_dtype(x.dtype))
    ddt, dB, dC, sums = _scan(*inputs, pattern).gradients(dy[:, None], states, dx[:, None], None)
    return (dx, _by_token(ddt), sums.weight, sums.A, _by_token(dB), _by_token(dC), sums.D,
            sums.bias)


def _scan(x, dt, dt_weight, A, B, C, D, dt_bias, mask, pattern):
    # NumPy, which launching needs, may be absent where the op is not run
    launch = importlib.import_module('mmvssd_kernels.selective_scan.numba_launch')
    inputs = launch.Inputs(x[:, None], _by_sequence(dt), dt_weight, A, _by_sequence(B),
                           _by_sequence(C), _skip(D, sum_dtype(x.dtype)), dt_bias, mask)
    orders = [plan.Order(*order, group=0) for order in ORDERS[pattern]]
    return launch.Scan(inputs, orders, softplus=True, dtype=sum_dtype(x.dtype))


def _skip(D: Tensor, dtype: torch.dtype) -> Tensor:
    """Have the first sequence add what all do: their sum may be far smaller than they are."""
    D = D.to(dtype).view(4, -1)
    out = torch.zeros_like(D)
    torch.sum(D, 0, out=out[0])
    return out.flatten()


def _by_sequence(t: Tensor) -> Tensor:
    """(N, H, W, 4, c) -> (N, 4, H, W, c), a view."""
    return t.movedim(3, 1)


def _by_token(t: Tensor) -> Tensor:
    """(N, 4, H, W, c) -> (N, H, W, 4, c), a view."""
    return t.movedim(1, 3)


register_backward('selective_scan_2d_numba', tensors=9)
