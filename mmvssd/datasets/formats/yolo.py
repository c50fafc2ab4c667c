"""Detection data in YOLO's form: a text file of boxes or polygons for each image."""
import math
import os
from pathlib import Path, PurePosixPath
from typing import Any, Dict, List, Optional, Sequence, Tuple

import yaml

from mmvssd.bands.kinds import any_header
from mmvssd.datasets.formats.class_names import FILES, find_names, read_text
from mmvssd.datasets.formats.dividing import divide, settled
from mmvssd.datasets.formats.images import shared_length
from mmvssd.datasets.formats.objects import clipped, from_box, from_polygons
from mmvssd.datasets.formats.records import DETECTION, TEST, TRAIN, VAL, Data, Found, Item
from mmvssd.datasets.formats.tree import PARTS, Tree
from mmvssd.engine.data.file_facts import upright_size
from mmvssd.engine.data.findings import Findings
from mmvssd.engine.data.listings.folders import image_names, walk_user_folders
from mmvssd.errors import DataError
from mmvssd.phrases import counted, short

#: Numbers of a box with its class, and the fewest of a polygon.
BOX, POLYGON = 5, 7
#: Most classes that are numbered without names.
MOST_CLASSES = 1000
#: What numbers may be beyond 0 and 1 through rounding.
ROUNDING = 1e-3
FORM = ('A line is CLASS X Y WIDTH HEIGHT or CLASS X1 Y1 X2 Y2 X3 Y3 ..., shares of the '
        "image's width and height; key points behind a box need kpt_shape in data.yaml")
#: Numbers of a polygon of four points, which turned boxes have, and polygons that tell something.
QUADRANGLE, FEW = 9, 3
#: Folders of texts and of images.
LABELS, IMAGES = 'labels', 'images'


def find(tree: Tree) -> Optional[Found]:
    """Find a YAML file that names classes and parts, or texts beside images."""
    descriptions = [file for file in tree.annotations('.yaml', '.yml') if _is_description(file)]
    if descriptions:
        return Found(descriptions, 'a YAML file that names classes and images')
    files = [label_of(image) for image in tree.images] if tree.others.get('.txt') else []
    files = [file for file in files if _is_label(file)]
    if not files:
        return None
    return Found(files, f'{counted(len(files), "text file")} of numbers beside images', 'likely')


def _is_description(file: Path) -> bool:
    try:
        content = _read_yaml(file)
    except DataError:
        return file.stem == 'data'  # what reads it says why
    return isinstance(content, dict) and 'names' in content and (
        'train' in content or 'val' in content)


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, but for an error at a key that stands twice: it would take the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        """Make a dict."""
        seen = set()
        for key, _ in getattr(node, 'value', ()):
            text = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if text in seen:
                raise yaml.MarkedYAMLError(problem=f'the key {key.value!r} stands there twice',
                                           problem_mark=key.start_mark)
            seen |= {text} - {None}
        return super().construct_mapping(node, deep)


def _read_yaml(file: Path) -> Any:
    try:
        return yaml.load(read_text(file), _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f'{file}: cannot be read as YAML ({error})') from error


def label_of(image: Path) -> Path:
    """Return the text of an image: in ``labels`` in place of the last ``images``, or beside it."""
    parts = list(image.parts)
    places = [index for index, part in enumerate(parts[:-1]) if part.lower() == IMAGES]
    if places:
        parts[places[-1]] = LABELS
    files = [place.with_suffix(ending) for place in dict.fromkeys((Path(*parts), image))
             for ending in ('.txt', '.TXT')]
    return next((file for file in files if file.is_file()), files[0])


def _is_label(file: Path) -> bool:
    """Tell whether a text has a line of numbers of such a file."""
    try:
        with open(file, 'rb') as content:
            words = content.read(4096).split(b'\n')[0].split()
    except OSError:
        return False
    return len(words) >= BOX and all(_number(word.decode('latin-1')) is not None
                                     for word in words)


def _number(text: str) -> Optional[float]:
    try:
        return float(text)
    except ValueError:
        return None


