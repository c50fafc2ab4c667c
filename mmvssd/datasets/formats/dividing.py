"""Parts of data whose annotations lie beside each image: by folders, or by lists of names."""
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from mmvssd.datasets.formats.class_names import read_text
from mmvssd.datasets.formats.records import TEST, TRAIN, VAL, WHOLE, Item, Part
from mmvssd.datasets.formats.tree import Tree
from mmvssd.errors import DataError


def divide(items: Sequence[Item], tree: Tree,
           kind: Optional[str] = None) -> Tuple[Dict[str, Part], List[str]]:
    """Divide items into parts.

    Args:
        items: All of them.
        tree: The files that are there.
        kind: Folder in Pascal VOC's ``ImageSets`` whose lists name the parts, if there is one.

    Returns:
        The parts, training first, and what is to be said of them.
    """
    lists = _lists(tree, kind)
    groups: Dict[Optional[str], List[Item]] = {}
    for item in items:
        part = (lists.get(item.image.stem) if lists
                else tree.part_of(item.image.parent))
        groups.setdefault(part, []).append(item)
    if not lists and set(groups) == {TRAIN, None} and any(map(_is_annotated, groups[None])):
        groups = {None: items}  # a folder called train, among others of the same kind
    parts, notes = settled(groups)
    lacking = sorted(set(lists) - {item.image.stem for item in items})
    if lacking:
        notes.append(f'{len(lacking)} names in the lists of ImageSets have no annotated image, '
                     f'such as {lacking[0]}')
    return parts, notes


def _is_annotated(item: Item) -> bool:
    return bool(item.objects) or item.label_map is not None


def settled(groups: Dict[Optional[str], List[Item]]) -> Tuple[Dict[str, Part], List[str]]:
    """Make parts of items by what names say of them; None stands for nothing said."""
    rest = groups.pop(None, [])
    notes = []
    if len(groups) + bool(rest) < 2:
        items = [item for group in groups.values() for item in group] + rest
        return {WHOLE: Part(items)}, notes
    if TRAIN not in groups:
        if not rest:
            raise DataError(f'the folders are of {" and ".join(map(str, groups))}, none of '
                            'training. Name the folder of training, and that of validation with '
                            '--val')
        groups[TRAIN] = rest
    elif rest:
        notes.append(f'{len(rest)} images that belong to no part are left out, such as '
                     f'{rest[0].image}')
    return {part: Part(groups[part]) for part in (TRAIN, VAL, TEST) if part in groups}, notes


def _lists(tree: Tree, kind: Optional[str]) -> Dict[str, str]:
    """Return the part of each name in the lists of ``ImageSets``."""
    parts: Dict[str, str] = {}
    for part in (TEST, VAL, TRAIN):
        file = next((path for path in tree.others.get('.txt', ()) if path.stem == part
                     and path.parts[-3:-1] == ('ImageSets', kind)), None)
        if file is not None:
            parts.update({Path(line.split()[0]).name: part
                          for line in read_text(file).splitlines() if line.strip()})
    return parts
