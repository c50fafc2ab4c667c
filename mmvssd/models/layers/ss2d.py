"""VMamba's token mixer."""
import math
from typing import Optional, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmvssd.models.layers.conv import GridConv2d, silu
from mmvssd.models.layers.linear import GridLinear, SplitLinear
from mmvssd.models.layers.mixers import draw_dt_bias_
from mmvssd.models.layers.padding import Padding
from mmvssd.registry import KERNELS

#: What the layer can do with the grid: orders of ``selective_scan_2d``, or rows before columns.
PATTERNS = ('cross', 'unidirectional', 'bidirectional', 'cascade')


class SS2D(nn.Module):
    """Selective scans of the grid in four sequences (arXiv 2401.10166, Sec. 4.2).

    Args:
        dim: Channels in and out.
        ssm_ratio: Inner width over ``dim``.
        d_state: State size S.
        gated: Multiply the result by a branch SiLU(z), as VMamba's first version does.
        conv: Run a depthwise 3x3 convolution before the scans. Without it SiLU stays.
        conv_bias: Whether the depthwise convolution has a bias.
        pattern: Orders of the four sequences, one of :data:`PATTERNS`; 'cascade' scans each row
            in both directions, then each column.
    """

    def __init__(self, dim: int, *, ssm_ratio: float = 2, d_state: int = 1, gated: bool = False,
                 conv: bool = True, conv_bias: bool = False, pattern: str = 'cross') -> None:
        super().__init__()
        self.d_inner = d_inner = int(ssm_ratio * dim)
        self.dt_rank = math.ceil(dim / 16)
        self.d_state = d_state
        self.gated = gated
        self.pattern = pattern
        self.op = KERNELS.get('selective_scan' if pattern == 'cascade' else 'selective_scan_2d')

        self.in_proj = SplitLinear(dim, [d_inner] * (2 if gated else 1))  # x, z
        self.conv = GridConv2d(d_inner, d_inner, 3, padding=1, groups=d_inner,
                               bias=conv_bias) if conv else None
        self.x_proj_weight = nn.Parameter(torch.empty(4, self.dt_rank + 2 * d_state, d_inner))
        self.dt_projs_weight = nn.Parameter(torch.empty(4, d_inner, self.dt_rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(4, d_inner))
        self.A_logs = nn.Parameter(torch.empty(4 * d_inner, d_state))
        self.Ds = nn.Parameter(torch.empty(4 * d_inner))
        self.norm = nn.LayerNorm(d_inner)
        self.out_proj = GridLinear(d_inner, dim, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the state-space parameters as Mamba does: A = -1 .. -S, dt log-uniform."""
        for weight in self.x_proj_weight:
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))  # PyTorch's linear
        nn.init.uniform_(self.dt_projs_weight, -self.dt_rank**-0.5, self.dt_rank**-0.5)
        draw_dt_bias_(self.dt_projs_bias)
        with torch.no_grad():
            self.A_logs.copy_(torch.arange(1, self.d_state + 1).log())
            self.Ds.fill_(1)

    def forward(self, x: Tensor, padding: Optional[Padding] = None) -> Tensor:
        """Mix tokens: (N, H, W, C) -> (N, H, W, C); the state passes padding unchanged."""
        x, *z = self.in_proj(x)
        if self.conv is None:
            x = silu(x, self.in_proj)
        else:
            x = silu(self.conv(x, padding), self.conv)
        mask = None if padding is None else padding.mask
        y = (self._cascade if self.pattern == 'cascade' else self._scan)(x, mask)
        # float32 under autocast: a sum over thousands of tokens may be too large for float16
        y = self.norm(y.to(self.norm.weight.dtype))
        if self.gated:
            y = y * F.silu(z[0])
        return self.out_proj(y)

    def _scan(self, x: Tensor, mask: Optional[Tensor]) -> Tensor:
        """Four sequences over one grid: (N, H, W, D) -> (N, H, W, D)."""
        dt, B, C = self._project(x, self.x_proj_weight)
        # as autocast does it to the weight of any product, but not to that of the op
        dt_weight = self.dt_projs_weight.to(dt.dtype)
        return self.op(x, dt, dt_weight, -self.A_logs.exp(), B, C, self.Ds,
                       self.dt_projs_bias.flatten(), pattern=self.pattern, mask=mask)

    def _project(self, x: Tensor, weight: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """Project tokens (..., D) to dt (..., K, R), B and C (..., K, S) of K sequences."""
        projected = F.linear(x, weight.flatten(0, 1)).unflatten(-1, (len(weight), -1))
        return projected.split([self.dt_rank, self.d_state, self.d_state], dim=-1)

    def _cascade(self, x: Tensor, mask: Optional[Tensor]) -> Tensor:
        """Scan rows in both directions, then columns: (N, H, W, D) -> (N, H, W, D)."""
        y = self._scan_rows(F.layer_norm(x, x.shape[-1:]), mask, 0)
        x = F.layer_norm(y, y.shape[-1:]).to(x.dtype).transpose(1, 2)
        mask = None if mask is None else mask.transpose(1, 2)
        return self._scan_rows(x, mask, 2).transpose(1, 2)

    def _scan_rows(self, x: Tensor, mask: Optional[Tensor], first: int) -> Tensor:
        """Scan each row forward and reversed, with the weights of two of the sequences."""
        N, H = x.shape[:2]
        x = x.flatten(0, 1)  # (N*H, W, D)
        mask = None if mask is None else mask.flatten(0, 1)
        flipped = None if mask is None else mask.flip(1)
        y = self._scan_sequence(x, mask, first)
        y = y + self._scan_sequence(x.flip(1), flipped, first + 1).flip(1)
        return y.unflatten(0, (N, H))

    def _scan_sequence(self, x: Tensor, mask: Optional[Tensor], k: int) -> Tensor:
        """Scan tokens (N, L, D) from the first to the last with the weights of sequence k."""
        channels = slice(k * self.d_inner, (k + 1) * self.d_inner)
        dt, B, C = self._project(x, self.x_proj_weight[k:k + 1])  # (N, L, 1, R or S)
        delta = torch.einsum('nlr,dr->nld', dt[:, :, 0], self.dt_projs_weight[k])
        y = self.op(x.mT, delta.mT, -self.A_logs[channels].exp(), B.permute(0, 2, 3, 1),
                    C.permute(0, 2, 3, 1), self.Ds[channels], self.dt_projs_bias[k], mask=mask)
        return y.mT