def read(tree: Tree, found: Found, findings: Findings,
         classes: Optional[Sequence[str]] = None) -> Data:
    """Read the texts of all images; see :func:`mmvssd.datasets.formats.coco.read`."""
    notes: List[str] = []
    description = found.files[0] if found.files[0].suffix.lower() != '.txt' else None
    if description is not None and len(found.files) > 1:
        raise DataError(f'{tree.root}: {len(found.files)} YAML files name classes and images: '
                        f'{", ".join(map(tree.relative, found.files))}. Name the one that is meant')
    content = _read_yaml(description) if description is not None else {}
    named = None
    if description is None and classes is None:
        named = find_names(tree, by_number=True)
    names = (list(classes) if classes is not None
             else _names(content.get('names'), description) if description is not None
             else named.names if named else None)
    if isinstance(content.get('nc'), int) and names and content['nc'] != len(names):
        findings.warn(str(description), f"'nc' is {content['nc']}, and there are "
                                        f'{counted(len(names), "name")}')
    if named:
        notes.append(f'classes are those of {named.file}')
    keypoints = 'kpt_shape' in content
    groups = (_listed_images(tree, description, content, findings) if description
              else _darknets_parts(tree, findings) or {None: tree.images})
    texts = {part: [_Text(image, names, keypoints, findings) for image in images]
             for part, images in groups.items()}
    items = {part: [text.item() for text in some_texts] for part, some_texts in texts.items()}
    every = [item for part in items.values() for item in part]
    if names is None:
        names = _numbered(every, findings)
        notes.append('no file names the classes; name them with --classes')
    parts, said = divide(items[None], tree) if None in items else settled(items)
    _note_mixture(every, str(tree.root), findings)
    _note_key_points([text for some_texts in texts.values() for text in some_texts],
                     str(tree.root), findings)
    _check_texts(tree, every, findings)
    return Data(DETECTION, names, parts, notes=[*notes, *said])


def _numbered(items: Sequence[Item], findings: Findings) -> List[str]:
    """Return names for as many classes as the largest number asks for."""
    largest = max(items, key=lambda item: max(item.classes, default=-1))
    count = 1 + max(largest.classes, default=-1)
    if count > MOST_CLASSES:
        findings.stop(str(Path(largest.source).parent),
                      f'no file names the classes, and their numbers go up to {count - 1}',
                      largest.source, 'Name them in classes.txt or with --classes')
        return []
    return [f'class_{index}' for index in range(count)]


def _names(content: Any, file: Path) -> List[str]:
    """Return the names of classes: a list, or a dict by number without gaps."""
    if isinstance(content, dict) and set(content) == set(range(len(content))):
        content = [content[index] for index in range(len(content))]
    if not isinstance(content, list) or not content:
        raise DataError(f"{file}: 'names' is a {type(content).__name__}, expected a list of names, "
                        'or a dict of names by number from 0 on without gaps')
    for name in content:  # what aliases repeat may be endless as text
        if not isinstance(name, (str, int, float)) or isinstance(name, bool):
            raise DataError(f"{file}: 'names' has an entry that YAML reads as a "
                            f'{type(name).__name__}; write it in quotes')
    names = [str(name) for name in content]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f'{file}: names the class {twice[0]!r} more than once')
    return names


def _listed_images(tree: Tree, file: Path, content: dict,
                   findings: Findings) -> Dict[str, List[Path]]:
    """Return the images of each part that a YAML file names: folders, or lists of images."""
    groups = {}
    for key in ('train', 'val', 'valid', 'test'):
        entry = content.get(key)
        if not entry:
            continue
        images: List[Path] = []
        for path in entry if isinstance(entry, list) else [entry]:
            if not isinstance(path, str):
                raise DataError(f'{file}: {key!r} is not a path of a folder or list')
            root = content.get('path')
            images += _images_of(path, root if isinstance(root, str) else None, file, findings,
                                 key, tree)
        if images or PARTS[key] != TEST:
            groups.setdefault(PARTS[key], []).extend(images)
    if not any(groups.values()):
        return groups or {None: []}
    return {part: groups[part] for part in (TRAIN, VAL, TEST) if groups.get(part)}


