"""The recurrence of the selective scan, forward and backward, over one block of tokens.

A block is F * q tokens of a sequence: q chunks, each of F steps. Its tensors are (F, N, q, D) for
N sequences of D channels, so that one step of all chunks, sequences and channels is one slice.
Chunks run in parallel. Each runs from zero once, only for its last state, and then from the state
that its predecessors give it. So nothing is ever divided by a decay.

With u the input, delta the step size and s an entry of the state::

    h_t = exp(delta_t A_s) h_{t-1} + delta_t B_{t,s} u_t,   y_t = sum_s C_{t,s} h_t

(Mamba, arXiv 2312.00752, Eq. 2; discretized as in its published code).
"""
from typing import Dict, List, NamedTuple, Optional, Sequence

import torch
from torch import Tensor


class Block(NamedTuple):
    """Inputs of one block, all of the dtype of the state.

    Attributes:
        u: Input (F, N, q, D), of any strides.
        delta: Step sizes (F, N, q, D), contiguous, not negative. It is overwritten.
        A: Decay (D, S).
        B: Input projection (F, N, q, S), of any strides.
        C: Output projection (F, N, q, S), of any strides.
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


class Scratch:
    """Memory that one block after the other uses: on a CPU fresh memory costs as much as the sums.

    Args:
        dtype: Dtype of what is kept there.
        device: Its device.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._nothing = torch.empty(0, dtype=dtype, device=device)
        self._held: Dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        """Return a contiguous, uninitialized tensor; the next of that name replaces it."""
        size = torch.Size(shape).numel()
        if name not in self._held or self._held[name].numel() < size:
            self._held[name] = self._nothing.new_empty(size)
        return self._held[name][:size].view(shape)


def forward(block: Block, state: Tensor, y: Tensor, scratch: Scratch) -> None:
    """Run a block.

    Args:
        block: The inputs.
        state: State (S, N, D) before the block; becomes the one after it.
        y: Tensor (F, N, q, D) to which the outputs are added.
        scratch: Memory for what comes in between.
    """
    u, delta, A, B, C, reverse = block
    S = A.shape[1]
    total = delta.sum(0)
    # with a state of 1 everything finds room in two tensors
    delta_u = b = delta
    if S > 1:
        delta_u, b = (scratch(name, *delta.shape) for name in ('delta_u', 'b'))
        torch.mul(delta, u, out=delta_u)
    for s in range(S):
        a = torch.mul(delta, A[:, s], out=scratch('a', *delta.shape)).exp_()
        if S == 1:
            delta_u.mul_(u)
        torch.mul(delta_u, B[..., s, None], out=b)
        decay = (total * A[:, s]).exp_()
        state[s] = _scan(a, b, decay, state[s], b, reverse)
        y.addcmul_(b, C[..., s, None])


def backward(block: Block, state: Tensor, dstate: Tensor, dy: Tensor,
             scratch: Scratch) -> Gradients:
    """Run a block again, and back.

    With e_t = C_t dy_t, what a step hands back to the one before it is itself such a recurrence,
    run the other way: G_t = a_t (e_t + G_{t+1}).

    Args:
        block: The inputs.
        state: State (S, N, D) before the block.
        dstate: Gradient (S, N, D) of the state after the block; becomes that of the one before.
        dy: Gradient (F, N, q, D) of the outputs, of any strides.
        scratch: Memory for what comes in between, and for the gradients of u and delta.
    """
    u, delta, A, B, C, reverse = block
    F, *rest = delta.shape
    a, b, e, delta_u, du, ddelta = (scratch(name, *delta.shape) for name in
                                    ('a', 'b', 'e', 'delta_u', 'du', 'ddelta'))
    # one place more than steps, for what comes in from before the first
    h, G = (scratch(name, F + 1, *rest) for name in ('h', 'G'))
    before, after = (h[1:], h[:-1]) if reverse else (h[:-1], h[1:])
    passed, received = (G[1:], G[:-1]) if reverse else (G[:-1], G[1:])
    dA, dB, dC = torch.empty_like(A), torch.empty_like(B), torch.empty_like(C)
    total = delta.sum(0)
    torch.mul(delta, u, out=delta_u)
    for s in range(A.shape[1]):
        torch.mul(delta, A[:, s], out=a).exp_()
        decay = (total * A[:, s]).exp_()
        torch.mul(delta_u, B[..., s, None], out=b)
        _scan(a, b, decay, state[s], after, reverse, first=h[-1 if reverse else 0])
        torch.mul(dy, C[..., s, None], out=e)
        torch.mul(a, e, out=b)
        dstate[s] = _scan(a, b, decay, dstate[s], passed, not reverse,
                          first=G[0 if reverse else -1])

        dC[..., s] = torch.mul(dy, after, out=b).sum(-1)
        g = e.add_(received)  # gradient of h
        dB[..., s] = torch.mul(g, delta_u, out=b).sum(-1)
        w = torch.mul(passed, before, out=b)  # gradient of the decay, times the decay
        _add_product(ddelta, w, A[:, s], s)
        dA[:, s] = w.mul_(delta).sum((0, 1, 2))
        _add_product(du, g, B[..., s, None], s)
    ddelta.addcmul_(du, u)
    return Gradients(du.mul_(delta), ddelta, dA, dB, dC)


def _add_product(total: Tensor, a: Tensor, b: Tensor, s: int) -> None:
    """Add a product to a sum over the state; the first makes the sum."""
    if s == 0:
        torch.mul(a, b, out=total)
    else:
        total.addcmul_(a, b)


def _scan(a: Tensor, b: Tensor, decay: Tensor, state: Tensor, out: Tensor, reverse: bool,
          first: Optional[Tensor] = None) -> Tensor:
    """Run ``h_t = a_t h_{t-1} + b_t`` through all chunks.

    Args:
        a: Decays (F, N, q, D).
        b: Inputs (F, N, q, D).
        decay: Product of the decays of each chunk (N, q, D).
        state: h before the first chunk (N, D).
        out: Takes all h (F, N, q, D); may be ``b``.
        reverse: Run from the last step to the first, and from the last chunk.
        first: Takes h before each chunk (N, q, D).

    Returns:
        h after the last chunk (N, D).
    """
    a, b, out = (_steps(t, reverse) for t in (a, b, out))
    h = _starts(a, b, decay, state, reverse)
    if first is not None:
        first.copy_(h)
    for a_t, b_t, out_t in zip(a, b, out):
        h = torch.addcmul(b_t, a_t, h, out=out_t)
    return h[:, 0 if reverse else -1]


def _starts(a: Sequence[Tensor], b: Sequence[Tensor], decay: Tensor, state: Tensor,
            reverse: bool) -> Tensor:
    """h before each chunk (N, q, D)."""
    q = decay.shape[1]
    if q == 1:
        return state[:, None]
    last = b[0].clone()
    for a_t, b_t in zip(a[1:], b[1:]):
        torch.addcmul(b_t, a_t, last, out=last)
    starts = torch.empty_like(decay)
    places, decays, lasts = (_steps(t.transpose(0, 1), reverse) for t in (starts, decay, last))
    places[0].copy_(state)
    for i in range(q - 1):
        torch.addcmul(lasts[i], decays[i], places[i], out=places[i + 1])
    return starts


def _steps(t: Tensor, reverse: bool) -> List[Tensor]:
    """Return the slices along the first axis, in the order of the scan."""
    steps = t.unbind(0)
    return steps[::-1] if reverse else steps
