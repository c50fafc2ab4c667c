"""Write what a host cannot read as it lies: COCO files, lists and label maps, beside the data."""
import json
import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import cv2
import numpy as np

from mmvssd.datasets.formats import DETECTION, SEGMENTATION, Data, Item, Part
from mmvssd.errors import DataError
from mmvssd.new_recipe.painting import painted
from mmvssd.new_recipe.survey import Survey

#: Folder of label maps in the folder of what is written.
MAPS = 'label_maps'


def convert(survey: Survey, folder: Path, final: Path) -> Dict[str, Dict[str, Any]]:
    """Write the parts that no host reads as they lie.

    Args:
        survey: The data.
        folder: An empty folder to write into.
        final: Where the folder will be.

    Returns:
        By part, the settings of a data set that reads it: ``ann_file``, ``data_prefix`` and the
        like.
    """
    write = {DETECTION: _coco, SEGMENTATION: _label_maps}.get(survey.data.task, _class_list)
    settings = {}
    for name, part in survey.data.parts.items():
        settings[name] = part.as_is or write(survey.data, part, name, folder, final)
    return settings


def _common_folder(paths: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([path.parent for path in paths]))


def _relative(path: Path, folder: Path) -> str:
    return os.path.relpath(path, folder).replace(os.sep, '/')


def _coco(data: Data, part: Part, name: str, folder: Path, final: Path) -> Dict[str, Any]:
    images_folder = _common_folder([item.image for item in part.items])
    content = coco_content(data.classes, part.items, images_folder)
    (folder / f'{name}.json').write_text(json.dumps(content))
    return dict(ann_file=str(final / f'{name}.json'), data_prefix=dict(img=f'{images_folder}/'))


def coco_content(classes: Sequence[str], items: Sequence[Item], folder: Path) -> dict:
    """Return images and objects as the content of a COCO file.

    Args:
        classes: Names by index; the categories' ids count from 1.
        items: Images, whose size is known.
        folder: What file names are relative to.
    """
    images: List[dict] = []
    annotations: List[dict] = []
    for number, item in enumerate(items, 1):
        assert item.size is not None  # the survey has filled it in
        width, height = item.size
        images.append(dict(id=number, file_name=_relative(item.image, folder), width=width,
                           height=height))
        for one in item.objects:
            annotations.append(dict(one, id=len(annotations) + 1, image_id=number,
                                    category_id=one['category_id'] + 1))
    categories = [dict(id=index, name=name) for index, name in enumerate(classes, 1)]
    return dict(images=images, annotations=annotations, categories=categories)


def _class_list(data: Data, part: Part, name: str, folder: Path, final: Path) -> Dict[str, Any]:
    images_folder = _common_folder([item.image for item in part.items])
    lines = [f'{_line(item.image, images_folder)} {item.label}\n' for item in part.items]
    _write_lines(folder / f'{name}.txt', lines)
    return dict(data_root=str(images_folder), ann_file=str(final / f'{name}.txt'), data_prefix='')


def _line(path: Path, folder: Path) -> str:
    """Return a path as a line of a list has it."""
    name = _relative(path, folder)
    if '\n' in name or '\r' in name:
        raise DataError(f'{str(path)!r}: its name has a line break, which no list of files can '
                        'hold; rename it')
    return f'./{name}' if name != name.lstrip() else name  # readers strip lines


def _write_lines(file: Path, lines: Sequence[str]) -> None:
    file.write_bytes(''.join(lines).encode('utf-8', 'surrogateescape'))


def _label_maps(data: Data, part: Part, name: str, folder: Path, final: Path) -> Dict[str, Any]:
    images = _common_folder([item.image for item in part.items])
    as_they_are = data.recoding is None and data.background is None
    listed = _listed_in_place(part, images) if as_they_are else None
    if listed is None:
        for item in part.items:
            target = folder / MAPS / name / f'{_relative(item.image, images)}.png'
            target.parent.mkdir(parents=True, exist_ok=True)
            write_label_map(item, data, target)
        listed = dict(
            data_prefix=dict(img_path=str(images), seg_map_path=str(final / MAPS / name)),
            img_suffix='', seg_map_suffix='.png')
    ending = listed['img_suffix']
    lines = [_line(item.image, images)[:-len(ending) or None] + '\n' for item in part.items]
    _write_lines(folder / f'{name}.txt', lines)
    return dict(ann_file=str(final / f'{name}.txt'), **listed)


def _listed_in_place(part: Part, images: Path) -> Optional[Dict[str, Any]]:
    """Return settings that find label maps by the images' names; None if names differ.

    A list has the names without ending, of which the host strips blanks at the end.
    """
    maps = _common_folder([item.label_map for item in part.items])
    first = part.items[0]
    ending, map_ending = first.image.suffix, first.label_map.suffix
    for item in part.items:
        image, label_map = _relative(item.image, images), _relative(item.label_map, maps)
        stem = image[:-len(ending)]
        if not image.endswith(ending) or stem != stem.rstrip() or label_map != stem + map_ending:
            return None
    return dict(data_prefix=dict(img_path=str(images), seg_map_path=str(maps)),
                img_suffix=ending, seg_map_suffix=map_ending)


def write_label_map(item: Item, data: Data, target: Path) -> None:
    """Write the numbers of classes of an image as a PNG file."""
    if data.recoding is not None:
        numbers = data.recoding.apply(item.label_map)
    elif data.background is not None:
        numbers = painted(item, data.background)
    else:
        target.write_bytes(item.label_map.read_bytes())
        return
    target.write_bytes(cv2.imencode('.png', np.ascontiguousarray(numbers))[1].tobytes())
