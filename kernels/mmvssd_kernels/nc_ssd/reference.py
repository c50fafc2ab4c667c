"""NC-SSD in PyTorch: any device, any float, the definition of the op.

Symbols: N images, L tokens, h heads of width P, state S, G groups of h / G heads. The heads of a
group are side by side in one matrix product, so B and C are never repeated per head.
"""
from typing import Optional, Tuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mmvssd_kernels.dispatch import register
from mmvssd_kernels.numerics import drop_padding, no_autocast, sum_dtype


@register('nc_ssd', 'reference', priority=0, exportable=True)
def nc_ssd_reference(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Optional[Tensor],
                     *, normalize: bool, grid: Optional[Tuple[int, int]],
                     mask: Optional[Tensor]) -> Tensor:
    """Compute :func:`mmvssd_kernels.nc_ssd`, whose docstring has shapes and dtypes."""
    out_dtype = x.dtype
    dtype = sum_dtype(x.dtype)
    with no_autocast(x):
        x, dt, A, B, C = (t.to(dtype) for t in (x, dt, A, B, C))
        x, dt, B, C = drop_padding(mask, x, dt, B, C)
        m = -dt * A
        if normalize:
            assert grid is not None  # which the op checks
            y = _normalized(x, m, B, C, grid, mask)
        else:
            y = _plain(x, m, B, C)
        if D is not None:
            y = torch.addcmul(y, D.to(dtype)[:, None], x)
        y, = drop_padding(mask, y)
    return y.to(out_dtype)


def _plain(x: Tensor, m: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """``state = sum_l B_l (outer) m_l x_l``, ``y_l = C_l . state`` -> (N, L, h, P)."""
    N, L, h, P = x.shape
    G = B.shape[2]
    mx = m[..., None] * x
    if G == 1:  # an exported graph would copy what a group's axis of 1 is moved past
        state = B.squeeze(2).mT @ mx.flatten(2)  # (N, S, h*P)
        return (C.squeeze(2) @ state).unflatten(2, (h, P))
    # (N, L, a*G, P) -> (N, G, L, a*P)
    mx = mx.unflatten(2, (h // G, G)).permute(0, 3, 1, 2, 4).flatten(3)
    state = B.permute(0, 2, 3, 1) @ mx  # (N, G, S, a*P)
    y = C.transpose(1, 2) @ state  # (N, G, L, a*P)
    # (N, G, L, a*P) -> (N, L, a*G, P)
    return y.unflatten(3, (h // G, P)).permute(0, 2, 3, 1, 4).flatten(2, 3)


def _normalized(x: Tensor, m: Tensor, B: Tensor, C: Tensor, grid: Tuple[int, int],
                mask: Optional[Tensor]) -> Tensor:
    """Compute the ICCV 2025 form -> (N, L, h, P).

    With q = elu(C) + 1, k = elu(B) + 1, w = L softmax_l(m), R_l the rotary embedding of token l
    and s = 1 / (h P)::

        state = 1/L sum_l R_l k_l (outer) w_l x_l
        y_l   = (s R_l q_l . state) / (s q_l . 1/L sum_l k_l w_l + 1e-6)

    The factor L of w and the mean's 1/L cancel in both sums, so the softmax stands for both;
    with padding it runs over the kept tokens.
    """
    _, L, h, P = x.shape
    q = F.elu(C.squeeze(2)) + 1  # (N, L, S)
    k = F.elu(B.squeeze(2)) + 1
    if mask is not None:
        m = m.masked_fill(~mask[..., None], torch.finfo(m.dtype).min)
    weight = m.softmax(1)  # (N, L, h); zero at padding
    cos, sin = rotary_table(grid, q.shape[-1], q.device, q.dtype)
    wx = (weight[..., None] * x).flatten(2)  # (N, L, h*P)
    state = rotate(k, cos, sin).transpose(1, 2) @ wx  # (N, S, h*P)
    key_sum = k.transpose(1, 2) @ weight  # (N, S, h)
    s = 1 / (h * P)
    numerator = s * (rotate(q, cos, sin) @ state)
    denominator = s * (q @ key_sum) + 1e-6  # (N, L, h)
    return numerator.unflatten(2, (h, P)) / denominator[..., None]


def rotary_table(grid: Tuple[int, int], S: int, device: torch.device,
                 dtype: torch.dtype) -> Tuple[Tensor, Tensor]:
    """Return the cosines and sines of the 2-D rotary embedding, each (H * W, S / 2).

    With K = S / 4 frequencies theta_k = 10000 ** (-k / K), channel pairs 0..K-1 turn by
    row * theta_k and pairs K..2K-1 by column * theta_k.
    """
    H, W = grid
    K = S // 4
    theta = 10000 ** (-torch.arange(K, device=device, dtype=dtype) / K)
    rows = torch.arange(H, device=device, dtype=dtype)[:, None, None] * theta
    columns = torch.arange(W, device=device, dtype=dtype)[None, :, None] * theta
    angle = torch.cat([rows.expand(H, W, K), columns.expand(H, W, K)], dim=-1).flatten(0, 1)
    return angle.cos(), angle.sin()


def rotate(t: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the channel pairs (2j, 2j + 1) of ``t`` (N, L, S) by the angles of the table."""
    even, odd = t[..., 0::2], t[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)
