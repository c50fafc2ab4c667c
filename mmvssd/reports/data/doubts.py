"""Doubtful things that stop no training, and that a look at the data finds."""
import os
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Tuple

from PIL import Image

from mmvssd.cli.image_files import resized
from mmvssd.engine.data.checks import steps_of
from mmvssd.engine.data.coco import read_json
from mmvssd.engine.data.data_survey.images import fault_of_loading, note_unreadable
from mmvssd.engine.data.data_survey.leaves import Leaf
from mmvssd.engine.data.data_survey.overlap import check_copies, classes_of
from mmvssd.engine.data.data_survey.readers import is_elsewhere, reads_coco
from mmvssd.engine.data.file_facts import FileFacts, header
from mmvssd.engine.data.findings import Findings
from mmvssd.engine.data.listings.folders import image_names, is_hidden, walk
from mmvssd.phrases import some
from mmvssd.reports.data.contents import Part

#: Pixels of a box's side, and of an image's, below which little is to be seen.
TINY_BOX, TINY_IMAGE = 4, 32
#: Names of other steps that resize, to a size that they draw, or what they crop.
RESIZES = ('Resize', 'EfficientNet')
#: Share of small images among all up to which they are the exception.
FEW_SMALL = 0.5
#: Sides of an image whose longer one is so many times the shorter one.
NARROW = 10
#: Images or objects of a class that are few to learn from.
FEW = 10
#: Share of boxes that cover their image from which on something else may be meant.
MOST_WHOLE = 0.5
#: Bytes at a file's end in which an image's end mark stands; programs add notes behind it.
TAIL = 1 << 16
#: What to do with images that are cut off.
REWRITE = 'Copy or write them anew'
#: First bytes of a format, and what its files end with.
END_MARKS = {b'\xff\xd8\xff': b'\xff\xd9', b'\x89PNG': b'IEND'}
#: Modes of PIL with more than 8 bits a channel.
DEEP = ('I', 'F', 'I;16', 'I;16B', 'I;16L', 'I;16N')


def check_images(leaves: Sequence[Leaf], facts: FileFacts, findings: Findings) -> None:
    """Note images that are cut off, narrow, tiny, deep, there twice, or not listed."""
    local = [leaf for leaf in leaves if leaf.entries and not is_elsewhere(leaf.dataset)]
    for leaf in local:
        paths = [entry['img_path'] for _, entry in leaf.entries]
        _check_headers(leaf, facts.read('header', header, paths), findings)
        for path, cut in facts.read('cut off', is_cut_off, paths).items():
            if cut is True and fault_of_loading(leaf, path):  # as OpenCV 5 reads a JPEG
                note_unreadable(leaf, '[is|are] cut off and cannot be read', path, findings,
                                REWRITE)
            elif cut is True:
                findings.warn(leaf.where, '{} image[s] [is|are] cut off; what is missing is read '
                                          'as grey', path, REWRITE)
        _check_doubles(leaf, paths, findings)
        check_copies(leaf.where, paths, classes_of(leaf), facts, findings)
    _check_unlisted(local, findings)


def is_cut_off(path: str) -> bool:
    """Tell whether a JPEG or PNG ends before its image does."""
    try:
        with open(path, 'rb') as file:
            mark = next((end for start, end in END_MARKS.items()
                         if file.read(len(start)) == start or file.seek(0)), None)
            if mark is None:
                return False
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL))
            if mark in file.read():
                return False
        with Image.open(path) as image:
            image.load()
    except Exception:  # PIL's decoders raise errors of many kinds
        return True
    return False


def _check_headers(leaf: Leaf, headers: Dict[str, dict], findings: Findings) -> None:
    steps = list(steps_of(leaf.dataset))
    load = next(iter(steps), None)
    enlarged = []
    as_colour = (type(load).__name__ == 'LoadImageFromFile'
                 and getattr(load, 'color_type', '') == 'color')
    for path, fact in headers.items():
        if not isinstance(fact, dict):
            continue
        width, height = fact['size']
        example = f'{path}: {width} x {height}'
        if max(width, height) > NARROW * min(width, height):
            findings.warn(leaf.where, f'{{}} image[s] [is|are] more than {NARROW} times as long '
                                      'as wide',
                          example)
        elif (made := _resized(steps, width, height)) and min(made) < TINY_IMAGE:
            findings.warn(leaf.where, f'{{}} image[s] [has|have] a side below {TINY_IMAGE} pixels, '
                                      'the stride of the last stage, as the model gets [it|them]',
                          example + f', resized to {made[0]} x {made[1]}' * (
                              made != (width, height)))
        elif min(width, height) < TINY_IMAGE:
            enlarged.append(example)
        if as_colour and fact['mode'] in DEEP:
            findings.warn(leaf.where, f'{{}} image[s] of mode {fact["mode"]}, of which '
                                      "color_type='color' keeps 8 bits", path,
                          "Load them with color_type='unchanged', or another step")
    # if most are so small, the recipe enlarges them on purpose
    for example in enlarged if len(enlarged) <= FEW_SMALL * len(headers) else ():
        findings.warn(leaf.where, f'{{}} image[s] [has|have] a side below {TINY_IMAGE} pixels, and '
                                  '[is|are] enlarged; most of the others are larger', example)


