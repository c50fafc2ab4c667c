"""State-space token mixers."""
import math
from typing import Optional, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmvssd.models.layers.conv import GridConv2d, silu
from mmvssd.models.layers.linear import GridLinear, SplitLinear
from mmvssd.models.layers.padding import Padding
from mmvssd.registry import KERNELS


def draw_dt_bias_(bias: Tensor) -> None:
    """Fill a bias in place so that its softplus is log-uniform in 0.001 to 0.1, as in Mamba."""
    with torch.no_grad():
        bias.uniform_(math.log(1e-3), math.log(1e-1)).exp_().clamp_(min=1e-4)
        bias += (-torch.expm1(-bias)).log()  # inverse of softplus


class DualityMixer(nn.Module):
    """Base of the mixers by state space duality: all but the op, which a subclass calls in ``mix``.

    Args:
        dim: Channels in and out.
        num_heads: Heads h; divides the inner width ``expansion * dim``.
        d_state: State size S.
        expansion: Inner width over ``dim``.
        n_groups: Groups G of B and C.
    """

    def __init__(self, dim: int, num_heads: int, d_state: int, *, expansion: float = 2,
                 n_groups: int = 1) -> None:
        super().__init__()
        self.d_inner = int(expansion * dim)
        self.d_bc = n_groups * d_state
        self.num_heads = num_heads
        self.n_groups = n_groups

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
        xBC = silu(self.conv(xBC, padding), self.conv)
        xBC = xBC.flatten(1, 2)  # (N, L, d_inner + 2*G*S)
        x, B, C = xBC.split([self.d_inner, self.d_bc, self.d_bc], dim=-1)
        y = self.mix(
            x.unflatten(-1, (self.num_heads, -1)),
            F.softplus(dt.flatten(1, 2) + self.dt_bias),
            B.unflatten(-1, (self.n_groups, -1)),
            C.unflatten(-1, (self.n_groups, -1)),
            grid=(H, W),
            mask=None if padding is None else padding.mask.flatten(1))
        y = self.norm(y.flatten(2).unflatten(1, (H, W)))
        return self.out_proj(y * z)

    def mix(self, x: Tensor, dt: Tensor, B: Tensor, C: Tensor, *, grid: Tuple[int, int],
            mask: Optional[Tensor]) -> Tensor:
        """Run the op on tokens in row-major order: x (N, L, h, P) -> (N, L, h, P)."""
        raise NotImplementedError


class NCSSDMixer(DualityMixer):
    """VSSD's mixer: projections, a depthwise convolution and the ``nc_ssd`` op.

    Args:
        dim: Channels in and out.
        num_heads: Heads h; divides the inner width ``expansion * dim``.
        d_state: State size S.
        expansion: Inner width over ``dim``.
        n_groups: Groups G of B and C; which one a head reads is the op's matter.
        normalize: Use the normalized op of the ICCV 2025 version.
        negative_decay: Turn the sign of the token weights, m = -dt exp(A_log): the published
            ``tiny_na`` ablation.
    """

    def __init__(self, dim: int, num_heads: int, d_state: int, *, expansion: float = 2,
                 n_groups: int = 1, normalize: bool = False,
                 negative_decay: bool = False) -> None:
        super().__init__(dim, num_heads, d_state, expansion=expansion, n_groups=n_groups)
        self.normalize = normalize
        self.sign = 1 if negative_decay else -1
        self.op = KERNELS.get('nc_ssd')

    def mix(self, x: Tensor, dt: Tensor, B: Tensor, C: Tensor, *, grid: Tuple[int, int],
            mask: Optional[Tensor]) -> Tensor:
        """Run the op on tokens in row-major order: x (N, L, h, P) -> (N, L, h, P)."""
        return self.op(x, dt, self.sign * self.A_log.exp(), B, C, self.D,
                       normalize=self.normalize, grid=grid, mask=mask)


class SSDMixer(DualityMixer):
    """Mamba-2's mixer: that of VSSD with the causal ``ssd`` op in place of ``nc_ssd``.

    A token in row-major order reads its predecessors, or if the state runs in reverse its
    successors, and itself. Parameters and their names are those of :class:`NCSSDMixer`.

    Args:
        dim: Channels in and out.
        num_heads: Heads h; divides the inner width ``expansion * dim``.
        d_state: State size S.
        expansion: Inner width over ``dim``.
        n_groups: Groups G of B and C; which one a head reads is the op's matter.
        bidirectional: The second half of the heads runs in reverse; of the groups too, if there
            are several. A single group serves both directions.

    Raises:
        ValueError: ``bidirectional`` with an odd number of heads, or of groups greater than 1.
    """

    def __init__(self, dim: int, num_heads: int, d_state: int, *, expansion: float = 2,
                 n_groups: int = 1, bidirectional: bool = False) -> None:
        super().__init__(dim, num_heads, d_state, expansion=expansion, n_groups=n_groups)
        if bidirectional:
            check_halves(num_heads, n_groups)
        self.bidirectional = bidirectional
        self.op = KERNELS.get('ssd')

    def mix(self, x: Tensor, dt: Tensor, B: Tensor, C: Tensor, *, grid: Tuple[int, int],
            mask: Optional[Tensor]) -> Tensor:
        """Run the op on tokens in row-major order: x (N, L, h, P) -> (N, L, h, P)."""
        A = -self.A_log.exp()
        if not self.bidirectional:
            return self.op(x, dt, A, B, C, self.D, mask=mask)
        h, G = self.num_heads // 2, self.n_groups // 2
        B_forward, C_forward, B_reverse, C_reverse = B, C, B, C
        if self.n_groups > 1:
            B_forward, C_forward, B_reverse, C_reverse = (B[:, :, :G], C[:, :, :G], B[:, :, G:],
                                                          C[:, :, G:])
        forward = self.op(x[:, :, :h], dt[:, :, :h], A[:h], B_forward, C_forward, self.D[:h],
                          mask=mask)
        reverse = self.op(x[:, :, h:], dt[:, :, h:], A[h:], B_reverse, C_reverse, self.D[h:],
                          reverse=True, mask=mask)
        return torch.cat([forward, reverse], dim=2)


def check_halves(num_heads: int, n_groups: int, what: str = 'SSDMixer') -> None:
    """Raise ValueError if heads, or several groups, cannot be halved for two directions."""
    if num_heads % 2:
        raise ValueError(f'{what}: num_heads is {num_heads}, expected an even number: half of the '
                         'heads run forward, half in reverse')
    if n_groups > 1 and n_groups % 2:
        raise ValueError(f'{what}: n_groups is {n_groups}, expected 1 or an even number: half of '
                         'the groups belong to the heads that run forward, half to the others')
