"""Files that name classes, and their colours, as annotation tools write them beside the data."""
import csv
import io
import re
from pathlib import Path
from typing import List, NamedTuple, Optional, Tuple

from mmvssd.datasets.formats.tree import Tree
from mmvssd.errors import DataError

#: Names of such files, in lower case, the best first.
FILES = ('class_dict.csv', 'classes.csv', 'labelmap.txt', 'label_colors.txt', 'classes.txt',
         'class_names.txt', 'obj.names', 'names.txt', 'labels.txt', '_darknet.labels')
#: Roboflow's name of such a file of label maps, and how it begins; of classes others begin.
ROBOFLOW, PIXEL_VALUE = '_classes.csv', 'pixel value'
#: Titles of columns of CSV files, in lower case: of names and of numbers, the
#: best first, and of colours.
NAME_TITLES = ('name', 'class_name', 'class name', 'classname', 'label_name', 'names', 'class',
               'label', 'classes', 'labels', 'category')
NUMBER_TITLES = ('id', 'class_id', 'label_id', 'category_id', 'index', 'number', 'value',
                 PIXEL_VALUE)
COLOUR_TITLES = (('r', 'g', 'b'), ('red', 'green', 'blue'))
#: Largest number of a class up to which gaps between numbers are filled.
MOST_NUMBERS = 255
#: Lines of LabelMe's lists that are no classes.
NO_CLASSES = ('__ignore__', )


class Names(NamedTuple):
    """Classes of a file: their names, in its order, and their RGB if it has them for all."""

    names: List[str]
    colours: Optional[List[Tuple[int, int, int]]]
    file: Path


def find_names(tree: Tree, by_number: bool = False) -> Optional[Names]:
    """Read the first file below a folder that names classes; None if there is none.

    Args:
        tree: The files that are there.
        by_number: Whether annotations have numbers of classes. Numbers that a CSV file leaves out
            are then classes without a name, so that others keep theirs.

    Raises:
        DataError: It cannot be read, or names a class twice.
    """
    files = {path.name.lower(): path for ending in ('.txt', '.csv', '.names', '.labels')
             for path in reversed(tree.others.get(ending, []))}
    if ROBOFLOW in files and not read_text(files[ROBOFLOW]).lower().startswith(PIXEL_VALUE):
        del files[ROBOFLOW]
    file = next((files[name] for name in (*FILES, ROBOFLOW) if name in files), None)
    if file is None:
        return None
    text = read_text(file)
    rows = (_table(text, by_number) if file.suffix.lower() == '.csv'
            else [_columns(line) for line in text.splitlines()])
    rows = [row for row in rows if row and row[0].strip() and row[0] not in NO_CLASSES]
    names = [row[0].strip() for row in rows]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f'{file}: names the class {twice[0]!r} more than once')
    colours = [(int(row[1]), int(row[2]), int(row[3])) for row in rows
               if len(row) >= 4 and all(value.strip().isdigit() for value in row[1:4])]
    return Names(names, colours if colours and len(colours) == len(names) else None, file)


def _table(text: str, by_number: bool) -> List[List[str]]:
    """Return the rows of a CSV file: each a name, and the numbers of its colour if it has one.

    They come by the classes' numbers if it has those.
    """
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text))
            if any(map(str.strip, row))]
    titles = [cell.lower() for cell in rows[0]] if rows else []
    colour = next((list(map(titles.index, of_rgb)) for of_rgb in COLOUR_TITLES
                   if set(of_rgb) <= set(titles) and len(titles) > len(of_rgb)), [])
    place = next((titles.index(title) for title in NAME_TITLES if title in titles), None)
    if any(map(str.isdigit, titles)) or (place is None and not colour):
        return rows  # no header
    place = place or 0
    rows = rows[1:]
    number = next((titles.index(title) for title in NUMBER_TITLES if title in titles), None)
    if number is not None and all(row[number:number + 1] and row[number].isdecimal()
                                  for row in rows):
        rows.sort(key=lambda row: int(row[number]))
        if by_number and not colour:
            rows = _without_gaps(rows, number, place)
    return [[row[index] for index in (place, *colour) if index < len(row)] for row in rows]


def _without_gaps(rows: List[List[str]], number: int, place: int) -> List[List[str]]:
    """Add a row for each number from 1 on that a class could have and none has."""
    by_number = {int(row[number]): row for row in rows}
    first, last = min(1, *by_number), max(by_number)
    if len(by_number) < len(rows) or last > MOST_NUMBERS:
        return rows
    width = max(number, place) + 1
    return [by_number.get(index, [f'class_{index}'] * width) for index in range(first, last + 1)]


def _columns(line: str) -> List[str]:
    """Split a line of a text file: ``name``, ``name:r,g,b:...`` or ``r g b name``."""
    line = line.strip()
    if line.startswith('#'):
        return []
    named = re.fullmatch(r'(.+?)\s*:\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*(?::.*)?', line)
    if named:
        return list(named.groups())
    coloured = re.fullmatch(r'(\d+)\s+(\d+)\s+(\d+)\s+(\S.*)', line)
    if coloured:
        return [coloured[4], coloured[1], coloured[2], coloured[3]]
    return [line]


def read_text(file: Path) -> str:
    """Return a text file's content.

    Raises:
        DataError: It cannot be read, or is not encoded in UTF-8.
    """
    try:
        text = file.read_bytes().decode('utf-8-sig')
    except OSError as error:
        raise DataError(f'{file}: cannot be read ({error.strerror})') from error
    except UnicodeDecodeError as error:
        raise DataError(f'{file}: is not encoded in UTF-8 ({error.reason} at byte '
                        f'{error.start}); save it as UTF-8') from error
    if '\0' in text:
        raise DataError(f'{file}: holds zero bytes: it is encoded in UTF-16, or is no text; save '
                        'it as UTF-8')
    return text
