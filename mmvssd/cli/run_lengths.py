"""Masks as COCO's run lengths, in NumPy: a plain installation has no pycocotools."""
from typing import Tuple

import numpy as np


def run_lengths(mask: np.ndarray) -> dict:
    """Encode a mask (H, W) bool as COCO has it: its size, and its runs along the columns."""
    return placed_run_lengths(np.asarray(mask, bool), (0, 0), np.shape(mask))


def placed_run_lengths(part: np.ndarray, corner: Tuple[int, int], shape: Tuple[int, int]) -> dict:
    """Encode the mask of an image from a part of it, without making the whole.

    Args:
        part: (h, w) bool; the mask is 0 around it.
        corner: Its left and top in the image.
        shape: Height and width of the image.
    """
    height, (left, top) = shape[0], corner
    columns = np.zeros((part.shape[1], part.shape[0] + 2), np.int8)
    columns[:, 1:-1] = np.asarray(part).T
    steps = np.diff(columns, axis=1)
    starts, ends = (np.nonzero(steps == step) for step in (1, -1))
    starts, ends = ((left + across) * height + top + down for across, down in (starts, ends))
    # a run may go on in the next column
    apart = starts[1:] != ends[:-1]
    return runs_entry(starts[np.concatenate([[True], apart])[:len(starts)]],
                      ends[np.concatenate([apart, [True]])[-len(ends):] if len(ends) else []],
                      shape)


def runs_entry(starts: np.ndarray, ends: np.ndarray, shape: Tuple[int, int]) -> dict:
    """Encode runs of a mask that are apart, as COCO has it.

    The text holds 5 bits of a number in each character. After the third, a run is written as its
    difference from the last run but one. Source: ``maskApi.c`` of the COCO API.

    Args:
        starts: The first pixel of each run, along the columns.
        ends: The one after its last.
        shape: Height and width of the image.
    """
    size = int(shape[0]) * int(shape[1])
    edges = np.empty(2 * len(starts) + 1, np.int64)
    edges[:-1:2], edges[1::2], edges[-1] = starts, ends, size
    # the first run is of 0, and may be empty; the last one may not
    runs = np.diff(edges, prepend=0)
    if len(runs) > 1 and runs[-1] == 0:
        runs = runs[:-1]
    differences = runs.copy()
    differences[3:] -= runs[1:-2]
    return dict(size=[int(side) for side in shape],
                counts=''.join(map(_characters, differences.tolist())))


def _characters(number: int) -> str:
    text = ''
    while True:
        bits, number = number & 31, number >> 5
        # the rest is the sign
        if number == (-1 if bits & 16 else 0):
            return text + chr(bits + 48)
        text += chr((bits | 32) + 48)
