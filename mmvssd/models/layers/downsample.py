"""Downsamples between stages: (N, H, W, C) to (N, ceil(H/2), ceil(W/2), D)."""
from typing import Optional

from torch import Tensor, nn
from torch.nn import functional as F

from mmvssd.models.layers.conv import ConvNormAct, ConvSequence, GridConv2d, ReLU
from mmvssd.models.layers.linear import GridLinear
from mmvssd.models.layers.padding import Padding


class InvertedDownsample(ConvSequence):
    """VSSD's downsample (arXiv 2407.18559): 1x1 to four times the width, depthwise 3x3, 1x1."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        wide = 4 * out_dim
        super().__init__(
            ConvNormAct(in_dim, wide, 1, norm=False, act=ReLU),
            ConvNormAct(wide, wide, 3, stride=2, groups=wide, norm=False, act=ReLU),
            ConvNormAct(wide, out_dim, 1))

    def forward(self, x: Tensor, padding: Optional[Padding] = None) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2), padding).permute(0, 2, 3, 1)


class PlainDownsample(ConvNormAct):
    """The downsample of VSSD's ICCV 2025 version: one 3x3 convolution and BatchNorm."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__(in_dim, out_dim, 3, stride=2)

    def forward(self, x: Tensor, padding: Optional[Padding] = None) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2), padding).permute(0, 2, 3, 1)


class NormDownsample(nn.Module):
    """The downsample of VMamba's later versions: one 3x3 convolution and LayerNorm."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.conv = GridConv2d(in_dim, out_dim, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, x: Tensor, padding: Optional[Padding] = None) -> Tensor:
        return self.norm(self.conv(x, padding))


class SimpleDownsample(nn.Module):
    """VSSD's simple downsample: 3x3 convolution, ReLU, LayerNorm."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.conv = ConvNormAct(in_dim, out_dim, 3, stride=2, norm=False, act=ReLU)
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, x: Tensor, padding: Optional[Padding] = None) -> Tensor:
        return self.norm(self.conv(x.permute(0, 3, 1, 2), padding).permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """The downsample of VMamba's first version: four neighbours side by side, LayerNorm, linear.

    An odd side is padded by a zero at its end.
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * in_dim)
        self.reduction = GridLinear(4 * in_dim, out_dim, bias=False)

    def forward(self, x: Tensor, padding: Optional[Padding] = None) -> Tensor:
        if padding is not None:
            x = x.masked_fill(~padding.mask[..., None], 0)
        H, W = x.shape[1:3]
        half_H, half_W = (H + 1) // 2, (W + 1) // 2
        x = F.pad(x, (0, 0, 0, 2 * half_W - W, 0, 2 * half_H - H))
        x = x.unflatten(2, (half_W, 2)).unflatten(1, (half_H, 2))  # (N, H/2, 2, W/2, 2, C)
        # (row, column) of the neighbours: 00, 10, 01, 11
        x = x.permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.reduction(self.norm(x))


DOWNSAMPLES = {
    'inverted': InvertedDownsample,
    'plain': PlainDownsample,
    'simple': SimpleDownsample,
    'norm': NormDownsample,
    'merging': PatchMerging,
}
