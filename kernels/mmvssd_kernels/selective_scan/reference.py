"""The selective scan in PyTorch: any device, any float, the definition of the op.

A sequence is cut into blocks, one after the other, and a block into chunks that run in parallel,
see :mod:`mmvssd_kernels.selective_scan.recurrence`. Decays and states exist for one block at a
time; backward computes them again.
"""
from typing import Any, List, NamedTuple, Optional

import torch
from torch import Tensor

from mmvssd_kernels.dispatch import register
from mmvssd_kernels.library import call, operator, register_backward
from mmvssd_kernels.numerics import drop_padding, softplus_, sum_dtype
from mmvssd_kernels.selective_scan import recurrence

#: Elements of a block's tensors. Several of them should fit a CPU's second or third cache.
BLOCK = 2**19
#: Tokens of a chunk.
STEPS = 32


@register('selective_scan', 'reference', priority=0)
def selective_scan_reference(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor,
                             delta_bias: Tensor, *, delta_softplus: bool,
                             mask: Optional[Tensor]) -> Tensor:
    """Compute :func:`mmvssd_kernels.selective_scan`, whose docstring has shapes and dtypes."""
    u, delta, B, C = drop_padding(mask, u, delta, B, C, tokens_last=True)
    y = call('selective_scan', u, delta, A, B, C, D, delta_bias, mask, delta_softplus)[0]
    y, = drop_padding(mask, y, tokens_last=True)
    return y


class _Span(NamedTuple):
    """A block's place: group k, and the q chunks of F tokens from start on."""

    k: int
    start: int
    q: int
    F: int

    def take(self, t: Tensor) -> Tensor:
        """View a group's (N, ..., L) as the steps and chunks of this block, (F, N, q, ...)."""
        t = t[..., self.start:self.start + self.q * self.F].unflatten(-1, (self.q, self.F))
        return t.movedim((-1, 0, -2), (0, 1, 2))

    def channels(self, D: int) -> slice:
        """Return the group's channels."""
        return slice(self.k * D, (self.k + 1) * D)


