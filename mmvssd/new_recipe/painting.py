"""Paint the masks of objects into a label map, to learn segmentation from outlines."""
from typing import Any, Tuple

import numpy as np
from pycocotools import mask as coco_mask

from mmvssd.datasets.formats import SEGMENTATION, Data, Item
from mmvssd.engine.data.findings import Findings

#: Names of a class for what no object covers.
BACKGROUND = ('background', '_background_')
#: Label of objects that are neither trained on nor scored.
IGNORED = 255


def to_segmentation(data: Data, where: str, findings: Findings) -> None:
    """Make data of objects into data of segmentation; without masks that is a fault.

    What no object covers becomes a class of its own, the first, unless the data have one.
    """
    name = next((name for name in data.classes if name.lower() in BACKGROUND), None)
    shift = int(name is None)
    background = 0 if name is None else data.classes.index(name)
    for item in data.items:
        for one in item.objects:
            if not one.get('segmentation'):
                findings.stop(where, '{} object[s] [has|have] a box and no outline, of which no '
                                     'segmentation is learnt', str(item.image))
            one['category_id'] += shift
        item.values = {background}
    for part in data.parts.values():
        part.as_is = None
    if shift:
        data.classes = [BACKGROUND[0], *data.classes]
        data.palette = None
    if len(data.classes) > IGNORED:
        findings.stop(where, f'there are {len(data.classes)} classes with the background; a label '
                             f'map holds {IGNORED} at most, since {IGNORED} is not labelled',
                      advice='Join classes, or learn objects with --task det')
    data.task, data.background = SEGMENTATION, background
    data.notes.append(f'outlines are painted into label maps, small objects over large ones; what '
                      f'none covers is the class {data.classes[background]!r}')


def painted(item: Item, background: int) -> np.ndarray:
    """Return the label map (H, W) uint8 of an image's objects."""
    assert item.size is not None  # the survey has filled it in
    width, height = item.size
    labels = np.full((height, width), background, np.uint8)
    for one in sorted(item.objects, key=lambda one: -one['area']):
        mask = mask_of(one['segmentation'], (height, width))
        labels[mask] = IGNORED if one['iscrowd'] else one['category_id']
    return labels


def mask_of(segmentation: Any, shape: Tuple[int, int]) -> np.ndarray:
    """Return a mask (H, W) of bool from polygons or run lengths in COCO's form."""
    if isinstance(segmentation, list):
        polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
        segmentation = coco_mask.merge(coco_mask.frPyObjects(polygons, *shape))
    elif isinstance(segmentation['counts'], list):
        segmentation = coco_mask.frPyObjects(segmentation, *shape)
    return coco_mask.decode(segmentation).astype(bool)
