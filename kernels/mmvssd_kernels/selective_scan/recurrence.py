"""The recurrence of the selective scan, forward and backward, over one block of tokens.

A block is F * q tokens of a sequence: q chunks, each of F steps. Its tensors are (F, N, q, D) for
N sequences of D channels, so that one step of all chunks, sequences and channels is one slice.
Chunks run in parallel: each is run from zero once for its last state alone, then from the state
that those give it, so nothing is ever divided by a decay.

With u the input, delta the step size and s an entry of the state::

    h_t = exp(delta_t A_s) h_{t-1} + delta_t B_{t,s} u_t,   y_t = sum_s C_{t,s} h_t

(Mamba, arXiv 2312.00752, Eq. 2; discretized as in its published code).
"""
from typing import NamedTuple, Optional

import torch
from torch import Tensor


class Block(NamedTuple):
    """Inputs of one block, of any strides, all of the dtype of the state.

    Attributes:
        u: Input (F, N, q, D).
        delta: Step sizes (F, N, q, D), not negative.
        A: Decay (D, S).
        B: Input projection (F, N, q, S).
        C: Output projection (F, N, q, S).
        reverse: Run from the last token to the first.
    """

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    reverse: bool


class Gradients(NamedTuple):
    """Gradients of a block's inputs, with the shapes that these have in :class:`Block`."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor


def forward(block: Block, state: Tensor, y: Tensor) -> None:
    """Run a block.

    Args:
        block: The inputs.
        state: State (S, N, D) before the block; becomes the one after it.
        y: Tensor (F, N, q, D) to which the outputs are added.
    """
    u, delta, A, B, C, reverse = block
    S = A.shape[1]
    delta_u = delta * u
    total = delta.sum(0)
    for s in range(S):
        a = (delta * A[:, s]).exp_()
        # the last one may go where delta_u was: with a state of 1 there is no other
        b = torch.mul(delta_u, B[..., s, None], out=delta_u if s == S - 1 else None)
        start = _starts(a, b, (total * A[:, s]).exp_(), state[s], reverse)
        last = _run(a, b, start, b, reverse)
        state[s] = last[:, 0 if reverse else -1]
        y.addcmul_(b, C[..., s, None])


def backward(block: Block, state: Tensor, dstate: Tensor, dy: Tensor) -> Gradients:
    """Run a block again, and back.

    Args:
        block: The inputs.
        state: State (S, N, D) before the block.
        dstate: Gradient (S, N, D) of the state after the block; becomes that of the one before.
        dy: Gradient (F, N, q, D) of the outputs.

    With e_t = C_t dy_t, what a step hands back to the one before it is itself such a recurrence,
    run the other way: G_t = a_t (e_t + G_{t+1}).
    """
    u, delta, A, B, C, reverse = block
    F, N, q, D = delta.shape
    S = A.shape[1]
    dA, dB, dC = torch.empty_like(A), torch.empty_like(B), torch.empty_like(C)
    ddelta, ddelta_u = torch.zeros_like(delta), torch.zeros_like(delta)
    delta_u = delta * u
    total = delta.sum(0)
    # one place more than steps, for what comes in from before the first
    h, G = (delta.new_empty(F + 1, N, q, D) for _ in range(2))
    before, after = (h[1:], h[:-1]) if reverse else (h[:-1], h[1:])
    passed, received = (G[1:], G[:-1]) if reverse else (G[:-1], G[1:])
    for s in range(S):
        a = (delta * A[:, s]).exp_()
        decay = (total * A[:, s]).exp_()
        start = h[-1 if reverse else 0]
        b = delta_u * B[..., s, None]
        start.copy_(_starts(a, b, decay, state[s], reverse))
        _run(a, b, start, after, reverse)

        e = dy * C[..., s, None]
        torch.mul(a, e, out=b)
        start = G[0 if reverse else -1]
        start.copy_(_starts(a, b, decay, dstate[s], not reverse))
        last = _run(a, b, start, passed, not reverse)
        dstate[s] = last[:, -1 if reverse else 0]

        dC[..., s] = torch.mul(dy, after, out=b).sum(-1)
        g = e.add_(received)  # gradient of h
        w = torch.mul(passed, before, out=b)  # that of the decay, times the decay
        ddelta.addcmul_(w, A[:, s])
        dA[:, s] = w.mul_(delta).sum((0, 1, 2))
        dB[..., s] = torch.mul(g, delta_u, out=b).sum(-1)
        ddelta_u.addcmul_(g, B[..., s, None])
    ddelta.addcmul_(ddelta_u, u)
    return Gradients(ddelta_u.mul_(delta), ddelta, dA, dB, dC)


def _run(a: Tensor, b: Tensor, h: Tensor, out: Optional[Tensor], reverse: bool) -> Tensor:
    """Run ``h_t = a_t h_{t-1} + b_t`` along the first axis; write each to ``out``; return the last.

    Without ``out`` each step overwrites the one before.
    """
    steps = zip(*(t.unbind(0)[::-1] if reverse else t.unbind(0) for t in (a, b)))
    if out is None:
        h = h.clone()
        for a_t, b_t in steps:
            torch.addcmul(b_t, a_t, h, out=h)
        return h
    places = out.unbind(0)[::-1] if reverse else out.unbind(0)
    for (a_t, b_t), place in zip(steps, places):
        h = torch.addcmul(b_t, a_t, h, out=place)
    return h


def _starts(a: Tensor, b: Tensor, decay: Tensor, state: Tensor, reverse: bool) -> Tensor:
    """State (N, q, D) before each chunk, from that before the first, (N, D).

    ``decay`` (N, q, D) is the product of ``a`` over a chunk.
    """
    N, q, D = decay.shape
    if q == 1:
        return state[:, None]
    last = _run(a, b, b.new_zeros(N, q, D), None, reverse)
    starts = b.new_empty(q + 1, N, D)
    first = starts[-1 if reverse else 0]
    first.copy_(state)
    _run(decay.transpose(0, 1), last.transpose(0, 1), first,
         starts[:-1] if reverse else starts[1:], reverse)
    return (starts[1:] if reverse else starts[:-1]).transpose(0, 1)