def _images_of(path: str, root: Optional[str], file: Path, findings: Findings,
               key: str, tree: Tree) -> List[Path]:
    """Return the images of an entry, wherever the file was when it was written."""
    text = path.replace('\\', '/')
    places = [file.parent / root / text] if root else []
    # Roboflow writes ../train/images beside the folder train
    inner = text
    while inner.startswith('../'):
        inner = inner[3:]
    places += [file.parent / text, file.parent / inner, file.parent.parent / inner]
    place = next((Path(os.path.normpath(one)) for one in places if one.exists()), None)
    if place is None:
        note = findings.warn if key == 'test' else findings.stop
        note(str(file), f'{key!r} names a folder or list that is not there', text)
        return []
    if place.is_dir():
        return sorted(folder / name for folder, names, _ in walk_user_folders(place)
                      for name in image_names(names))
    images, seen = [], set()
    for number, line in enumerate(read_text(place).splitlines(), 1):
        if not line.strip():
            continue
        image = Path(os.path.normpath(place.parent / line.strip().replace('\\', '/')))
        if not image.is_file() and (file.parent / line.strip()).is_file():
            image = file.parent / line.strip()
        if not image.is_file():  # it leads to another machine
            image = _ending_like(line, tree) or image
        if not image.is_file():
            findings.stop(str(place), '{} image[s] [is|are] not '
                                      'there', f'line {number}: {line.strip()}')
        elif image in seen:
            findings.stop(str(place), '{} image[s] [is|are] listed twice',
                          f'line {number}: {line.strip()}')
        else:
            seen.add(image)
            images.append(image)
    return images


def _darknets_parts(tree: Tree, findings: Findings) -> Dict[Optional[str], List[Path]]:
    """Return the images of each part by lists such as ``train.txt`` and ``valid.txt``, if any."""
    groups: Dict[Optional[str], List[Path]] = {}
    for file in tree.others.get('.txt', ()):
        part = PARTS.get(file.stem.lower())
        lines = read_text(file).splitlines() if part and file.stem not in tree.by_stem else []
        images = {line.strip(): _ending_like(line, tree) for line in lines if line.strip()}
        if not any(images.values()):
            continue
        for line in (line for line, image in images.items() if image is None):
            findings.stop(str(file), '{} image[s] [is|are] not there', line)
        groups.setdefault(part, []).extend(image for image in images.values() if image)
    return groups if TRAIN in groups and len(groups) > 1 else {}


def _ending_like(line: str, tree: Tree) -> Optional[Path]:
    """Return the only image whose path ends most like a line, which leads to another machine."""
    named = PurePosixPath(line.strip().replace('\\', '/'))
    agreeing = {path: shared_length(named.parts[::-1], path.parts[::-1])
                for path in tree.by_name.get(named.name, ())}
    best = [path for path, count in agreeing.items() if count == max(agreeing.values())]
    return best[0] if len(best) == 1 else None


