"""Multi-scale deformable attention on a GPU, by mmcv's own PyTorch function.

mmcv calls that function on the CPU and its kernel on a GPU, which gives the same. Source: Zhu et
al., Deformable DETR, arXiv 2010.04159.
"""
import torch
from torch import Tensor

from mmvssd.compat.mmcv_ops.weighted_rows import widened


def ms_deform_attn_forward(value: Tensor, value_spatial_shapes: Tensor,
                           value_level_start_index: Tensor, sampling_locations: Tensor,
                           attention_weights: Tensor, im2col_step: int) -> Tensor:
    """Attend to a few places of each level.

    Args:
        value (Tensor): (N, keys, heads, channels), all levels one after the other.
        value_spatial_shapes (Tensor): (levels, 2) int64 heights and widths.
        value_level_start_index (Tensor): where each level starts; the shapes say so too.
        sampling_locations (Tensor): (N, queries, heads, levels, points, 2), x and y from 0 to 1.
        attention_weights (Tensor): (N, queries, heads, levels, points).
        im2col_step (int): of mmcv's kernel, not used.

    Returns:
        Tensor: (N, queries, heads * channels), dtype of ``value``.
    """
    tensors = map(widened, (value, sampling_locations, attention_weights))
    return _attend(value_spatial_shapes, *tensors).to(value.dtype)


def ms_deform_attn_backward(value: Tensor, value_spatial_shapes: Tensor,
                            value_level_start_index: Tensor, sampling_locations: Tensor,
                            attention_weights: Tensor, grad_output: Tensor, grad_value: Tensor,
                            grad_sampling_loc: Tensor, grad_attn_weight: Tensor,
                            im2col_step: int) -> None:
    """Add the gradients of :func:`ms_deform_attn_forward` to the three ``grad_*`` tensors."""
    inputs = [widened(tensor).detach().requires_grad_()
              for tensor in (value, sampling_locations, attention_weights)]
    with torch.enable_grad():
        y = _attend(value_spatial_shapes, *inputs)
    gradients = torch.autograd.grad(y, inputs, widened(grad_output))
    for target, gradient in zip((grad_value, grad_sampling_loc, grad_attn_weight), gradients):
        target += gradient


def _attend(shapes, value, locations, weights):
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch
    return multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)
