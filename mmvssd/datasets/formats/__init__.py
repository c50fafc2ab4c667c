"""Formats in which people have their data: recognized by what lies in a folder, and read.

Nothing of the data is ever changed.
"""
from dataclasses import replace
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

from mmvssd.datasets.formats import (
    class_folders,
    coco,
    csv_lists,
    label_maps,
    labelme,
    voc,
    yolo,
)
from mmvssd.datasets.formats.foreign import foreign_annotations, packed
from mmvssd.datasets.formats.records import (
    CLASSIFICATION,
    DETECTION,
    SEGMENTATION,
    TEST,
    TRAIN,
    VAL,
    WHOLE,
    Data,
    Found,
    Item,
    Part,
)
from mmvssd.datasets.formats.tree import MARK, Tree
from mmvssd.engine.data.findings import Findings
from mmvssd.engine.data.listings.folders import unread_advice
from mmvssd.errors import DataError
from mmvssd.phrases import counted, some

__all__ = ['CLASSIFICATION', 'DETECTION', 'FORMATS', 'MARK', 'SEGMENTATION', 'TEST', 'TRAIN', 'VAL',
           'WHOLE', 'Data', 'Format', 'Found', 'Item', 'Part', 'Tree', 'recognize']


class Format(NamedTuple):
    """A format.

    Attributes:
        title: Its name in sentences.
        task: What its data teach.
        find: Finds it in a :class:`~mmvssd.datasets.formats.tree.Tree`.
        read: Reads what was found.
        weak: Whether it is looked for only if no other one is there.
    """

    title: str
    task: str
    find: Callable[[Tree], Optional[Found]]
    read: Callable[..., Data]
    weak: bool = False


#: Formats by name.
FORMATS: Dict[str, Format] = {
    'coco': Format('COCO JSON', DETECTION, coco.find, coco.read),
    'voc': Format('Pascal VOC XML', DETECTION, voc.find, voc.read),
    'yolo': Format('YOLO text', DETECTION, yolo.find, yolo.read),
    'labelme': Format('LabelMe JSON', DETECTION, labelme.find, labelme.read),
    'label_maps': Format('label maps', SEGMENTATION, label_maps.find, label_maps.read),
    'csv': Format('CSV', CLASSIFICATION, csv_lists.find, csv_lists.read, weak=True),
    'class_folders': Format('class folders', CLASSIFICATION, class_folders.find,
                            class_folders.read, weak=True),
}


def recognize(tree: Tree, task: Optional[str] = None,
              name: Optional[str] = None) -> Tuple[str, Found]:
    """Tell the format of data.

    Args:
        tree: The files that are there.
        task: What is to be learnt; None takes what the data tell. Segmentation is learnt from
            outlines of objects too.
        name: The format; None finds it out.

    Returns:
        The format's name and what speaks for it.

    Raises:
        DataError: It is none of the formats, or several.
    """
    if name is not None:
        if not _teaches(FORMATS[name], task):
            raise DataError(f'--format {name} is of --task {FORMATS[name].task}, got --task {task}')
        found = FORMATS[name].find(tree)
        if found is None:
            why = label_maps.strangers(tree) if name == 'label_maps' else ''
            raise DataError(f'{tree.file or tree.root}: holds no data of the format {name} '
                            f'({why or _contents(tree)})')
        return name, found
    among = {key: one for key, one in FORMATS.items() if task in (None, one.task)}
    # of outlines label maps can be painted, if there are none
    outlines = {key: one for key, one in FORMATS.items() if _teaches(one, task)}
    if tree.file is not None:
        return _format_of_file(tree, outlines)
    strong = _found(tree, {key: one for key, one in among.items() if not one.weak}) or _found(
        tree, {key: one for key, one in outlines.items() if not one.weak})
    if len(strong) > 1:
        _ask(tree, strong)
    if strong:
        return strong.popitem()
    broken = [str(error) for error in map(tree.json, tree.others.get('.json', ()))
              if isinstance(error, DataError)]
    weak = _found(tree, {key: one for key, one in among.items() if one.weak})
    _refuse_others(tree, weak, task)
    if task is None and class_folders.are_called_otherwise(tree):
        weak.pop('class_folders', None)
    weak = _of_classes(tree, weak) if len(weak) > 1 else weak
    if len(weak) > 1 and _disagree(tree, weak):
        _ask(tree, weak)
    for key, found in weak.items():
        if broken and task is None:
            raise DataError(f'{tree.root}: JSON files cannot be read: {some(broken, "; ")}. '
                            f'If they are not annotations, say --task {FORMATS[key].task}')
        return key, found
    looked_for = ', '.join(one.title for one in among.values())
    others = _found(tree, {key: one for key, one in FORMATS.items()
                           if not one.weak and key not in among})
    there = ''.join(f'. It holds {FORMATS[key].title}, which is of --task {FORMATS[key].task}'
                    for key in others)
    there += f'. JSON files that cannot be read: {some(broken, "; ")}' if broken else ''
    there += _advice(tree, among)
    raise DataError(f'{tree.root}: no data of a known format ({_contents(tree)}){there}. '
                    f'Looked for: {looked_for}. docs/your_data.md shows what they look like')


