"""Files that are written whole or not at all."""
import errno
import json
import math
import os
import shutil
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, Union

#: Errors of writing that say that there is no room for a file, or none for any file.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
#: What a file's name ends with while it is being written.
PARTIAL = '.partial'


@contextmanager
def written_whole(file: Path, *, durable: bool = False) -> Iterator[Path]:
    """Give out a temporary name to write a file under; rename it when the block ends.

    The name is unique, since several processes may write one file. If the block raises, the
    temporary file is removed and the one that was there stays.

    Args:
        file: The file's own path, in a folder that is there.
        durable: Bring the content to the disk before the renaming, so that it survives a machine
            that stops.

    Raises:
        OSError: The folder is not there or cannot be written to. It names a file.
    """
    partial = file.with_name(f'{file.name}.{uuid.uuid4().hex[:8]}{PARTIAL}')
    try:
        yield partial
        if durable:
            with open(partial, 'rb') as content:
                os.fsync(content.fileno())
        os.replace(partial, file)
    except OSError as error:
        if error.filename is None and error.errno in NO_ROOM:  # as of a file that was open
            error.filename = str(file)
        raise
    finally:
        partial.unlink(missing_ok=True)


def strict_json(value: Any, **layout: Any) -> str:
    """Write a value as JSON that every reader takes: numbers that are not finite become strings.

    Args:
        value: Dicts, lists, strings and numbers.
        layout: Such as ``indent``, as ``json.dumps`` has it.
    """
    return json.dumps(_finite(value), allow_nan=False, **layout)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def write_whole(file: Path, content: Union[str, bytes]) -> None:
    """Write text or bytes with :func:`written_whole`.

    Raises:
        OSError: The folder is not there or cannot be written to; a file that was there stays.
    """
    with written_whole(file) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def replace_together(parts: Dict[Path, Path]) -> None:
    """Rename several files that belong together; if one cannot be, the former ones come back.

    Args:
        parts: The file of each final path. It lies in the same file system, in a folder in which
            former files are kept meanwhile.

    Raises:
        OSError: A path cannot be replaced.
    """
    former: Dict[Path, Path] = {}
    done = []
    try:
        for file, part in parts.items():
            if file.is_file():
                former[file] = part.with_name(f'{part.name}.former')
                shutil.copy2(file, former[file])
        for file, part in parts.items():
            os.replace(part, file)
            done.append(file)
    except BaseException:
        for file in done:
            if file in former:
                os.replace(former[file], file)
            else:
                file.unlink()
        raise
