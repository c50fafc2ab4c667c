"""Classification data as a CSV file: an image and its class in each row."""
import csv
import io
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence

from mmvssd.datasets.formats.class_names import FILES, read_text
from mmvssd.datasets.formats.dividing import settled
from mmvssd.datasets.formats.records import CLASSIFICATION, TRAIN, WHOLE, Data, Found, Item
from mmvssd.datasets.formats.tree import PARTS, Tree, folder_of, part_of_names
from mmvssd.engine.data.findings import Findings
from mmvssd.engine.data.listings.folders import IMAGE_ENDINGS
from mmvssd.errors import DataError
from mmvssd.phrases import short, some

#: Names of columns, in lower case.
IMAGE_COLUMNS = ('image', 'filename', 'file_name', 'file', 'filepath', 'file_path', 'path',
                 'image_path', 'image_name', 'img', 'image_id', 'id', 'name')
LABEL_COLUMNS = ('label', 'class', 'category', 'target', 'class_name', 'label_name', 'species',
                 'labels', 'y')
PART_COLUMNS = ('split', 'subset', 'set', 'part', 'fold', 'partition')
#: Columns of boxes, which are read from other formats.
BOX_COLUMNS = {'xmin', 'ymin', 'bbox', 'x1', 'xmax'}
DELIMITERS = ',;\t|'
#: Rows in which images are looked for to recognize such a file.
PROBED = 20
PROBED_BYTES = 4096


class Table(NamedTuple):
    """Rows of a file, with the places of their columns.

    Attributes:
        rows: The rows below the header, each with the number of its line.
        image: Place of the image's name.
        label: Place of the class.
        part: Place of the part, or None.
    """

    rows: List[tuple]
    image: int
    label: int
    part: Optional[int]


def find(tree: Tree) -> Optional[Found]:
    """Find CSV files of which a column names images."""
    files = [file for file in tree.annotations('.csv', '.tsv')
             if tree.file is not None or file.name.lower() not in FILES]
    files = [file for file in files if _is_list(file, tree)]
    return Found(files, 'a table of images and classes', 'likely') if files else None


def _is_list(file: Path, tree: Tree) -> bool:
    try:
        table = _read_table(file)
    except DataError:  # what reads it says why
        return tree.file is not None or any(
            ending.encode() in file.read_bytes()[:PROBED_BYTES].replace(b'\0', b'').lower()
            for ending in IMAGE_ENDINGS)
    names = [row[table.image] for _, row in table.rows[:PROBED] if len(row) > table.image]
    return any(Path(name).name in tree.by_name or Path(name).name in tree.by_stem
               or name.lower().endswith(IMAGE_ENDINGS) for name in names)


def _read_table(file: Path) -> Table:
    """Read a file.

    Raises:
        DataError: It cannot be read, or its columns are none of images and classes.
    """
    text = read_text(file)
    first = next((line for line in text.splitlines() if line.strip()), '')
    delimiter = max(DELIMITERS, key=first.count)
    try:
        read = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
        rows = [(number, [cell.strip() for cell in row]) for number, row in enumerate(read, 1)
                if any(map(str.strip, row))]
    except csv.Error as error:
        raise DataError(f'{file}: cannot be read as a table ({error}); is a quote '
                        'not closed?') from error
    if not rows:
        raise DataError(f'{file}: is empty')
    header = [cell.lower() for cell in rows[0][1]]
    if BOX_COLUMNS & set(header):
        raise DataError(f'{file}: holds boxes ({", ".join(header)}); tables are read of classes. '
                        'Write boxes as COCO JSON')
    image, label, part = (next((header.index(name) for name in names if name in header), None)
                          for names in (IMAGE_COLUMNS, LABEL_COLUMNS, PART_COLUMNS))
    for place in (image, label, part):
        if place is not None and header.count(header[place]) > 1:
            raise DataError(f'{file}: has several columns {header[place]!r}; keep one of them')
    if image is not None and label is not None:
        return Table(rows[1:], image, label, part)
    if len(header) == 2 and header[0].endswith(IMAGE_ENDINGS):  # no header
        return Table(rows, 0, 1, None)
    if len(header) == 2 and len(rows) > 1:
        return Table(rows[1:], 0, 1, None)
    raise DataError(f'{file}: its columns are {some(header)}; expected one of images, such as '
                    f'{IMAGE_COLUMNS[0]}, and one of classes, such as {LABEL_COLUMNS[0]}')


