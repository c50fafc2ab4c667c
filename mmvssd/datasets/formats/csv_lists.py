"""Classification data as a table in CSV or JSON Lines: an image and its class in each row.

The class is a name in one column, or the column of several that has the row's only 1.
"""
import csv
import io
import json
import re
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

from mmvssd.datasets.formats.class_names import FILES, read_text
from mmvssd.datasets.formats.dividing import divide, settled
from mmvssd.datasets.formats.records import CLASSIFICATION, TRAIN, WHOLE, Data, Found, Item
from mmvssd.datasets.formats.tree import PARTS, Tree, folder_of, part_of_names
from mmvssd.engine.data.findings import Findings
from mmvssd.engine.data.listings.folders import IMAGE_ENDINGS
from mmvssd.errors import DataError
from mmvssd.phrases import numbered, quoted, short, some

#: Names of columns, in lower case.
IMAGE_COLUMNS = ('image', 'filename', 'file_name', 'file', 'filepath', 'file_path', 'path',
                 'image_path', 'image_name', 'img', 'image_id', 'id', 'name')
LABEL_COLUMNS = ('label', 'class', 'category', 'target', 'class_name', 'label_name', 'species',
                 'labels', 'y', 'choice', 'dx', 'diagnosis')
PART_COLUMNS = ('split', 'subset', 'set', 'part', 'fold', 'partition')
#: Columns of boxes, which are read from other formats.
BOX_COLUMNS = {'xmin', 'ymin', 'bbox', 'x1', 'xmax', 'region_shape_attributes'}
#: Part of the names of Kaggle's tables that show how predictions are handed in.
SUBMISSION = 'submission'
#: Columns of sentences, of which no classifier learns.
TEXT_COLUMNS = ('text', 'caption', 'captions', 'description', 'prompt', 'sentence')
#: How a cell begins that holds objects or several classes, and no name.
NO_NAME = re.compile(r'[\[{]\s*[\[{"\']')
#: What columns of classes hold, in lower case.
IS_SET = {'0': False, '0.0': False, 'false': False, '1': True, '1.0': True, 'true': True}
DELIMITERS = ',;\t|'
#: Digits of a number that is no count and no age.
LONG = 5
#: Rows in which images are looked for to recognize such a file.
PROBED = 20
PROBED_BYTES = 4096
ONE_CLASS = 'A classifier gives an image one class: keep one in each row'


class Row(NamedTuple):
    """A row of a table; what it lacks is empty.

    Attributes:
        line: Number of its line.
        cells: Its text.
        image: Name of the image.
        labels: Its classes, of which there should be one.
        part: Name of the part.
    """

    line: int
    cells: List[str]
    image: str
    labels: List[str]
    part: str


class Table(NamedTuple):
    """Rows of a file below its titles.

    Attributes:
        rows: All of them.
        classes: Names of the classes if each has a column.
        fault: Why it is no table of images and classes; empty if it is one.
    """

    rows: List[Row]
    classes: Optional[List[str]] = None
    fault: str = ''


def find(tree: Tree) -> Optional[Found]:
    """Find tables of which a column names images; those without classes if there are no others."""
    files = [file for file in tree.annotations('.csv', '.tsv', '.jsonl') if tree.file is not None
             or not (file.name.lower() in FILES or SUBMISSION in file.stem.lower())]
    lists: List[Path] = []
    others: Dict[Path, str] = {}
    for file in files:
        try:
            table = _read_table(file)
        except DataError:  # what reads it says why
            if tree.file is not None or any(
                    ending.encode() in file.read_bytes()[:PROBED_BYTES].replace(b'\0', b'').lower()
                    for ending in IMAGE_ENDINGS):
                lists.append(file)
            continue
        if table.fault and (tree.file is not None or _names_images(file, tree)):
            others[file] = table.fault
        elif any(_is_image(row.image, tree) for row in table.rows[:PROBED]):
            lists.append(file)
    if not lists:
        return Found(list(others), next(iter(others.values())), 'a guess') if others else None
    left = some([tree.relative(file) for file in others])
    note = f'; {left} [has|have] no column of classes' if left else ''
    return Found(lists, 'a table of images and classes' + numbered(note, len(others)), 'likely')


