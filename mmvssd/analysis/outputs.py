"""Files that an analysis writes below its ``--out``."""
from pathlib import Path
from typing import Union

from mmvssd.errors import ConfigError
from mmvssd.files import write_whole


def write_output(file: Path, content: Union[str, bytes]) -> None:
    """Write a file whole, and its folder if that is not there.

    Raises:
        ConfigError: It cannot be written, such as for want of room; what was there stays.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, content)
    except OSError as error:
        raise ConfigError(f'--out: {file} cannot be written ({error.strerror or error})'
                          ) from error
