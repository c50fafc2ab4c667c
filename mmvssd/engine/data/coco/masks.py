"""Masks of an annotation file: polygons and run lengths that a reader or a loss stumbles over."""
from collections import Counter
from typing import Any, Dict, List, Optional, Sequence, Tuple

from mmvssd.engine.data.coco.boxes import CORNERS, ROUNDING
from mmvssd.engine.data.coco.run_lengths import RUN_LENGTHS, rle_problem, run_lengths
from mmvssd.engine.data.coco.values import is_number
from mmvssd.engine.data.findings import Place
from mmvssd.phrases import counted, numbered, short

POLYGONS = 'A mask is [[x1, y1, x2, y2, x3, y3, ...], ...]'
FEW_POINTS = 'whose polygons all have fewer than three points or an odd count of coordinates'
#: What is wrong with masks that a reader takes, and what to do.
MASKS = {
    FEW_POINTS: POLYGONS,
    'with no pixel set': RUN_LENGTHS,
    'whose polygons lie between 0 and 1, and their box does not':
        "Coordinates are pixels: multiply x by the image's width and y by its height",
    'whose polygons lie outside the image': POLYGONS,
    'whose polygons lie outside their box': f'{CORNERS}. {POLYGONS}',
}
NO_MASKS = ('Annotate masks, or train boxes only: with_mask=False in LoadAnnotations, no '
            "mask_head, metric='bbox'")


class Masks:
    """The masks of a file while they are looked at.

    Args:
        place: Where faults and doubts are noted.
        scored: Whether COCO's evaluation reads them.
    """

    def __init__(self, place: Place, scored: bool):
        self.stop, self.warn, self.scored = place.stop, place.warn, scored
        self.problems = Counter()
        self.absent = 0
        self.examples: Dict[str, str] = {}

    def check(self, mask: Any, box: Optional[Sequence[float]], size: Optional[tuple],
              label: str) -> Optional[Tuple[float, float, float, float]]:
        """Look at a mask; only one that a reader keeps is compared with its box.

        Returns:
            The left, top, right and bottom edge of its polygons; None if there are none.
        """
        if not mask:
            self.absent += 1
            self.examples.setdefault('mask', label)
        elif isinstance(mask, dict):
            counts = run_lengths(mask)
            problem = rle_problem(mask, counts, size)
            if problem:
                self.stop('{} RLE mask[s] that [does|do] not fit [its|their] '
                          'image', f'{label}: {problem}',
                          RUN_LENGTHS)
            elif box is not None and counts is not None and not any(counts[1::2]):
                self._count('with no pixel set', label)
        elif isinstance(mask, list):
            return self._check_polygons(mask, box, size, label)
        else:
            self.stop('{} mask[s] that [is no polygon|are no polygons] and no '
                      'RLE', f'{label}: {short(mask)}')
        return None

    def _count(self, problem: str, label: str) -> None:
        self.problems[problem] += 1
        self.examples.setdefault(problem, label)

    def _check_polygons(self, polygons: list, box: Optional[Sequence[float]],
                        size: Optional[tuple],
                        label: str) -> Optional[Tuple[float, float, float, float]]:
        if not all(isinstance(polygon, list) for polygon in polygons):
            self.stop('{} polygon[s] that [is no list|are no lists] of lists of '
                      'numbers', label, POLYGONS)
            return None
        if not all(is_number(value) for polygon in polygons for value in polygon):
            self.stop('{} polygon[s] with coordinates that are not finite numbers', label, POLYGONS)
            return None
        usable = [polygon for polygon in polygons if len(polygon) >= 6 and len(polygon) % 2 == 0]
        if not usable and self.scored:  # it stops there, or reads four numbers as a box
            self.stop(f'{{}} mask[s] {FEW_POINTS}', label, POLYGONS)
        elif not usable and box is not None:
            self._count(FEW_POINTS, label)
        elif usable and len(usable) < len(polygons):
            self.warn('{} mask[s] with a polygon of fewer than three points or an odd count of '
                      'coordinates, left out', label)
        if not usable:
            return None
        bounds = _bounds(usable)
        problem = None if box is None else _misplaced(bounds, box, size)
        if problem:
            self._count(problem, label)
        return bounds

    def check_together(self, objects: int, kept: int) -> None:
        """Note by count what was seen of single masks.

        Args:
            objects: Annotations with a box that a reader keeps.
            kept: Annotations that a reader keeps.
        """
        note = self.stop if sum(self.problems.values()) == objects else self.warn
        for problem, number in self.problems.items():
            note(f'{number} of {counted(objects, "mask")} {problem}', self.examples[problem],
                 MASKS[problem])
        if self.absent:
            self.stop(numbered(f'{{}} of {counted(kept, "annotation")} [has|have] no segmentation, '
                               'and masks are trained or scored', self.absent),
                      self.examples['mask'], NO_MASKS)


def _bounds(polygons: List[list]) -> Tuple[float, float, float, float]:
    """Return the left, top, right and bottom edge of polygons."""
    left, right = (pick(pick(polygon[::2]) for polygon in polygons) for pick in (min, max))
    top, bottom = (pick(pick(polygon[1::2]) for polygon in polygons) for pick in (min, max))
    return left, top, right, bottom


def _misplaced(bounds: Tuple[float, float, float, float], box: Sequence[float],
               size: Optional[Tuple[float, float]]) -> Optional[str]:
    """Tell from their edges whether polygons are of another place than their box."""
    left, top, right, bottom = bounds
    x, y, width, height = box
    if min(left, top) >= 0 and max(right, bottom) <= 1 and (
            max(x + width, y + height) > 1 + ROUNDING):
        return 'whose polygons lie between 0 and 1, and their box does not'
    if min(right, bottom) < 0 or (size is not None and (left > size[0] or top > size[1])):
        return 'whose polygons lie outside the image'
    if (right < x - ROUNDING or left > x + width + ROUNDING
            or bottom < y - ROUNDING or top > y + height + ROUNDING):
        return 'whose polygons lie outside their box'
    return None
