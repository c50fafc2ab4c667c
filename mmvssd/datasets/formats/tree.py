"""The files below a folder, looked through once for all formats."""
import os
import re
import unicodedata
from collections import defaultdict
from functools import cache, cached_property
from pathlib import Path
from typing import Dict, Iterable, List, Optional, Sequence, Set, Tuple, Union

from mmvssd.datasets.formats.records import TEST, TRAIN, VAL
from mmvssd.datasets.formats.words import EMPTY_WORDS
from mmvssd.engine.data.coco import read_json
from mmvssd.engine.data.findings import Findings
from mmvssd.engine.data.listings.folders import UNREAD, image_names, is_hidden, walk
from mmvssd.errors import DataError
from mmvssd.paths import seen_from
from mmvssd.phrases import some

#: Words of names of folders and files, by the part that they stand for.
PARTS = {'train': TRAIN, 'training': TRAIN, 'val': VAL, 'valid': VAL, 'validation': VAL,
         'eval': VAL, 'test': TEST, 'testing': TEST}
#: File in a folder that was written from data: what lies there is not looked at as data again.
MARK = 'made_by_new_recipe.json'
#: Names of files that are looked at to find the folder of images.
PROBED = 50


class Tree:
    """The files below a folder.

    Args:
        data: A folder, or an annotation file, which stands for the folder that it lies in; if
            that has no images, for the folder above.

    Raises:
        DataError: There is no such file or folder, or it cannot be listed.

    Attributes:
        root: The folder, absolute.
        file: The file, absolute; None if a folder was named.
        images: The images, sorted.
        others: The other files by their ending in lower case.
    """

    def __init__(self, data: Union[str, Path]):
        path = Path(os.path.abspath(data))
        if not os.path.lexists(path):
            raise DataError(f'{data}: no such file or folder{seen_from(data)}')
        self.file = None if path.is_dir() else path
        self.root = path if path.is_dir() else path.parent
        if not os.access(self.root, os.R_OK | os.X_OK):
            raise DataError(f'{self.root}: cannot be listed, no permission to read it')
        self._list()
        if self.file is not None and not self.images:  # as of COCO's folder of annotations
            self.root = self.root.parent
            self._list()

    def _list(self) -> None:
        self.images: List[Path] = []
        self.others: Dict[str, List[Path]] = defaultdict(list)
        self.loops: List[str] = []
        unlisted: List[str] = []
        made = set()  # a folder comes before those in it
        for relative, names, loop in walk(str(self.root), unlisted):
            if loop is not None:
                self.loops.append(loop)
            here = Path(relative)
            if MARK in names and relative:
                made.add(here)
            if any(map(is_hidden, here.parts)) or made & {here, *here.parents}:
                continue
            images = image_names(names)
            for name in names:
                path = self.root / relative / name
                if name in images:
                    self.images.append(path)
                elif not is_hidden(name):
                    self.others[path.suffix.lower()].append(path)
        # only root may list the `lost+found` of a disk
        unlisted = [folder for folder in unlisted if not any(map(
            is_hidden, Path(folder).relative_to(self.root).parts))]
        if unlisted:  # a class, or a part, would be missing without a word
            raise DataError(f'{some(unlisted)}: cannot be listed, no permission to read '
                            f'{"it" if len(unlisted) == 1 else "them"}')
        self.images.sort()
        for files in self.others.values():
            files.sort()

    @property
    def unread(self) -> List[Path]:
        """The photographs in formats that are not read."""
        return [path for ending in UNREAD for path in self.others.get(ending, ())]

    def annotations(self, *endings: str) -> List[Path]:
        """Return the annotation file that was named, or all files of some endings."""
        if self.file is not None:
            return [self.file] if self.file.suffix.lower() in endings else []
        return [path for ending in endings for path in self.others.get(ending, ())]

    @cached_property
    def by_stem(self) -> Dict[str, List[Path]]:
        """The images by their name without ending."""
        found = defaultdict(list)
        for path in self.images:
            found[path.stem].append(path)
        return found

    @cached_property
    def by_name(self) -> Dict[str, List[Path]]:
        """The images by their name."""
        found = defaultdict(list)
        for path in self.images:
            found[path.name].append(path)
        return found

    @cached_property
    def _by_folded(self) -> Dict[str, List[Path]]:
        """The images by their path as :func:`folded` writes it."""
        found = defaultdict(list)
        for path in self.images:
            found[folded(str(path))].append(path)
        return found

    def meant_by(self, path: Path) -> Optional[Path]:
        """Return the only image that a path may mean on a system that tells fewer names apart."""
        found = self._by_folded.get(folded(os.path.normpath(path)), [])
        return found[0] if len(found) == 1 else None

    @cache  # noqa: B019  a tree lives as long as a command
    def json(self, path: Path) -> Union[dict, DataError]:
        """Return the content of a JSON file, or what is wrong with it."""
        try:
            content = read_json(str(path), marked=True)
        except DataError as error:
            return error
        content.pop('imageData', None)  # LabelMe's copy of the image, megabytes each
        return content

    def relative(self, path: Path) -> str:
        """Return a path as seen from the root, with '/'."""
        return os.path.relpath(path, self.root).replace(os.sep, '/')

    @cached_property
    def folders(self) -> Dict[tuple, Set[str]]:
        """The names of the folders in each folder, whose names from the root on are the key."""
        found: Dict[tuple, Set[str]] = defaultdict(set)
        for folder in {path.parent for files in (self.images, *self.others.values())
                       for path in files}:
            parts = folder.relative_to(self.root).parts
            for depth, name in enumerate(parts):
                found[parts[:depth]].add(name)
        return found

    @cache  # noqa: B019  as above
    def part_of(self, folder: Path) -> Optional[str]:
        """Return the part that the names of a folder and of those above it speak of, or None.

        A name beside which folders of other parts lie speaks before others. Among further words,
        as in ``crash_test``, only such a name speaks of a part.
        """
        names = tuple(name for name in self.relative(folder).split('/') if name not in ('', '.'))
        alone = None
        for depth, name in enumerate(names):
            part, further = _part_and_words(name)
            if part is None:
                continue
            others = map(_part_and_words, self.folders.get(names[:depth], ()))
            if any(other not in (None, part) and words in ((), further)
                   for other, words in others):
                return part
            alone = alone or (part if not further else None)
        return alone


