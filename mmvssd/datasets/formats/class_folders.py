"""Classification data as a folder of images for each class."""
import re
from collections import defaultdict
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from mmvssd.datasets.formats.records import (
    CLASSIFICATION,
    TEST,
    TRAIN,
    VAL,
    WHOLE,
    Data,
    Found,
    Item,
    Part,
)
from mmvssd.datasets.formats.tree import MARK, PARTS, Tree, part_of_names
from mmvssd.datasets.formats.words import IMAGE_WORDS, MAP_WORDS, OBJECT_WORDS
from mmvssd.engine.data.findings import Findings
from mmvssd.engine.data.listings.folders import is_hidden
from mmvssd.errors import DataError
from mmvssd.phrases import counted, numbered, some, suggestion

#: Of parts.
ORDER = (TRAIN, VAL, TEST, WHOLE)
#: Folder into which CVAT writes images without a class.
NO_LABEL = 'no_label'
#: Endings of lists that may say which images are of which part.
LISTS = ('.txt', '.csv', '.tsv', '.json')
#: Endings that MMPreTrain's CustomDataset reads, in either case.
READ_IN_PLACE = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')


def find(tree: Tree) -> Optional[Found]:
    """Find folders of classes, which hold images."""
    try:
        _, _, by_part = _folders(tree)
    except DataError:  # reading says why
        return Found([], 'folders of images, which may be parts or classes', 'a guess')
    if not by_part:
        return None
    names = sorted({name for folders in by_part.values() for name in folders})
    reason = numbered('[a folder|folders] of images, of {} class[es]', len(names))
    return Found([], reason, 'likely')


def may_be_several(tree: Tree) -> bool:
    """Tell whether there are folders of two classes or more."""
    try:
        _, _, by_part = _folders(tree)
    except DataError:  # reading says why
        return True
    return len({name for folders in by_part.values() for name in folders}) > 1


def are_called_otherwise(tree: Tree) -> bool:
    """Tell whether all folders are called as parts, images or label maps, and none as a class.

    Names of label maps do not suffice: ``mask`` and ``no_mask`` may be classes.
    """
    try:
        _, divided, by_part = _folders(tree)
    except DataError:  # reading says why
        return False
    names = {name for folders in by_part.values() for name in folders}
    words = [set(re.split(r'[\W_]+', name.lower())) for name in names]
    told = IMAGE_WORDS | PARTS.keys()
    return (not divided and len(names) > 1 and any(one & told for one in words)
            and all(one & (told | MAP_WORDS | OBJECT_WORDS) for one in words))


def _folders(tree: Tree) -> Tuple[Path, bool, Dict[str, Dict[str, List[Path]]]]:
    """Return the folder that holds parts or classes, if it holds parts, and the images by both.

    It is the root, or a single folder in it.
    """
    places = [Path(tree.relative(path)).parts for path in tree.images]
    base = tree.root
    while places and min(map(len, places)) > 2 and len({parts[0] for parts in places}) == 1 and (
            _part(places[0][0]) is None):
        base = base / places[0][0]
        places = [parts[1:] for parts in places]
    divided = _is_divided(base, places)
    by_part: Dict[str, Dict[str, List[Path]]] = defaultdict(lambda: defaultdict(list))
    for path, parts in zip(tree.images, places):
        part = _part(parts[0]) if divided else WHOLE
        if len(parts) > 1 + divided and part is not None and parts[divided] != NO_LABEL:
            by_part[part][parts[divided]].append(path)
    if len(by_part) == 1 and divided:  # one part is a whole
        by_part = {WHOLE: by_part.popitem()[1]}
    return base, divided, by_part


def _is_divided(base: Path, places: Sequence[Tuple[str, ...]]) -> bool:
    """Tell whether folders are parts, and the folders in them classes.

    Beside parts others may lie, such as one of images without classes.

    Raises:
        DataError: They could be either.
    """
    tops = {parts[0] for parts in places if len(parts) > 1}
    nested = {parts[0] for parts in places if len(parts) > 2}
    others = {top for top in tops if _part(top) is None}
    if not tops or not others:
        return bool(tops)
    trains = {top for top in nested if _part(top) == TRAIN}
    if not trains or {_part(top) for top in nested} - {TRAIN, None} or not others <= nested:
        return bool(trains)
    raise DataError(f'{base}: {", ".join(sorted(trains))} may be a part of the data, and may be a '
                    f'class as {some(sorted(others))} are. Name {base / min(trains)} if it holds '
                    'the folders of the classes; rename it if it is a class')


