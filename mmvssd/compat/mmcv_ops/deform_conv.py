"""Deformable convolutions, with a mask (version 2) and without, as mmcv computes them.

Each tap of the kernel reads a place of its own, moved by an offset and interpolated between four
pixels; a mask weighs the taps. With the interpolated values as columns the rest is a matrix
product. A place at -1 or below, or at the side's length or above, counts 0 and gives its offset no
gradient. Source: Dai et al., arXiv 1703.06211; Zhu et al., arXiv 1811.11168.

The backward functions differentiate the forward one, an image at a time to bound the memory.
"""
from typing import Any, NamedTuple, Sequence, Tuple

import torch
from torch import Tensor

from mmvssd.compat.mmcv_ops import through_torchvision
from mmvssd.compat.mmcv_ops.weighted_rows import as_rows, sums, widened


class _Geometry(NamedTuple):
    """What a convolution is, beside its weights: pairs for (y, x)."""

    stride: Tuple[int, int]
    padding: Tuple[int, int]
    dilation: Tuple[int, int]
    deform_groups: int


def deform_conv_forward(input: Tensor, weight: Tensor, offset: Tensor, output: Tensor,
                        columns: Tensor, ones: Tensor, kW: int, kH: int, dW: int, dH: int,
                        padW: int, padH: int, dilationW: int, dilationH: int, group: int,
                        deformable_group: int, im2col_step: int) -> None:
    """Convolve, reading each tap of the kernel at a place of its own.

    Args:
        input (Tensor): (N, C, H, W).
        weight (Tensor): (O, C / groups, kH, kW).
        offset (Tensor): (N, deformable_group * kH * kW * 2, H', W'), y before x.
        output (Tensor): (N, O, H', W'), written.
        columns, ones (Tensor): buffers of mmcv's, not used; nor is ``im2col_step``.
        kW, kH, group: as ``weight`` says.
        dW, dH, padW, padH, dilationW, dilationH (int): stride, padding and dilation.
        deformable_group (int): channels fall into so many groups, each with its own offsets.
    """
    geometry = _Geometry((dH, dW), (padH, padW), (dilationH, dilationW), deformable_group)
    _forward(output, geometry, input, offset, weight)


def deform_conv_backward_input(input: Tensor, offset: Tensor, gradOutput: Tensor,
                               gradInput: Tensor, gradOffset: Tensor, weight: Tensor,
                               columns: Tensor, kW: int, kH: int, dW: int, dH: int, padW: int,
                               padH: int, dilationW: int, dilationH: int, group: int,
                               deformable_group: int, im2col_step: int) -> None:
    """Add the gradients of :func:`deform_conv_forward` to ``gradInput`` and ``gradOffset``."""
    geometry = _Geometry((dH, dW), (padH, padW), (dilationH, dilationW), deformable_group)
    _backward(gradOutput, geometry, [input, offset, weight], [gradInput, gradOffset, None])


def deform_conv_backward_parameters(input: Tensor, offset: Tensor, gradOutput: Tensor,
                                    gradWeight: Tensor, columns: Tensor, ones: Tensor, kW: int,
                                    kH: int, dW: int, dH: int, padW: int, padH: int,
                                    dilationW: int, dilationH: int, group: int,
                                    deformable_group: int, scale: float,
                                    im2col_step: int) -> None:
    """Add the gradient of :func:`deform_conv_forward` to ``gradWeight``, times ``scale``."""
    geometry = _Geometry((dH, dW), (padH, padW), (dilationH, dilationW), deformable_group)
    weight = gradWeight.new_zeros(gradWeight.shape)  # the output is linear in it
    _backward(gradOutput * scale, geometry, [input, offset, weight], [None, None, gradWeight])


def modulated_deform_conv_forward(input: Tensor, weight: Tensor, bias: Tensor, ones: Tensor,
                                  offset: Tensor, mask: Tensor, output: Tensor, columns: Tensor,
                                  kernel_h: int, kernel_w: int, stride_h: int, stride_w: int,
                                  pad_h: int, pad_w: int, dilation_h: int, dilation_w: int,
                                  group: int, deformable_group: int, with_bias: bool) -> None:
    """Convolve as :func:`deform_conv_forward`, each tap times a mask.

    Args:
        bias (Tensor): (O,), added if ``with_bias``.
        mask (Tensor): (N, deformable_group * kernel_h * kernel_w, H', W').
    """
    geometry = _Geometry((stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w),
                         deformable_group)
    _forward(output, geometry, input, offset, weight, mask, bias if with_bias else None)


def modulated_deform_conv_backward(input: Tensor, weight: Tensor, bias: Tensor, ones: Tensor,
                                   offset: Tensor, mask: Tensor, columns: Tensor,
                                   grad_input: Tensor, grad_weight: Tensor, grad_bias: Tensor,
                                   grad_offset: Tensor, grad_mask: Tensor, grad_output: Tensor,
                                   kernel_h: int, kernel_w: int, stride_h: int, stride_w: int,
                                   pad_h: int, pad_w: int, dilation_h: int, dilation_w: int,
                                   group: int, deformable_group: int, with_bias: bool) -> None:
    """Add the gradients of :func:`modulated_deform_conv_forward` to the ``grad_*`` tensors."""
    geometry = _Geometry((stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w),
                         deformable_group)
    _backward(grad_output, geometry, [input, offset, weight, mask],
              [grad_input, grad_offset, grad_weight, grad_mask])
    if with_bias:
        grad_bias += widened(grad_output).sum((0, 2, 3))