def read(tree: Tree, found: Found, findings: Findings,
         classes: Optional[Sequence[str]] = None) -> Data:
    """Read the tables; see :func:`mmvssd.datasets.formats.coco.read`."""
    rows: List[tuple] = []
    for file in found.files:
        part = part_of_names([file.stem]) if tree.file is None else None
        rows += _rows_of(file, part, tree, findings)
    names = list(classes) if classes is not None else _sorted({label for _, label, _, _ in rows})
    groups: Dict[Optional[str], List[Item]] = {}
    seen: Dict[Path, tuple] = {}
    for image, label, part, place in rows:
        if label not in names:
            findings.stop(str(tree.root), '{} row[s] [has|have] a class that is not listed',
                          f'{place}: {label!r}')
            continue
        if image in seen:
            what = ('{} image[s] [is|are] listed twice' if seen[image][0] == label
                    else '{} image[s] [is|are] listed with several classes')
            findings.stop(str(tree.root), what, f'{seen[image][1]} and {place}: {image.name}')
            continue
        seen[image] = label, place
        groups.setdefault(part, []).append(Item(image, label=names.index(label), source=place))
    parts, notes = settled(groups)
    if TRAIN not in parts and WHOLE not in parts:
        findings.stop(str(tree.root), 'no row is of training')
    return Data(CLASSIFICATION, names, parts, listed=classes is not None, notes=notes)


def _rows_of(file: Path, part: Optional[str], tree: Tree, findings: Findings) -> List[tuple]:
    """Return image, class, part and place of each row whose image is there."""
    table = _read_table(file)
    wanted = [row[table.image] for _, row in table.rows if len(row) > table.image]
    folder = folder_of(wanted, tree, file)
    rows = []
    for number, row in table.rows:
        place = f'{file}, line {number}'
        if len(row) <= max(table.image, table.label) or not row[table.label]:
            findings.stop(str(file), '{} row[s] [lacks|lack] an image or a '
                                     'class', f'line {number}: '
                          f'{short(row)}')
            continue
        image = _image_of(row[table.image], folder, tree)
        if image is None:
            findings.stop(str(file), '{} image[s] [is|are] not there',
                          f'line {number}: {row[table.image]}')
            continue
        own = row[table.part].lower() if table.part is not None and (
            len(row) > table.part) else None
        rows.append((image, row[table.label], PARTS.get(own or '') or part, place))
    return rows


def _image_of(name: str, folder: Path, tree: Tree) -> Optional[Path]:
    """Return the image of a name: a path, a path without ending, or a name of only one image."""
    path = Path(name.replace('\\', '/'))
    if (folder / path).is_file():
        return folder / path
    meant = tree.meant_by(folder / path)
    if meant is not None:
        return meant
    beside = [one for one in tree.by_stem.get(path.name, ()) if one.parent == folder / path.parent]
    # the ending's letters may be of another case
    anywhere = (tree.by_name.get(path.name) or tree.by_stem.get(path.name)
                or tree.by_stem.get(path.stem) or [])
    candidates = beside or anywhere
    return candidates[0] if len(candidates) == 1 else None


def _sorted(labels: set) -> List[str]:
    """Return classes in order: numbers by their value, else names as folders are sorted."""
    if all(label.isdecimal() for label in labels):
        return sorted(labels, key=int)
    return sorted(labels)
