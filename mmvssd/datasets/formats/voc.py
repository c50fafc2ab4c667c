"""Detection data in Pascal VOC's form: an XML file of boxes for each image."""
import re
from pathlib import Path
from typing import List, Optional, Sequence, Tuple
from xml.etree import ElementTree as ET

from mmvssd.datasets.formats.class_names import find_names
from mmvssd.datasets.formats.dividing import divide
from mmvssd.datasets.formats.images import NAME_IT, SEVERAL, image_near
from mmvssd.datasets.formats.objects import clipped, from_box
from mmvssd.datasets.formats.records import DETECTION, Data, Found, Item
from mmvssd.datasets.formats.tree import Tree
from mmvssd.engine.data.findings import Findings
from mmvssd.errors import DataError
from mmvssd.phrases import numbered, some

#: What the head of such a file has; one with a DTD may hide it.
HEAD = re.compile(rb'<annotation\b|<!DOCTYPE|<!ENTITY')
HEAD_SIZE = 4096
EDGES = ('xmin', 'ymin', 'xmax', 'ymax')
#: Pixels by which boxes reach over an image's edge through rounding.
ROUNDING = 2


class NoEntities(ET.TreeBuilder):
    """Build a tree of a file without a DTD: entities could grow without end, or read files."""

    def doctype(self, name: str, pubid: Optional[str], system: Optional[str]) -> None:
        raise ValueError(f'it declares a document type ({name}), whose entities are not read; '
                         'remove the <!DOCTYPE ...>')


def find(tree: Tree) -> Optional[Found]:
    """Find XML files with an ``<annotation>``; one that is named stands for its folder."""
    files = [path for path in tree.others.get('.xml', ()) if _is_voc(path)]
    if tree.file is not None and tree.file not in files:
        return None
    return Found(files, f'{len(files)} XML files with an <annotation>') if files else None


def _is_voc(path: Path) -> bool:
    try:
        with open(path, 'rb') as file:
            return bool(HEAD.search(file.read(HEAD_SIZE).replace(b'\0', b'')))
    except OSError:
        return True  # what reads it says why


def read(tree: Tree, found: Found, findings: Findings,
         classes: Optional[Sequence[str]] = None) -> Data:
    """Read all files; see :func:`mmvssd.datasets.formats.coco.read`.

    Boxes are edges in pixels, as today's annotation tools write them. Objects that are marked
    ``difficult`` become crowds: neither trained on nor scored.
    """
    named = find_names(tree) if classes is None else None
    read_files = [(file, _Annotation.read(file, findings)) for file in found.files]
    used = {name for _, one in read_files if one for name, _, _ in one.objects}
    known = list(classes) if classes is not None else None
    if named:  # CVAT lists a background besides
        known = [name for name in named.names if name.lower() != 'background' or name in used]
    names = known or sorted(used)
    items, twice = [], {}
    for file, one in read_files:
        if one is None:
            continue
        try:
            image = _image_of(file, one.filename, tree)
        except DataError as error:
            findings.stop(str(tree.root), SEVERAL, str(error), NAME_IT)
            continue
        if image is None:
            findings.stop(str(tree.root), '{} annotation file[s] [has|have] no image',
                          f'{file} (of {one.filename or "no filename"})')
            continue
        if image in twice:
            findings.stop(str(tree.root), '{} image[s] [is|are] annotated in two files',
                          f'{image}: {twice[image]} and {file}')
        twice[image] = file
        for name in {name for name, _, _ in one.objects} - set(names):
            findings.stop(str(tree.root), '{} file[s] [has|have] objects of classes that are not '
                                          'listed',
                          f'{name!r} in {file}', f'Listed are {some(names)}')
        objects = [from_box(names.index(name), box, crowd=crowd)
                   for name, box, crowd in one.objects if name in names]
        items.append(Item(image, one.size, objects=objects, source=str(file)))
    parts, notes = divide(items, tree, 'Main')
    folders = {item.image.parent for item in items}
    bare = [path for path in tree.images if path.parent in folders and path not in twice]
    if bare:
        notes.append(numbered('{} image[s] without an XML file [is|are] left out, such as ',
                              len(bare)) + f'{bare[0]}; write one without objects for images that '
                     'show none')
    hard = sum(one['iscrowd'] for item in items for one in item.objects)
    if hard:
        notes.append(numbered('{} object[s] [is|are] marked difficult, and neither trained on nor '
                              'scored', hard))
    if named:
        notes.append(f'classes and their order are those of {named.file}')
    return Data(DETECTION, names, parts, listed=known is not None, notes=notes)


