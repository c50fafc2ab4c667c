"""Convolutions: on the grid layout of blocks, and as units of stems and downsamples."""
from functools import partial
from typing import Callable, Optional

import torch
from mmengine.model.efficient_conv_bn_eval import efficient_conv_bn_eval_forward
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from mmvssd.models.layers.padding import Padding
from mmvssd.ops import exporting

#: In place: what stands before it, a convolution or a norm, needs its input in backward.
ReLU = partial(nn.ReLU, inplace=True)


def order_channels_last_(conv: nn.Conv2d) -> None:
    """Keep a weight in the order in which the convolution runs, or each call would copy it.

    The last downsample's weight is 10 MB. For one image, to copy it took as long as to convolve.
    """
    conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)


class GridConv2d(nn.Conv2d):
    """A convolution from (N, H, W, C) to (N, H, W, C); it runs channels-last, without a copy."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        order_channels_last_(self)

    def forward(self, x: Tensor, padding: Optional[Padding] = None) -> Tensor:
        """(N, H, W, in_channels) -> (N, H, W, out_channels); padding counts as zero."""
        return self._convolve(x, padding).permute(0, 2, 3, 1)

    def _convolve(self, x: Tensor, padding: Optional[Padding]) -> Tensor:
        """(N, H, W, in_channels) -> (N, out_channels, H, W) in channels-last order."""
        x = x.permute(0, 3, 1, 2)
        if padding is not None:
            x = padding.clear(x)
        return super().forward(x)


class PositionConv(GridConv2d):
    """A depthwise 3x3 convolution added to its input, which tells tokens where they are.

    Args:
        dim: Channels in and out.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor, padding: Optional[Padding] = None) -> Tensor:
        """(N, H, W, C) -> (N, H, W, C)."""
        y = self._convolve(x, padding)
        x = x.permute(0, 3, 1, 2)
        # in y's memory, unless autocast made it a narrower number
        y = y.add_(x) if y.dtype == x.dtype else y + x
        return y.permute(0, 2, 3, 1)


class ConvNormAct(nn.Module):
    """Convolution, then BatchNorm and an activation if asked for, on (N, C, H, W).

    A kernel of 3 pads 1, a kernel of 1 pads nothing. A BatchNorm in evaluation mode runs as part
    of the convolution.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        kernel_size: Side of the kernel.
        stride: Stride.
        groups: Groups of the convolution.
        bias: Whether the convolution has a bias.
        norm: Whether a BatchNorm follows.
        act: Makes the activation, None for none.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1,
                 groups: int = 1, bias: bool = True, norm: bool = True,
                 act: Optional[Callable[[], nn.Module]] = None) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride=stride,
                              padding=kernel_size // 2, groups=groups, bias=bias)
        order_channels_last_(self.conv)
        self.norm = nn.BatchNorm2d(out_channels) if norm else None
        self.act = None if act is None else act()

    def forward(self, x: Tensor, padding: Optional[Padding] = None) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H', W'); padding counts as zero."""
        if padding is not None:
            x = padding.clear(x)
        x = self._conv_norm(x)
        return x if self.act is None else self.act(x)

    def _conv_norm(self, x: Tensor) -> Tensor:
        if self.norm is None:
            return self.conv(x)
        # a trace and an export keep the two apart: what reads it counts or fuses norms by itself;
        # mmcv's fuse_conv_bn leaves an Identity
        folds = isinstance(self.norm, _BatchNorm) and not self.norm.training
        if not folds or torch.jit.is_tracing() or exporting():
            return self.norm(self.conv(x))
        return efficient_conv_bn_eval_forward(self.norm, self.conv, x)


class ConvSequence(nn.Sequential):
    """Units of :class:`ConvNormAct` one after the other."""

    def forward(self, x: Tensor, padding: Optional[Padding] = None) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        for unit in self:
            x = unit(x, padding)
            if padding is not None:
                padding = padding.strided(unit.stride)
        return x


def silu(x: Tensor) -> Tensor:
    """SiLU of a tensor that nothing else reads, without gradients in its own memory.

    On a CPU, fresh memory costs as much as the function. A trace shall not depend on whether
    gradients are on: ``torch.jit.trace`` checks it without them.
    """
    return F.silu(x, inplace=not (torch.is_grad_enabled() or torch.jit.is_tracing()))
