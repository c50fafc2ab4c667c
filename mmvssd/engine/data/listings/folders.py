"""Folders of images, as the hosts walk through them."""
import os
from collections import Counter
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple

from mmvssd.bands.files import NUMPY as ARRAYS
from mmvssd.engine.data.findings import Findings
from mmvssd.errors import DataError
from mmvssd.phrases import numbered

#: Endings of images, for files that a data set passes over.
IMAGE_ENDINGS = ('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.bmp', '.tif', '.tiff', '.webp',
                 '.ppm', '.pgm', '.gif', '.jp2')
#: Endings of photographs that are not read, as of telephones and cameras.
UNREAD = ('.heic', '.heif', '.avif', '.jxl', '.cr2', '.cr3', '.nef', '.arw', '.dng', '.orf', '.raf',
          '.rw2')
#: Folders that programs make beside the user's.
MADE_BY_PROGRAMS = {'__pycache__', '__MACOSX', '@eaDir', 'lost+found', '$RECYCLE.BIN',
                    'System Volume Information'}


def is_hidden(name: str) -> bool:
    """Tell whether a file or a folder is one that a program made beside the user's.

    macOS writes a file ``._a.jpg`` beside ``a.jpg`` on drives of other systems. It is no image.
    """
    return name.startswith('.') or name in MADE_BY_PROGRAMS


def image_names(names: Iterable[str]) -> Set[str]:
    """Return which of some file names, or paths, are images: the rule of all that reads folders.

    Hidden files are none. Arrays are, unless images are among the names: then they may be what was
    computed of these.
    """
    endings = {name: os.path.splitext(name)[1].lower() for name in names
               if not is_hidden(os.path.basename(name))}
    wanted = IMAGE_ENDINGS if set(endings.values()) & set(IMAGE_ENDINGS) else ARRAYS
    return {name for name, ending in endings.items() if ending in wanted}


def unread_advice(names: Iterable[str]) -> str:
    """Advise to convert photographs in a format that is not read; empty if there are none."""
    endings = sorted({os.path.splitext(name)[1] for name in names if name.lower().endswith(UNREAD)})
    return f'. {endings[0]} is not read: convert these photographs to JPEG' if endings else ''


def walk_user_folders(root: Path) -> Iterator[Tuple[Path, List[str], List[str]]]:
    """Walk through a folder, but not into links to folders, nor into what programs made.

    Yields:
        Each folder, the names of its files, and those of hidden folders in it.

    Raises:
        DataError: A folder cannot be listed.
    """
    def fail(error: OSError):
        raise DataError(f'{error.filename}: cannot be listed ({error.strerror}); make it readable, '
                        'or give a list of images') from error

    for folder, folders, names in os.walk(root, onerror=fail):
        hidden = sorted(filter(is_hidden, folders))
        folders[:] = sorted(set(folders) - set(hidden))
        yield Path(folder), sorted(names), hidden


def walk(folder: str, unlisted: Optional[List[str]] = None
         ) -> Iterator[Tuple[str, List[str], Optional[str]]]:
    """Walk through a folder as the hosts do, through links too, but out of loops.

    Args:
        folder: The folder.
        unlisted: Gets the folders that cannot be listed. None passes over them, if what reads
            them next says why.

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
        except OSError:
            if unlisted is not None:
                unlisted.append(os.path.join(folder, relative))
            continue
        for entry in entries:
            if not _is_dir(entry):
                files.append(entry.name)
                continue
            real = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(
                above[-1], entry.name)
            if real in above:
                loop = entry.path
            else:
                waiting.append((os.path.join(relative, entry.name), (*above, real)))
        yield relative, files, loop


def _is_dir(entry: os.DirEntry) -> bool:
    """Tell whether it is a folder: no link that leads around in a circle, or to what is hidden."""
    try:
        return entry.is_dir()
    except OSError:
        return False


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
        return sorted(entry.name for entry in os.scandir(self.path) if _is_dir(entry))

    def check(self, where: str, findings: Findings) -> None:
        """Note loops, and images of other endings."""
        for loop in self.loops:
            findings.stop(where, '{} link[s] that [leads|lead] back to a folder above them', loop,
                          'The same images would be read again and again; remove them')
        for ending, count in self.passed_over.items():
            findings.warn(where, numbered(
                f'{{}} image[s] that [ends|end] with {ending} [is|are] not read, files that end as '
                "the recipe's are", count), self.example[ending],
                          'Rename them, or change the suffix or the extensions of the data set')