def _image_of(file: Path, name: Optional[str], tree: Tree) -> Optional[Path]:
    """Return the image of an annotation file: of its own name, else of its ``filename``.

    A name in a file says less, since programs leave it as it was when they rename files.

    Raises:
        DataError: Several images fit equally well.
    """
    text = (name or '').replace('\\', '/')
    base = text.rpartition('/')[2]
    named = tree.by_name.get(base) or tree.by_stem.get(Path(base).stem) or []
    own = tree.by_stem.get(file.stem, [])
    return image_near(own, file, text, tree) or image_near(named, file, text, tree)


class _Annotation:
    """The content of a file.

    Attributes:
        filename: As it names its image, or None.
        size: (width, height), or None if it has none.
        objects: Name, (left, top, right, bottom) and whether it is difficult, of each.
    """

    def __init__(self, root: ET.Element, file: Path, findings: Findings):
        self.file, self.findings = file, findings
        self.filename = root.findtext('filename')
        self.size = self._size(root.find('size'))
        self.objects: List[Tuple[str, tuple, bool]] = []
        for element in root.findall('object'):
            self._add(element)

    @classmethod
    def read(cls, file: Path, findings: Findings) -> Optional['_Annotation']:
        """Read a file; None if it cannot be read, which is noted."""
        try:
            parser = ET.XMLParser(target=NoEntities())
            root = ET.parse(file, parser).getroot()
        except (ET.ParseError, ValueError, LookupError, OSError) as error:
            reason = getattr(error, 'strerror', None) or str(error)
            findings.stop(str(file.parent), '{} XML file[s] cannot be read', f'{file}: {reason}')
            return None
        return cls(root, file, findings)

    def _stop(self, what: str, detail: str) -> None:
        self.findings.stop(str(self.file.parent), what, f'{self.file}: {detail}')

    def _size(self, element: Optional[ET.Element]) -> Optional[Tuple[int, int]]:
        if element is None:
            return None
        width, height = (_number(element.findtext(key)) for key in ('width', 'height'))
        # some tools write 0 x 0 if they did not open the image
        return (int(width), int(height)) if width and height else None

    def _add(self, element: ET.Element) -> None:
        name = (element.findtext('name') or '').strip()
        box = element.find('bndbox')
        if not name:
            self._stop('{} file[s] [has|have] objects without a name', 'object without <name>')
        elif box is None:
            self._stop('{} file[s] [has|have] objects without a box', f'{name} has no <bndbox>')
        else:
            written = [_number(box.findtext(key)) for key in EDGES]
            edges = [edge for edge in written if edge is not None]
            if len(edges) < len(EDGES):
                self._stop('{} box[es] [lacks|lack] an edge, or [has|have] one that is no number',
                           f'{name} {written}')
            elif self._is_box(name, edges):
                hard = (element.findtext('difficult') or '0').strip() == '1'
                if self.size:
                    left, top, right, bottom = edges
                    edges = clipped([(left, top), (right, bottom)], self.size)
                self.objects.append((name, tuple(edges), hard))

    def _is_box(self, name: str, edges: Sequence[float]) -> bool:
        text = f'{name} {list(edges)}'
        if edges[2] <= edges[0] or edges[3] <= edges[1]:
            self._stop('{} box[es] whose right or lower edge is not beyond the other one', text)
        elif self.size and (min(edges) < -ROUNDING or edges[2] > self.size[0] + ROUNDING
                            or edges[3] > self.size[1] + ROUNDING):
            self._stop('{} box[es] [reaches|reach] out of [its|their] image',
                       f'{text}, image {self.size[0]} x {self.size[1]}')
        else:
            return True
        return False


def _number(text: Optional[str]) -> Optional[float]:
    try:
        value = float(text or '')
    except ValueError:
        return None
    return value if abs(value) < 1e9 else None  # nor is it NaN
