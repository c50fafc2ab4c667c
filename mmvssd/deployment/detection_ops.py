"""RoIAlign and non-maximum suppression as operators that exporters keep whole.

``torch.ops.mmvssd.nms`` and ``torch.ops.mmvssd.roi_align`` are single nodes of an exported program;
importing this module lets such a program run. ONNX has both as standard operators:
:func:`translations` writes them.
"""
from typing import Callable, Dict, Sequence

import torch
from torch import Tensor

from mmvssd.compat.mmcv_ops import extension

AVERAGE = 1


@torch.library.custom_op('mmvssd::nms', mutates_args=())
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float,
        most: int) -> Tensor:
    """Keep boxes that overlap no kept box of a higher score too much.

    Args:
        boxes: (S, 4), x1, y1, x2, y2.
        scores: (S,).
        iou_threshold: Of two boxes with a larger IoU the one of the lower score is left out.
        score_threshold: Boxes count only above it.
        most: Number of boxes to keep at most.

    Returns:
        (n,) int64 indices, the highest score first.
    """
    candidates = (scores > score_threshold).nonzero().flatten()
    kept = extension().nms(boxes[candidates], scores[candidates], iou_threshold, 0)
    return candidates[kept[:most]]


@nms.register_fake
def _(boxes, scores, iou_threshold, score_threshold, most):
    count = torch.library.get_ctx().new_dynamic_size(min=0)
    return boxes.new_empty(count, dtype=torch.int64)


@torch.library.custom_op('mmvssd::roi_align', mutates_args=())
def roi_align(features: Sequence[Tensor], boxes: Tensor, levels: Tensor, size: Sequence[int],
              scales: Sequence[float], sampling_ratio: int, aligned: bool) -> Tensor:
    """Pool boxes of one image, each from its own level of a pyramid, by averages.

    Args:
        features: A map (1, C, H, W) for each level.
        boxes: (R, 4), x1, y1, x2, y2 in the image's pixels.
        levels: (R,) int64, an index of ``features`` for each box.
        size: Height and width of the result.
        scales: Pixels of a level for one of the image.
        sampling_ratio: Points of a bin along each axis; 0 takes one for each pixel.
        aligned: Shift by half a pixel, as ``mmcv.ops.RoIAlign`` does.

    Returns:
        (R, C, *size).
    """
    result = features[0].new_zeros(len(boxes), features[0].shape[1], *size)
    for level, (feature, scale) in enumerate(zip(features, scales)):
        place = (levels == level).nonzero().flatten()
        rois = torch.nn.functional.pad(boxes[place], (1, 0))  # the image's index: 0
        pooled = result.new_empty(len(place), *result.shape[1:])
        extension().roi_align_forward(
            feature, rois, pooled, pooled, pooled, *size, spatial_scale=scale,
            sampling_ratio=sampling_ratio, pool_mode=AVERAGE, aligned=aligned)
        result[place] = pooled
    return result


@roi_align.register_fake
def _(features, boxes, levels, size, scales, sampling_ratio, aligned):
    return features[0].new_empty(boxes.shape[0], features[0].shape[1], *size)


def translations() -> Dict[Callable, Callable]:
    """Return how each operator is written in ONNX, as ``torch.onnx.export`` takes it."""
    from onnxscript import opset18 as op

    def write_nms(boxes, scores, iou_threshold, score_threshold, most):
        chosen = op.NonMaxSuppression(
            op.Unsqueeze(boxes, [0]), op.Unsqueeze(scores, [0, 1]),
            op.Constant(value_ints=[most]), op.Constant(value_floats=[iou_threshold]),
            op.Constant(value_floats=[score_threshold]))  # (n, 3): image, class, box
        return op.Reshape(op.Slice(chosen, [2], [3], [1]), [-1])

    def write_roi_align(features, boxes, levels, size, scales, sampling_ratio, aligned):
        pooled, places = [], []
        for level, (feature, scale) in enumerate(zip(features, scales)):
            own = op.Equal(levels, op.Constant(value_int=level))
            place = op.Reshape(op.NonZero(own), [-1])
            image = op.Mul(place, op.Constant(value_int=0))
            pooled.append(op.RoiAlign(
                feature, op.Gather(boxes, place), image, output_height=size[0],
                output_width=size[1], spatial_scale=scale, sampling_ratio=sampling_ratio,
                mode='avg',
                coordinate_transformation_mode='half_pixel' if aligned else 'output_half_pixel'))
            places.append(place)
        _, order = op.TopK(op.Concat(*places, axis=0), op.Shape(levels), largest=0)
        return op.Gather(op.Concat(*pooled, axis=0), order)

    return {torch.ops.mmvssd.nms.default: write_nms,
            torch.ops.mmvssd.roi_align.default: write_roi_align}
