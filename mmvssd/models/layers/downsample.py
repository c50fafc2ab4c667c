"""Downsamples between stages: (N, H, W, C) to (N, ceil(H/2), ceil(W/2), D)."""
from typing import Optional

from torch import Tensor, nn

from mmvssd.models.layers.conv import ConvNormAct, ConvSequence, ReLU
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


class SimpleDownsample(nn.Module):
    """VSSD's simple downsample: 3x3 convolution, ReLU, LayerNorm."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.conv = ConvNormAct(in_dim, out_dim, 3, stride=2, norm=False, act=ReLU)
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, x: Tensor, padding: Optional[Padding] = None) -> Tensor:
        return self.norm(self.conv(x.permute(0, 3, 1, 2), padding).permute(0, 2, 3, 1))


DOWNSAMPLES = {
    'inverted': InvertedDownsample,
    'plain': PlainDownsample,
    'simple': SimpleDownsample,
}
