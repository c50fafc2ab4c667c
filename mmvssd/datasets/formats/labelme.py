"""Detection data in LabelMe's form: a JSON file of shapes for each image."""
import base64
import binascii
import io
import math
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from mmvssd.bands.kinds import any_header
from mmvssd.datasets.formats.class_names import find_names
from mmvssd.datasets.formats.dividing import divide
from mmvssd.datasets.formats.images import NAME_IT, SEVERAL, image_near
from mmvssd.datasets.formats.objects import clipped, from_polygons, from_run_lengths
from mmvssd.datasets.formats.records import DETECTION, Data, Found, Item
from mmvssd.datasets.formats.tree import Tree
from mmvssd.engine.data.coco.values import is_number
from mmvssd.engine.data.file_facts import upright_size
from mmvssd.engine.data.findings import Findings
from mmvssd.errors import DataError
from mmvssd.phrases import counted, numbered, short, some

#: Corners that stand for a circle.
CORNERS = 36
#: Shapes without area.
WITHOUT_AREA = ('line', 'linestrip', 'point', 'points')
#: Names that LabelMe gives to what is no class.
NO_CLASSES = ('__ignore__', '_background_')


def find(tree: Tree) -> Optional[Found]:
    """Find JSON files with a list of shapes; one that is named stands for its folder."""
    files = [path for path in tree.annotations('.json') if _is_labelme(tree.json(path))]
    if files and tree.file is not None:
        files = [path for path in tree.others['.json'] if _is_labelme(tree.json(path))]
    # broken files beside images are of this kind if others are
    broken = [path for path in tree.others['.json'] if files and path.stem in tree.by_stem
              and isinstance(tree.json(path), DataError)]
    if not files:
        return None
    return Found(sorted(files + broken), f"{len(files)} JSON files with 'shapes'")


def _is_labelme(content: Any) -> bool:
    return (isinstance(content, dict) and isinstance(content.get('shapes'), list)
            and 'images' not in content)


def read(tree: Tree, found: Found, findings: Findings,
         classes: Optional[Sequence[str]] = None) -> Data:
    """Read all files; see :func:`mmvssd.datasets.formats.coco.read`."""
    named = find_names(tree) if classes is None else None
    known = list(classes) if classes is not None else None
    if named:
        known = [name for name in named.names if name not in NO_CLASSES]
    files = []
    for file in found.files:
        content = tree.json(file)
        if isinstance(content, DataError):
            findings.stop(str(file.parent), '{} JSON file[s] cannot be read', str(content))
        else:
            files.append(_File(file, content, tree, findings))
    names = known or sorted({name for one in files for name, _ in one.objects})
    items: List[Item] = []
    annotated: Dict[Path, Path] = {}
    for one in files:
        if one.image is None:
            continue
        if one.image in annotated:
            findings.stop(str(tree.root), '{} image[s] [is|are] annotated in two files',
                          f'{one.image}: {annotated[one.image]} and {one.file}')
        annotated[one.image] = one.file
        for name in {name for name, _ in one.objects} - set(names):
            findings.stop(str(tree.root), '{} file[s] [has|have] shapes of classes that are not '
                                          'listed',
                          f'{name!r} in {one.file}', f'Listed are {some(names)}')
        objects = [dict(shape, category_id=names.index(name)) for name, shape in one.objects
                   if name in names]
        items.append(Item(one.image, one.size, objects=objects, source=str(one.file)))
    parts, notes = divide(items, tree)
    left_out = sum(one.left_out for one in files)
    if left_out:
        notes.append(numbered('{} shape[s] without area, such as lines and points, [is|are] left '
                              'out', left_out))
    bare = [path for path in tree.images if path not in annotated]
    if bare:
        notes.append(numbered('{} image[s] without a JSON file [is|are] left out, such as ',
                              len(bare)) + str(bare[0]))
    if named:
        notes.append(f'classes and their order are those of {named.file}')
    return Data(DETECTION, names, parts, listed=known is not None, notes=notes)