def _teaches(form: Format, task: Optional[str]) -> bool:
    return task in (None, form.task) or (task, form.task) == (SEGMENTATION, DETECTION)


def _format_of_file(tree: Tree, among: Dict[str, Format]) -> Tuple[str, Found]:
    """Return the format of an annotation file that was named."""
    foreign = foreign_annotations(tree)
    if foreign:
        raise DataError(f'{tree.root}: {foreign}')
    for key, found in _found(tree, among).items():
        if tree.file in found.files:
            return key, found
    inside = packed(tree)
    raise DataError(f'{tree.root}: {inside}' if inside else
                    f'{tree.file}: is not an annotation file of a known format; name the folder of '
                    'the data, or a file of COCO, LabelMe, YOLO (YAML) or CSV')


def _found(tree: Tree, formats: Dict[str, Format]) -> Dict[str, Found]:
    found = {key: one.find(tree) for key, one in formats.items()}
    return {key: one for key, one in found.items() if one}


def _refuse_others(tree: Tree, weak: Dict[str, Found], task: Optional[str]) -> None:
    """Raise an error at annotations that are not read, unless classes are asked for."""
    if task == CLASSIFICATION:
        return
    folders = 'class_folders' in weak and class_folders.may_be_several(tree)
    advice = ('. If the folders are classes, say --task cls' if folders else
              '. If the table is of classes, say --task cls' if 'csv' in weak else '')
    foreign = foreign_annotations(tree, with_lists=not advice)
    if foreign:
        raise DataError(f'{tree.root}: {foreign}{advice}')
    unpaired = label_maps.strangers(tree) if task != DETECTION else ''
    if unpaired and 'csv' not in weak:
        raise DataError(f'{tree.root}: {unpaired}{advice}')


def _of_classes(tree: Tree, found: Dict[str, Found]) -> Dict[str, Found]:
    """Return the formats of classification that have classes to tell apart, if one has.

    Images in one folder may be of any classes, and a table of one class lists something else.
    What cannot be read may have some.
    """
    counts: Dict[str, Optional[int]] = {}
    for key, one in found.items():
        try:
            counts[key] = len(FORMATS[key].read(tree, one, Findings()).classes)
        except DataError:
            counts[key] = None
    told_apart = {key: one for key, one in found.items() if counts[key] != 1}
    if not told_apart:
        return found
    left = [tree.relative(file) for key in set(found) - set(told_apart)
            for file in found[key].files]
    note = f'; {some(left)} has one class, and is not taken' if left else ''
    return {key: replace(one, reason=one.reason + note) for key, one in told_apart.items()}


def _disagree(tree: Tree, found: Dict[str, Found]) -> bool:
    """Tell whether formats of classification give images other classes.

    What cannot be read agrees with nothing.
    """
    by_format = []
    for key, one in found.items():
        try:
            data = FORMATS[key].read(tree, one, Findings())
        except DataError:
            by_format.append({})
            continue
        by_format.append({item.image: data.classes[item.label] for item in data.items})
    shared = set.intersection(*map(set, by_format)) if by_format else set()
    return len(by_format) > 1 and (not shared or any(
        len({labels[image] for labels in by_format}) > 1 for image in shared))


def _ask(tree: Tree, found: Dict[str, Found]) -> None:
    """Raise the error at data of several formats."""
    tasks = {FORMATS[key].task for key in found}
    choice = ('Choose with --format ' + ' or '.join(found)
              + f', or with --task {" or ".join(sorted(tasks))}' * (len(tasks) == len(found)))
    lines = [f'  - {key}: {_evidence(tree, one)}' for key, one in found.items()]
    raise DataError('\n'.join([f'{tree.root}: data of several formats are mixed. {choice}',
                               *lines]))


def _evidence(tree: Tree, found: Found) -> str:
    if not found.files:
        return found.reason
    files = some([tree.relative(file) for file in found.files[:3]])
    doubt = f' ({found.reason})' * (found.sureness == 'a guess')
    return f'{counted(len(found.files), "file")}, such as {files}{doubt}'


def _advice(tree: Tree, among: Dict[str, Format]) -> str:
    """Say what is missing of files that are no data yet; empty if nothing is known of them."""
    inside = packed(tree)
    if inside:
        return f'. {inside}'
    if tree.images and 'class_folders' in among:
        return '. For a classifier, put the images of each class into a folder of its name'
    return '' if tree.images else unread_advice(path.name for path in tree.unread)


def _contents(tree: Tree) -> str:
    counts: List[str] = [counted(len(tree.images), 'image')] if tree.images else []
    counts += [f'{len(files)} {ending}' if ending
               else f'{counted(len(files), "file")} without ending'
               for ending, files in sorted(tree.others.items()) if files]
    return f'it holds {some(counts)}' if counts else 'it is empty'
