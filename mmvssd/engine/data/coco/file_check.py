"""Look at everything in a file of COCO's form: categories, images and annotations."""
import os
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from mmvssd.engine.data.coco.boxes import Boxes
from mmvssd.engine.data.coco.masks import Masks
from mmvssd.engine.data.coco.values import is_id, is_number
from mmvssd.engine.data.findings import Findings, Place
from mmvssd.phrases import none_of, numbered, of_all, short


class Use(NamedTuple):
    """What a file of annotations is used for."""

    masks: bool  # masks are trained or scored
    scored: bool  # COCO's evaluation reads it
    folder: Optional[str] = None  # of the images


class Summary(NamedTuple):
    """What other checks need of a file."""

    file: str
    categories: List[Tuple[Any, str]]  # id and name, as the file orders them
    listed: int  # annotations in all
    annotations: int  # that a reader keeps
    boxes: Dict[str, int]  # by category's name
    images: List[str]  # ids
    crowds: int = 0  # annotations of crowds, among those that a reader keeps


def check_file(content: dict, file: str, where: str, use: Use, findings: Findings) -> Summary:
    """Look at everything in a file of COCO's form.

    Args:
        content: The parsed file.
        file: Its path.
        where: The setting that names it, with the file.
        use: What it is used for.
        findings: Where faults and doubts are noted.
    """
    return _File(content, file, where, use, findings).summary()


