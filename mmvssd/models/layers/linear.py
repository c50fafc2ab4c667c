"""Linear layers on the grid, in the form that is fast on the device at hand."""
import functools
import platform
from pathlib import Path
from typing import Optional, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmvssd.ops import exporting

#: Tokens of a batch from which a product may run faster as a convolution. With fewer, its weight is
#: the larger factor, and oneDNN brings that into an order of its own at every call.
TOKENS = 512


class GridLinear(nn.Linear):
    """A linear layer on the last axis of (N, H, W, C).

    On a CPU for which :func:`convolves_faster` is true, it runs as a 1x1 convolution of the
    channels-last grid, if that has :data:`TOKENS` or more.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.convolves = convolves_faster()

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, in_features) -> (N, H, W, out_features)."""
        return self._apply_weight(x, self.weight, self.bias)

    def _apply_weight(self, x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
        if self.convolves and _convolves(x):
            # (N, H, W, C) -> (N, C, H, W) in the memory order of channels-last
            y = F.conv2d(x.permute(0, 3, 1, 2), weight[:, :, None, None], bias)
            return y.permute(0, 2, 3, 1)
        return F.linear(x, weight, bias)


class SplitLinear(GridLinear):
    """A linear layer without bias whose output is used in parts.

    On the CPU each part is a product of its own: the parts are contiguous, and smaller, for the
    memory of large tensors may be mapped anew at every call. So it is in an exported model, for
    runtimes copy what they split. Elsewhere they are views of one product.

    Args:
        in_features: Channels in.
        sizes: Channels of each part.
    """

    def __init__(self, in_features: int, sizes: Sequence[int]) -> None:
        super().__init__(in_features, sum(sizes), bias=False)
        self.sizes = list(sizes)

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """(N, H, W, in_features) -> one (N, H, W, size) for each part."""
        if x.device.type == 'cpu' or exporting():
            return tuple(self._apply_weight(x, part) for part in self.weight.split(self.sizes))
        return super().forward(x).split(self.sizes, dim=-1)


def _convolves(x: Tensor) -> bool:
    """Tell whether a product with x (N, H, W, C) runs as a convolution, if that is fast here."""
    # an exported model is for other machines, and their runtimes
    if x.device.type != 'cpu' or x.dtype == torch.float64 or exporting():
        return False
    # a graph shall not hang on the size that it was traced with
    return (torch.compiler.is_compiling() or torch.jit.is_tracing()
            or x.shape[0] * x.shape[1] * x.shape[2] >= TOKENS)


@functools.cache
def convolves_faster() -> bool:
    """Tell whether this CPU runs a product faster as a 1x1 convolution.

    PyTorch's products go through MKL and its convolutions through oneDNN. On an AMD EPYC the
    latter were twice as fast; on an Intel Xeon they were as fast or slower by a third.
    """
    return torch.backends.mkldnn.is_available() and 'AuthenticAMD' in _cpu_vendor()


def _cpu_vendor() -> str:
    cpuinfo = Path('/proc/cpuinfo')
    return cpuinfo.read_text() if cpuinfo.is_file() else platform.processor()