def _resized(steps: Sequence[Any], width: int, height: int) -> Optional[Tuple[int, int]]:
    """Return what a pipeline's resizing makes of a size; None if it names a range of sizes."""
    for step in steps:
        before = width, height
        width, height = resized(step, width, height)
        if (width, height) == before and any(name in type(step).__name__ for name in RESIZES):
            return None
    return width, height


def _check_doubles(leaf: Leaf, paths: Sequence[str], findings: Findings) -> None:
    """Note images that are listed twice."""
    seen = set()
    for path in paths:
        if path in seen:
            findings.warn(leaf.where, '{} image[s] [is|are] listed more than once', path)
        seen.add(path)


def _check_unlisted(leaves: Sequence[Leaf], findings: Findings) -> None:
    """Note images in the folders of COCO files that no file lists."""
    listed = {os.path.realpath(entry['img_path']) for leaf in leaves for _, entry in leaf.entries}
    for leaf in leaves:
        folder = getattr(leaf.dataset, 'data_prefix', {}).get('img')
        if not reads_coco(leaf.dataset) or not folder or not os.path.isdir(folder):
            continue
        files = [os.path.join(folder, relative, name) for relative, names, _ in walk(folder)
                 if not any(map(is_hidden, Path(relative).parts)) for name in image_names(names)]
        others = [file for file in files if os.path.realpath(file) not in listed]
        # what a filter left out of the data set is listed too, and told of elsewhere
        filtered = {os.path.realpath(os.path.join(folder, str(image['file_name'])))
                    for image in read_json(leaf.dataset.ann_file)['images']} if others else set()
        for file in others:
            if os.path.realpath(file) not in filtered:
                findings.warn(leaf.where, '{} image[s] of the folder [is|are] not in the '
                                          'file', file)


def check_parts(parts: Sequence[Part], findings: Findings) -> None:
    """Compare the classes that occur in each part, and look at boxes."""
    trained = next((part for part in parts if part.phase == 'train'), None)
    for part in parts:
        _check_boxes(part, findings)
        if trained is None or part.phase == 'train' or trained.kind == 'no labels':
            continue
        known = set(trained.classes)
        new = [name for name in part.classes if part.images_with[name]
               and not trained.images_with[name] and name in known]
        if new:
            findings.warn(f'{part.phase}_dataloader', 'classes that are scored and that no '
                          f'training image shows ({len(new)}): {some(new)}')
    if trained is not None and trained.kind != 'no labels':
        counts = trained.objects if trained.kind == 'objects' else trained.images_with
        rare = [f'{name} ({counts[name]})' for name in trained.classes if 0 < counts[name] < FEW]
        if rare:
            what = 'objects' if trained.kind == 'objects' else 'images'
            findings.warn('train_dataloader', f'classes with fewer than {FEW} {what} '
                          f'({len(rare)}): {some(rare)}')


def _check_boxes(part: Part, findings: Findings) -> None:
    where = f'{part.phase}_dataloader'
    for path, boxes, labels in part.boxes:
        seen = set()
        for box, label in zip(boxes, labels):
            if min(box[2] - box[0], box[3] - box[1]) < TINY_BOX:
                findings.warn(where, f'{{}} box[es] [has|have] a side below {TINY_BOX} pixels',
                              f'{path}: {_size_of(box)}')
            if (box, label) in seen:
                findings.warn(where, '{} box[es] [is|are] there twice, with the same class',
                              f'{path}: {_size_of(box)} {part.name(label)}')
            seen.add((box, label))


def _size_of(box: Sequence[float]) -> str:
    return f'{box[2] - box[0]:.4g} x {box[3] - box[1]:.4g}'
