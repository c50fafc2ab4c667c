"""Files that are written whole or not at all."""
import os
from pathlib import Path
from typing import Union


def write_whole(file: Path, content: Union[str, bytes]) -> None:
    """Write text or bytes under a temporary name, then give the file its own.

    Raises:
        OSError: The folder is not there or cannot be written; a file that was there stays.
    """
    partial = file.with_name(file.name + '.partial')
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(partial, file)
