"""Convolutions: on the grid layout of blocks, and as units of stems and downsamples."""
from typing import Any, Callable, Optional

import torch
from mmengine.model.efficient_conv_bn_eval import efficient_conv_bn_eval_forward
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import _has_any_global_hook

from mmvssd.models.layers.padding import Padding
from mmvssd.ops import exporting

#: Where PyTorch keeps a module's hooks; nothing public tells whether there are any.
HOOKS = ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks')


def is_watched(*modules: nn.Module) -> bool:
    """Tell whether a hook, or a forward in place of a module's own, sees what modules compute.

    If so, every module has to be called, and what it gave may not be overwritten.
    """
    if _has_any_global_hook():
        return True
    for module in modules:
        if any(getattr(module, kind) for kind in HOOKS):
            return True
        if not torch.compiler.is_compiling() and 'forward' in vars(module):
            return True
    return False


class ReLU(nn.ReLU):
    """ReLU in its input's memory, unless the ReLU is watched.

    What stands before it, a convolution or a norm, needs its own input in backward, not this one.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x, inplace=not is_watched(self))


def order_channels_last_(conv: nn.Conv2d) -> None:
    """Keep a weight in the order in which the convolution runs, or each call would copy it.

    The last downsample's weight is 10 MB. For one image, to copy it took as long as to convolve.
    A depthwise weight lies in memory as before, since its one input channel has no neighbour. But
    it gets the strides that its gradient has. Otherwise DistributedDataParallel warns of each.
    """
    weight = conv.weight.data  # `contiguous` would leave the strides of a depthwise one
    conv.weight.data = torch.empty_like(weight, memory_format=torch.channels_last).copy_(weight)


class GridConv2d(nn.Conv2d):
    """A convolution from (N, H, W, C) to (N, H, W, C); it runs channels-last, without a copy."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
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
        if exporting():  # runtimes fuse a convolution with permutations right beside it
            return super().forward(x, padding) + x
        y = self._convolve(x, padding)
        x = x.permute(0, 3, 1, 2)
        # in y's memory, unless autocast made it a narrower number
        y = y.add_(x) if y.dtype == x.dtype else y + x
        return y.permute(0, 2, 3, 1)


class ConvNormAct(nn.Module):
    """Convolution, then BatchNorm and an activation if asked for, on (N, C, H, W).

    A kernel of 3 pads 1, a kernel of 1 pads nothing. A BatchNorm in evaluation mode runs as part
    of the convolution, unless one of the two is watched.

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
        parts = [self.conv] if self.norm is None else [self.conv, self.norm]
        watched = is_watched(*parts)
        if self._folds() and not watched:
            x = efficient_conv_bn_eval_forward(self.norm, self.conv, x)
        else:
            for part in parts:
                x = part(x)
        if self.act is None:
            return x
        return self.act(x.clone() if watched else x)  # which may overwrite it

    def _folds(self) -> bool:
        """Tell whether convolution and norm are what they were made as, in evaluation mode.

        mmcv's ``fuse_conv_bn`` leaves an Identity as norm, and other tools put a layer of theirs in
        place of either. A trace and an export keep the two apart: what reads them counts or fuses
        norms by itself.
        """
        norm = self.norm
        return (isinstance(norm, _BatchNorm) and not norm.training and norm.running_var is not None
                and type(self.conv) is nn.Conv2d
                and not (torch.jit.is_tracing() or exporting()))


class ConvSequence(nn.Sequential):
    """Units of :class:`ConvNormAct` one after the other."""

    def forward(self, x: Tensor, padding: Optional[Padding] = None) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        for unit in self:
            x = unit(x, padding)
            if padding is not None:
                padding = padding.strided(unit.stride)
        return x


def silu(x: Tensor, source: nn.Module) -> Tensor:
    """SiLU of a tensor that nothing else reads, without gradients in its own memory.

    On a CPU, fresh memory costs as much as the function. A trace shall not depend on whether
    gradients are on: ``torch.jit.trace`` checks it without them.

    Args:
        x: The tensor.
        source: The module that made it.
    """
    return F.silu(x, inplace=not (torch.is_grad_enabled() or torch.jit.is_tracing()
                                  or is_watched(source)))