class _File:
    """One file while it is read.

    Attributes:
        file: Its path.
        image: Its image; None if it is not there, which is noted.
        size: (width, height) as it has it, or None.
        objects: Name and object of each class; several shapes of a group are one object.
        left_out: Shapes without area.
    """

    def __init__(self, file: Path, content: dict, tree: Tree, findings: Findings):
        self.file, self.findings, self.left_out = file, findings, 0
        self.image = self._find_image(content.get('imagePath'), tree)
        width, height = content.get('imageWidth'), content.get('imageHeight')
        self.size: Optional[Tuple[int, int]] = None
        if is_number(width) and is_number(height) and min(width, height) > 0:
            self.size = (int(width), int(height))
        self.objects: List[Tuple[str, Dict[str, Any]]] = []
        fact = any_header(str(self.image)) if self.image is not None else None
        self.limits: Any = self.size or (upright_size(fact) if fact else (1, 1))
        self._add_all(content['shapes'])

    def _stop(self, what: str, detail: str) -> None:
        self.findings.stop(str(self.file.parent), what, f'{self.file}: {detail}')

    def _find_image(self, path: Any, tree: Tree) -> Optional[Path]:
        text = path.replace('\\', '/') if isinstance(path, str) else ''
        name = text.rpartition('/')[2]
        stated = self.file.parent / text
        if text and stated.is_file():
            return Path(*stated.parts) if '..' not in stated.parts else stated.resolve()
        own = tree.by_stem.get(self.file.stem, [])
        beside = [one for one in own if one.parent == self.file.parent]
        try:
            image = next(filter(None, (image_near(candidates, self.file, text, tree) for candidates
                                       in (beside, tree.by_name.get(name, []), own))), None)
        except DataError as error:
            self.findings.stop(str(self.file.parent), SEVERAL, str(error), NAME_IT)
            return None
        if image is None:
            self._stop('{} file[s] [has|have] no image; one in imageData is not read',
                       f'imagePath {short(path)}')
        return image

    def _add_all(self, shapes: Sequence[Any]) -> None:
        groups: Dict[Tuple[str, Any], List[list]] = {}
        for number, shape in enumerate(shapes, 1):
            name = shape.get('label') if isinstance(shape, dict) else None
            if not isinstance(name, str) or not name.strip():
                self._stop('{} file[s] [has|have] shapes without a label', f'shape {number}')
                continue
            if name in NO_CLASSES:
                continue
            kind = shape.get('shape_type') or 'polygon'
            if kind in WITHOUT_AREA:
                self.left_out += 1
            elif kind == 'mask':
                self._add_mask(name, shape, number)
            else:
                polygon = self._polygon(kind, shape.get('points'), f'shape {number}, {name}')
                group = shape.get('group_id')
                key = group if isinstance(group, (int, str)) else ('alone', number)
                if polygon is not None:
                    groups.setdefault((name, key), []).append(polygon)
        self.objects += [(name, from_polygons(0, polygons))
                         for (name, _), polygons in groups.items()]

    def _polygon(self, kind: str, points: Any, label: str) -> Optional[List[float]]:
        """Return a shape's outline in pixels; None if it has none, which is noted."""
        if not isinstance(points, list) or not all(
                isinstance(point, list) and len(point) == 2 and all(map(is_number, point))
                for point in points):
            self._stop('{} shape[s] whose points are not pairs of numbers', label)
            return None
        if kind == 'rectangle' and len(points) == 2:
            (x1, y1), (x2, y2) = points
            points = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
        elif kind == 'circle' and len(points) == 2:
            points = _circle(*points)
        elif kind not in ('polygon', 'rectangle', 'rotation', 'oriented_rectangle'):
            self._stop('{} shape[s] of an unknown kind', f'{label}: {short(kind)}')
            return None
        if len(points) < 3:
            self._stop('{} shape[s] with fewer than three points',
                       f'{label}: {counted(len(points), "point")}, a {kind}')
            return None
        outline = clipped(points, self.limits)
        if from_polygons(0, [outline])['area'] <= 0:
            self._stop('{} shape[s] without area in [its|their] image', label)
            return None
        return outline

    def _add_mask(self, name: str, shape: dict, number: int) -> None:
        """Add a mask that the file holds as a PNG image, of the box between its points."""
        try:
            (left, top), _ = shape['points']
            with Image.open(io.BytesIO(base64.b64decode(shape['mask']))) as image:
                small = np.asarray(image.convert('L')) > 0
            left, top = round(left), round(top)
            if self.size is None or min(left, top) < 0:
                raise ValueError('it has no place in the image')
            mask = np.zeros(self.size[::-1], np.uint8)
            window = mask[top:top + small.shape[0], left:left + small.shape[1]]
            window[:] = small[:window.shape[0], :window.shape[1]]
        except (KeyError, TypeError, ValueError, OSError, binascii.Error,
                Image.DecompressionBombError) as error:
            self._stop('{} mask[s] cannot be read', f'shape {number}, {name} ({error})')
            return
        rle = coco_mask.encode(np.asfortranarray(mask))
        one = from_run_lengths(0, dict(size=rle['size'], counts=rle['counts'].decode()),
                               coco_mask.toBbox(rle).tolist(), float(coco_mask.area(rle)))
        if one['area'] > 0:
            self.objects.append((name, one))
        else:
            self._stop('{} mask[s] [is|are] empty', f'shape {number}, {name}')


def _circle(centre: Sequence[float], edge: Sequence[float]) -> List[Tuple[float, float]]:
    radius = math.dist(centre, edge)
    angles = (2 * math.pi * index / CORNERS for index in range(CORNERS))
    return [(centre[0] + radius * math.cos(angle), centre[1] + radius * math.sin(angle))
            for angle in angles]
