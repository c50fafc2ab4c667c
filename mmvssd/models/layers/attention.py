"""Multi-head self-attention over the grid, the mixer of VSSD's last stage."""
from typing import Optional

from torch import Tensor, nn
from torch.nn import functional as F

from mmvssd.models.layers.linear import GridLinear
from mmvssd.models.layers.padding import Padding


class Attention(nn.Module):
    """``softmax(q k^T / sqrt(P)) v`` over all tokens of the grid.

    Args:
        dim: Channels in and out.
        num_heads: Heads; divides ``dim``.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv = GridLinear(dim, 3 * dim, bias=False)
        self.to_out = GridLinear(dim, dim)

    def forward(self, x: Tensor, padding: Optional[Padding] = None) -> Tensor:
        """Mix tokens: (N, H, W, C) -> (N, H, W, C); padding is no key."""
        # (N, H, W, 3*C) -> 3 x (N, h, L, P)
        qkv = self.to_qkv(x).flatten(1, 2).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mask = None if padding is None else padding.mask.flatten(1)[:, None, None]  # (N, 1, 1, L)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        # (N, h, L, P) -> (N, H, W, C)
        return self.to_out(y.transpose(1, 2).flatten(2).unflatten(1, x.shape[1:3]))
