"""SSD in PyTorch: any device, any float, the definition of the op.

Symbols: N images, L tokens, h heads of width P, state S, G groups of r = h / G heads. A sequence is
cut into c chunks of T tokens. Within a chunk a token reads its predecessors in one matrix product
with a matrix of decays. It reads earlier tokens from the state that chunks hand on.
"""
from typing import Optional, Tuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mmvssd_kernels.dispatch import register
from mmvssd_kernels.library import open_sizes
from mmvssd_kernels.numerics import decays, drop_padding, no_autocast, sum_dtype


@register('ssd', 'reference', priority=0, exportable=True)
def ssd_reference(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Optional[Tensor], *,
                  chunk_size: int, reverse: bool, mask: Optional[Tensor]) -> Tensor:
    """Compute :func:`mmvssd_kernels.ssd`, whose docstring has shapes and dtypes."""
    out_dtype = x.dtype
    dtype = sum_dtype(x.dtype)
    with no_autocast(x), open_sizes():
        x, dt, A, B, C = (t.to(dtype) for t in (x, dt, A, B, C))
        # with a step of 0 the state passes padding as it is
        x, dt, B, C = drop_padding(mask, x, dt, B, C)
        tokens = (dt[..., None] * x, dt * A, B, C)
        if reverse:
            tokens = tuple(t.flip(1) for t in tokens)
        y = _causal(*tokens, chunk_size=chunk_size)
        if reverse:
            y = y.flip(1)
        if D is not None:
            y = torch.addcmul(y, D.to(dtype)[:, None], x)
        y, = drop_padding(mask, y)
    return y.to(out_dtype)


def _causal(x: Tensor, a: Tensor, B: Tensor, C: Tensor, *, chunk_size: int) -> Tensor:
    """``state_t = exp(a_t) state_{t-1} + B_t (outer) x_t``, ``y_t = C_t . state_t``.

    x (N, L, h, P), a (N, L, h), B and C (N, L, G, S) -> (N, L, h, P).
    """
    L, G = B.shape[1:3]
    T, c = _cut(L, chunk_size)
    # (N, L, h, P) -> (N, G, r, c, T, P), and the same for the others, whose r is 1
    x, a, B, C = (_chunks(t, G, T, c) for t in (x, a[..., None], B, C))
    a = a.squeeze(-1)
    decay = decays(a)  # (N, G, r, c, T, T): from token j (row) to token i (column)
    y = ((B @ C.mT) * decay).mT @ x
    # what a chunk adds to the state: its tokens, decayed from each to the last
    added = (B * decay[..., -1:]).mT @ x  # (N, G, r, c, S, P)
    from_start = a.cumsum(-1)
    state = _carry(added, from_start[..., -1])
    y = y + from_start.exp()[..., None] * (C @ state)
    # (N, G, r, c, T, P) -> (N, L, h, P)
    return y.permute(0, 3, 4, 1, 2, 5).flatten(3, 4).flatten(1, 2).narrow(1, 0, L)


def _cut(L: int, chunk_size: int) -> Tuple[int, int]:
    """Return the tokens of a chunk, and how many chunks hold L tokens: one at least."""
    if isinstance(L, torch.SymInt):
        # left open by an export, which would take a single chunk for a constant; not -(-L // T),
        # since ONNX rounds a quotient towards zero
        return chunk_size, torch.sym_max((L + chunk_size - 1) // chunk_size, 2)
    T = max(min(chunk_size, L), 1)
    return T, max(-(-L // T), 1)


def _chunks(t: Tensor, G: int, T: int, c: int) -> Tensor:
    """Cut (N, L, G * r, ...) into whole chunks, (N, G, r, c, T, ...), filled up with 0.

    A step of 0 neither decays nor adds.
    """
    t = F.pad(t, (0, 0, 0, 0, 0, c * T - t.shape[1]))
    return t.unflatten(2, (G, -1)).unflatten(1, (c, T)).permute(0, 3, 4, 1, 2, 5)


def _carry(added: Tensor, a: Tensor) -> Tensor:
    """Return the state before each chunk, (N, G, r, c, S, P), from additions and sums of a.

    A loop over chunks would fix their number in an export with open sizes: there it is a product.
    """
    if isinstance(added.shape[3], torch.SymInt):
        before, a = F.pad(added.flatten(4), (0, 0, 1, -1)), F.pad(a, (1, -1))
        return (decays(a).mT @ before).unflatten(4, added.shape[4:])
    state = torch.zeros_like(added[:, :, :, 0])
    before = []
    for own, factor in zip(added.unbind(3), a.exp().unbind(3)):
        before.append(state)
        state = factor[..., None, None] * state + own
    return torch.stack(before, 3)
