"""The JSON of predictions: an entry for each task, from arrays."""
import math
from typing import Optional, Sequence, Tuple

import numpy as np

from mmvssd.cli.run_lengths import run_lengths, runs_entry

#: Scores of a label map that a segmentor holds at once, in float32: a pixel has one a class.
LARGEST_SCORES = 2**29
#: Pixels of a label map that are looked at together.
BLOCK = 2**24
#: Classes of an image that are written down.
BEST = 5


def instances(labels: np.ndarray, scores: np.ndarray, boxes: np.ndarray,
              masks: Optional[np.ndarray], classes: Sequence[str]) -> dict:
    """Return the entry of detections: labels, scores, boxes (n, 4), masks (n, H, W) or None."""
    found = [dict(category=classes[label], score=float(score), bbox=box.tolist())
             for label, score, box in zip(labels, scores, boxes)]
    if masks is not None:
        for instance, mask in zip(found, masks):
            instance['segmentation'] = run_lengths(mask)
    return dict(instances=found)


def segments(labels: np.ndarray, classes: Sequence[str]) -> dict:
    """Return the entry of a label map (H, W), the largest class first."""
    found = [dict(category=classes[label], share=float(np.mean(labels == label)),
                  segmentation=run_lengths(labels == label)) for label in np.unique(labels)]
    return dict(segments=sorted(found, key=lambda segment: -segment['share']))


def label_map_segments(labels: np.ndarray, classes: Sequence[str]) -> dict:
    """Return the entry of a large label map, which is read in blocks.

    Args:
        labels: (width, height), contiguous: column by column, as run lengths are.
        classes: Names of the classes.
    """
    shape, flat = labels.shape[::-1], labels.reshape(-1)
    starts = np.concatenate([[0]] + [
        start + 1 + np.flatnonzero(flat[start + 1:start + BLOCK + 1] != flat[start:-1][:BLOCK])
        for start in range(0, flat.size, BLOCK)])
    ends = np.append(starts[1:], flat.size)
    values = flat[starts]
    found = []
    for label in np.unique(values):
        own = values == label
        share = float((ends[own] - starts[own]).sum() / flat.size)
        found.append(dict(category=classes[label], share=share,
                          segmentation=runs_entry(starts[own], ends[own], shape)))
    return dict(segments=sorted(found, key=lambda segment: -segment['share']))


def best_classes(scores: np.ndarray, classes: Optional[Sequence[str]]) -> dict:
    """Return the entry of an image's scores (classes,), the best first."""
    return dict(classes=[dict(category=classes[label] if classes else str(label),
                              score=float(scores[label]))
                         for label in np.argsort(-scores)[:BEST]])


def scores_shape(shape: Tuple[int, int], classes: int) -> Tuple[int, int]:
    """Return the height and width of a label map whose scores are not too many to hold."""
    height, width = shape
    factor = math.sqrt(LARGEST_SCORES / (classes * height * width))
    if factor >= 1:
        return shape
    return max(1, int(height * factor)), max(1, int(width * factor))
