"""Masks of detections, from the cells of a box to the pixels of an image; NumPy only."""
from typing import Tuple

import numpy as np


def paste_masks(masks: np.ndarray, boxes: np.ndarray, shape: Tuple[int, int], threshold: float
                ) -> np.ndarray:
    """Enlarge masks to their boxes, as MMDetection does: bilinear, 0 around them.

    Args:
        masks: (n, h, w) floating point, how likely each cell of a box is of the object.
        boxes: (n, 4), x1, y1, x2, y2 in the image's pixels.
        shape: Height and width of the image.
        threshold: Pixels of at least that are of the object.

    Returns:
        (n, height, width) bool.
    """
    pasted = np.zeros((len(masks), *shape), bool)
    for mask, (left, top, right, bottom), target in zip(masks, boxes, pasted):
        rows, down = _weights(top, bottom, mask.shape[0], shape[0])
        columns, across = _weights(left, right, mask.shape[1], shape[1])
        target[rows, columns] = down @ mask @ across.T >= threshold
    return pasted


def _weights(start: float, end: float, cells: int, side: int) -> Tuple[slice, np.ndarray]:
    """Return the pixels around an interval, and each cell's weight in them (pixels, cells)."""
    pixels = slice(max(0, int(np.floor(start)) - 1), max(0, min(side, int(np.ceil(end)) + 1)))
    place = np.arange(pixels.start, pixels.stop, dtype=np.float32) + np.float32(0.5)
    if end > start:
        place = (place - start) / (end - start) * cells - np.float32(0.5)
    else:  # a box without extent shows the middle of its mask, as MMDetection has it
        place = np.full_like(place, (cells - 1) / 2)
    distance = np.abs(place[:, None] - np.arange(cells, dtype=np.float32))
    return pixels, np.maximum(1 - distance, 0)
