"""RoIAlign, average and max, as mmcv computes it.

A region is cut into ``aligned_height`` x ``aligned_width`` bins, each bin is sampled on a grid of
points, and a point is interpolated between its four pixels. The average is separable, since the
points of a region form a grid. One matrix along y and one along x hold all weights, averaged over
points. A region of C channels becomes ``Wy @ features @ Wx.T``. Most entries of the two are 0. For
features of many channels the products of their non-zero entries weigh rows of pixels
(:mod:`~mmvssd.compat.mmcv_ops.weighted_rows`); for few channels and large regions, as masks are,
two matrix products a region are faster.

The coordinates are computed in the order, and in the precision, of mmcv's kernels: a point that
falls on the other side of a pixel would be another sample. Source: He et al., Mask R-CNN,
arXiv 1703.06870; ``aligned`` shifts by half a pixel, as Detectron2 does.
"""
from typing import Iterator, NamedTuple, Tuple

import numpy as np
import torch
from torch import Tensor

from mmvssd.compat.mmcv_ops import through_torchvision
from mmvssd.compat.mmcv_ops.weighted_rows import (
    add_rows,
    as_rows,
    firsts,
    sums,
    transposed_sums,
    widened,
)

MAX, AVERAGE = 0, 1

#: mmcv's kernel for the CPU starts its maximum here, so this is what a bin without points gives.
LOWEST = -10000.

#: How many weights are held at a time, at most; it bounds the memory beside features and output.
CHUNK = 1 << 22


def roi_align_forward(input: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor,
                      argmax_x: Tensor, aligned_height: int, aligned_width: int,
                      spatial_scale: float, sampling_ratio: int, pool_mode: int,
                      aligned: bool) -> None:
    """Pool regions of feature maps.

    Args:
        input (Tensor): (N, C, H, W), floating point.
        rois (Tensor): (R, 5), each the image's index and x1, y1, x2, y2.
        output (Tensor): (R, C, aligned_height, aligned_width), written.
        argmax_y, argmax_x (Tensor): as ``output``, written in max mode: the point that was the
            largest, -1 if there was none.
        spatial_scale (float): pixels of the features a unit of the boxes.
        sampling_ratio (int): points a bin along each axis; 0 takes one a pixel, rounded up.
        pool_mode (int): 0 for max, 1 for average.
        aligned (bool): shift by half a pixel; otherwise a region is at least one pixel wide.

    Raises:
        ValueError: for a box that is not finite, is inverted though ``aligned``, or names an image
            that is not there.
    """
    if not output.numel():
        return
    if pool_mode == AVERAGE and through_torchvision.serves(input.device):
        output.copy_(through_torchvision.roi_align(
            input, rois, (aligned_height, aligned_width), spatial_scale, sampling_ratio, aligned))
        return
    features = widened(input)
    regions = _Regions.of(rois.to(features.dtype), input.shape, (aligned_height, aligned_width),
                          spatial_scale, sampling_ratio, aligned)
    if pool_mode == AVERAGE:
        _average(features, regions, output)
    else:
        _maximum(features, regions, output, argmax_y, argmax_x)


def roi_align_backward(grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor,
                       grad_input: Tensor, aligned_height: int, aligned_width: int,
                       spatial_scale: float, sampling_ratio: int, pool_mode: int,
                       aligned: bool) -> None:
    """Add the gradient of :func:`roi_align_forward` to ``grad_input`` (N, C, H, W).

    ``grad_output`` is (R, C, aligned_height, aligned_width); the others are as in forward.
    """
    if not grad_output.numel():
        return
    if pool_mode == AVERAGE and through_torchvision.serves(grad_output.device):
        grad_input += through_torchvision.roi_align_backward(
            grad_output, rois, grad_input.shape, (aligned_height, aligned_width), spatial_scale,
            sampling_ratio, aligned)
        return
    gradient = widened(grad_output)
    if pool_mode == MAX:
        _maximum_backward(gradient, rois[:, 0].long(), argmax_y, argmax_x, grad_input)
        return
    regions = _Regions.of(rois.to(gradient.dtype), grad_input.shape,
                          (aligned_height, aligned_width), spatial_scale, sampling_ratio, aligned)
    _average_backward(gradient, regions, grad_input)


