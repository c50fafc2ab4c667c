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
from mmvssd_kernels.library import call, operator, register_backward
from mmvssd_kernels.numerics import drop_padding, softplus_, sum_dtype
from mmvssd_kernels.selective_scan import recurrence
from mmvssd_kernels.selective_scan.reference import take

#: Elements of a block's tensors. Several of them should fit a CPU's second or third cache.
BLOCK = 2**20


@register('selective_scan_2d', 'reference', priority=0)
def selective_scan_2d_reference(x: Tensor, dt: Tensor, dt_weight: Tensor, A: Tensor, B: Tensor,
                                C: Tensor, D: Tensor, dt_bias: Tensor, *, pattern: str,
                                mask: Optional[Tensor]) -> Tensor:
    """Compute :func:`mmvssd_kernels.selective_scan_2d`, whose docstring has shapes and dtypes."""
    x, dt, B, C = drop_padding(mask, x, dt, B, C)
    y = call('selective_scan_2d', x, dt, dt_weight, A, B, C, D, dt_bias, mask, pattern)[0]
    y, = drop_padding(mask, y)
    return y


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


def _parts(shape: torch.Size) -> List[slice]:
    """Return images of a batch (N, H, W, D) that share blocks, as many as one has room for."""
    N, H, W, D = shape
    n = max(1, BLOCK // max(H * W * D, 1))
    return [slice(start, start + n) for start in range(0, N, n)]


def _spans(shape: torch.Size, pattern: str) -> List[List[_Span]]:
    """Return the blocks of each sequence over a grid (N, H, W, D), in the order they run."""
    sequences = []
    for k, (transposed, reverse) in enumerate(ORDERS[pattern]):
        chunks, q = _chunks(shape, transposed)
        spans = [_Span(k, transposed, reverse, start, min(start + q, chunks))
                 for start in range(0, chunks, q)]
        sequences.append(spans[::-1] if reverse else spans)
    return sequences


def _chunks(shape: torch.Size, transposed: bool) -> Tuple[int, int]:
    """Return the rows (or columns) of a grid, and how many of them make a block."""
    _, H, W, D = shape
    length, chunks = (H, W) if transposed else (W, H)
    if length == 0:
        return 0, 1
    blocks = max(1, -(-(H * W * D) // BLOCK))
    return chunks, max(1, -(-chunks // blocks))


def _fake_forward(x, dt, dt_weight, A, B, C, D, dt_bias, mask, pattern):
    N, H, W, width = x.shape
    dtype = sum_dtype(x.dtype)
    states = 0
    for transposed, _ in ORDERS[pattern]:
        chunks, q = _chunks(x.shape, transposed)
        states += (max(chunks, 1) - 1) // q  # one less than blocks
    return (x.new_empty(N, H, W, width, dtype=dtype),
            x.new_empty(states * N, A.shape[1], width, dtype=dtype))


@operator('selective_scan_2d(Tensor x, Tensor dt, Tensor dt_weight, Tensor A, Tensor B, Tensor C, '
          'Tensor D, Tensor dt_bias, Tensor? mask, str pattern) -> (Tensor, Tensor)',
          _fake_forward)
def _forward(x, dt, dt_weight, A, B, C, D, dt_bias, mask, pattern):
    """Return outputs (N, H, W, D), and the states (S, D) of images before blocks but the first."""
    y = _skip(x, D)
    weight = _with_bias(dt_weight, dt_bias, y.dtype)
    scratch = recurrence.Scratch(y.dtype, y.device)
    states = [y.new_empty(0, A.shape[1], x.shape[3])]
    for part in _parts(x.shape):
        x_, dt_, B_, C_, mask_, y_ = take(part, x, dt, B, C, mask, y)
        for spans in _spans(x.shape, pattern):
            state = y.new_zeros(A.shape[1], len(x_), x.shape[3])
            for i, span in enumerate(spans):
                if i > 0:
                    states.append(state.transpose(0, 1).clone())
                block = _block(span, x_, dt_, weight, A, B_, C_, mask_, scratch)
                recurrence.forward(block, state, span.take(y_), scratch)
    return y, torch.cat(states)


def _fake_backward(dy, x, dt, dt_weight, A, B, C, D, dt_bias, mask, states, pattern):
    dtype = sum_dtype(x.dtype)
    return tuple(torch.empty_like(t, dtype=dtype, memory_format=torch.contiguous_format)
                 for t in (x, dt, dt_weight, A, B, C, D, dt_bias))


@operator('selective_scan_2d_backward(Tensor dy, Tensor x, Tensor dt, Tensor dt_weight, Tensor A, '
          'Tensor B, Tensor C, Tensor D, Tensor dt_bias, Tensor? mask, Tensor states, str pattern) '
          '-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)', _fake_backward)
def _backward(dy, x, dt, dt_weight, A, B, C, D, dt_bias, mask, states, pattern):
    """Return the gradients of the eight inputs, in the dtype of the state."""
    dtype = sum_dtype(x.dtype)
    width = x.shape[3]
    dx = _skip(dy, D)
    ddt, dB, dC = (t.new_empty(t.shape, dtype=dtype) for t in (dt, B, C))
    weight = _with_bias(dt_weight, dt_bias, dtype)
    dweight, dA = torch.zeros_like(weight), A.new_zeros(A.shape, dtype=dtype)
    dD = dx.new_zeros(width)
    scratch = recurrence.Scratch(dtype, x.device)
    for part in reversed(_parts(x.shape)):
        x_, dt_, B_, C_, mask_, dy_ = take(part, x, dt, B, C, mask, dy)
        dx_, ddt_, dB_, dC_ = take(part, dx, ddt, dB, dC)
        for spans in reversed(_spans(x.shape, pattern)):
            dstate = dx.new_zeros(A.shape[1], len(x_), width)
            for i, span in reversed(list(enumerate(spans))):
                state = torch.zeros_like(dstate)
                if i > 0:
                    states, last = states[:-len(x_)], states[-len(x_):]
                    state.copy_(last.transpose(0, 1))
                block = _block(span, x_, dt_, weight, A, B_, C_, mask_, scratch)
                slope = torch.neg(block.delta, out=scratch('slope', *block.u.shape)).expm1_()
                dy_block = span.take(dy_)
                gradients = recurrence.backward(block, state, dstate, dy_block, scratch)
                k, channels = span.k, slice(span.k * width, (span.k + 1) * width)
                # softplus' = 1 - exp(-softplus)
                dz = gradients.delta.mul_(slope).neg_().flatten(0, 2)
                dweight[k].addmm_(_low_rank(span, dt_, dtype).t(), dz)
                place = span.take(ddt_[..., k, :])
                place.copy_((dz @ weight[k, :-1].t()).view(place.shape))
                span.take(dx_).add_(gradients.u)
                if k == 0:  # D adds x once for each sequence: their gradients are equal
                    product = scratch('e', *block.u.shape)
                    dD += torch.mul(block.u, dy_block, out=product).sum((0, 1, 2))
                dA[channels] += gradients.A
                span.take(dB_[..., k, :]).copy_(gradients.B)
                span.take(dC_[..., k, :]).copy_(gradients.C)
    return (dx, ddt, dweight[:, :-1].mT.contiguous(), dA, dB, dC, dD.repeat(4),
            dweight[:, -1].flatten())


register_backward('selective_scan_2d', tensors=9)


def _skip(t: Tensor, D: Tensor) -> Tensor:
    """Return what D makes of inputs, or of gradients of the outputs, (N, H, W, D); contiguous."""
    D = D.to(sum_dtype(t.dtype)).view(4, t.shape[3]).sum(0)
    return torch.mul(t, D, out=t.new_empty(t.shape, dtype=D.dtype))


def _block(span: _Span, x: Tensor, dt: Tensor, weight: Tensor, A: Tensor, B: Tensor, C: Tensor,
           mask: Optional[Tensor], scratch: recurrence.Scratch) -> recurrence.Block:
    """Return a block's inputs; ``weight`` is that of :func:`_with_bias`."""
    dtype, width = weight.dtype, x.shape[3]
    u = span.take(x).to(dtype)
    delta = scratch('delta', *u.shape)
    torch.mm(_low_rank(span, dt, dtype), weight[span.k], out=delta.flatten(0, 2))
    softplus_(delta)
    if mask is not None:
        # with a step of 0 the state passes as it is
        delta.masked_fill_(~span.take(mask)[..., None], 0)
    A = A[span.k * width:(span.k + 1) * width].to(dtype)
    B, C = (span.take(t[..., span.k, :]).to(dtype) for t in (B, C))
    return recurrence.Block(u, delta, A, B, C, span.reverse)


def _with_bias(weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    """(4, D, R) and (4*D,) -> (4, R + 1, D): one product widens step sizes and adds the bias."""
    return torch.cat([weight.mT, bias.view(4, 1, weight.shape[1])], dim=1).to(dtype)


def _low_rank(span: _Span, dt: Tensor, dtype: torch.dtype) -> Tensor:
    """Low-rank step sizes of a block and a column of ones, (F*N*q, R + 1)."""
    dt = span.take(dt[..., span.k, :]).flatten(0, 2).to(dtype)
    return F.pad(dt, (0, 1), value=1)
