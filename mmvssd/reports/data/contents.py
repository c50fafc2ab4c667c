"""What a part of the data holds: images, classes, sizes, objects."""
from collections import Counter
from dataclasses import dataclass, field
from typing import Iterable, List, Sequence, Tuple

from mmvssd.engine.data.data_survey.leaves import Leaf
from mmvssd.engine.data.file_facts import FileFacts, header, label_map, upright_size
from mmvssd.engine.data.label_maps import label_of
from mmvssd.engine.data.names import classes_of

Box = Tuple[float, float, float, float]


@dataclass
class Part:
    """What one of train, val and test holds.

    Args:
        phase: Which one.
        classes: Names of the classes, in the order of their labels.
        images: How many.
        kind: ``objects``, ``label maps``, ``labels`` or ``no labels``.
        images_with: Images by class that they show.
        objects: Objects by class.
        sizes: Images by width and height.
        modes: Images by what PIL calls their mode.
        paths: Of the images.
        per_image: Objects in each image.
        boxes: Each image's path with its boxes, x1, y1, x2, y2 in pixels, and their labels.
    """

    phase: str
    classes: List[str]
    images: int = 0
    kind: str = 'no labels'
    images_with: Counter = field(default_factory=Counter)
    objects: Counter = field(default_factory=Counter)
    sizes: Counter = field(default_factory=Counter)
    modes: Counter = field(default_factory=Counter)
    paths: List[str] = field(default_factory=list)
    per_image: List[int] = field(default_factory=list)
    boxes: List[Tuple[str, List[Box], List[int]]] = field(default_factory=list)

    def name(self, label: int) -> str:
        """Return the name of a label."""
        return self.classes[label] if 0 <= label < len(self.classes) else f'class {label}'

    def as_json(self) -> dict:
        """Return it as data, without the single boxes."""
        return dict(
            phase=self.phase, images=self.images, kind=self.kind, classes=self.classes,
            images_with={name: self.images_with[name] for name in self.classes},
            objects={name: self.objects[name] for name in self.classes}
            if self.kind == 'objects' else None,
            sizes=[[*size, count] for size, count in self.sizes.most_common()],
            modes=dict(self.modes))


def part_of(phase: str, leaves: Sequence[Leaf], facts: FileFacts) -> Part:
    """Count what the data sets of a phase hold.

    Args:
        phase: Which one.
        leaves: Its data sets.
        facts: Of the files; headers and label maps that were read are not read again.
    """
    part = Part(phase, classes_of(leaves[0].dataset) or [])
    for leaf in leaves:
        entries = [entry for entry in _entries(leaf.dataset)
                   if isinstance(entry.get('img_path'), str)]
        part.images += len(entries)
        part.paths += [entry['img_path'] for entry in entries]
        _add_headers(part, facts.read('header', header, [entry['img_path'] for entry in entries]))
        for entry in entries:
            if 'instances' in entry:
                _add_objects(part, entry)
            elif 'gt_label' in entry:
                _add_labels(part, entry['gt_label'])
        maps = [entry['seg_map_path'] for entry in entries if entry.get('seg_map_path')]
        if maps and hasattr(leaf.dataset, 'reduce_zero_label') and leaf.labelled:
            _add_label_maps(part, leaf.dataset, facts.read('label map', label_map, maps).values())
    return part


def _entries(dataset) -> Iterable[dict]:
    if hasattr(dataset, 'get_data_info'):
        for index in range(len(dataset)):
            entry = dataset.get_data_info(index)
            if isinstance(entry, dict):
                yield entry


def _add_headers(part: Part, headers: dict) -> None:
    for fact in headers.values():
        if isinstance(fact, dict):
            part.sizes[upright_size(fact)] += 1
            part.modes[fact['mode']] += 1


def _add_objects(part: Part, entry: dict) -> None:
    part.kind = 'objects'
    objects = [one for one in entry['instances'] or []
               if 'bbox_label' in one and not one.get('ignore_flag')]
    names = [part.name(one['bbox_label']) for one in objects]
    part.objects.update(names)
    part.images_with.update(set(names))
    part.per_image.append(len(objects))
    part.boxes.append((entry['img_path'], [tuple(one['bbox']) for one in objects],
                       [one['bbox_label'] for one in objects]))


def _add_labels(part: Part, labels) -> None:
    part.kind = 'labels'
    several = labels if isinstance(labels, (list, tuple)) else [labels]
    part.images_with.update({part.name(int(label)) for label in several})


def _add_label_maps(part: Part, dataset, maps: Iterable) -> None:
    part.kind = 'label maps'
    for fact in maps:
        if not isinstance(fact, dict):
            continue
        labels = {label_of(int(value), bool(dataset.reduce_zero_label), dataset.label_map or {})
                  for value in fact.get('values', ())}
        names = {part.name(label) for label in labels if 0 <= label < len(part.classes)}
        part.images_with.update(names)
        part.per_image.append(len(names))
