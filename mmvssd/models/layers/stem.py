"""Stems: an image (N, 3, H, W) to the grid of stage 0, (N, H/4, W/4, C).

Sides round up, except in :class:`PatchStem` and :class:`SimpleStem`, whose stride-4 convolution
rounds them down.
"""
from functools import partial
from typing import Any, Dict, Optional

from torch import Tensor, nn
from torch.nn import functional as F

from mmvssd.models.layers.conv import ConvNormAct, ConvSequence, ReLU, is_watched
from mmvssd.models.layers.downsample import NormDownsample
from mmvssd.models.layers.padding import Padding


class ResidualStem(nn.Module):
    """VSSD's stem (arXiv 2407.18559): a residual pair of convolutions, then a wide one."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        half = dim // 2
        unit = partial(ConvNormAct, bias=False)
        self.conv1 = unit(in_channels, half, 3, stride=2, act=ReLU)
        self.conv2 = ConvSequence(unit(half, half, 3, act=ReLU), unit(half, half, 3))
        self.conv3 = ConvSequence(unit(half, 4 * dim, 3, stride=2, act=ReLU),
                                  unit(4 * dim, dim, 1))

    def forward(self, x: Tensor, padding: Optional[Padding] = None) -> Tensor:
        x = self.conv1(channels_last(x), padding)
        padding = None if padding is None else padding.strided(2)
        x = x + self.conv2(x, padding)
        return self.conv3(x, padding).permute(0, 2, 3, 1)

    def after(self, padding: Padding) -> Padding:
        """Valid sizes on the grid that this stem gives."""
        return padding.strided(2).strided(2)


class PlainStem(ConvSequence):
    """The stem of VSSD's ICCV 2025 version: four 3x3 convolutions."""

    def __init__(self, in_channels: int, dim: int) -> None:
        half = dim // 2
        super().__init__(
            ConvNormAct(in_channels, half, 3, stride=2, act=nn.GELU),
            ConvNormAct(half, half, 3, act=nn.GELU),
            ConvNormAct(half, dim, 3, stride=2, act=nn.GELU),
            ConvNormAct(dim, dim, 3))

    def forward(self, x: Tensor, padding: Optional[Padding] = None) -> Tensor:
        return super().forward(channels_last(x), padding).permute(0, 2, 3, 1)

    def after(self, padding: Padding) -> Padding:
        """Valid sizes on the grid that this stem gives."""
        return padding.strided(2).strided(2)


class _Patches(nn.Module):
    """A stem that turns patches of 4x4 pixels into tokens: :meth:`embed`, then ``norm``.

    A side below 4 is padded to 4 with zeros, since the convolution would see nothing of it.
    """

    norm: nn.LayerNorm

    def embed(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, C, H // 4, W // 4)."""
        raise NotImplementedError

    def forward(self, x: Tensor, padding: Optional[Padding] = None) -> Tensor:
        if padding is not None:
            x = padding.clear(x)
        H, W = x.shape[2:]
        if H < 4 or W < 4:
            x = F.pad(x, (0, max(0, 4 - W), 0, max(0, 4 - H)))
        return self.norm(self.embed(channels_last(x)).permute(0, 2, 3, 1))

    def after(self, padding: Padding) -> Padding:
        """Valid sizes on the grid that this stem gives."""
        height, width = padding.grid
        return Padding((padding.sizes // 4).clamp(min=1),
                       (max(1, height // 4), max(1, width // 4)))


class PatchStem(_Patches):
    """The stem of VMamba's first version: one 4x4 convolution of stride 4, LayerNorm."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, dim, 4, stride=4)
        self.norm = nn.LayerNorm(dim)

    def embed(self, x: Tensor) -> Tensor:
        return self.conv(x)


class SimpleStem(_Patches):
    """VSSD's simple stem: a 4x4 convolution of stride 4, BatchNorm, ReLU, LayerNorm."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, dim, 4, stride=4, bias=False)
        self.bn = nn.BatchNorm2d(dim)
        self.act = ReLU()
        self.norm = nn.LayerNorm(dim)

    def embed(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        watched = is_watched(self.conv, self.bn)
        return self.act(x.clone() if watched else x)  # which may overwrite it


class OverlapStem(NormDownsample):
    """The stem of VMamba's later versions: two stride-2 3x3 convolutions with LayerNorm."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__(in_channels, dim // 2)
        self.act = nn.GELU()
        self.down = NormDownsample(dim // 2, dim)

    def forward(self, x: Tensor, padding: Optional[Padding] = None) -> Tensor:
        x = self.act(super().forward(channels_last(x).permute(0, 2, 3, 1), padding))
        return self.down(x, None if padding is None else padding.strided(2))

    def after(self, padding: Padding) -> Padding:
        """Valid sizes on the grid that this stem gives."""
        return padding.strided(2).strided(2)


def channels_last(x: Tensor) -> Tensor:
    """Give an image the memory order that all that follows works in."""
    # torch.func.vmap knows no memory formats
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


STEMS: Dict[str, Any] = {
    'residual': ResidualStem,
    'plain': PlainStem,
    'simple': SimpleStem,
    'overlap': OverlapStem,
    'patch': PatchStem,
}
