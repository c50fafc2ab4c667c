"""The selective scan in standard operators, for exported models of open sizes.

No loop runs over tokens, whose number an export leaves open. A sequence is cut into chunks of
:data:`CHUNK` tokens. All chunks are run at once, from zero, in a loop over the tokens of one. Their
last states are a sequence of their own, over which the same is done, :data:`LEVELS` times in all.
What is left, one of :data:`CHUNK` ** :data:`LEVELS` tokens, is a product with a matrix of decays.

A state is a sum of inputs times decays of at most 1. Nothing is divided by a decay.
"""
from typing import Optional

import torch
from torch import Tensor
from torch.nn import functional as F

from mmvssd_kernels.dispatch import register
from mmvssd_kernels.library import open_sizes
from mmvssd_kernels.numerics import decays, drop_padding, sum_dtype

#: Tokens of a chunk: each costs four operators, and each level another pass over the tokens.
CHUNK = 16
#: How often a sequence is cut.
LEVELS = 2


@register('selective_scan', 'export', priority=-1, exportable=True)
def selective_scan_export(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor,
                          delta_bias: Tensor, *, delta_softplus: bool,
                          mask: Optional[Tensor]) -> Tensor:
    """Compute :func:`mmvssd_kernels.selective_scan`, whose docstring has shapes and dtypes."""
    dtype, K, L = sum_dtype(u.dtype), B.shape[1], u.shape[2]
    u, delta, A, B, C, D, bias = (t.to(dtype) for t in (u, delta, A, B, C, D, delta_bias))
    u, delta, B, C = drop_padding(mask, u, delta, B, C, tokens_last=True)
    z = delta + bias[:, None]
    delta = F.softplus(z) if delta_softplus else z
    # with a step of 0 the state passes padding as it is
    delta, = drop_padding(mask, delta, tokens_last=True)
    u_, delta = (t.unflatten(1, (K, -1)).permute(1, 0, 3, 2) for t in (u, delta))
    B, C = (t.permute(1, 0, 3, 2) for t in (B, C))
    with open_sizes():
        u_, delta, B, C = (chunk(t) for t in (u_, delta, B, C))
        y = unchunk(scan(u_, delta, A.unflatten(0, (K, -1)), B, C), L)
    y = y.permute(1, 0, 3, 2).flatten(1, 2) + D[:, None] * u
    return drop_padding(mask, y, tokens_last=True)[0]


def chunk(t: Tensor) -> Tensor:
    """Cut (K, N, L, ...) into c chunks, (T, K, N, c, ...), the last one filled up with zeros."""
    L = t.shape[2]
    c = (L + CHUNK - 1) // CHUNK  # not -(-L // CHUNK): ONNX rounds a quotient towards zero
    if isinstance(L, torch.SymInt):
        # an export would take a single chunk for a constant
        c = torch.sym_max(c, 2)
    t = F.pad(t, (*[0, 0] * (t.dim() - 3), 0, c * CHUNK - L))
    return t.unflatten(2, (c, CHUNK)).movedim(3, 0)


def unchunk(t: Tensor, L: int) -> Tensor:
    """Join the first L tokens of chunks (T, K, N, c, ...) again, (K, N, L, ...)."""
    return t.movedim(0, 3).flatten(2, 3).narrow(2, 0, L)


def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Scan the chunks of K sequences.

    Args:
        u: Input (T, K, N, c, D).
        delta: Step sizes (T, K, N, c, D).
        A: Decay (K, D, S).
        B: Input projection (T, K, N, c, S).
        C: Output projection (T, K, N, c, S).

    Returns:
        (T, K, N, c, D), without the skip.
    """
    log_decay = delta[..., None, :] * A.mT[:, None, None]  # (T, K, N, c, S, D)
    added = B[..., None] * (delta * u)[..., None, :]
    h = _states(log_decay, added, LEVELS)
    if A.shape[2] == 1:
        return C * h.squeeze(-2)
    return (C[..., None, :] @ h).squeeze(-2)


def _states(log_decay: Tensor, added: Tensor, levels: int) -> Tensor:
    """Return ``h_t = exp(log_decay_t) h_{t-1} + added_t`` of chunks (T, K, N, c, S, D)."""
    first, *rest = added.unbind(0)
    own = [first]
    for decay_t, added_t in zip(log_decay.exp().unbind(0)[1:], rest):
        own.append(torch.addcmul(added_t, decay_t, own[-1]))
    from_start = log_decay.cumsum(0)
    before = _before(from_start[-1], own[-1], levels - 1)
    return torch.addcmul(torch.stack(own), from_start.exp(), before)


def _before(log_decay: Tensor, added: Tensor, levels: int) -> Tensor:
    """Return the state before each token of a sequence (K, N, L, S, D)."""
    if levels:
        h = unchunk(_states(chunk(log_decay), chunk(added), levels), added.shape[2])
    else:
        weights = decays(log_decay.movedim(2, -1))  # (K, N, S, D, L, L)
        h = (weights.mT @ added.movedim(2, -1)[..., None]).squeeze(-1).movedim(-1, 2)
    return torch.cat([torch.zeros_like(h[:, :, :1]), h[:, :, :-1]], 2)
