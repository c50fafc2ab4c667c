"""Boxes of an annotation file: which ones a reader keeps, and in which order their numbers are."""
from collections import Counter
from typing import Any, Dict, Optional, Sequence, Tuple

from mmvssd.engine.data.coco.values import is_number
from mmvssd.engine.data.findings import Place
from mmvssd.phrases import counted, none_of, numbered, short

#: Sides of an image that a box's side may be long. Beyond it a box is no box of that image.
LONGEST = 10
#: Pixels by which boxes reach over an image's edge through rounding.
ROUNDING = 2
#: Share of boxes beyond the image's edge from which on another reading is the likelier one.
CROSSING = 0.25
#: Boxes that are needed to tell.
ENOUGH_BOXES = 4
#: The order that boxes seem to have if it is the image whose sides are exchanged.
TURNED = 'y, x, height, width'
EXCHANGED = "Or the images' width and height are exchanged"
#: Other orders of a box's four numbers, each with how x, y, width and height follow from them.
READINGS = {
    'x1, y1, x2, y2': lambda a, b, c, d: (a, b, c - a, d - b),
    'center x, center y, width, height': lambda a, b, c, d: (a - c / 2, b - d / 2, c, d),
    TURNED: lambda a, b, c, d: (b, a, d, c),
    'y1, x1, y2, x2': lambda a, b, c, d: (b, a, d - b, c - a),
}
#: The order that COCO has.
AS_MEANT = 'x, y, width, height'
#: A reading of boxes that are as small as points.
SHARES = "shares of the image's sides"
CORNERS = f'COCO boxes are {AS_MEANT}'
AREAS = 'Write the area of the mask, or width x height'


def lies_in(box: Sequence[float], size: Tuple[float, float]) -> bool:
    """Tell whether readers keep a box for what lies of it in an image (width, height)."""
    (x, y, width, height), (right, bottom) = box, size
    return min(width, height) >= 1 and x < right and y < bottom and min(x + width, y + height) > 0


class Boxes:
    """The boxes of a file while they are looked at.

    Args:
        place: Where faults and doubts are noted.
    """

    def __init__(self, place: Place):
        self.stop, self.warn = place.stop, place.warn
        self.readings, self.around = Counter(), Counter()
        self.without_area = self.crossing = self.compared = 0
        self.examples: Dict[str, str] = {}

    def kept(self, box: Any, area: Any, size: Optional[tuple],
             label: str) -> Optional[Sequence[float]]:
        """Return a box that a reader keeps, or None."""
        return self._with_area(self._checked(box, size, label), area, label)

    def _checked(self, box: Any, size: Optional[tuple], label: str) -> Optional[Sequence[float]]:
        example = f'{label}: {short(box)}'
        if not isinstance(box, (list, tuple)) or len(box) != 4:
            self.stop('{} box[es] that [is|are] not four numbers', example, CORNERS)
        elif not all(map(is_number, box)):
            self.stop('{} box[es] with entries that are not finite numbers', example, CORNERS)
        elif box[2] < 0 or box[3] < 0:
            self.stop('{} box[es] of negative width or height', example, CORNERS)
        elif size is not None:
            return self._in_image(box, size, example)
        return None

    def _in_image(self, box: Sequence[float], size: Tuple[float, float],
                  example: str) -> Optional[Sequence[float]]:
        (x, y, width, height), (right, bottom) = box, size
        if max(width, abs(x)) > LONGEST * right or max(height, abs(y)) > LONGEST * bottom:
            self.stop(f'{{}} box[es] that [lies|lie] or [reaches|reach] more than {LONGEST} times '
                      'the size of [its|their] '
                      'image away', example, CORNERS)
            return None
        for reading, convert in READINGS.items():
            self.readings[reading] += _fits(convert(*box), size)
        self.readings[SHARES] += min(x, y) >= 0 and max(box) <= 1
        if not _fits(box, size) and width and height:
            self.crossing += 1
            self.examples.setdefault('crossing', example)
        # what a reader leaves out is counted where it reads
        return box if lies_in(box, size) else None

    def _with_area(self, box: Optional[Sequence[float]], area: Any,
                   label: str) -> Optional[Sequence[float]]:
        """Return the box if a reader keeps it for its area too, or None."""
        if not is_number(area):
            self.stop('{} annotation[s] whose area is not a finite number',
                      f'{label}: {short(area)}')
        elif area <= 0 and box is not None:
            self.without_area += 1
            self.examples.setdefault('area', f'{label}: {short(area)}')
            return None
        return box

    def compare_with_polygons(self, box: Sequence[float],
                              bounds: Tuple[float, float, float, float], label: str) -> None:
        """Count in which order of its numbers a box lies around its polygons."""
        self.compared += 1
        self.examples.setdefault('compared', f'{label}: {short(box)}')
        self.around[AS_MEANT] += _is_around(box, bounds)
        for reading, convert in READINGS.items():
            self.around[reading] += _is_around(convert(*box), bounds)

    def check_lost(self, count: int) -> None:
        """Note that no box of a file can be used."""
        self.stop(f'{none_of(count, "box")} can be used', self.examples.get('area'),
                  self._cause_of_loss(count))

    def _cause_of_loss(self, count: int) -> str:
        if self.without_area:
            return f'{self.without_area} have an area of 0 or less. {AREAS}'
        if self.readings[SHARES] == count:
            return f'They may be {SHARES}. {CORNERS}, in pixels'
        return 'A box is at least 1 pixel wide and high, and in its image'

    def check_areas(self, count: int) -> None:
        """Note boxes that are left out for their area, unless all are."""
        if self.without_area:
            self.warn(numbered(f'{{}} of {counted(count, "box")} [has|have] an area of 0 or less, '
                               'and [is|are] left out', self.without_area),
                      self.examples['area'], AREAS)

    def check_readings(self, count: int) -> None:
        """Note boxes whose numbers seem to have another order.

        In it all boxes lie in their image, or around their polygons, and as they stand many do not.
        """
        compared = self.compared
        found = next((reading for reading in READINGS if self.around[reading] == compared), None)
        around = self.around[AS_MEANT]
        if found and compared >= ENOUGH_BOXES and around <= CROSSING * compared:
            self.stop(numbered(f'{{}} of {counted(compared, "box")} [is|are] around [its|their] '
                               f'polygons, and read as {found} all are', around),
                      self.examples['compared'], CORNERS)
        if not self.crossing:
            return
        what = numbered(f'{{}} of {counted(count, "box")} [reaches|reach] over the edge of '
                        '[its|their] image', self.crossing)
        likely = next((reading for reading in READINGS if self.readings[reading] == count), None)
        if likely is None or count < ENOUGH_BOXES:
            self.warn(what, self.examples['crossing'])
            return
        (self.stop if self.crossing >= CROSSING * count else self.warn)(
            f'{what}, and read as {likely} all lie in it', self.examples['crossing'],
            f'{CORNERS}. {EXCHANGED}' if likely == TURNED else CORNERS)


def _is_around(box: Sequence[float], bounds: Tuple[float, float, float, float]) -> bool:
    x, y, width, height = box
    return all(abs(edge - bound) <= ROUNDING
               for edge, bound in zip((x, y, x + width, y + height), bounds))


def _fits(box: Sequence[float], size: Tuple[float, float]) -> bool:
    """Tell whether x, y, width and height, of which the latter are not 0, lie in an image."""
    x, y, width, height = box
    return (width > 0 and height > 0 and x >= -ROUNDING and y >= -ROUNDING
            and x + width <= size[0] + ROUNDING and y + height <= size[1] + ROUNDING)