class _Axis(NamedTuple):
    """Regions along one axis: (R,) starts, bin sizes and points a bin; bins and pixels."""

    start: Tensor
    bin_size: Tensor
    points: Tensor
    bins: int
    side: int

    @classmethod
    def of(cls, start, end, bins, side, sampling_ratio, aligned):
        extent = end - start
        if not aligned:
            extent = extent.clamp(min=1)
        bin_size = extent / bins
        # The kernels round up in float32, whatever the dtype of the boxes.
        points = (torch.full_like(start, sampling_ratio) if sampling_ratio > 0
                  else bin_size.float().ceil()).long()
        return cls(start, bin_size, points, bins, side)

    def rows(self, selection):
        """Return the same of some regions."""
        return self._replace(start=self.start[selection], bin_size=self.bin_size[selection],
                             points=self.points[selection])

    def coordinate(self, region, bin, point):
        """Return where a point of a bin of a region lies; all are (S,)."""
        bin_size = self.bin_size[region]
        return (self.start[region] + bin * bin_size
                + (point + 0.5) * bin_size / self.points[region])

    def weights(self) -> Tensor:
        """Return (R, bins, side): how much of each pixel is in each bin, averaged over points."""
        regions, device = len(self.start), self.start.device
        per_bin = self.points.repeat_interleave(self.bins)
        cell = torch.arange(regions * self.bins, device=device).repeat_interleave(per_bin)
        point = torch.arange(len(cell), device=device) - firsts(per_bin)[cell]
        region = cell // self.bins
        at = self.coordinate(region, cell % self.bins, point)
        low, high, fraction, inside = neighbours(at, self.side)
        share = inside / self.points[region]
        weights = self.start.new_zeros(regions * self.bins * self.side)
        weights.index_add_(0, cell * self.side + low, (1 - fraction) * share)
        weights.index_add_(0, cell * self.side + high, fraction * share)
        return weights.view(regions, self.bins, self.side)


def neighbours(at: Tensor, side: int) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """Find the two pixels that coordinates lie between on an axis of ``side`` pixels.

    Returns:
        tuple: the lower and the higher pixel (int64), the higher one's share, and whether the
        coordinate counts at all: between -1 and ``side``, that is.
    """
    inside = (at >= -1) & (at <= side)
    at = at.clamp(0, side - 1)
    low = at.long()  # rounds down what is not negative
    return low, (low + 1).clamp(max=side - 1), at - low, inside


class _Regions(NamedTuple):
    """Regions that were checked: (R,) image of each, and where they lie along y and x."""

    image: Tensor
    y: _Axis
    x: _Axis

    @classmethod
    def of(cls, boxes, shape, bins, spatial_scale, sampling_ratio, aligned):
        images, _, height, width = shape
        # mmcv's kernels take the scale as a float32.
        corners = boxes[:, 1:] * float(np.float32(spatial_scale)) - (0.5 if aligned else 0)
        _check(boxes, corners, images, aligned)
        x1, y1, x2, y2 = corners.unbind(1)
        return cls(boxes[:, 0].long(),
                   _Axis.of(y1, y2, bins[0], height, sampling_ratio, aligned),
                   _Axis.of(x1, x2, bins[1], width, sampling_ratio, aligned))

    def rows(self, selection):
        """Return the same of some regions."""
        return _Regions(self.image[selection], self.y.rows(selection), self.x.rows(selection))

    def chunks(self) -> Iterator[Tuple[slice, '_Regions']]:
        """Split into slices whose weight matrices and their products stay within CHUNK."""
        # A bin has at most two weights a point, and no more than there are pixels.
        taps = [(2 * axis.points).clamp(max=axis.side) * axis.bins for axis in (self.y, self.x)]
        matrices = self.y.bins * self.y.side + self.x.bins * self.x.side
        first, total = 0, 0
        for region, weights in enumerate((taps[0] * taps[1] + matrices).tolist()):
            if total and total + weights > CHUNK:
                yield slice(first, region), self.rows(slice(first, region))
                first, total = region, 0
            total += weights
        yield slice(first, None), self.rows(slice(first, None))