def _is_image(name: str, tree: Tree) -> bool:
    return (Path(name).name in tree.by_name or Path(name).name in tree.by_stem
            or name.lower().endswith(IMAGE_ENDINGS))


def _names_images(file: Path, tree: Tree) -> bool:
    """Tell whether a column names images, by more than short numbers, which may be others."""
    lines = [cells for _, cells in _read_lines(file)[1:PROBED]]
    columns = [{cells[place] for cells in lines if place < len(cells)}
               for place in range(max(map(len, lines), default=0))]
    return any(all(_is_image(name, tree) for name in names)
               and not all(name.isdecimal() and len(name) < LONG for name in names)
               for names in columns)


def _read_lines(file: Path) -> List[Tuple[int, List[str]]]:
    """Return each line that is not empty, with its number; the first has the titles."""
    if file.suffix.lower() == '.jsonl':
        return _read_json_lines(file)
    text = read_text(file)
    first = next((line for line in text.splitlines() if line.strip()), '')
    delimiter = max(DELIMITERS, key=first.count)
    try:
        read = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
        lines = [(number, [cell.strip() for cell in row]) for number, row in enumerate(read, 1)
                 if any(map(str.strip, row))]
    except csv.Error as error:
        raise DataError(f'{file}: cannot be read as a table ({error}); is a quote '
                        'not closed?') from error
    if not lines:
        raise DataError(f'{file}: is empty')
    return lines


def _read_json_lines(file: Path) -> List[Tuple[int, List[str]]]:
    """Return a text of JSON in each line, as Hugging Face's ``metadata.jsonl``, like a table."""
    rows = []
    for number, line in enumerate(read_text(file).split('\n'), 1):
        try:
            row = json.loads(line) if line.strip() else {}
        except (ValueError, RecursionError) as error:
            raise DataError(f'{file}, line {number}: is not valid JSON ({error})') from error
        if not isinstance(row, dict):
            raise DataError(f'{file}, line {number}: holds a {type(row).__name__}, expected a dict '
                            'by the titles of columns')
        if row:
            rows.append((number, row))
    if not rows:
        raise DataError(f'{file}: is empty')
    titles = list(dict.fromkeys(title for _, row in rows for title in row))
    return [(0, titles), *((number, [_text(row.get(title)) for title in titles])
                           for number, row in rows)]


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else '' if value is None else json.dumps(value)


def _read_table(file: Path) -> Table:
    """Read a file.

    Raises:
        DataError: It cannot be read.
    """
    table = _table_of(_read_lines(file), file)
    strange = next((row for row in table.rows if any(map(NO_NAME.match, row.labels))), None)
    if strange is None:
        return table
    return Table([], fault=f'{file}, line {strange.line}: holds {short(strange.labels[0])}, '
                           'expected the name of a class. Export objects as COCO JSON. '
                           f'{ONE_CLASS}')


def _table_of(lines: Sequence[Tuple[int, List[str]]], file: Path) -> Table:
    """Find the columns of images, classes and parts by their titles."""
    titles = lines[0][1]
    header = [title.lower() for title in titles]
    if BOX_COLUMNS & set(header):
        return Table([], fault=f'{file}: holds boxes ({", ".join(header)}); tables are read of '
                               'classes. Export boxes as COCO JSON, YOLO or Pascal VOC')
    image, label, part = (next((header.index(name) for name in names if name in header), None)
                          for names in (IMAGE_COLUMNS, LABEL_COLUMNS, PART_COLUMNS))
    columns = [place for place, title in enumerate(titles) if title and place not in (image, part)]
    of_classes = label is None and image is not None and _are_classes(columns, lines[1:])
    for place in (image, label, part, *(columns if of_classes else ())):
        if place is not None and header.count(header[place]) > 1:
            raise DataError(f'{file}: has several columns {titles[place]!r}; keep one of them')
    if image is not None and label is not None:
        return Table(_rows(lines[1:], image, [label], part))
    if len(header) == 2 and header[0].endswith(IMAGE_ENDINGS):  # no header
        return Table(_rows(lines, 0, [1], None))
    if len(header) == 2 and header[1] in TEXT_COLUMNS:
        return Table([], fault=f'{file}: has a column {titles[1]!r}, of sentences, and no classes; '
                               f'if they are classes, call the column {LABEL_COLUMNS[0]}')
    if len(header) == 2 and len(lines) > 1:
        return Table(_rows(lines[1:], 0, [1], None))
    if image is not None and of_classes:
        names = [titles[place] for place in columns]
        return Table(_rows(lines[1:], image, columns, part, names), names)
    return Table([], fault=f'{file}: its columns are {", ".join(map(quoted, header))}; expected '
                           f'one of images, such as {IMAGE_COLUMNS[0]}, and one of classes, such '
                           f'as {LABEL_COLUMNS[0]}, or a column of 0 and 1 for each class')


