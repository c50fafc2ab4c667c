"""Annotation files of COCO's form: what a reader or a loss stumbles over, and what is doubtful."""
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from mmvssd.engine.data.findings import Findings
from mmvssd.errors import DataError
from mmvssd.foreign_files import kind_of

#: Byte order marks by the name of what they begin.
MARKS = {b'\xff\xfe\0\0': 'UTF-32', b'\0\0\xfe\xff': 'UTF-32', b'\xff\xfe': 'UTF-16',
         b'\xfe\xff': 'UTF-16', b'\xef\xbb\xbf': 'UTF-8'}
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

#: Numbers beyond it count as infinite.
LARGEST = 1e300

CORNERS = f'COCO boxes are {AS_MEANT}'
RUN_LENGTHS = 'An RLE mask has size (height, width) and counts that sum up to height x width'
POLYGONS = 'A mask is [[x1, y1, x2, y2, x3, y3, ...], ...]'
AREAS = 'Write the area of the mask, or width x height'
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


class Use(NamedTuple):
    """What a file of annotations is used for."""

    masks: bool  # masks are trained or scored
    scored: bool  # COCO's evaluation reads it
    folder: Optional[str] = None  # of the images


class Summary(NamedTuple):
    """What other checks need of a file."""

    file: str
    categories: List[Tuple[Any, str]]  # id and name, as the file orders them
    listed: int  # annotations in all
    annotations: int  # that a reader keeps
    boxes: Dict[str, int]  # by category's name
    images: List[str]  # ids


def read_json(file: str) -> dict:
    """Read an annotation file.

    Raises:
        DataError: It is no JSON, in no encoding that the hosts read, or no dict of lists.
    """
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise DataError(f'{file} cannot be read ({error.strerror})') from error
    if not content.strip():
        raise DataError(f'{file} is empty; write the annotations anew')
    for mark, encoding in MARKS.items():
        if content.startswith(mark):
            raise DataError(f'{file} begins with a byte order mark (BOM) of {encoding}; save it as '
                            'UTF-8 without BOM')
    kind = _foreign(file, content)
    if kind:
        raise DataError(f'{file} is {kind}')
    if b'\0' in content[:4]:
        raise DataError(f'{file} is encoded in UTF-16 or UTF-32, or is no text; save it as UTF-8')
    try:
        parsed = json.loads(content.decode('utf-8'))
    except UnicodeDecodeError as error:
        raise DataError(f'{file} is not encoded in UTF-8 ({error.reason} at byte {error.start}); '
                        'save it as UTF-8') from error
    except (ValueError, RecursionError) as error:
        if getattr(error, 'msg', '') == 'Extra data' and _is_json(content.split(b'\n')[0]):
            raise DataError(f'{file} holds a JSON text per line (JSON Lines); COCO files hold one '
                            "dict of 'images', 'annotations' and 'categories'") from error
        raise DataError(f'{file} is not valid JSON, perhaps cut short ({error})') from error
    if not isinstance(parsed, dict):
        raise DataError(f'{file} holds a {type(parsed).__name__}, COCO files hold a dict of '
                        "'images', 'annotations' and 'categories'")
    return parsed


def _foreign(file: str, content: bytes) -> Optional[str]:
    """Say what a file is; None if it may be JSON."""
    if content.startswith(b'PK\x03\x04'):  # which checkpoints are too
        return 'a ZIP archive; unpack it, and name the file in it'
    kind = None if content.lstrip()[:1] in (b'{', b'[') else kind_of(Path(file))
    if kind is None or kind.startswith('a text'):
        return None
    return kind.replace('a checkpoint', 'an annotation file')


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def check_file(content: dict, file: str, where: str, use: Use, findings: Findings) -> Summary:
    """Look at everything in a file of COCO's form.

    Args:
        content: The parsed file.
        file: Its path.
        where: The setting that names it, with the file.
        use: What it is used for.
        findings: Where faults and doubts are noted.
    """
    return _File(content, file, where, use, findings).summary()