def _check(boxes, corners, images, aligned):
    """Refuse what mmcv's kernels would read memory for that is not theirs."""
    image = boxes[:, 0]
    wrong = ~boxes.isfinite().all(1) | (image <= -1) | (image >= images)
    if aligned:
        wrong |= (corners[:, 2] < corners[:, 0]) | (corners[:, 3] < corners[:, 1])
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f'RoIAlign: box {row} of {len(boxes)} is {boxes[row].tolist()}; a box is (image, x1, '
            f'y1, x2, y2) with finite numbers, an image from 0 to {images - 1}'
            + (', x1 <= x2 and y1 <= y2' if aligned else ''))


def _average(features, regions, output):
    if _few_channels(features, regions):
        for region, (image, ys, xs, wy, wx) in enumerate(_crops(regions)):
            output[region] = wy @ features[image, :, ys, xs] @ wx.T
        return
    rows = as_rows(features)
    for chunk, part in regions.chunks():
        pooled = sums(rows, *_terms(part))
        output[chunk] = _from_rows(pooled, len(part.image), part)


def _average_backward(gradient, regions, grad_input):
    if _few_channels(grad_input, regions):
        for region, (image, ys, xs, wy, wx) in enumerate(_crops(regions)):
            grad_input[image, :, ys, xs] += wy.T @ gradient[region] @ wx
        return
    images, channels, height, width = grad_input.shape
    rows = gradient.new_zeros(images * height * width, channels)
    for chunk, part in regions.chunks():
        rows += transposed_sums(as_rows(gradient[chunk]), *_terms(part), targets=len(rows))
    add_rows(grad_input, rows)


def _from_rows(rows, regions, part):
    """(R * bins, C) -> (R, C, bins along y, bins along x)"""
    return rows.view(regions, part.y.bins, part.x.bins, -1).permute(0, 3, 1, 2)


def _few_channels(features, regions):
    """Return whether two matrix products a region are faster than weighted rows."""
    return features.shape[1] < 8


def _crops(regions):
    """Yield each region's image, pixels along y and x (slices), and its two weight matrices."""
    for _, part in regions.chunks():
        wy, wx = part.y.weights(), part.x.weights()
        spans = [_spans(weights) for weights in (wy, wx)]
        for region, (image, ys, xs) in enumerate(zip(part.image.tolist(), *spans)):
            yield image, ys, xs, wy[region, :, ys], wx[region, :, xs]


def _spans(weights):
    """Return the pixels that each region reads of an axis; (R, bins, side) -> R slices."""
    read = (weights != 0).any(1).to(torch.uint8)
    first = read.argmax(1)
    last = read.shape[1] - read.flip(1).argmax(1)
    return [slice(start, end) if any_ else slice(0, 0)
            for start, end, any_ in zip(first.tolist(), last.tolist(), read.any(1).tolist())]


def _terms(regions):
    """Return which pixels of all images make each bin, as :func:`sums` takes them.

    Returns:
        tuple: (E,) index of a pixel's row; (E,) weight; (R * bins,) number of terms of each bin.
    """
    ys, y_weight, y_first, y_size = _nonzero(regions.y.weights())
    xs, x_weight, x_first, x_size = _nonzero(regions.x.weights())
    down, across = regions.y.bins, regions.x.bins

    def along_y(values):  # (R, down) -> (R * down * across,)
        return values[:, :, None].expand(-1, -1, across).reshape(-1)

    def along_x(values):
        return values[:, None].expand(-1, down, -1).reshape(-1)

    rows_of_bin, columns_of_bin = along_y(y_size), along_x(x_size)
    # every row of pixels of every bin
    bin_of = _count(rows_of_bin).repeat_interleave(rows_of_bin)
    y = (along_y(y_first) - firsts(rows_of_bin))[bin_of] + _count(bin_of)
    image = regions.image.repeat_interleave(down * across)
    row_start = (image[bin_of] * regions.y.side + ys[y]) * regions.x.side
    # every pixel of every row
    row_size = columns_of_bin[bin_of]
    row_of = _count(bin_of).repeat_interleave(row_size)
    x = (along_x(x_first)[bin_of] - firsts(row_size))[row_of] + _count(row_of)
    index = row_start[row_of] + xs[x]
    return index, y_weight[y][row_of] * x_weight[x], rows_of_bin * columns_of_bin