class _Text:
    """The text of an image while it is read.

    Args:
        image: The image.
        names: Names of the classes; None for any.
        keypoints: Whether lines are boxes followed by key points, which are left out.
        findings: Where faults are noted.

    Attributes:
        polygons: How many numbers each line of a polygon has, and whether the first ones could be
            a box within the image.
    """

    def __init__(self, image: Path, names: Optional[Sequence[str]], keypoints: bool,
                 findings: Findings):
        self.image, self.names, self.keypoints = image, names, keypoints
        self.file, self.findings = label_of(image), findings
        self.polygons: List[Tuple[int, bool]] = []
        fact = any_header(str(image))
        # without it the image is noted as unreadable
        self.size = upright_size(fact) if fact else (1, 1)

    def item(self) -> Item:
        """Return the image with its objects; without a text, or with an empty one, it has none."""
        item = Item(self.image, source=str(self.file))
        if not self.file.is_file():
            return item
        try:
            lines = read_text(self.file).splitlines()
        except DataError as error:
            self.findings.stop(str(self.file), str(error).removeprefix(f'{self.file}: '))
            return item
        seen = set()
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            if line.strip() in seen:
                self.findings.warn(str(self.file.parent), '{} line[s] [occurs|occur] twice in a '
                                                          'file, read '
                                                          'once', f'{self.file}, line {number}')
                continue
            seen.add(line.strip())
            one = self._object(line.split(), f'{self.file}, line {number}: {short(line.strip())}')
            if one is not None:
                item.objects.append(one)
        return item

    def _stop(self, what: str, example: str) -> None:
        self.findings.stop(str(self.file.parent), what, example, FORM)

    def _object(self, words: Sequence[str], example: str) -> Optional[dict]:
        if self.keypoints:
            words = words[:BOX]
        numbers = [number for number in map(_number, words)
                   if number is not None and math.isfinite(number)]
        if len(numbers) < len(words):
            self._stop('{} line[s] with entries that are not finite numbers', example)
        elif numbers[0] != int(numbers[0]) or numbers[0] < 0:
            self._stop('{} line[s] whose class is not a whole number from 0 on', example)
        elif self.names is not None and numbers[0] >= len(self.names):
            self._stop('{} line[s] whose class is beyond the '
                       + counted(len(self.names), 'name'), example)
        elif not all(-ROUNDING <= number <= 1 + ROUNDING for number in numbers[1:]):
            self._stop('{} line[s] with numbers outside 0 to 1', example)
        elif len(numbers) == BOX:
            return self._box(numbers, example)
        elif len(numbers) < POLYGON or len(numbers) % 2 == 0:
            self._stop('{} line[s] that [is|are] neither a box of four numbers nor a polygon of '
                       'three '
                       'points or more', example)
        else:
            return self._polygon(numbers, example)
        return None

    def _box(self, numbers: Sequence[float], example: str) -> Optional[dict]:
        category, x, y, width, height = numbers
        if width <= 0 or height <= 0:
            self._stop('{} box[es] without width or height', example)
            return None
        corners = [((x + side * width / 2) * self.size[0], (y + side * height / 2) * self.size[1])
                   for side in (-1, 1)]
        left, top, right, bottom = clipped(corners, self.size)
        return from_box(int(category), (left, top, right, bottom))

    def _polygon(self, numbers: Sequence[float], example: str) -> Optional[dict]:
        points = [(x * self.size[0], y * self.size[1])
                  for x, y in zip(numbers[1::2], numbers[2::2])]
        one = from_polygons(int(numbers[0]), [clipped(points, self.size)])
        if one['area'] <= 0:
            self._stop('{} polygon[s] without area', example)
            return None
        x, y, width, height = numbers[1:BOX]
        self.polygons.append((len(numbers), width / 2 <= min(x, 1 - x) + ROUNDING
                              and height / 2 <= min(y, 1 - y) + ROUNDING))
        return one


def _note_mixture(items: Sequence[Item], where: str, findings: Findings) -> None:
    """Note boxes among polygons: masks of some objects train no mask head."""
    boxes = [item for item in items for one in item.objects if 'segmentation' not in one]
    total = sum(len(item.objects) for item in items)
    for item in boxes if len(boxes) < total else ():
        findings.warn(where, f'{{}} of {counted(total, "object")} [is a line|are lines] of five '
                             'numbers, [a box|boxes], and the others polygons; a polygon of two '
                             'points would look like a box',
                      item.source, 'Boxes only are trained')


def _note_key_points(texts: Sequence[_Text], where: str, findings: Findings) -> None:
    """Note polygons that may be boxes with key points: all are equally long and begin as boxes."""
    polygons = [polygon for text in texts for polygon in text.polygons]
    lengths = {length for length, _ in polygons}
    if len(polygons) >= FEW and len(lengths) == 1 and lengths.pop() > QUADRANGLE and all(
            is_box for _, is_box in polygons):
        first = next(text.file for text in texts if text.polygons)
        findings.warn(where, f'all {counted(len(polygons), "polygon")} have equally many numbers, '
                             'as boxes with key points have', str(first),
                      'If they are such, write kpt_shape into data.yaml')


def _check_texts(tree: Tree, items: Sequence[Item], findings: Findings) -> None:
    """Note texts in folders of labels whose image is not there."""
    used = {item.source for item in items}
    folders = {Path(source).parent for source in used}
    for file in tree.others.get('.txt', ()):
        if file.parent in folders and str(file) not in used and file.name not in FILES and (
                _is_label(file)):
            findings.warn(str(file.parent), '{} label file[s] [has|have] no image', str(file))
