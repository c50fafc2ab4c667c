"""mmcv's ops through torchvision's compiled ones, if those load.

torchvision's wheel for CUDA does not load its ops beside a PyTorch for the CPU; whether it does is
found by running one. What differs is made equal here:

- NMS compares with the threshold in float64, mmcv in float32; torchvision knows ``offset=0`` only.
- RoIAlign has no max mode.
- Its NMS and RoIAlign take no bfloat16, and on the CPU no half, before some version: they get
  float32.
- A deformable convolution samples 0 at -1 exactly, in both; yet torchvision gives the offset a
  gradient there, mmcv none. An offset of 0, which training starts with, meets it at the border.

mmcv's backward is a function of its own, and torchvision's is known to autograd only: gradients
come from running torchvision's op once more.
"""
import functools
from typing import Optional, Tuple

import numpy as np
import torch
from torch import Tensor

from mmvssd.compat.mmcv_ops.weighted_rows import widened


def serves(device: torch.device) -> bool:
    """Tell whether torchvision's compiled ops run on this kind of device."""
    return obstacle(device.type) is None


@functools.cache
def obstacle(device_type: str) -> Optional[str]:
    """Say why torchvision's compiled ops do not run on 'cpu', 'cuda' and so on; None if they do."""
    try:
        import torchvision
        box = torch.zeros(1, 4, device=device_type)
        torchvision.ops.nms(box, box[:, 0], 0.5)
    except (ImportError, OSError, RuntimeError, NotImplementedError) as error:
        return f'{type(error).__name__}: {(str(error).strip() or "no message").splitlines()[0]}'
    return None


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Suppress boxes (N, 4) as mmcv does with ``offset=0``; returns the indices kept."""
    from torchvision.ops import nms
    return nms(_readable(boxes), _readable(scores), float(np.float32(iou_threshold)))


def roi_align(features: Tensor, rois: Tensor, bins: Tuple[int, int], spatial_scale: float,
              sampling_ratio: int, aligned: bool) -> Tensor:
    """Average regions (R, 5) of features (N, C, H, W) to (R, C, *bins)."""
    from torchvision.ops import roi_align
    features = _readable(features)
    return roi_align(features, rois.to(features.dtype), bins, spatial_scale, sampling_ratio,
                     aligned)


def roi_align_backward(gradient: Tensor, rois: Tensor, shape: torch.Size, bins: Tuple[int, int],
                       spatial_scale: float, sampling_ratio: int, aligned: bool) -> Tensor:
    """Return the gradient of :func:`roi_align` to features of ``shape`` (N, C, H, W)."""
    gradient = _readable(gradient)
    features = gradient.new_zeros(shape).requires_grad_()  # the op is linear: any will do
    with torch.enable_grad():
        y = roi_align(features, rois, bins, spatial_scale, sampling_ratio, aligned)
    return torch.autograd.grad(y, features, gradient)[0]


def deform_conv2d(x: Tensor, offset: Tensor, weight: Tensor, mask: Optional[Tensor],
                  stride: Tuple[int, int], padding: Tuple[int, int],
                  dilation: Tuple[int, int]) -> Tensor:
    """Convolve (N, C, H, W); it takes groups and deformable groups from the shapes."""
    from torchvision.ops import deform_conv2d
    return deform_conv2d(x, offset, weight, stride=stride, padding=padding, dilation=dilation,
                         mask=mask)


def _readable(x: Tensor) -> Tensor:
    """Return a tensor in a dtype that the kernels of every torchvision take."""
    is_readable = x.dtype == torch.float16 and x.device.type != 'cpu'
    return x if is_readable else widened(x)