def _parts(u: Tensor, K: int) -> List[slice]:
    """Return the sequences that share blocks: as many as one block has room for."""
    N, channels, L = u.shape
    n = max(1, BLOCK // max(channels // K * L, 1))
    return [slice(start, start + n) for start in range(0, N, n)]


def _spans(u: Tensor, K: int) -> List[List[_Span]]:
    """Return the blocks of each group, in order; the last has the rest of the tokens."""
    _, channels, L = u.shape
    q = _chunks(channels // K)
    whole = L // STEPS
    places = [(start * STEPS, min(q, whole - start), STEPS) for start in range(0, whole, q)]
    if L % STEPS:
        places.append((whole * STEPS, 1, L % STEPS))
    return [[_Span(k, *place) for place in places] for k in range(K)]


def _chunks(width: int) -> int:
    """Return the chunks of a block for a group of that many channels."""
    return max(1, BLOCK // max(width * STEPS, 1))


def _fake_forward(u, delta, A, B, C, D, delta_bias, mask, delta_softplus):
    dtype, S, K = sum_dtype(u.dtype), A.shape[1], B.shape[1]
    N, channels, L = u.shape
    q = _chunks(channels // K)
    tail = (L + STEPS - 1) // STEPS - L // STEPS
    blocks = (L // STEPS + q - 1) // q + tail
    return (torch.empty_like(u, dtype=dtype, memory_format=torch.contiguous_format),
            u.new_empty(N * K * max(blocks - 1, 0), S, channels // K, dtype=dtype))


@operator('selective_scan(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor D, '
          'Tensor delta_bias, Tensor? mask, bool delta_softplus) -> (Tensor, Tensor)',
          _fake_forward)
def _forward(u, delta, A, B, C, D, delta_bias, mask, delta_softplus):
    """Return outputs (N, K*D, L), and states (S, D) of sequences before blocks but the first."""
    K = B.shape[1]
    width = u.shape[1] // K
    y = u.new_empty(u.shape, dtype=sum_dtype(u.dtype))
    scratch = recurrence.Scratch(y.dtype, y.device)
    states = [y.new_empty(0, A.shape[1], width)]
    for part in _parts(u, K):
        u_, delta_, B_, C_, mask_, y_ = take(part, u, delta, B, C, mask, y)
        for spans in _spans(u, K):
            state = y.new_zeros(A.shape[1], len(u_), width)
            for i, span in enumerate(spans):
                if i > 0:
                    states.append(state.transpose(0, 1).clone())
                block = _block(span, u_, delta_, A, B_, C_, delta_bias, mask_, delta_softplus,
                               scratch)
                out = scratch('y', *block.u.shape)
                torch.mul(block.u, D[span.channels(width)].to(y.dtype), out=out)
                recurrence.forward(block, state, out, scratch)
                span.take(y_[:, span.channels(width)]).copy_(out)
    return y, torch.cat(states)


def _fake_backward(dy, u, delta, A, B, C, D, delta_bias, mask, states, delta_softplus):
    dtype = sum_dtype(u.dtype)
    return tuple(torch.empty_like(t, dtype=dtype, memory_format=torch.contiguous_format)
                 for t in (u, delta, A, B, C, D, delta_bias))


@operator('selective_scan_backward(Tensor dy, Tensor u, Tensor delta, Tensor A, Tensor B, '
          'Tensor C, Tensor D, Tensor delta_bias, Tensor? mask, Tensor states, '
          'bool delta_softplus) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)',
          _fake_backward)
def _backward(dy, u, delta, A, B, C, D, delta_bias, mask, states, delta_softplus):
    """Return the gradients of the seven inputs, in the dtype of the state."""
    dtype = sum_dtype(u.dtype)
    width = u.shape[1] // B.shape[1]
    du, ddelta, dB, dC = (t.new_empty(t.shape, dtype=dtype) for t in (u, delta, B, C))
    dA, dD, dbias = (t.new_zeros(t.shape, dtype=dtype) for t in (A, D, delta_bias))
    scratch = recurrence.Scratch(dtype, u.device)
    for part in reversed(_parts(u, B.shape[1])):
        u_, delta_, B_, C_, mask_, dy_ = take(part, u, delta, B, C, mask, dy)
        du_, ddelta_, dB_, dC_ = take(part, du, ddelta, dB, dC)
        for spans in reversed(_spans(u, B.shape[1])):
            dstate = du.new_zeros(A.shape[1], len(u_), width)
            for i, span in reversed(list(enumerate(spans))):
                state = torch.zeros_like(dstate)
                if i > 0:
                    states, last = states[:-len(u_)], states[-len(u_):]
                    state.copy_(last.transpose(0, 1))
                block = _block(span, u_, delta_, A, B_, C_, delta_bias, mask_, delta_softplus,
                               scratch)
                slope = torch.neg(block.delta, out=scratch('slope', *block.u.shape)).expm1_()
                channels = span.channels(width)
                dy_block = scratch('y', *block.u.shape).copy_(span.take(dy_[:, channels]))
                gradients = recurrence.backward(block, state, dstate, dy_block, scratch)
                dz = gradients.delta
                if delta_softplus:
                    dz.mul_(slope).neg_()  # softplus' = 1 - exp(-softplus), 0 at padding
                elif mask is not None:
                    dz.masked_fill_(~span.take(mask_)[..., None], 0)
                span.take(ddelta_[:, channels]).copy_(dz)
                dbias[channels] += dz.sum((0, 1, 2))
                dD[channels] += torch.mul(dy_block, block.u, out=scratch('e', *dz.shape)).sum(
                    (0, 1, 2))
                dA[channels] += gradients.A
                gradients.u.addcmul_(dy_block, D[channels].to(dtype))
                span.take(du_[:, channels]).copy_(gradients.u)
                span.take(dB_[:, span.k]).copy_(gradients.B)
                span.take(dC_[:, span.k]).copy_(gradients.C)
    return du, ddelta, dA, dB, dC, dD, dbias


register_backward('selective_scan', tensors=8)


def take(part: slice, *tensors: Optional[Tensor]) -> List[Any]:
    """Take the same images of several tensors, each of which stays None if it is None."""
    return [None if t is None else t[part] for t in tensors]


def _block(span: _Span, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor,
           delta_bias: Tensor, mask: Optional[Tensor], delta_softplus: bool,
           scratch: recurrence.Scratch) -> recurrence.Block:
    """Return a block's inputs."""
    dtype = sum_dtype(u.dtype)
    channels = span.channels(u.shape[1] // B.shape[1])
    u, z = (span.take(t[:, channels]) for t in (u, delta))
    # contiguous: a step of all sequences and channels shall be one piece of memory
    u = scratch('u', *u.shape).copy_(u)
    z = scratch('delta', *z.shape).copy_(z).add_(delta_bias[channels].to(dtype))
    if delta_softplus:
        softplus_(z)
    if mask is not None:
        # with a step of 0 the state passes as it is
        z.masked_fill_(~span.take(mask)[..., None], 0)
    B, C = (span.take(t[:, span.k]).to(dtype) for t in (B, C))
    return recurrence.Block(u, z, A[channels].to(dtype), B, C, False)
