"""CARAFE, which enlarges a feature map by kernels that depend on its content.

Each fine pixel is a weighted sum of the coarse pixels around its own; the weights come as a map of
their own. mmcv has two implementations of the one op. Source: Wang et al., arXiv 1905.02188.
"""
import torch
import torch.nn.functional as F
from torch import Tensor

from mmvssd.compat.mmcv_ops.weighted_rows import widened


def carafe_forward(features: Tensor, masks: Tensor, rfeatures: Tensor, routput: Tensor,
                   rmasks: Tensor, output: Tensor, kernel_size: int, group_size: int,
                   scale_factor: int) -> None:
    """Enlarge feature maps.

    Args:
        features (Tensor): (N, C, H, W).
        masks (Tensor): (N, group_size * kernel_size**2, H * scale_factor, W * scale_factor), the
            weights.
        rfeatures (Tensor): (N, C, H, W), written: what backward gets in place of ``features``.
        routput, rmasks (Tensor): buffers of mmcv's, not used.
        output (Tensor): (N, C, H * scale_factor, W * scale_factor), written.
        kernel_size (int): side of the square of coarse pixels, odd.
        group_size (int): channels fall into so many groups, each with its own weights.
        scale_factor (int): fine pixels a coarse one along each axis.
    """
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(top_grad: Tensor, rfeatures: Tensor, masks: Tensor, rtop_grad: Tensor,
                    rbottom_grad_hs: Tensor, rbottom_grad: Tensor, rmask_grad: Tensor,
                    bottom_grad: Tensor, mask_grad: Tensor, kernel_size: int, group_size: int,
                    scale_factor: int) -> None:
    """Add the gradients of :func:`carafe_forward` to ``bottom_grad`` and ``mask_grad``."""
    carafe_naive_backward(top_grad, rfeatures, masks, bottom_grad, mask_grad, kernel_size,
                          group_size, scale_factor)


def carafe_naive_forward(features: Tensor, masks: Tensor, output: Tensor, kernel_size: int,
                         group_size: int, scale_factor: int) -> None:
    """Enlarge feature maps as :func:`carafe_forward`."""
    for image, mask, enlarged in zip(features, masks, output):
        enlarged.copy_(_reassemble(widened(image), widened(mask), kernel_size, group_size,
                                   scale_factor))


def carafe_naive_backward(top_grad: Tensor, features: Tensor, masks: Tensor, bottom_grad: Tensor,
                          mask_grad: Tensor, kernel_size: int, group_size: int,
                          scale_factor: int) -> None:
    """Add the gradients of :func:`carafe_naive_forward` to ``bottom_grad`` and ``mask_grad``."""
    for image in range(len(features)):
        inputs = [widened(tensor[image]).detach().requires_grad_() for tensor in (features, masks)]
        with torch.enable_grad():
            y = _reassemble(inputs[0], inputs[1], kernel_size, group_size, scale_factor)
        gradients = torch.autograd.grad(y, inputs, widened(top_grad[image]))
        bottom_grad[image] += gradients[0]
        mask_grad[image] += gradients[1]


def _reassemble(features, mask, kernel_size, groups, scale):
    """(C, H, W) -> (C, H * scale, W * scale)"""
    channels, height, width = features.shape
    around = F.unfold(features[None], kernel_size, padding=kernel_size // 2)
    around = around.view(groups, channels // groups, kernel_size**2, height, width)
    mask = mask.reshape(groups, kernel_size**2, height, scale, width, scale)
    return torch.einsum('gckhw,gkhiwj->gchiwj', around, mask) \
        .reshape(channels, height * scale, width * scale)
