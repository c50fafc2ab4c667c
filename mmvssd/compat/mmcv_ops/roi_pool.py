"""RoIPool as mmcv computes it: the largest pixel of each bin, on whole pixels.

torchvision's op of this name rounds boxes in another way. Source: Girshick, Fast R-CNN,
arXiv 1504.08083.
"""
import numpy as np
import torch
from torch import Tensor

from mmvssd.compat.mmcv_ops.weighted_rows import widened


def roi_pool_forward(input: Tensor, rois: Tensor, output: Tensor, argmax: Tensor,
                     pooled_height: int, pooled_width: int, spatial_scale: float) -> None:
    """Pool regions of feature maps.

    Args:
        input (Tensor): (N, C, H, W).
        rois (Tensor): (R, 5), each the image's index and x1, y1, x2, y2.
        output (Tensor): (R, C, pooled_height, pooled_width), written; a bin without pixels is 0.
        argmax (Tensor): as ``output``, int32, written: the pixel of the image that was the
            largest, -1 for a bin without pixels.
        spatial_scale (float): pixels of the features a unit of the boxes.

    Raises:
        ValueError: for a box that is not finite, or names an image that is not there.
    """
    if not output.numel():
        return
    images, _, height, width = input.shape
    boxes = rois.to(widened(input).dtype)
    wrong = ~boxes.isfinite().all(1) | (boxes[:, 0] <= -1) | (boxes[:, 0] >= images)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(f'RoIPool: box {row} of {len(boxes)} is {boxes[row].tolist()}; a box is '
                         f'(image, x1, y1, x2, y2) with finite numbers, an image from 0 to '
                         f'{images - 1}')
    scale = float(np.float32(spatial_scale))
    start, end = boxes[:, 1:3] * scale, (boxes[:, 3:] + 1) * scale
    columns = _bins(start[:, 0], end[:, 0], pooled_width, width)
    rows = _bins(start[:, 1], end[:, 1], pooled_height, height)
    inverted = (end <= start).any(1).tolist()
    argmax.fill_(-1)
    for region, image in enumerate(boxes[:, 0].long().tolist()):
        if inverted[region]:
            continue
        value, pixel = _largest(input[image], rows[:, region], columns[:, region])
        output[region], argmax[region] = value, pixel


def roi_pool_backward(grad_output: Tensor, rois: Tensor, argmax: Tensor, grad_input: Tensor,
                      pooled_height: int, pooled_width: int, spatial_scale: float) -> None:
    """Add each bin's gradient to its largest pixel, in ``grad_input`` (N, C, H, W)."""
    images, channels, height, width = grad_input.shape
    plane = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)
    pixel = plane[:, :, None, None] * height * width + argmax.clamp(min=0)
    flat = torch.zeros_like(grad_input).view(-1)
    flat.index_add_(0, pixel.view(-1), (grad_output * (argmax >= 0)).reshape(-1))
    grad_input += flat.view_as(grad_input)


def _bins(start, end, bins, side):
    """Return where bins start and end on an axis, whole pixels: (2, R, bins)"""
    size = ((end - start) / bins)[:, None]
    number = torch.arange(bins, device=start.device)
    first = (number * size + start[:, None]).floor()
    last = ((number + 1) * size + start[:, None]).ceil()
    return torch.stack([first, last]).clamp(0, side).long()


def _largest(image, rows, columns):
    """Return the largest pixel of each bin and where it is: (C, H, W) -> two (C, bins, bins)"""
    y, y_inside = _pixels(rows)
    x, x_inside = _pixels(columns)
    inside = y_inside[:, None, :, None] & x_inside[None, :, None, :]
    y, x = y[:, None, :, None], x[None, :, None, :]
    values = torch.where(inside, image[:, y, x], -torch.inf).flatten(3)
    value, place = values.max(3)
    pixel = (y * image.shape[2] + x).flatten(2).expand_as(values).gather(3, place[..., None])
    found = inside.flatten(2).any(2)
    return torch.where(found, value, 0), torch.where(found, pixel[..., 0], -1).int()


def _pixels(bins):
    """List the pixels of each bin, (2, bins) -> (bins, most), and which of them are its own."""
    first, last = bins
    place = first[:, None] + torch.arange(max(int((last - first).max()), 1), device=bins.device)
    inside = place < last[:, None]
    return torch.where(inside, place, 0), inside
