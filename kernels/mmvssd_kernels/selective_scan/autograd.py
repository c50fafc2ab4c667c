"""The selective scan through Triton: operators, and the gradient."""
from typing import Optional

import torch
from torch import Tensor

from mmvssd_kernels import triton_support
from mmvssd_kernels.compile_ahead import compiled_ahead
from mmvssd_kernels.library import call, operator, register_backward
from mmvssd_kernels.numerics import sum_dtype
from mmvssd_kernels.selective_scan import launch

#: A sequence is a grid of one row; its group of channels is the sequence's number.
SEQUENCES = launch.Sequences(turned=(False, ), count=1, directions=1)


def obstacle(u: Tensor, delta: Tensor, A: Tensor, *others, **options) -> Optional[str]:
    """Say why the kernels cannot run on arguments of ``selective_scan``; None if they can."""
    return triton_support.obstacle(u) or launch.obstacle(A.shape[1])


@triton_support.register('selective_scan', obstacle)
def selective_scan_triton(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor,
                          delta_bias: Tensor, *, delta_softplus: bool,
                          mask: Optional[Tensor]) -> Tensor:
    """Compute :func:`mmvssd_kernels.selective_scan`, whose docstring has shapes and dtypes."""
    return call('selective_scan_triton', u, delta, A, B, C, D, delta_bias, mask, delta_softplus)[0]


def _widths(u, delta, A, B, *others):
    return (A.shape, B.shape[1])


def _fake_forward(u, delta, A, B, C, D, delta_bias, mask, delta_softplus):
    N, channels, L = u.shape
    S, K = A.shape[1], B.shape[1]
    y = u.new_empty((N, channels, L), dtype=sum_dtype(u.dtype))
    return y, y.new_empty((K, N, launch.tiles(L), S, channels // K))


@operator('selective_scan_triton(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor D, '
          'Tensor delta_bias, Tensor? mask, bool delta_softplus) -> (Tensor, Tensor)',
          _fake_forward)
@compiled_ahead(_widths)
def _forward(u, delta, A, B, C, D, delta_bias, mask, delta_softplus):
    """Compute outputs (N, K*D, L), and states before tiles (K, N, tiles, S, D)."""
    inputs = (u, delta, A, B, C, D, delta_bias, mask, delta_softplus)
    y, states = _fake_forward(*inputs)
    if y.numel():
        K = B.shape[1]
        _scan(*inputs).outputs(y, lambda t: _by_token(t, K), states)
    return y, states


def _fake_backward(dy, u, delta, A, B, C, D, delta_bias, mask, states, delta_softplus):
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format)
                 for t in (u, delta, A, B, C, D, delta_bias))


@operator('selective_scan_triton_backward(Tensor dy, Tensor u, Tensor delta, Tensor A, Tensor B, '
          'Tensor C, Tensor D, Tensor delta_bias, Tensor? mask, Tensor states, '
          'bool delta_softplus) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)',
          _fake_backward)
@compiled_ahead(lambda dy, *others: _widths(*others))
def _backward(dy, u, delta, A, B, C, D, delta_bias, mask, states, delta_softplus):
    """Compute gradients of the seven inputs, contiguous and in their dtypes."""
    inputs = (u, delta, A, B, C, D, delta_bias, mask)
    results = _fake_backward(dy, *inputs, states, delta_softplus)
    if dy.numel() == 0:
        return tuple(t.zero_() for t in results)
    du, ddelta, dA, dB, dC, dD, dbias = results
    K = B.shape[1]

    def by_token(t):
        return _by_token(t, K)

    _scan(*inputs, delta_softplus).gradients(
        by_token(dy), states, launch.Gradients(du, ddelta, None, dA, dB, dC, dD, dbias),
        launch.Views(u=by_token, dt=by_token, B=_by_state))
    return results


def _scan(u, delta, A, B, C, D, delta_bias, mask, delta_softplus) -> launch.Scan:
    K = B.shape[1]
    inputs = launch.Inputs(_by_token(u, K), _by_token(delta, K), None, A, _by_state(B),
                           _by_state(C), D, delta_bias, None if mask is None else mask[:, None])
    return launch.Scan(inputs, SEQUENCES, delta_softplus)


def _by_token(t: Tensor, K: int) -> Tensor:
    """(N, K*D, L) -> (N, K, 1, L, D), a view."""
    return t.unflatten(1, (K, -1)).mT[:, :, None]


def _by_state(t: Tensor) -> Tensor:
    """(N, K, S, L) -> (N, K, 1, L, S), a view."""
    return t.mT[:, :, None]


register_backward('selective_scan_triton', tensors=8)
