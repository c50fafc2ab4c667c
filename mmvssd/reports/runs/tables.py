"""Tables that the hosts write into a log, such as of scores by class."""
from pathlib import Path
from typing import List, NamedTuple, Optional

#: First column of a table of classes, in lower case.
FIRST = ('class', 'category', 'classes')


class Table(NamedTuple):
    """A table of text."""

    header: List[str]
    rows: List[List[str]]


def class_table(work_dir: Path) -> Optional[Table]:
    """Return the last table of classes in the newest log that has one; None if none has."""
    for log in sorted(work_dir.glob('*/*.log'), reverse=True):
        try:
            lines = log.read_text(errors='replace').splitlines()
        except OSError:
            continue
        table = _last(lines)
        if table is not None:
            return table
    return None


def _last(lines: List[str]) -> Optional[Table]:
    end = None
    for place in range(len(lines) - 1, -1, -1):
        is_row = lines[place].startswith('|') and lines[place].rstrip().endswith('|')
        if is_row and end is None:
            end = place
        elif not is_row and not lines[place].startswith('+') and end is not None:
            table = _parsed(lines[place + 1:end + 1])
            if table is not None:
                return table
            end = None
    return None


def _parsed(lines: List[str]) -> Optional[Table]:
    cells = [[cell.strip() for cell in line.strip().strip('|').split('|')]
             for line in lines if line.startswith('|')]
    if len(cells) < 2 or cells[0][0].lower() not in FIRST:
        return None
    width = len(cells[0])
    return Table(cells[0], [row for row in cells[1:] if len(row) == width])
