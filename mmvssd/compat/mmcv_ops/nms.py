"""Non-maximum suppression as mmcv computes it, in PyTorch: hard, soft and matching.

Boxes are (x1, y1, x2, y2); ``offset`` is added to each width and height. All is computed in
float32, like mmcv's kernels for the CPU, unless the boxes are float64.
"""
from typing import List

import numpy as np
import torch
from torch import Tensor

from mmvssd.compat.mmcv_ops import through_torchvision
from mmvssd.compat.mmcv_ops.weighted_rows import widened

#: Boxes that are compared with all others at a time: the tables of IoU stay in a core's cache.
BLOCK = 128


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Keep boxes whose IoU with no kept box of a higher score is above the threshold.

    Args:
        boxes (Tensor): (N, 4).
        scores (Tensor): (N,). Of equal scores the first counts as the higher.
        iou_threshold (float): compared in float32.
        offset (int): 0 or 1.

    Returns:
        Tensor: int64 indices of the boxes kept, highest score first.
    """
    if not boxes.numel():
        return boxes.new_empty(0, dtype=torch.long)
    if offset == 0 and through_torchvision.serves(boxes.device):
        return through_torchvision.nms(boxes, scores, iou_threshold)
    order = scores.sort(stable=True, descending=True).indices
    left = _Boxes.of(boxes[order], offset)
    rank = torch.arange(len(order), device=order.device)
    kept = []
    while len(rank):
        head = left.rows(slice(BLOCK))
        chosen = _greedy(head.overlap(head) > _float32(iou_threshold)).to(rank.device)
        kept.append(rank[:BLOCK][chosen])
        rest = left.rows(slice(BLOCK, None))
        alive = ~(head.rows(chosen).overlap(rest) > _float32(iou_threshold)).any(0)
        rank, left = rank[BLOCK:][alive], rest.rows(alive)
    return order[torch.cat(kept)]


class _Boxes:
    """Boxes as four (N,) coordinates, and their areas."""

    def __init__(self, x1, y1, x2, y2, area, *, offset):
        self.x1, self.y1, self.x2, self.y2, self.area = x1, y1, x2, y2, area
        self.offset = offset

    @classmethod
    def of(cls, boxes, offset):
        x1, y1, x2, y2 = (side.contiguous() for side in widened(boxes).unbind(1))
        return cls(x1, y1, x2, y2, (x2 - x1 + offset) * (y2 - y1 + offset),
                   offset=offset)

    def rows(self, selection):
        """The same of some boxes."""
        sides = (self.x1, self.y1, self.x2, self.y2, self.area)
        return _Boxes(*(side[selection] for side in sides), offset=self.offset)

    def overlap(self, others):
        """Return the IoU with other boxes: (N, M), NaN if a box has a NaN or both are empty."""
        width = _extent(self.x1, self.x2, others.x1, others.x2, self.offset)
        height = _extent(self.y1, self.y2, others.y1, others.y2, self.offset)
        both = width.mul_(height)
        return both.div_((self.area[:, None] + others.area).sub_(both))


def _extent(start, end, others_start, others_end, offset):
    """Return how long the common part of intervals is: (N,) and (M,) -> (N, M)"""
    extent = torch.minimum(end[:, None], others_end)
    extent -= torch.maximum(start[:, None], others_start)
    if offset:
        extent += offset
    return extent.clamp_(min=0)


def _greedy(over):
    """Return which of a few boxes stay, highest first; (N, N) whether a pair overlaps too much."""
    packed = np.packbits(over.cpu().numpy(), axis=1, bitorder='little')
    rows = [int.from_bytes(row.tobytes(), 'little') for row in packed]
    suppressed, kept = 0, []
    for box, row in enumerate(rows):
        if not suppressed >> box & 1:
            kept.append(box)
            suppressed |= row
    return torch.tensor(kept)


def _float32(value):
    return float(np.float32(value))


def softnms(boxes: Tensor, scores: Tensor, dets: Tensor, iou_threshold: float, sigma: float,
            min_score: float, method: int, offset: int) -> Tensor:
    """Lower the scores of boxes that overlap a better one; drop those below ``min_score``.

    Each step takes the highest score left, and lowers the others by how much they overlap it.

    Args:
        boxes (Tensor): (N, 4), on the CPU.
        scores (Tensor): (N,).
        dets (Tensor): (N, 5), written: the first K rows are boxes and their lowered scores.
        iou_threshold (float): IoU from which on methods 0 and 1 lower a score.
        sigma (float): width of method 2.
        min_score (float): scores below it are dropped.
        method (int): 0 sets to 0, 1 multiplies by 1 - IoU, 2 by exp(-IoU^2 / sigma).
        offset (int): 0 or 1.

    Returns:
        Tensor: (K,) int64 indices of the boxes kept, in the order in which they were taken.
    """
    x1, y1, x2, y2 = widened(boxes).numpy().T
    # a column a box: corners, score, area; and where it was
    left = np.stack([x1, y1, x2, y2, widened(scores).numpy(),
                     (x2 - x1 + offset) * (y2 - y1 + offset)])
    index = np.arange(left.shape[1])
    iou_threshold, sigma, min_score = np.float32([iou_threshold, sigma, min_score])
    taken = 0
    while taken < len(index):
        best = taken + _highest(left[4, taken:])
        for columns in (left.T, index):
            columns[[taken, best]] = columns[[best, taken]]
        box, others = left[:, taken], left[:, taken + 1:]
        taken += 1
        others[4] *= _decay(_overlap(box, others, offset), iou_threshold, sigma, method)
        dropped = others[4] < min_score
        if dropped.any():
            order = np.concatenate([np.arange(taken), taken + _fill_from_the_end(~dropped)])
            left, index = left[:, order], index[order]
    dets[:len(index)] = torch.from_numpy(left[:5].T)
    return torch.from_numpy(index)


def _highest(scores):
    """Return the first of the highest scores, as a loop of ``<`` from the first one finds it."""
    best = int(scores.argmax())  # NaN, if there is one
    if np.isnan(scores[best]) and best:
        best = int(np.nanargmax(scores))
    return best


def _overlap(box, others, offset):
    """IoU of a box with the others: (6,) and (6, N) -> (N,)"""
    extent = np.minimum(box[2:4, None], others[2:4]) - np.maximum(box[:2, None], others[:2])
    if offset:
        extent += offset
    width, height = np.maximum(extent, 0, out=extent)
    both = width * height
    with np.errstate(divide='ignore', invalid='ignore'):
        return both / (box[5] + others[5] - both)


def _decay(overlap, iou_threshold, sigma, method):
    if method == 2:
        return np.exp(-(overlap * overlap) / sigma)
    lowered = 1 - overlap if method == 1 else np.zeros_like(overlap)
    return np.where(overlap >= iou_threshold, lowered, 1).astype(overlap.dtype)


def _fill_from_the_end(alive):
    """Return the order that comes of putting the last box into the place of each dropped one."""
    kept = int(alive.sum())
    order = np.arange(kept)
    order[~alive[:kept]] = kept + np.flatnonzero(alive[kept:])[::-1]
    return order


def nms_match(dets: Tensor, iou_threshold: float) -> List[List[int]]:
    """Group boxes with the better one that suppresses them, from an IoU of the threshold on.

    Args:
        dets (Tensor): (N, 5), boxes and scores, on the CPU.
        iou_threshold (float): compared in float32.

    Returns:
        list[list[int]]: groups, best first; in each the kept box, then the suppressed ones.
    """
    order = dets[:, 4].sort(stable=True, descending=True).indices
    left, groups = _Boxes.of(dets[order, :4], 0), []
    while len(order):
        near = (left.rows(slice(1)).overlap(left) >= _float32(iou_threshold))[0]
        near[0] = True
        groups.append(order[near].tolist())
        order, left = order[~near], left.rows(~near)
    return groups
