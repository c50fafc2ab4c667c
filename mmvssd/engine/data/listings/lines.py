"""Lines of a list of images, and what they hold besides a path."""
import io
import os
import re
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from mmvssd.engine.data.findings import Findings

#: Patterns of what lists hold besides a path, and what is said of them.
BESIDES_PATHS = {
    r'["\'].*["\']$': 'whose path is in quotes, which count as part of it',
    r'.*\S:?\\\S': 'whose path has backslashes, expected /',
}


def lines_of(file: str, where: str, findings: Findings) -> List[Tuple[int, str]]:
    """Return the lines that hold something, with their numbers; the others are noted."""
    try:
        text = Path(file).read_bytes().decode('utf-8')
    except UnicodeDecodeError:
        findings.stop(where, 'is not encoded in UTF-8')
        return []
    except OSError as error:
        findings.stop(where, f'cannot be read ({error.strerror})')
        return []
    if text.startswith('\ufeff'):
        findings.stop(where, 'begins with a byte order mark (BOM), which counts as part of the '
                             'first path', advice='Save it as UTF-8 without BOM')
        text = text[1:]
    # where Python's reader of files ends lines, unlike splitlines
    lines = list(enumerate(io.StringIO(text, newline=None), 1))
    if not any(line.strip() for _, line in lines):
        findings.stop(where, 'lists no images')
        return []
    for number, line in lines:
        if not line.strip():
            findings.stop(where, '{} blank line[s]', f'line {number}', 'Remove them')
    return [(number, line.rstrip('\n')) for number, line in lines if line.strip()]


def besides(text: str, file: str, problems: Dict[str, str]) -> Optional[str]:
    """Return what a line's path or name seems to hold besides; None if there is such a file."""
    problem = next((problem for pattern, problem in problems.items() if re.match(pattern, text)),
                   None)
    return problem if problem and not os.path.exists(file) else None
