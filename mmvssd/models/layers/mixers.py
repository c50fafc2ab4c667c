"""State-space token mixers."""
import math
from typing import Optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmvssd.models.layers.conv import GridConv2d
from mmvssd.models.layers.linear import GridLinear, SplitLinear
from mmvssd.models.layers.padding import Padding
from mmvssd.registry import KERNELS


def draw_dt_bias_(bias: Tensor) -> None:
    """Fill a bias in place so that its softplus is log-uniform in 0.001 to 0.1, as in Mamba."""
    with torch.no_grad():
        bias.uniform_(math.log(1e-3), math.log(1e-1)).exp_().clamp_(min=1e-4)
        bias += (-torch.expm1(-bias)).log()  # inverse of softplus


class NCSSDMixer(nn.Module):
    """VSSD's mixer: projections, a depthwise convolution and the ``nc_ssd`` op.

    Args:
        dim: Channels in and out.
        num_heads: Heads h; divides the inner width ``expansion * dim``.
        d_state: State size S.
        expansion: Inner width over ``dim``.
        n_groups: Groups G of B and C; head j reads group j % G.
        normalize: Use the normalized op of the ICCV 2025 version.
        negative_decay: Turn the sign of the token weights, m = -dt exp(A_log): the published
            ``tiny_na`` ablation.
    """

    def __init__(self, dim: int, num_heads: int, d_state: int, *, expansion: float = 2,
                 n_groups: int = 1, normalize: bool = False,
                 negative_decay: bool = False) -> None:
        super().__init__()
        self.d_inner = int(expansion * dim)
        self.d_bc = n_groups * d_state
        self.num_heads = num_heads
        self.n_groups = n_groups
        self.normalize = normalize
        self.sign = 1 if negative_decay else -1
        self.op = KERNELS.get('nc_ssd')

        d_conv = self.d_inner + 2 * self.d_bc
        self.in_proj = SplitLinear(dim, [self.d_inner, d_conv, num_heads])  # z, xBC, dt
        self.conv = GridConv2d(d_conv, d_conv, 3, padding=1, groups=d_conv)
        self.dt_bias = nn.Parameter(torch.empty(num_heads))
        self.A_log = nn.Parameter(torch.empty(num_heads))
        self.D = nn.Parameter(torch.empty(num_heads))
        self.norm = nn.LayerNorm(self.d_inner)
        self.out_proj = GridLinear(self.d_inner, dim, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the state-space parameters as Mamba-2 does: A in U(1, 16), dt log-uniform."""
        with torch.no_grad():
            self.A_log.uniform_(1, 16).log_()
            self.D.fill_(1)
        draw_dt_bias_(self.dt_bias)

    def forward(self, x: Tensor, padding: Optional[Padding] = None) -> Tensor:
        """Mix tokens: (N, H, W, C) -> (N, H, W, C); padding adds nothing to the state."""
        H, W = x.shape[1:3]
        z, xBC, dt = self.in_proj(x)
        # without gradients in the convolution's own memory: on a CPU, fresh memory costs as much
        # as the function
        xBC = F.silu(self.conv(xBC, padding), inplace=not torch.is_grad_enabled())
        xBC = xBC.flatten(1, 2)  # (N, L, d_inner + 2*G*S)
        x, B, C = xBC.split([self.d_inner, self.d_bc, self.d_bc], dim=-1)
        y = self.op(
            x.unflatten(-1, (self.num_heads, -1)),
            F.softplus(dt.flatten(1, 2) + self.dt_bias),
            self.sign * self.A_log.exp(),
            B.unflatten(-1, (self.n_groups, -1)),
            C.unflatten(-1, (self.n_groups, -1)),
            self.D,
            normalize=self.normalize,
            grid=(H, W),
            mask=None if padding is None else padding.mask.flatten(1))
        y = self.norm(y.flatten(2).unflatten(1, (H, W)))
        return self.out_proj(y * z)
