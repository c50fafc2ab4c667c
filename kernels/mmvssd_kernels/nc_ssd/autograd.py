"""NC-SSD through Triton: launches, and the gradient.

Forward reads the tokens twice: once to sum the state, a stretch of tokens for each program, and
once to apply it. Backward does the same with gradients. A state for each head passes between the
two. Stretches sum parts of it, which are added in the order of the stretches. So results are the
same, bit for bit, in every run.
"""
from typing import Optional, Tuple

from torch import Tensor

from mmvssd_kernels import triton_support
from mmvssd_kernels.compile_ahead import compiled_ahead
from mmvssd_kernels.library import call, operator, register_backward
from mmvssd_kernels.nc_ssd import normalized, plain

#: Largest state size and head width: a state is one tile.
LARGEST = 64
#: Tokens of the smallest tile.
LEAST_TOKENS = 16


def obstacle(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, *args, **kwargs) -> Optional[str]:
    """Return why the kernels cannot run on these arguments of ``nc_ssd``; None if they can."""
    reason = triton_support.obstacle(x)
    if reason:
        return reason
    S, P = B.shape[3], x.shape[3]
    if max(S, P) > LARGEST:
        return (f'heads of width {P} and a state of {S}, of which the kernels take at most '
                f'{LARGEST} each')
    return triton_support.grid_obstacle(x, LEAST_TOKENS)


@triton_support.register('nc_ssd', obstacle)
def nc_ssd_triton(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Optional[Tensor], *,
                  normalize: bool, grid: Optional[Tuple[int, int]],
                  mask: Optional[Tensor]) -> Tensor:
    """Compute :func:`mmvssd_kernels.nc_ssd`, whose docstring has shapes and dtypes."""
    sides = list(grid) if normalize and grid is not None else None
    return call('nc_ssd_triton', x, dt, A, B, C, D, mask, sides)[0]


def _widths(x, dt, A, B, *others):
    return (x.shape[2:], B.shape[2:])


def _fake_forward(x, dt, A, B, C, D, mask, grid):
    return x.new_empty(x.shape), *_form(grid).allocate(x, B, C, grid)


@operator('nc_ssd_triton(Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, '
          'Tensor? mask, SymInt[]? grid) -> (Tensor, Tensor, Tensor, Tensor)', _fake_forward)
@compiled_ahead(_widths)
def _forward(x, dt, A, B, C, D, mask, grid):
    """y, and what backward needs: states, and of the normalized form the softmax and a table."""
    results = _fake_forward(x, dt, A, B, C, D, mask, grid)
    if x.numel() == 0:
        return tuple(t.zero_() for t in results)
    _form(grid).forward(x, dt, A, B, C, D, mask, grid, *results)
    return results


def _form(grid):
    return plain if grid is None else normalized


def _fake_backward(dy, x, dt, A, B, C, D, mask, state, softmax, table, grid):
    return triton_support.gradients_like(x, dt, A, B, C, D)


@operator('nc_ssd_triton_backward(Tensor dy, Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, '
          'Tensor? D, Tensor? mask, Tensor state, Tensor softmax, Tensor table, SymInt[]? grid) '
          '-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)', _fake_backward)
@compiled_ahead(lambda dy, *others: _widths(*others))
def _backward(dy, x, dt, A, B, C, D, mask, state, softmax, table, grid):
    """Return the gradients of x, dt, A, B, C and D, contiguous."""
    results = _fake_backward(dy, x, dt, A, B, C, D, mask, state, softmax, table, grid)
    if x.numel() == 0:
        return tuple(t.zero_() for t in results)
    _form(grid).backward(dy, x, dt, A, B, C, D, mask, state, softmax, table, grid, results)
    return results


register_backward('nc_ssd_triton', tensors=7)
