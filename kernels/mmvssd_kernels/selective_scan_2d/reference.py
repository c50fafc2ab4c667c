"""The selective scan over a grid in PyTorch: any device, any float.

Four sequences run over the same tokens in their own orders. They are never written out: an order
is a view of the grid, rows or columns one after the other, from either end. Step sizes and decays
exist for one block of rows (or columns) at a time; backward computes them again.
"""
from typing import List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mmvssd_kernels.cross_scan import ORDERS
from mmvssd_kernels.dispatch import register
from mmvssd_kernels.library import operator
from mmvssd_kernels.selective_scan import recurrence

#: Elements of a block's tensors. Several of them should fit a CPU's second or third cache.
BLOCK = 2**19


@register('selective_scan_2d', 'reference')
def selective_scan_2d_reference(x: Tensor, dt: Tensor, dt_weight: Tensor, A: Tensor, B: Tensor,
                                C: Tensor, D: Tensor, dt_bias: Tensor, *, pattern: str,
                                mask: Optional[Tensor]) -> Tensor:
    """Compute :func:`mmvssd_kernels.selective_scan_2d`, whose docstring has shapes and dtypes."""
    if mask is not None:
        # masked_fill, not a product: padding may hold inf or NaN
        x, dt, B, C = (_drop_padding(t, mask) for t in (x, dt, B, C))
    return _SelectiveScan2d.apply(x, dt, dt_weight, A, B, C, D, dt_bias, mask, pattern)


def _drop_padding(t: Tensor, mask: Tensor) -> Tensor:
    return t.masked_fill(~mask.view(*mask.shape, *[1] * (t.dim() - 3)), 0)


class _SelectiveScan2d(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x, dt, dt_weight, A, B, C, D, dt_bias, mask, pattern):
        inputs = (x, dt, dt_weight, A, B, C, D, dt_bias, mask)
        y, states = _forward(*inputs, pattern)
        ctx.save_for_backward(*inputs, states)
        ctx.pattern = pattern
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        *inputs, states = ctx.saved_tensors
        return (*_backward(*inputs, states, dy, ctx.pattern), None, None)


class _Span(NamedTuple):
    """A block's place: sequence k, and its rows (or columns) from start to stop."""

    k: int
    transposed: bool
    reverse: bool
    start: int
    stop: int

    def take(self, t: Tensor) -> Tensor:
        """View (N, H, W, ...) as the steps and chunks of this block, (F, N, q, ...)."""
        steps, chunks = (1, 2) if self.transposed else (2, 1)
        return t.movedim((steps, 0, chunks), (0, 1, 2))[:, :, self.start:self.stop]


def _spans(shape: torch.Size, pattern: str) -> List[List[_Span]]:
    """Blocks of each sequence over a grid (N, H, W, D), in the order in which it runs them."""
    sequences = []
    for k, (transposed, reverse) in enumerate(ORDERS[pattern]):
        chunks, q = _chunks(shape, transposed)
        spans = [_Span(k, transposed, reverse, start, min(start + q, chunks))
                 for start in range(0, chunks, q)]
        sequences.append(spans[::-1] if reverse else spans)
    return sequences


