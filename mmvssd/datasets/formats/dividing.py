"""Parts of data whose annotations lie beside each image: by folders, or by lists of names."""
import re
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from mmvssd.datasets.formats.class_names import read_text
from mmvssd.datasets.formats.records import TEST, TRAIN, VAL, WHOLE, Item, Part
from mmvssd.datasets.formats.tree import Tree
from mmvssd.errors import DataError
from mmvssd.phrases import numbered


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
        part = (_listed_part(item.image, lists) if lists
                else tree.part_of(item.image.parent))
        groups.setdefault(part, []).append(item)
    if not lists and set(groups) == {TRAIN, None} and any(map(_is_annotated, groups[None])):
        groups = {None: list(items)}  # a folder called train, among others of the same kind
    parts, notes = settled(groups)
    lacking = sorted(set().union(*lists.values()) - {item.image.stem for item in items})
    if lacking:
        notes.append(numbered('{} name[s] in the lists of ImageSets [has|have] no annotated image, '
                              'such as ', len(lacking)) + lacking[0])
    return parts, notes


def _is_annotated(item: Item) -> bool:
    return bool(item.objects) or item.label_map is not None or item.label is not None


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
        notes.append(numbered('{} image[s] that [belongs|belong] to no part [is|are] left out, '
                              'such as ', len(rest)) + str(rest[0].image))
    return {part: Part(groups[part]) for part in (TRAIN, VAL, TEST) if part in groups}, notes


def _lists(tree: Tree, kind: Optional[str]) -> Dict[Path, Dict[str, str]]:
    """Return the part of each name in the lists of ``ImageSets``, by the folder that has those."""
    lists: Dict[Path, Dict[str, str]] = {}
    for part in (TEST, VAL, TRAIN):
        for file in tree.others.get('.txt', ()):
            if file.stem == part and file.parts[-3:-1] == ('ImageSets', kind):
                lists.setdefault(file.parents[2], {}).update(
                    (_listed_name(line, tree), part)
                    for line in read_text(file).splitlines() if line.strip())
    return lists


def _listed_name(line: str, tree: Tree) -> str:
    """Return the name that a line lists; an ending, or whether a class occurs, may stand behind."""
    name = Path(line.strip().replace('\\', '/')).name
    flagged = re.fullmatch(r'(.*\S)\s+(?:-1|0|1)', name)
    if flagged and name not in tree.by_stem:
        name = flagged[1]
    return Path(name).stem if name in tree.by_name else name


def _listed_part(image: Path, lists: Dict[Path, Dict[str, str]]) -> Optional[str]:
    """Return an image's part by the lists beside it; by all lists, if it lies beside none."""
    beside = [parts for folder, parts in lists.items() if folder in image.parents]
    found = {parts.get(image.stem) for parts in beside or lists.values()} - {None}
    return found.pop() if len(found) == 1 else None