def _are_classes(columns: Sequence[int], lines: Sequence[Tuple[int, List[str]]]) -> bool:
    """Tell whether columns hold nothing but 0 and 1."""
    cells = [cells[place] if place < len(cells) else '' for _, cells in lines for place in columns]
    return len(columns) > 1 and bool(cells) and all(cell.lower() in IS_SET for cell in cells)


def _rows(lines: Sequence[Tuple[int, List[str]]], image: int, labels: Sequence[int],
          part: Optional[int], names: Optional[Sequence[str]] = None) -> List[Row]:
    """Find an image, classes and part of each row; names are those of columns of 0 and 1."""
    def cell(cells: List[str], place: Optional[int]) -> str:
        return cells[place] if place is not None and place < len(cells) else ''

    read = []
    for line, cells in lines:
        own = [cell(cells, place) for place in labels]
        if names is not None:
            own = [name for name, text in zip(names, own) if IS_SET[text.lower()]]
        read.append(Row(line, cells, cell(cells, image), [label for label in own if label],
                        cell(cells, part)))
    return read


def read(tree: Tree, found: Found, findings: Findings,
         classes: Optional[Sequence[str]] = None) -> Data:
    """Read the tables; see :func:`mmvssd.datasets.formats.coco.read`."""
    rows: List[tuple] = []
    columns: List[str] = []
    for file in found.files:
        part = part_of_names([file.stem]) if tree.file is None else None
        table = _read_table(file)
        if table.fault:
            raise DataError(table.fault)
        columns += [name for name in table.classes or () if name not in columns]
        rows += _rows_of(table, file, part, tree, findings)
    labels = {label for _, label, _, _ in rows}
    _doubt_joined(labels, tree, findings)
    names = list(classes) if classes is not None else columns + _sorted(labels - {*columns})
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
    # a table that says nothing of parts may list images that lie in folders of such
    parts, notes = divide(groups[None], tree) if set(groups) == {None} else settled(groups)
    if TRAIN not in parts and WHOLE not in parts:
        findings.stop(str(tree.root), 'no row is of training')
    return Data(CLASSIFICATION, names, parts, listed=classes is not None or bool(columns),
                notes=notes)


def _rows_of(table: Table, file: Path, part: Optional[str], tree: Tree,
             findings: Findings) -> List[tuple]:
    """Return image, class, part and place of each row whose image is there."""
    folder = folder_of([row.image for row in table.rows if row.image], tree, file)
    rows = []
    for row in table.rows:
        if not row.image or not row.labels:
            findings.stop(str(file), '{} row[s] [lacks|lack] an image or a class',
                          f'line {row.line}: {short(row.cells)}')
            continue
        if len(row.labels) > 1:
            findings.stop(str(file), '{} row[s] [has|have] several classes',
                          f'line {row.line}: {some(row.labels)}', ONE_CLASS)
            continue
        image = _image_of(row.image, folder, tree)
        if image is None:
            findings.stop(str(file), '{} image[s] [is|are] not there',
                          f'line {row.line}: {row.image}')
            continue
        rows.append((image, row.labels[0], PARTS.get(row.part.lower()) or part,
                     f'{file}, line {row.line}'))
    return rows


def _doubt_joined(labels: Set[str], tree: Tree, findings: Findings) -> None:
    """Warn of classes that are several others with blanks or commas between."""
    for label in sorted(labels):
        for between in (r'\s+', r'[,;|/+]'):
            own = [part.strip() for part in re.split(between, label)]
            if len(own) > 1 and labels.issuperset(own):
                findings.warn(str(tree.root), '{} class[es] may be several in one',
                              f'{label!r}', ONE_CLASS)
                break


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
