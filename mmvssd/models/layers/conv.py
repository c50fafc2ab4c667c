"""Convolutions: on the grid layout of blocks, and as units of stems and downsamples."""
from typing import Optional

from torch import Tensor, nn


class GridConv2d(nn.Conv2d):
    """A convolution from (N, H, W, C) to (N, H, W, C); it runs channels-last, without a copy."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class ConvNormAct(nn.Sequential):
    """Convolution, then BatchNorm and an activation where asked for, on (N, C, H, W).

    A kernel of 3 pads 1, a kernel of 1 pads nothing.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        kernel_size: Side of the kernel.
        stride: Stride.
        groups: Groups of the convolution.
        bias: Whether the convolution has a bias.
        norm: Whether a BatchNorm follows.
        act: Class of the activation, None for none.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1,
                 groups: int = 1, bias: bool = True, norm: bool = True,
                 act: Optional[type] = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride=stride,
                              padding=kernel_size // 2, groups=groups, bias=bias)
        if norm:
            self.norm = nn.BatchNorm2d(out_channels)
        if act is not None:
            self.act = act()
