"""Folders of images, as the hosts walk through them."""
import os
from collections import Counter
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

from mmvssd.engine.data.findings import Findings

#: Endings of images, for files that a data set passes over.
IMAGE_ENDINGS = ('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.bmp', '.tif', '.tiff', '.webp',
                 '.ppm', '.pgm', '.gif', '.jp2')
#: Folders that programs make beside the user's.
MADE_BY_PROGRAMS = {'__pycache__', '__MACOSX', '@eaDir', 'lost+found', '$RECYCLE.BIN',
                    'System Volume Information'}


def is_hidden(name: str) -> bool:
    """Tell whether a folder is one that a program made beside the user's."""
    return name.startswith('.') or name in MADE_BY_PROGRAMS


def walk(folder: str) -> Iterator[Tuple[str, List[str], Optional[str]]]:
    """Walk through a folder as the hosts do, through links too, but out of loops.

    Yields:
        The path of each folder relative to the first, and the names of its files. Third comes a
        link in it that leads back to a folder above, or None.
    """
    waiting: List[Tuple[str, Tuple[str, ...]]] = [('', (os.path.realpath(folder), ))]
    while waiting:
        relative, above = waiting.pop()
        files, loop = [], None
        try:
            entries = sorted(os.scandir(os.path.join(folder, relative)), key=lambda e: e.name)
        except OSError:  # the host's reader stops at it and says why
            continue
        for entry in entries:
            if not entry.is_dir():
                files.append(entry.name)
                continue
            real = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(
                above[-1], entry.name)
            if real in above:
                loop = entry.path
            else:
                waiting.append((os.path.join(relative, entry.name), (*above, real)))
        yield relative, files, loop


class Folder:
    """The files below a folder, by subfolder.

    Args:
        path: The folder.
        endings: Endings of the files that a data set reads, in lower case.
        any_case: Whether a data set reads them in upper case too.
    """

    def __init__(self, path: str, endings: Sequence[str], any_case: bool = True):
        self.path = path
        self.loops: List[str] = []
        self.read: Counter = Counter()  # by the first folder below; '' is none
        self.passed_over: Counter = Counter()
        self.example: Dict[str, str] = {}
        self.names: List[str] = []
        for relative, files, loop in walk(path):
            if loop is not None:
                self.loops.append(loop)
            top = relative.split(os.sep)[0]
            for name in files:
                if name.startswith('.'):
                    continue
                if (name.lower() if any_case else name).endswith(tuple(endings)):
                    self.read[top] += 1
                    self.names.append(os.path.join(relative, name))
                elif name.lower().endswith(IMAGE_ENDINGS):
                    ending = os.path.splitext(name)[1]
                    self.passed_over[ending] += 1
                    self.example.setdefault(ending, os.path.join(path, relative, name))

    def subfolders(self) -> List[str]:
        """Return the names of the folders in it, sorted."""
        return sorted(entry.name for entry in os.scandir(self.path) if entry.is_dir())

    def check(self, where: str, findings: Findings) -> None:
        """Note loops, and images of other endings."""
        for loop in self.loops:
            findings.stop(where, '{} links that lead back to a folder above them', loop,
                          'The same images would be read again and again; remove them')
        for ending, count in self.passed_over.items():
            findings.warn(where, f'{count} images that end with {ending} are not read, files that '
                                 "end as the recipe's are", self.example[ending],
                          'Rename them, or change the suffix or the extensions of the data set')