def _forward(output, geometry, x, offset, weight, mask=None, bias=None):
    for image in range(len(x)):
        output[image] = _convolve(geometry, *_of_image(image, x, offset, weight, mask))[0]
    if bias is not None:
        output += bias[:, None, None]


def _backward(grad_output, geometry, tensors, gradients: Sequence[Any]):
    """Add to the gradients of input, offset, weight and mask, except those that are None."""
    wanted = [place for place, gradient in enumerate(gradients) if gradient is not None]
    for image in range(len(grad_output)):
        inputs = [tensor.detach() for tensor in _of_image(image, *tensors)]
        for place in wanted:
            inputs[place].requires_grad_()
        with torch.enable_grad():
            y = _convolve(geometry, *inputs)
        upstream = widened(grad_output[image:image + 1])
        for place, gradient in zip(wanted, torch.autograd.grad(
                y, [inputs[place] for place in wanted], upstream)):
            target = gradients[place]
            # the weight is that of all images
            (target if place == 2 else target[image:image + 1]).add_(gradient)


def _of_image(image, x, offset, weight, mask=None):
    """Return one image's part of each tensor, in the precision of sums."""
    tensors = [x[image:image + 1], offset[image:image + 1], weight]
    if mask is not None:
        tensors.append(mask[image:image + 1])
    return [widened(tensor) for tensor in tensors]


def _convolve(geometry, x, offset, weight, mask=None):
    """(1, C, H, W) -> (1, O, H', W'), differentiable in every tensor."""
    if through_torchvision.serves(x.device):
        y, x_places = _places(geometry, offset, weight)
        outside = ~_inside(y, x_places, x.shape[2:])
        return through_torchvision.deform_conv2d(
            x, _moved_away(offset, outside, x.shape, geometry), weight, mask, *geometry[:3])
    columns = _columns(geometry, x, offset, weight, mask)
    outputs = len(weight)
    height, width = offset.shape[2:]
    groups = x.shape[1] // weight.shape[1]
    # (positions, deform groups, taps, channels) -> (groups, positions, channels * taps)
    columns = columns.transpose(2, 3).reshape(len(columns), groups, -1).transpose(0, 1)
    y = columns @ weight.reshape(groups, outputs // groups, -1).transpose(1, 2)
    return y.transpose(1, 2).reshape(1, outputs, height, width)


def _places(geometry, offset, weight):
    """Return where every tap reads: two (deform groups, taps, H', W') of y and x."""
    taps_y, taps_x = weight.shape[2:]
    height, width = offset.shape[2:]
    offset = offset.reshape(geometry.deform_groups, taps_y * taps_x, 2, height, width)

    def grid(axis, length, taps):
        start = torch.arange(length, device=offset.device) * geometry.stride[axis]
        return (start - geometry.padding[axis]
                + torch.arange(taps, device=offset.device)[:, None] * geometry.dilation[axis])

    y = grid(0, height, taps_y).repeat_interleave(taps_x, 0)[:, :, None]
    x = grid(1, width, taps_x).repeat(taps_y, 1)[:, None, :]
    return y + offset[:, :, 0], x + offset[:, :, 1]


def _inside(y, x, sides):
    return (y > -1) & (x > -1) & (y < sides[0]) & (x < sides[1])


def _moved_away(offset, outside, shape, geometry):
    """Return offsets of which those that count 0 lead far away, where no gradient comes from."""
    away = -2. * (sum(shape[2:]) + sum(geometry.padding) + 1)
    pairs = offset.reshape(geometry.deform_groups, -1, 2, *offset.shape[2:])
    return torch.where(outside[:, :, None], away, pairs).reshape(offset.shape)


def _columns(geometry, x, offset, weight, mask):
    """Interpolate all taps: (positions, deform groups, taps, channels of a group)."""
    _, channels, height, width = x.shape
    groups = geometry.deform_groups
    y, x_ = _places(geometry, offset, weight)
    inside = _inside(y, x_, (height, width))
    # first to a place that is fine, so that what is outside, NaN too, has no gradient at all
    y, x_ = (torch.where(inside, place, 0) for place in (y, x_))
    top, left = y.detach().floor(), x_.detach().floor()
    share = inside if mask is None else inside * mask.reshape(y.shape)
    first = torch.arange(groups, device=x.device)[:, None, None, None] * height
    index, amount = [], []
    for row, vertical in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, horizontal in ((left, 1 - (x_ - left)), (left + 1, x_ - left)):
            there = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            index.append((first + row.clamp(0, height - 1).long()) * width
                         + column.clamp(0, width - 1).long())
            amount.append(vertical * horizontal * (share * there))
    # (groups, taps, H', W', 4) -> positions first
    index, amount = (torch.stack(values, -1).permute(2, 3, 0, 1, 4).reshape(-1)
                     for values in (index, amount))
    rows = as_rows(x.reshape(groups, channels // groups, height, width))
    size = index.new_full((len(index) // 4, ), 4)
    return sums(rows, index, amount, size).view(-1, groups, y.shape[1], channels // groups)
