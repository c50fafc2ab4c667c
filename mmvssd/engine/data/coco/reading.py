"""Read an annotation file, or say what it is instead."""
import codecs
import json
from functools import partial
from pathlib import Path
from typing import Any, List, Optional, Tuple

from mmvssd.errors import DataError
from mmvssd.foreign_files import kind_of

#: Byte order marks by the name of what they begin.
MARKS = {b'\xff\xfe\0\0': 'UTF-32', b'\0\0\xfe\xff': 'UTF-32', b'\xff\xfe': 'UTF-16',
         b'\xfe\xff': 'UTF-16', b'\xef\xbb\xbf': 'UTF-8'}


def read_json(file: str, marked: bool = False) -> dict:
    """Read an annotation file.

    Args:
        file: The file.
        marked: Whether it may begin with a byte order mark of UTF-8, which the hosts do not read.

    Raises:
        DataError: It is no JSON, in no encoding that the hosts read, or no dict of lists.
    """
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise DataError(f'{file} cannot be read ({error.strerror})') from error
    if not content.strip():
        raise DataError(f'{file} is empty; write the annotations anew')
    if marked:
        content = content.removeprefix(codecs.BOM_UTF8)
    for mark, encoding in MARKS.items():
        if content.startswith(mark):
            raise DataError(f'{file} begins with a byte order mark (BOM) of {encoding}; save it as '
                            'UTF-8 without BOM')
    kind = _foreign(file, content)
    if kind:
        raise DataError(f'{file} is {kind}')
    if b'\0' in content[:4]:
        raise DataError(f'{file} is encoded in UTF-16 or UTF-32, or is not text; save it as UTF-8')
    try:
        parsed = json.loads(content.decode('utf-8'),
                            object_pairs_hook=partial(_unambiguous, file))
    except UnicodeDecodeError as error:
        raise DataError(f'{file} is not encoded in UTF-8 ({error.reason} at byte {error.start}); '
                        'save it as UTF-8') from error
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        if getattr(error, 'msg', '') == 'Extra data' and _is_json(content.split(b'\n')[0]):
            raise DataError(f'{file} holds a JSON text per line (JSON Lines); COCO files hold one '
                            "dict of 'images', 'annotations' and 'categories'") from error
        raise DataError(f'{file} is not valid JSON, perhaps cut short ({error})') from error
    if not isinstance(parsed, dict):
        raise DataError(f'{file} holds a {type(parsed).__name__}, COCO files hold a dict of '
                        "'images', 'annotations' and 'categories'")
    return parsed


def _unambiguous(file: str, pairs: List[Tuple[str, Any]]) -> dict:
    """Make a dict, and raise DataError if a key has two values: a reader would take the last."""
    made = dict(pairs)
    if len(made) < len(pairs):
        for key, value in pairs:
            if made[key] != value:
                raise DataError(f'{file} has the key {key!r} twice in one dict, with values that '
                                'differ; keep one, or put both together')
    return made


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
