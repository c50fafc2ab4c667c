"""Classification data as a folder of images for each class."""
from collections import defaultdict
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from mmvssd.datasets.formats.records import (
    CLASSIFICATION,
    TRAIN,
    WHOLE,
    Data,
    Found,
    Item,
    Part,
)
from mmvssd.datasets.formats.tree import PARTS, Tree
from mmvssd.engine.data.findings import Findings

#: Endings that MMPreTrain's CustomDataset reads, in either case.
READ_IN_PLACE = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')


def find(tree: Tree) -> Optional[Found]:
    """Find folders of classes, which hold images."""
    by_part = _folders(tree)
    if not by_part:
        return None
    names = sorted({name for folders in by_part.values() for name in folders})
    return Found([], f'a folder of images for each of {len(names)} classes', 'likely')


def _folders(tree: Tree) -> Dict[str, Dict[str, List[Path]]]:
    """Return the images by part and class; a part is a folder beside which only parts lie."""
    depths = [tree.relative(path).split('/') for path in tree.images]
    tops = {parts[0].lower() for parts in depths if len(parts) > 1}
    divided = bool(tops) and tops <= set(PARTS) and all(
        len(parts) > 2 for parts in depths if len(parts) > 1)
    by_part: Dict[str, Dict[str, List[Path]]] = defaultdict(lambda: defaultdict(list))
    for path, parts in zip(tree.images, depths):
        if len(parts) > 1 + divided:
            part = PARTS[parts[0].lower()] if divided else WHOLE
            by_part[part][parts[divided]].append(path)
    return by_part


def read(tree: Tree, found: Found, findings: Findings,
         classes: Optional[Sequence[str]] = None) -> Data:
    """Read the folders of all parts; see :func:`mmvssd.datasets.formats.coco.read`."""
    by_part = _folders(tree)
    names = sorted({name for folders in by_part.values() for name in folders})
    if classes is not None:
        for name in names:
            if name not in classes:
                findings.stop(str(tree.root), '{} folders that are none of --classes', name)
        names = list(classes)
    trained = by_part.get(TRAIN, by_part.get(WHOLE, {}))
    parts = {}
    for part, folders in by_part.items():
        for name, files in folders.items():
            if trained and name not in trained:
                findings.stop(str(tree.root), '{} classes that the training data lack',
                              str(files[0].parent))
        items = [Item(path, label=names.index(name) if name in names else 0,
                      source=str(path.parent))
                 for name, files in folders.items() for path in files]
        parts[part] = Part(items, _in_place(tree, part, folders, names))
    beside = [tree.relative(path) for path in tree.images if path.parent == tree.root]
    notes = [f'{len(beside)} images lie beside the folders of classes and are not read, such as '
             f'{beside[0]}'] if beside else []
    return Data(CLASSIFICATION, names, parts, listed=False, notes=notes)


def _in_place(tree: Tree, part: str, folders: Dict[str, List[Path]],
              names: Sequence[str]) -> Optional[dict]:
    """Return the settings that read a part as it lies; None if the host would number otherwise."""
    if part == WHOLE:
        return None
    first = next(iter(folders.values()))[0]
    folder = tree.root / tree.relative(first).split('/')[0]
    there = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    endings = {path.suffix.lower() for files in folders.values() for path in files}
    if there != list(names) or not endings <= set(READ_IN_PLACE):
        return None
    return dict(data_root=str(tree.root), data_prefix=folder.name)