def _count(like):
    return torch.arange(len(like), device=like.device)


def _nonzero(weights):
    """List the non-zero entries of (R, bins, side) weights.

    Returns:
        tuple: (E,) pixels; (E,) weights; (R, bins) where each bin's entries start, and their
        number.
    """
    size = (weights != 0).sum(2)
    region, bin, pixel = weights.nonzero(as_tuple=True)
    return pixel, weights[region, bin, pixel], firsts(size.view(-1)).view_as(size), size


def _maximum(features, regions, output, argmax_y, argmax_x):
    """Compare the points of all bins, the first of each bin, then the second, and so on."""
    rows, (_, _, height, width) = as_rows(features), features.shape
    largest = features.new_full(output.shape, LOWEST)
    at_y, at_x = torch.full_like(largest, -1), torch.full_like(largest, -1)
    points = regions.y.points * regions.x.points
    for point in range(int(points.max())):
        selection = (points > point).nonzero().squeeze(1)
        part = regions.rows(selection)
        y = _bin_coordinates(part.y, point // part.x.points)
        x = _bin_coordinates(part.x, point % part.x.points)
        value = _from_rows(_interpolate(rows, part.image, y, x, height, width), len(selection),
                           part)
        larger = value > largest[selection]
        for kept, new in ((largest, value), (at_y, y[:, None, :, None]),
                          (at_x, x[:, None, None, :])):
            kept[selection] = torch.where(larger, new, kept[selection])
    output.copy_(largest)
    argmax_y.copy_(at_y)
    argmax_x.copy_(at_x)


def _bin_coordinates(axis, point):
    """Return where one point of each bin lies; (R,) its number along the axis -> (R, bins)."""
    region = torch.arange(len(axis.start), device=axis.start.device)[:, None]
    bin = torch.arange(axis.bins, device=axis.start.device)
    return axis.coordinate(region, bin, point[:, None])


def _interpolate(rows, image, y, x, height, width):
    """Sample a grid of points a region: (R, Py) and (R, Px) -> (R * Py * Px, C)."""
    y_low, y_high, down, y_inside = (part[:, :, None] for part in neighbours(y, height))
    x_low, x_high, right, x_inside = (part[:, None, :] for part in neighbours(x, width))
    inside = (y_inside & x_inside).to(rows.dtype)
    start = image[:, None, None] * height
    index = [(start + row) * width + column
             for row in (y_low, y_high) for column in (x_low, x_high)]
    weight = [vertical * horizontal * inside
              for vertical in (1 - down, down) for horizontal in (1 - right, right)]
    index, weight = torch.stack(index, -1), torch.stack(weight, -1)
    size = index.new_full((index.numel() // 4, ), 4)
    return sums(rows, index.reshape(-1), weight.reshape(-1), size)


def _maximum_backward(gradient, image, argmax_y, argmax_x, grad_input):
    """Hand each bin's gradient to the four pixels of its largest point."""
    images, channels, height, width = grad_input.shape
    plane = (image[:, None] * channels + _count(grad_input[0]))[:, :, None, None]
    y_low, y_high, down, y_inside = neighbours(argmax_y, height)
    x_low, x_high, right, x_inside = neighbours(argmax_x, width)
    # mmcv's kernels take -1 for "no point".
    gradient = gradient * (y_inside & x_inside & (argmax_y != -1))
    flat = torch.zeros(grad_input.numel(), dtype=gradient.dtype, device=gradient.device)
    for row, vertical in ((y_low, 1 - down), (y_high, down)):
        for column, horizontal in ((x_low, 1 - right), (x_high, right)):
            flat.index_add_(0, ((plane * height + row) * width + column).reshape(-1),
                            (gradient * vertical * horizontal).reshape(-1))
    grad_input += flat.view_as(grad_input)
