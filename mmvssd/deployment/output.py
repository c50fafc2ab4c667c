"""Where exports are written: a folder that goes whatever ends them, and names that come last."""
import errno
import os
import shutil
import signal
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Dict, Iterator, List

from mmvssd.engine.record.signals import ENDING, EndingSignals
from mmvssd.files import replace_together


@contextmanager
def temporary_folder(file: Path) -> Iterator[Path]:
    """Give out a folder to make a file in; it is gone at the end of the block.

    SIGTERM, SIGHUP and Ctrl-C raise in the block, as :class:`EndingSignals` has it. If a runtime
    keeps Python from that, the folder goes before the process ends.

    Args:
        file: The file's own path. The folder lies in the nearest of its parents that is there, so
            in the same file system.

    Raises:
        OSError: That parent cannot be written to, or a folder has the file's name.
    """
    if file.is_dir():  # else it would show after minutes
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    parent = next(folder for folder in file.absolute().parents if folder.exists())
    folders: List[Path] = []

    def remove() -> None:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)

    signals = EndingSignals(lambda _: None, last_word=remove)
    signals.watch()
    try:
        folders.append(Path(tempfile.mkdtemp(dir=parent, prefix='.export-')))
        yield folders[0]
    finally:
        # a second signal waits until all is removed
        former = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            remove()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, former)
            signals.leave()


def place(parts: Dict[Path, Path]) -> None:
    """Rename files that belong together, as ``replace_together``, into a folder that may be new.

    Args:
        parts: The file of each final path; all of these lie in one folder.

    Raises:
        OSError: A path cannot be replaced; folders that were made for it are gone again.
    """
    folder = next(iter(parts)).absolute().parent
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_together(parts)
    except BaseException:
        for parent in made:
            with suppress(OSError):  # it was not made, or another's file is in it
                parent.rmdir()
        raise