def _part(name: str) -> Optional[str]:
    """Return the part that a folder such as ``train`` or ``val2017`` stands for, or None."""
    return PARTS.get(re.sub(r'[\d_-]+$', '', name.lower()))


def read(tree: Tree, found: Found, findings: Findings,
         classes: Optional[Sequence[str]] = None) -> Data:
    """Read the folders of all parts; see :func:`mmvssd.datasets.formats.coco.read`."""
    base, divided, by_part = _folders(tree)
    names = sorted({name for folders in by_part.values() for name in folders})
    if classes is not None:
        for name in names:
            if name not in classes:
                findings.stop(str(tree.root), '{} folder[s] [is|are] not among the classes',
                              str(next(folders[name][0].parent for folders in by_part.values()
                                       if name in folders)), f'Listed are {some(classes)}')
        names = list(classes)
    trained = by_part.get(TRAIN, by_part.get(WHOLE, {}))
    only = len(trained) == 1 and len(names) > 1
    if only:
        others = [tree.relative(files[0].parent) for folders in by_part.values()
                  for name, files in folders.items() if name not in trained]
        findings.stop(str(tree.root), f'training has only the class {min(trained)}, and a '
                      f'classifier needs two; of other classes are {some(others)}', advice='Put '
                      'images of all classes into training. If the others show faults of that one, '
                      'as in MVTec AD, a segmentation can learn their label maps')
    parts = {}
    for part, folders in sorted(by_part.items(), key=lambda entry: ORDER.index(entry[0])):
        for name, files in folders.items():
            if trained and name not in trained and not only:
                findings.stop(str(tree.root), '{} class[es] that the training data lack',
                              str(files[0].parent), 'Rename or remove such folders. Training has '
                              f'{some(sorted(trained))}{suggestion(name, trained)}')
        items = [Item(path, label=names.index(name) if name in names else 0,
                      source=str(path.parent))
                 for name, files in folders.items() for path in files]
        parts[part] = Part(items, _in_place(base, part, folders, names))
    read_images = {item.image for part in parts.values() for item in part.items}
    beside = [path for path in tree.images if path not in read_images]
    notes = [numbered('{} image[s] [lies|lie] in no folder of a class and [is|are] not read, such '
                      'as ', len(beside)) + str(beside[0])] if beside else []
    lists = [tree.relative(file) for ending in LISTS for file in tree.others.get(ending, ())
             if part_of_names([file.stem])] if WHOLE in by_part else []
    if lists:
        notes.append(numbered(f'{some(lists)} may divide the images, and [is|are] not read; images '
                              'of parts lie in folders such as train and val', len(lists)))
    empty = _without_images(tree, base, divided, names)
    if empty:
        notes.append(f'{counted(len(empty), "folder")} beside those of the classes without an '
                     f'image that is read, so no class: {some(empty)}')
    return Data(CLASSIFICATION, names, parts, listed=False, notes=notes)


def _without_images(tree: Tree, base: Path, divided: bool, names: Sequence[str]) -> List[str]:
    """List folders that lie where those of classes do, and hold no image of any class."""
    parents = [entry for entry in base.iterdir() if entry.is_dir() and _part(entry.name) is not None
               ] if divided else [base]
    used = {parent for path in tree.images for parent in path.parents}
    return sorted({entry.name for parent in parents for entry in parent.iterdir()
                   if entry.is_dir() and entry not in used and not is_hidden(entry.name)
                   and not (entry / MARK).exists()} - set(names))


def _in_place(base: Path, part: str, folders: Dict[str, List[Path]],
              names: Sequence[str]) -> Optional[dict]:
    """Return the settings that read a part as it lies; None if the host would number otherwise."""
    if part == WHOLE:
        return None
    first = next(iter(folders.values()))[0]
    folder = base / first.relative_to(base).parts[0]
    there = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    endings = {path.suffix.lower() for files in folders.values() for path in files}
    if there != list(names) or not endings <= set(READ_IN_PLACE):
        return None
    return dict(data_root=str(base), data_prefix=folder.name)
