"""Masks as COCO's run lengths, in NumPy: a plain installation has no pycocotools."""
from itertools import pairwise

import numpy as np


def run_lengths(mask: np.ndarray) -> dict:
    """Encode a mask (H, W) bool as COCO has it: its size, and its runs along the columns.

    The text holds 5 bits of a number in each character. After the third, a run is written as its
    difference from the last run but one. Source: ``maskApi.c`` of the COCO API.
    """
    pixels = np.asarray(mask, bool).ravel(order='F')
    edges = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    # the first run is of 0, and may be empty
    edges = [0] * (1 + bool(pixels[:1].any())) + edges.tolist() + [pixels.size]
    runs = [end - start for start, end in pairwise(edges)]
    differences = runs[:3] + [run - before for run, before in zip(runs[3:], runs[1:])]
    return dict(size=list(np.shape(mask)), counts=''.join(map(_characters, differences)))


def _characters(number: int) -> str:
    text = ''
    while True:
        bits, number = number & 31, number >> 5
        # the rest is the sign
        if number == (-1 if bits & 16 else 0):
            return text + chr(bits + 48)
        text += chr((bits | 32) + 48)
