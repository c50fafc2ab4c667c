"""Masks as run lengths (RLE): counts of pixels that are off and on by turns."""
from typing import List, Optional, Tuple

from mmvssd.engine.data.coco.values import is_number
from mmvssd.phrases import short

RUN_LENGTHS = 'An RLE mask has size (height, width) and counts that sum up to height x width'


def run_lengths(mask: dict) -> Optional[List[int]]:
    """Return the counts of an RLE mask, off and on by turns; None if they cannot be read.

    They are a list in the file, or COCO's compressed text.
    """
    counts = mask.get('counts')
    if isinstance(counts, str):
        counts = _decompressed(counts)
    if not isinstance(counts, list) or not all(isinstance(c, int) and c >= 0 for c in counts):
        return None
    return counts


def rle_problem(mask: dict, counts: Optional[List[int]],
                size: Optional[Tuple[float, float]]) -> Optional[str]:
    """Return what is wrong with an RLE mask; None if nothing is.

    Args:
        mask: ``size`` (height, width) and ``counts``.
        counts: What :func:`run_lengths` reads of it.
        size: (width, height) of the image, None if unknown.
    """
    sides = mask.get('size')
    if not isinstance(sides, list) or len(sides) != 2 or not all(map(is_number, sides)):
        return f'its size is {short(sides)}'
    if size is not None and (sides[0], sides[1]) != (size[1], size[0]):
        return f'its size is {sides}, the image has {[size[1], size[0]]}'
    if counts is None:
        return 'its counts cannot be read'
    if sum(counts) != sides[0] * sides[1]:
        return f'its counts sum up to {sum(counts)}, expected {sides[0] * sides[1]}'
    return None


def _decompressed(text: str) -> Optional[List[int]]:
    """Read COCO's compressed counts; None if they are junk.

    Groups of five bits from the lowest on, each in a character from '0' on; a sixth bit says that
    more follow, the highest one of the last group is the sign. From the fourth count on they are
    differences from the count two before.
    """
    counts: List[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            return None
        value |= (code & 31) << shift
        shift += 5
        if shift > 60:  # no count has so many bits
            return None
        if not code & 32:
            if code & 16:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return None if shift else counts