def _part_and_words(name: str) -> Tuple[Optional[str], Tuple[str, ...]]:
    """Return the part that a name speaks of, and its words beside that say more."""
    words = [word for word in re.split('[^a-z]+', name.lower()) if word]
    part = part_of_names([name])
    return part, tuple(word for word in words if word not in PARTS and word not in EMPTY_WORDS)


def part_of_names(names: Iterable[str]) -> Optional[str]:
    """Return the part that the first name speaks of that speaks of one."""
    for name in names:
        for word in re.split('[^a-z]+', name.lower()):
            if word in PARTS:
                return PARTS[word]
    return None


def folder_of(names: Sequence[str], tree: Tree, near: Path) -> Path:
    """Return the folder from which the most of some relative file names lead to a file.

    Args:
        names: Relative paths of images.
        tree: The files that are there.
        near: The file that lists them; of equal folders the one with most in common is taken.
    """
    step = max(1, len(names) // PROBED)
    probes = [name.replace('\\', '/') for name in names[::step] if name]
    ends = {folded('/' + re.sub(r'^(\.?/)+', '', name)) for name in probes}
    depths = _depths(ends)
    votes: Dict[str, int] = defaultdict(int)
    for path in tree.images:
        for depth in depths:
            if folded(f'/{"/".join(path.parts[-depth:])}') in ends:
                votes[str(path.parents[depth - 1])] += 1
    if not votes:
        return near.parent
    part = part_of_names([near.stem, *reversed(near.parts[:-1])])

    def fitness(folder: str) -> tuple:
        same_part = part is not None and tree.part_of(Path(folder)) == part
        common = len(os.path.commonpath([folder, str(near.parent)]))
        return votes[folder], same_part, common

    return Path(max(sorted(votes), key=fitness))


def folded(name: str) -> str:
    """Return a name without what some systems do not tell apart.

    These are capitals on Windows and macOS, and whether an accent is a character of its own.
    """
    return unicodedata.normalize('NFC', name).casefold()


def _depths(ends: Iterable[str]) -> List[int]:
    return sorted({end.count('/') for end in ends})


def check_there(path: Path, where: str, findings: Findings) -> bool:
    """Tell whether an image is there; if not, note it."""
    if path.is_file():
        return True
    findings.stop(where, '{} image[s] [is|are] not there', str(path))
    return False