def _chunks(shape: torch.Size, transposed: bool) -> Tuple[int, int]:
    """Rows (or columns) of a grid, and how many of them make a block."""
    N, H, W, D = shape
    length, chunks = (H, W) if transposed else (W, H)
    return chunks, max(BLOCK // max(N * length * D, 1), 1)


def _fake_forward(x, dt, dt_weight, A, B, C, D, dt_bias, mask, pattern):
    N, H, W, width = x.shape
    dtype = _dtype(x)
    blocks = 0
    for transposed, _ in ORDERS[pattern]:
        chunks, q = _chunks(x.shape, transposed)
        blocks += (chunks + q - 1) // q
    return (x.new_empty(N, H, W, width, dtype=dtype),
            x.new_empty(blocks, A.shape[1], N, width, dtype=dtype))


@operator('selective_scan_2d(Tensor x, Tensor dt, Tensor dt_weight, Tensor A, Tensor B, Tensor C, '
          'Tensor D, Tensor dt_bias, Tensor? mask, str pattern) -> (Tensor, Tensor)',
          _fake_forward)
def _forward(x, dt, dt_weight, A, B, C, D, dt_bias, mask, pattern):
    """Outputs (N, H, W, D), and the states (S, N, D) before each block."""
    y = x * D.to(_dtype(x)).view(4, -1).sum(0)
    states = [y.new_empty(0, A.shape[1], len(x), x.shape[3])]
    for spans in _spans(x.shape, pattern):
        state = y.new_zeros(states[0].shape[1:])
        for span in spans:
            states.append(state.clone()[None])
            block, _ = _block(span, x, dt, dt_weight, A, B, C, dt_bias, mask)
            recurrence.forward(block, state, span.take(y))
    return y, torch.cat(states)


def _fake_backward(x, dt, dt_weight, A, B, C, D, dt_bias, mask, states, dy, pattern):
    return tuple(torch.empty_like(t, dtype=_dtype(x))
                 for t in (x, dt, dt_weight, A, B, C, D, dt_bias))


@operator('selective_scan_2d_backward(Tensor x, Tensor dt, Tensor dt_weight, Tensor A, Tensor B, '
          'Tensor C, Tensor D, Tensor dt_bias, Tensor? mask, Tensor states, Tensor dy, '
          'str pattern) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)',
          _fake_backward)
def _backward(x, dt, dt_weight, A, B, C, D, dt_bias, mask, states, dy, pattern):
    """Gradients of the eight inputs, in the dtype of the state."""
    dtype = _dtype(x)
    width = x.shape[3]
    dx = dy * D.to(dtype).view(4, -1).sum(0)
    ddt, dB, dC = (torch.empty_like(t, dtype=dtype) for t in (dt, B, C))
    dweight, dA, dbias = (torch.zeros_like(t, dtype=dtype) for t in (dt_weight, A, dt_bias))
    dD = (dy * x).sum((0, 1, 2)).repeat(4)
    states = list(states)
    for spans in reversed(_spans(x.shape, pattern)):
        dstate = dx.new_zeros(A.shape[1], len(x), width)
        for span in reversed(spans):
            block, z = _block(span, x, dt, dt_weight, A, B, C, dt_bias, mask)
            gradients = recurrence.backward(block, states.pop(), dstate, span.take(dy))
            k, channels = span.k, slice(span.k * width, (span.k + 1) * width)
            dz = gradients.delta.mul_(z.sigmoid_())  # softplus' = sigmoid
            if mask is not None:
                dz.masked_fill_(~span.take(mask)[..., None], 0)
            dz = dz.flatten(0, 2)
            low_rank = span.take(dt[..., k, :]).to(dtype).flatten(0, 2)
            dweight[k].addmm_(dz.t(), low_rank)
            dbias[channels] += dz.sum(0)
            place = span.take(ddt[..., k, :])
            place.copy_((dz @ dt_weight[k].to(dtype)).view(place.shape))
            span.take(dx).add_(gradients.u)
            dA[channels] += gradients.A
            span.take(dB[..., k, :]).copy_(gradients.B)
            span.take(dC[..., k, :]).copy_(gradients.C)
    return dx, ddt, dweight, dA, dB, dC, dD, dbias


def _block(span: _Span, x, dt, dt_weight, A, B, C, dt_bias,
           mask) -> Tuple[recurrence.Block, Tensor]:
    """A block's inputs, and its step sizes before softplus."""
    dtype = _dtype(x)
    width = x.shape[3]
    k, channels = span.k, slice(span.k * width, (span.k + 1) * width)
    u = span.take(x).to(dtype)
    low_rank = span.take(dt[..., k, :]).to(dtype).flatten(0, 2)
    z = torch.addmm(dt_bias[channels].to(dtype), low_rank, dt_weight[k].to(dtype).t())
    z = z.view(u.shape)
    delta = F.softplus(z)
    if mask is not None:
        # with a step of 0 the state passes as it is
        delta.masked_fill_(~span.take(mask)[..., None], 0)
    B, C = (span.take(t[..., k, :]).to(dtype) for t in (B, C))
    return recurrence.Block(u, delta, A[channels].to(dtype), B, C, span.reverse), z


def _dtype(x: Tensor) -> torch.dtype:
    """Dtype of sums and states."""
    return torch.promote_types(x.dtype, torch.float32)
