"""The selective scan over a grid through Triton: operators, and the gradient.

The kernels are those of :mod:`mmvssd_kernels.selective_scan`. Sequences that run along the same
axis are one program's, which reads a tile of x once for all of them and adds up their outputs.
"""
from typing import Dict, Optional

import torch
from torch import Tensor

from mmvssd_kernels import triton_support
from mmvssd_kernels.compile_ahead import compiled_ahead
from mmvssd_kernels.library import call, operator, register_backward
from mmvssd_kernels.numerics import sum_dtype
from mmvssd_kernels.selective_scan import launch

#: The orders of :data:`mmvssd_kernels.cross_scan.ORDERS`.
SEQUENCES: Dict[str, launch.Sequences] = {
    'cross': launch.Sequences(turned=(False, True), count=1, directions=2),
    'unidirectional': launch.Sequences(turned=(False, ), count=4, directions=1),
    'bidirectional': launch.Sequences(turned=(False, ), count=2, directions=2),
}


def obstacle(x: Tensor, dt: Tensor, dt_weight: Tensor, A: Tensor, *others,
             **options) -> Optional[str]:
    """Say why the kernels cannot run on arguments of ``selective_scan_2d``; None if they can."""
    return triton_support.obstacle(x) or launch.obstacle(A.shape[1], dt.shape[4])


@triton_support.register('selective_scan_2d', obstacle)
def selective_scan_2d_triton(x: Tensor, dt: Tensor, dt_weight: Tensor, A: Tensor, B: Tensor,
                             C: Tensor, D: Tensor, dt_bias: Tensor, *, pattern: str,
                             mask: Optional[Tensor]) -> Tensor:
    """Compute :func:`mmvssd_kernels.selective_scan_2d`, whose docstring has shapes and dtypes."""
    return call('selective_scan_2d_triton', x, dt, dt_weight, A, B, C, D, dt_bias, mask, pattern)[0]


def _widths(x, dt, dt_weight, A, *others):
    return (x.shape[3], dt.shape[4], A.shape[1])


def _fake_forward(x, dt, dt_weight, A, B, C, D, dt_bias, mask, pattern):
    (N, H, W, width), S = x.shape, A.shape[1]
    y = x.new_empty((N, H, W, width), dtype=sum_dtype(x.dtype))
    return y, y.new_empty((4, N, launch.tiles(H * W), S, width))


@operator('selective_scan_2d_triton(Tensor x, Tensor dt, Tensor dt_weight, Tensor A, Tensor B, '
          'Tensor C, Tensor D, Tensor dt_bias, Tensor? mask, str pattern) -> (Tensor, Tensor)',
          _fake_forward)
@compiled_ahead(_widths)
def _forward(x, dt, dt_weight, A, B, C, D, dt_bias, mask, pattern):
    """Compute outputs (N, H, W, D), and states before tiles (4, N, tiles, S, D)."""
    inputs = (x, dt, dt_weight, A, B, C, D, dt_bias, mask, pattern)
    y, states = _fake_forward(*inputs)
    if y.numel():
        _scan(*inputs).outputs(y, _as_one_group, states)
    return y, states


def _fake_backward(dy, x, dt, dt_weight, A, B, C, D, dt_bias, mask, states, pattern):
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format)
                 for t in (x, dt, dt_weight, A, B, C, D, dt_bias))


@operator('selective_scan_2d_triton_backward(Tensor dy, Tensor x, Tensor dt, Tensor dt_weight, '
          'Tensor A, Tensor B, Tensor C, Tensor D, Tensor dt_bias, Tensor? mask, Tensor states, '
          'str pattern) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)',
          _fake_backward)
@compiled_ahead(lambda dy, *others: _widths(*others))
def _backward(dy, x, dt, dt_weight, A, B, C, D, dt_bias, mask, states, pattern):
    """Compute gradients of the eight inputs, contiguous and in their dtypes."""
    inputs = (x, dt, dt_weight, A, B, C, D, dt_bias, mask)
    results = _fake_backward(dy, *inputs, states, pattern)
    if dy.numel() == 0:
        return tuple(t.zero_() for t in results)
    dx, ddt, dweight, dA, dB, dC, dD, dbias = results
    _scan(*inputs, pattern).gradients(
        _as_one_group(dy), states, launch.Gradients(dx, ddt, dweight, dA, dB, dC, dD, dbias),
        launch.Views(u=_as_one_group, dt=_by_sequence, B=_by_sequence))
    return results


def _scan(x, dt, dt_weight, A, B, C, D, dt_bias, mask, pattern) -> launch.Scan:
    inputs = launch.Inputs(_as_one_group(x), _by_sequence(dt), dt_weight, A, _by_sequence(B),
                           _by_sequence(C), D, dt_bias, mask)
    return launch.Scan(inputs, SEQUENCES[pattern], softplus=True)


def _as_one_group(t: Tensor) -> Tensor:
    """(N, H, W, D) -> (N, 1, H, W, D), a view."""
    return t[:, None]


def _by_sequence(t: Tensor) -> Tensor:
    """(N, H, W, 4, c) -> (N, 4, H, W, c), a view."""
    return t.movedim(3, 1)


register_backward('selective_scan_2d_triton', tensors=9)