class _File:
    """One file while it is looked at."""

    def __init__(self, content: dict, file: str, where: str, use: Use, findings: Findings):
        self.file, self.where, self.use, self.findings = file, where, use, findings
        self.categories = self._list(content, 'categories')
        self.images = self._list(content, 'images')
        self.annotations = self._list(content, 'annotations')
        self.names = self._check_categories()
        self.sizes, self.files = self._check_images()
        self.texts = set(map(str, self.sizes)), set(map(str, self.names))
        self.boxes, self.used = Counter(), Counter()
        self.masks, self.readings, self.around = Counter(), Counter(), Counter()
        self.kept = self.crowds = self.without_mask = self.without_area = self.crossing = 0
        self.ignored = self.other_types = self.compared = 0
        self.examples: Dict[str, str] = {}

    def _list(self, content: dict, key: str) -> List[dict]:
        value = content.get(key)
        if value is not None and not isinstance(value, list):
            self.stop(f'{key!r} is a {type(value).__name__}, expected a list')
            return []
        # which phases need annotations is seen from all of their files
        if not value and key != 'annotations':
            self.stop(f'holds no {key}, which COCO files list under {key!r}')
        entries = [entry for entry in value or [] if isinstance(entry, dict)]
        if len(entries) < len(value or []):
            self.stop(f'{key!r} holds entries that are no dicts')
        return entries

    def stop(self, what: str, example: Optional[str] = None, advice: str = '') -> None:
        self.findings.stop(self.where, what, example, advice)

    def warn(self, what: str, example: Optional[str] = None, advice: str = '') -> None:
        self.findings.warn(self.where, what, example, advice)

    def _check_categories(self) -> Dict[Any, str]:
        names, seen = {}, Counter()
        for category in self.categories:
            identity, name = category.get('id'), category.get('name')
            if not _is_id(identity):
                self.stop('{} categories without a usable id', repr(name))
            elif identity in names:
                self.stop('{} categories with the id of another one', f'{identity} {name!r}')
            elif _is_number(name):
                self.stop('{} categories whose name is a number', f'id {identity}: {name}',
                          f'Write it as a text: "{name}"')
            elif not isinstance(name, str) or not name:
                self.stop('{} categories without a name', f'id {identity}')
            else:
                names[identity] = name
                seen[name] += 1
        for name, count in seen.items():
            if count > 1:
                self.stop('{} names of categories stand for several ids', repr(name),
                          'Each would become a class of its own, and move all later ones')
        return names

    def _check_images(self) -> Tuple[dict, dict]:
        sizes, files, seen = {}, {}, Counter()
        for image in self.images:
            identity, name = image.get('id'), image.get('file_name')
            label = str(name if name is not None else f'id {identity}')
            if not _is_id(identity):
                self.stop('{} images without a usable id', label)
                continue
            if identity in sizes:
                self.stop('{} images with the id of another one', f'{identity} {label}')
                continue
            sizes[identity] = self._size(image, label)
            files[identity] = label
            if not isinstance(name, str) or not name:
                self.stop('{} images without a file_name', f'id {identity}')
                continue
            seen[name] += 1
            if seen[name] == 2:
                self.warn('{} file names of more than one image', name)
            self._check_name(name)
        return sizes, files

    def _size(self, image: dict, label: str) -> Optional[Tuple[float, float]]:
        size = image.get('width'), image.get('height')
        if all(_is_number(side) and side > 0 for side in size):
            return size
        self.stop('{} images whose width and height are not two positive numbers',
                  f'{label}: {_short(size[0])} x {_short(size[1])}')
        return None

    def _check_name(self, name: str) -> None:
        folder = self.use.folder
        if '\\' in name and folder and not os.path.exists(os.path.join(folder, name)):
            self.stop('{} file names with backslashes, and there are no such files', name,
                      'Write paths with /')
        if folder and '://' in name:
            self.stop('{} file names that are addresses', name,
                      "Fetch the images, and write their paths in the images' folder")
        elif folder and self._holds_folder(name, folder):
            self.stop("{} file names that repeat a part of the images' folder",
                      f'{name} in {folder}', 'Take it out of data_prefix or of the names')
        if os.path.isabs(name) or '..' in name.split('/'):
            self.warn("{} file names that lead out of the images' folder", name)

    @staticmethod
    def _holds_folder(name: str, folder: str) -> bool:
        """Tell whether an image is there only by a name that starts at a folder above."""
        parts = Path(folder).parts
        first = name.split('/')[0]
        return first in parts and not os.path.exists(os.path.join(folder, name)) and any(
            os.path.exists(os.path.join(*parts[:index], name))
            for index, part in enumerate(parts) if part == first)

    def summary(self) -> Summary:
        seen = set()
        for annotation in self.annotations:
            self._check_annotation(annotation, seen)
        self._check_all_together()
        return Summary(self.file, list(self.names.items()), len(self.annotations), self.kept,
                       dict(self.boxes), [str(identity) for identity in self.sizes])

    def _check_annotation(self, annotation: dict, seen: set) -> None:
        identity = annotation.get('id')
        label = self._label(annotation)
        if not _is_id(identity):
            self.stop('{} annotations without a usable id', label)
        elif identity in seen:
            self.stop('{} annotations with the id of another one', label)
        else:
            seen.add(identity)
        missing = [key for key in ('image_id', 'category_id', 'bbox', 'area')
                   if key not in annotation]
        if missing:
            self.stop(f'{{}} annotations without {" and ".join(missing)}', label)
            return
        image = annotation['image_id']
        self.ignored += bool(annotation.get('ignore'))
        if not _is_id(image) or image not in self.sizes:
            self._check_unlisted('images', 'image_id', image, self.texts[0], label)
            return
        name = self._category(annotation, label)
        box = self._box(annotation['bbox'], self.sizes[image], label)
        box = self._with_area(box, annotation['area'], label)
        crowd = self._crowd(annotation, label)
        if annotation.get('ignore') or name is None:
            return
        self.kept += 1
        self.crowds += crowd
        box = None if crowd else box
        self.boxes[name] += box is not None
        if self.use.masks:
            self._check_mask(annotation.get('segmentation'), box, self.sizes[image], label)

    def _label(self, annotation: dict) -> str:
        image = annotation.get('image_id')
        file = self.files.get(image) if _is_id(image) else None
        return f'annotation {_short(annotation.get("id"))} of {file or f"image {_short(image)}"}'

    def _category(self, annotation: dict, label: str) -> Optional[str]:
        category = annotation['category_id']
        if not _is_id(category):
            self.stop('{} annotations whose category_id is neither a number nor a text', label)
            return None
        self.used[category] += 1
        if category not in self.names:
            self._check_unlisted('categories', 'category_id', category, self.texts[1],
                                 f'{label}: {_short(category)}')
        return self.names.get(category)

    def _check_unlisted(self, what: str, key: str, value: Any, texts: set, example: str) -> None:
        if str(value) in texts:
            self.other_types += 1
            self.warn(f'{{}} annotations whose {key} is a text and the id in {what} a number, or '
                      'the other way round, left out', example, 'Write both as numbers')
        else:
            self.warn(f'{{}} annotations of {what} that the file does not list, left out', example)

    def _with_area(self, box: Optional[Sequence[float]], area: Any,
                   label: str) -> Optional[Sequence[float]]:
        """Return the box if a reader keeps it for its area too, or None."""
        if not _is_number(area):
            self.stop('{} annotations whose area is not a finite number',
                      f'{label}: {_short(area)}')
        elif area <= 0 and box is not None:
            self.without_area += 1
            self.examples.setdefault('area', f'{label}: {_short(area)}')
            return None
        return box

    def _box(self, box: Any, size: Optional[tuple], label: str) -> Optional[Sequence[float]]:
        """Return a box that a reader keeps, or None."""
        example = f'{label}: {_short(box)}'
        if not isinstance(box, (list, tuple)) or len(box) != 4:
            self.stop('{} boxes that are not four numbers', example, CORNERS)
        elif not all(map(_is_number, box)):
            self.stop('{} boxes with entries that are not finite numbers', example, CORNERS)
        elif box[2] < 0 or box[3] < 0:
            self.stop('{} boxes of negative width or height', example, CORNERS)
        elif size is not None:
            return self._box_in_image(box, size, example)
        return None

    def _box_in_image(self, box: Sequence[float], size: Tuple[float, float],
                      example: str) -> Optional[Sequence[float]]:
        (x, y, width, height), (right, bottom) = box, size
        if max(width, abs(x)) > LONGEST * right or max(height, abs(y)) > LONGEST * bottom:
            self.stop(f'{{}} boxes that lie or reach more than {LONGEST} times the size of their '
                      'image away', example, CORNERS)
            return None
        for reading, convert in READINGS.items():
            self.readings[reading] += _fits(convert(*box), size)
        self.readings[SHARES] += min(x, y) >= 0 and max(box) <= 1
        if not _fits(box, size) and width and height:
            self.crossing += 1
            self.examples.setdefault('crossing', example)
        if width < 1 or height < 1 or x >= right or y >= bottom or x + width <= 0 or (
                y + height <= 0):
            return None  # left out by the reader, which is counted where it reads
        return box

    def _crowd(self, annotation: dict, label: str) -> bool:
        if 'iscrowd' not in annotation:
            if self.use.scored:
                self.stop('{} annotations without iscrowd, which the evaluation needs', label,
                          'Write "iscrowd": 0')
            return False
        value = annotation['iscrowd']
        if not isinstance(value, (bool, int, float)) or value not in (0, 1):
            self.stop('{} annotations whose iscrowd is neither 0 nor 1',
                      f'{label}: {_short(value)}', 'A text counts as true, also "0"')
            return False
        return bool(value)

    def _check_mask(self, mask: Any, box: Optional[Sequence[float]], size: Optional[tuple],
                    label: str) -> None:
        """Look at a mask; only one that a reader keeps is compared with its box."""
        if not mask:
            self.without_mask += 1
            self.examples.setdefault('mask', label)
        elif isinstance(mask, dict):
            counts = run_lengths(mask)
            problem = rle_problem(mask, counts, size)
            if problem:
                self.stop('{} RLE masks that are none of their image', f'{label}: {problem}',
                          RUN_LENGTHS)
            elif box is not None and not any(counts[1::2]):
                self._count_mask('with no pixel set', label)
        elif isinstance(mask, list):
            self._check_polygons(mask, box, size, label)
        else:
            self.stop('{} masks that are neither polygons nor RLE', f'{label}: {_short(mask)}')

    def _count_mask(self, problem: str, label: str) -> None:
        self.masks[problem] += 1
        self.examples.setdefault(problem, label)

    def _check_polygons(self, polygons: list, box: Optional[Sequence[float]],
                        size: Optional[tuple], label: str) -> None:
        if not all(isinstance(polygon, list) for polygon in polygons):
            self.stop('{} polygons that are no lists of lists of numbers', label, POLYGONS)
            return
        if not all(_is_number(value) for polygon in polygons for value in polygon):
            self.stop('{} polygons with coordinates that are not finite numbers', label, POLYGONS)
            return
        usable = [polygon for polygon in polygons if len(polygon) >= 6 and len(polygon) % 2 == 0]
        if not usable and self.use.scored:  # it stops there, or reads four numbers as a box
            self.stop(f'{{}} masks {FEW_POINTS}', label, POLYGONS)
        elif not usable and box is not None:
            self._count_mask(FEW_POINTS, label)
        elif usable and len(usable) < len(polygons):
            self.warn('{} masks with a polygon of fewer than three points or an odd count of '
                      'coordinates, left out', label)
        if usable and box is not None:
            self._compare_with_box(_bounds(usable), box, size, label)

    def _compare_with_box(self, bounds: Tuple[float, float, float, float], box: Sequence[float],
                          size: Optional[tuple], label: str) -> None:
        self.compared += 1
        self.examples.setdefault('compared', f'{label}: {_short(box)}')
        self.around[AS_MEANT] += _is_around(box, bounds)
        for reading, convert in READINGS.items():
            self.around[reading] += _is_around(convert(*box), bounds)
        problem = _misplaced(bounds, box, size)
        if problem:
            self._count_mask(problem, label)

    def _check_all_together(self) -> None:
        count = len(self.annotations)
        if not count:
            return
        if self.ignored == count:
            self.stop(f'all {count} annotations have a true ignore, and a reader leaves them out',
                      advice='Write "ignore": 0, or leave it out')
        elif not self.kept:
            types = ('. Some are texts in one place and numbers in the other'
                     if self.other_types else '')
            self.stop(f'none of the {count} annotations is of a listed image and category and not '
                      'to be ignored', advice='Compare image_id and category_id with the ids that '
                                              f'the file lists{types}')
        elif self.crowds == self.kept:
            self.stop(f'all {count} annotations have iscrowd 1, which leaves nothing to train or '
                      'to score', advice='Objects have iscrowd 0')
        elif not sum(self.boxes.values()):
            self.stop(f'none of the {count} boxes can be used', self.examples.get('area'),
                      self._cause_of_loss(count))
        elif self.without_area:
            self.warn(f'{self.without_area} of {count} boxes have an area of 0 or less, and are '
                      'left out', self.examples['area'], AREAS)
        self._check_readings(count)
        self._check_shifted_ids()
        self._check_masks_together()
        if self.without_mask:
            self.stop(f'{self.without_mask} of {self.kept} annotations have no segmentation, and '
                      'masks are trained or scored', self.examples['mask'], NO_MASKS)

    def _cause_of_loss(self, count: int) -> str:
        if self.without_area:
            return f'{self.without_area} have an area of 0 or less. {AREAS}'
        if self.readings[SHARES] == count:
            return f'They may be {SHARES}. {CORNERS}, in pixels'
        return 'A box is at least 1 pixel wide and high, and in its image'

    def _check_readings(self, count: int) -> None:
        """Note boxes whose numbers seem to have another order.

        In it all boxes lie in their image, or around their polygons, and as they stand many do not.
        """
        compared = self.compared
        found = next((reading for reading in READINGS if self.around[reading] == compared), None)
        around = self.around[AS_MEANT]
        if found and compared >= ENOUGH_BOXES and around <= CROSSING * compared:
            self.stop(f'{around} of {compared} boxes are those around their polygons, and read as '
                      f'{found} all are', self.examples['compared'], CORNERS)
        if not self.crossing:
            return
        what = f'{self.crossing} of {count} boxes reach over the edge of their image'
        likely = next((reading for reading in READINGS if self.readings[reading] == count), None)
        if likely is None or count < ENOUGH_BOXES:
            self.warn(what, self.examples['crossing'])
            return
        (self.stop if self.crossing >= CROSSING * count else self.warn)(
            f'{what}, and read as {likely} all lie in it', self.examples['crossing'],
            f'{CORNERS}. {EXCHANGED}' if likely == TURNED else CORNERS)

    def _check_shifted_ids(self) -> None:
        """Note annotations that number the categories in order, from 0 or from 1 on."""
        used, number = set(self.used), len(self.names)
        for start, other in ((0, 1), (1, 0)):
            edge = 0 if start == 0 else number  # the one that only this numbering has
            if (edge in used and edge not in self.names and other in self.names
                    and used <= set(range(start, start + number))):
                self.stop(f'ids of annotations start at {start}: category_id is one of '
                          f'{start} to {start + number - 1}, and the ids of the categories '
                          f'are {_short(list(self.names))}',
                          advice='Each box would have the class before or after its own, or '
                                 "none. Write the categories' ids in category_id")

    def _check_masks_together(self) -> None:
        objects = sum(self.boxes.values())
        note = self.stop if sum(self.masks.values()) == objects else self.warn
        for problem, number in self.masks.items():
            note(f'{number} of {objects} masks {problem}', self.examples[problem], MASKS[problem])


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
    if not isinstance(sides, list) or len(sides) != 2 or not all(map(_is_number, sides)):
        return f'its size is {_short(sides)}'
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