class _File:
    """One file while it is looked at."""

    def __init__(self, content: dict, file: str, where: str, use: Use, findings: Findings):
        self.file, self.use = file, use
        place = Place(findings, where)
        self.stop, self.warn = place.stop, place.warn
        self.categories = self._list(content, 'categories')
        self.images = self._list(content, 'images')
        self.annotations = self._list(content, 'annotations')
        self.names = self._check_categories()
        self.sizes, self.files = self._check_images()
        self.texts = set(map(str, self.sizes)), set(map(str, self.names))
        self.boxes, self.masks = Boxes(place), Masks(place, use.scored)
        self.objects, self.used = Counter(), Counter()  # by category: with a box; named
        self.kept = self.crowds = self.ignored = self.other_types = 0

    def _list(self, content: dict, key: str) -> List[dict]:
        value = content.get(key)
        if value is not None and not isinstance(value, list):
            self.stop(f'{key!r} is a {type(value).__name__}, expected a list')
            return []
        # which phases need annotations is seen from all of their files
        if not value and key != 'annotations':
            self.stop(f'holds no {key}, which COCO files list under {key!r}')
        entries = [entry for entry in value or [] if isinstance(entry, dict)]
        if len(entries) < len(value or []):
            self.stop(f'{key!r} holds entries that are not dicts')
        return entries

    def _check_categories(self) -> Dict[Any, str]:
        names, seen = {}, Counter()
        for category in self.categories:
            identity, name = category.get('id'), category.get('name')
            if not is_id(identity):
                self.stop('{} [category|categories] without a usable id', repr(name))
            elif identity in names:
                self.stop('{} [category|categories] with the id of another '
                          'one', f'{identity} {name!r}')
            elif is_number(name):
                self.stop('{} [category|categories] whose name is a '
                          'number', f'id {identity}: {name}',
                          f'Write it as a text: "{name}"')
            elif not isinstance(name, str) or not name:
                self.stop('{} [category|categories] without a name', f'id {identity}')
            else:
                names[identity] = name
                seen[name] += 1
        for name, count in seen.items():
            if count > 1:
                self.stop('{} name[s] of categories [stands|stand] for several ids', repr(name),
                          'Each would become a class of its own, and move all later ones')
        return names

    def _check_images(self) -> Tuple[dict, dict]:
        sizes, files, seen = {}, {}, Counter()
        for image in self.images:
            identity, name = image.get('id'), image.get('file_name')
            label = str(name if name is not None else f'id {identity}')
            if not is_id(identity):
                self.stop('{} image[s] without a usable id', label)
                continue
            if identity in sizes:
                self.stop('{} image[s] with the id of another one', f'{identity} {label}')
                continue
            sizes[identity] = self._size(image, label)
            files[identity] = label
            if not isinstance(name, str) or not name:
                self.stop('{} image[s] without a file_name', f'id {identity}')
                continue
            seen[name] += 1
            if seen[name] == 2:
                self.warn('{} file name[s] of more than one image', name)
            self._check_name(name)
        return sizes, files

    def _size(self, image: dict, label: str) -> Optional[Tuple[float, float]]:
        width, height = image.get('width'), image.get('height')
        if is_number(width) and is_number(height) and min(width, height) > 0:
            return width, height
        self.stop('{} image[s] whose width and height are not two positive numbers',
                  f'{label}: {short(width)} x {short(height)}')
        return None

    def _check_name(self, name: str) -> None:
        folder = self.use.folder
        if '\\' in name and folder and not os.path.exists(os.path.join(folder, name)):
            self.stop('{} file name[s] with backslashes, and there [is|are] no such file[s]', name,
                      'Write paths with /')
        if folder and '://' in name:
            self.stop('{} file name[s] that [is an address|are addresses]', name,
                      "Fetch the images, and write their paths in the images' folder")
        elif folder and self._holds_folder(name, folder):
            self.stop("{} file name[s] that [repeats|repeat] a part of the images' folder",
                      f'{name} in {folder}', 'Take it out of data_prefix or of the names')
        if os.path.isabs(name) or '..' in name.split('/'):
            self.warn("{} file name[s] that [leads|lead] out of the images' folder", name)

    @staticmethod
    def _holds_folder(name: str, folder: str) -> bool:
        """Tell whether an image is there only by a name that starts at a folder above."""
        parts = Path(folder).parts
        first = name.split('/')[0]
        return first in parts and not os.path.exists(os.path.join(folder, name)) and any(
            os.path.exists(os.path.join(*parts[:index], name))
            for index, part in enumerate(parts) if part == first)

    def summary(self) -> Summary:
        seen = set()
        for annotation in self.annotations:
            self._check_annotation(annotation, seen)
        self._check_all_together()
        return Summary(self.file, list(self.names.items()), len(self.annotations), self.kept,
                       dict(self.objects), [str(identity) for identity in self.sizes], self.crowds)

    def _check_annotation(self, annotation: dict, seen: set) -> None:
        identity = annotation.get('id')
        label = self._label(annotation)
        if not is_id(identity):
            self.stop('{} annotation[s] without a usable id', label)
        elif identity in seen:
            self.stop('{} annotation[s] with the id of another one', label)
        else:
            seen.add(identity)
        missing = [key for key in ('image_id', 'category_id', 'bbox', 'area')
                   if key not in annotation]
        if missing:
            self.stop(f'{{}} annotation[s] without {" and ".join(missing)}', label)
            return
        image = annotation['image_id']
        self.ignored += bool(annotation.get('ignore'))
        if not is_id(image) or image not in self.sizes:
            self._check_unlisted('images', 'image_id', image, self.texts[0], label)
            return
        name = self._category(annotation, label)
        size = self.sizes[image]
        box = self.boxes.kept(annotation['bbox'], annotation['area'], size, label)
        crowd = self._crowd(annotation, label)
        if annotation.get('ignore') or name is None:
            return
        self.kept += 1
        self.crowds += crowd
        box = None if crowd else box
        self.objects[name] += box is not None
        if self.use.masks:
            bounds = self.masks.check(annotation.get('segmentation'), box, size, label)
            if bounds and box is not None:
                self.boxes.compare_with_polygons(box, bounds, label)

    def _label(self, annotation: dict) -> str:
        image = annotation.get('image_id')
        file = self.files.get(image) if is_id(image) else None
        return f'annotation {short(annotation.get("id"))} of {file or f"image {short(image)}"}'

    def _category(self, annotation: dict, label: str) -> Optional[str]:
        category = annotation['category_id']
        if not is_id(category):
            self.stop('{} annotation[s] whose category_id is neither a number nor a text', label)
            return None
        self.used[category] += 1
        if category not in self.names:
            self._check_unlisted('categories', 'category_id', category, self.texts[1],
                                 f'{label}: {short(category)}')
        return self.names.get(category)

    def _check_unlisted(self, what: str, key: str, value: Any, texts: set, example: str) -> None:
        if str(value) in texts:
            self.other_types += 1
            self.warn(f'{{}} annotation[s] whose {key} is a text and the id in {what} a number, or '
                      'the other way round, left out', example, 'Write both as numbers')
        else:
            self.warn(f'{{}} annotation[s] of {what} that the file does not list, left '
                      'out', example)

    def _crowd(self, annotation: dict, label: str) -> bool:
        if 'iscrowd' not in annotation:
            if self.use.scored:
                self.stop('{} annotation[s] without iscrowd, which the evaluation needs', label,
                          'Write "iscrowd": 0')
            return False
        value = annotation['iscrowd']
        if not isinstance(value, (bool, int, float)) or value not in (0, 1):
            self.stop('{} annotation[s] whose iscrowd is neither 0 nor 1',
                      f'{label}: {short(value)}', 'A text counts as true, also "0"')
            return False
        return bool(value)

    def _check_all_together(self) -> None:
        count = len(self.annotations)
        if not count:
            return
        every = of_all(count, count, 'annotation')
        if self.ignored == count:
            self.stop(numbered(f'{every} [has|have] a true ignore, and a reader leaves [it|them] '
                               'out', count), advice='Write "ignore": 0, or leave it out')
        elif not self.kept:
            types = ('. Some are texts in one place and numbers in the other'
                     if self.other_types else '')
            self.stop(f'{none_of(count, "annotation")} is of a listed image and category '
                      'and not to be ignored',
                      advice='Compare image_id and category_id with the ids that the file '
                             f'lists{types}')
        elif self.crowds == self.kept:
            self.stop(numbered(f'{every} [has|have] iscrowd 1, which leaves nothing to train or to '
                               'score', count), advice='Objects have iscrowd 0')
        elif not sum(self.objects.values()):
            self.boxes.check_lost(count)
        else:
            self.boxes.check_areas(count)
        self.boxes.check_readings(count)
        self._check_shifted_ids()
        self.masks.check_together(sum(self.objects.values()), self.kept)

    def _check_shifted_ids(self) -> None:
        """Note annotations that number the categories in order, from 0 or from 1 on."""
        used, number = set(self.used), len(self.names)
        for start, other in ((0, 1), (1, 0)):
            edge = 0 if start == 0 else number  # the one that only this numbering has
            if (edge in used and edge not in self.names and other in self.names
                    and used <= set(range(start, start + number))):
                self.stop(f'ids of annotations start at {start}: category_id is one of '
                          f'{start} to {start + number - 1}, and the ids of the categories '
                          f'are {short(list(self.names))}',
                          advice='Each box would have the class before or after its own, or '
                                 "none. Write the categories' ids in category_id")