def _bounds(polygons: List[list]) -> Tuple[float, float, float, float]:
    """Return the left, top, right and bottom edge of polygons."""
    left, right = (pick(pick(polygon[::2]) for polygon in polygons) for pick in (min, max))
    top, bottom = (pick(pick(polygon[1::2]) for polygon in polygons) for pick in (min, max))
    return left, top, right, bottom


def _is_around(box: Sequence[float], bounds: Tuple[float, float, float, float]) -> bool:
    x, y, width, height = box
    return all(abs(edge - bound) <= ROUNDING
               for edge, bound in zip((x, y, x + width, y + height), bounds))


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


def _fits(box: Sequence[float], size: Tuple[float, float]) -> bool:
    """Tell whether x, y, width and height, of which the latter are not 0, lie in an image."""
    x, y, width, height = box
    return (width > 0 and height > 0 and x >= -ROUNDING and y >= -ROUNDING
            and x + width <= size[0] + ROUNDING and y + height <= size[1] + ROUNDING)


def _is_number(value: Any) -> bool:
    # not math.isfinite, which an integer of many digits overflows
    return (isinstance(value, (int, float)) and not isinstance(value, bool)
            and -LARGEST < value < LARGEST)


def _is_id(value: Any) -> bool:
    return isinstance(value, str) or _is_number(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'
