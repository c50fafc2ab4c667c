"""Images with what is in them drawn over, small enough for a page."""
import colorsys
import io
from collections import Counter
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from PIL import Image, ImageDraw

from mmvssd.reports.page import data_uri

#: Pixels of a picture's longer side: smaller ones are enlarged by whole numbers.
SMALLEST, LARGEST = 160, 480
#: Names under a picture.
MOST_NAMES = 8
#: How far masks and label maps cover an image.
COVER = 0.45

Color = Tuple[int, int, int]


class Objects(NamedTuple):
    """What is in an image, as annotated or as predicted.

    Args:
        labels: Classes of objects, or of the image.
        boxes: (N, 4) x1, y1, x2, y2 in pixels, or None.
        masks: (N, H, W) bool, or None.
        label_map: (H, W) classes, or None. Labels that are no class are left as they are.
        notes: Lines under the picture.
    """

    labels: Sequence[int] = ()
    boxes: Optional[np.ndarray] = None
    masks: Optional[np.ndarray] = None
    label_map: Optional[np.ndarray] = None
    notes: Sequence[str] = ()


class Name(NamedTuple):
    """A class in a picture's legend."""

    text: str
    color: str  # of CSS


class Picture(NamedTuple):
    """A picture of a page."""

    uri: str
    title: str
    names: List[Name]
    notes: Sequence[str] = ()


def palette(count: int) -> List[Color]:
    """Return colours that neighbours in the list differ by."""
    hues = (index * 0.381966 % 1 for index in range(count))
    shades = ((0.85, 0.95), (0.6, 0.75), (0.95, 0.7))
    colours = [colorsys.hsv_to_rgb(hue, *shades[index % 3]) for index, hue in enumerate(hues)]
    return [(int(red * 255), int(green * 255), int(blue * 255)) for red, green, blue in colours]


def draw(image: np.ndarray, objects: Objects, classes: Sequence[str], title: str,
         colors: Sequence[Color] = ()) -> Picture:
    """Draw an image with its objects.

    Args:
        image: (H, W, 3) uint8, RGB.
        objects: What is drawn over it.
        classes: Names by label.
        title: Line above the picture.
        colors: By label; by default :func:`palette`.
    """
    classes, objects = list(classes), _fitting(objects, image.shape[:2])
    largest = max([0, *map(int, objects.labels)], default=0)
    colors = colors if len(colors) >= len(classes) > 0 else palette(max(len(classes), largest + 1))
    labels = [int(label) for label in objects.labels]
    pixels = image
    if objects.label_map is not None:
        pixels, labels = _cover_map(pixels, objects.label_map, colors)
    if objects.masks is not None:
        pixels = _cover_masks(pixels, objects.masks, labels, colors)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    scale = _scale(picture.size)
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    picture = picture.resize(size, Image.Resampling.NEAREST if scale > 1 else
                             Image.Resampling.BILINEAR)
    if objects.boxes is not None:
        _draw_boxes(picture, np.asarray(objects.boxes) * scale, labels, colors)
    return Picture(encoded(picture), title, _legend(labels, classes, colors,
                                                    counted=objects.label_map is None),
                   objects.notes)


def _fitting(objects: Objects, shape: Tuple[int, int]) -> Objects:
    """Leave out a label map of another shape than its image."""
    found = None if objects.label_map is None else objects.label_map.shape
    if found in (None, shape):
        return objects
    return objects._replace(label_map=None, notes=[
        *objects.notes, f'not drawn: a label map of shape {" x ".join(map(str, found))} over an '
                        f'image of {" x ".join(map(str, shape))}'])


def encoded(picture: Image.Image) -> str:
    """Return an image as a JPEG that a page holds."""
    content = io.BytesIO()
    picture.convert('RGB').save(content, 'JPEG', quality=85)
    return data_uri(content.getvalue(), 'image/jpeg')


def _scale(size: Tuple[int, int]) -> float:
    longest = max(size)
    return LARGEST / longest if longest > LARGEST else max(1, -(-SMALLEST // longest))


def _cover_map(image: np.ndarray, label_map: np.ndarray, colors: Sequence[Color]):
    table = np.asarray(colors, np.float32)
    is_class = (label_map >= 0) & (label_map < len(colors))
    labels = [int(label) for label in np.unique(label_map[is_class])]
    over = table[np.where(is_class, label_map, 0)]
    mixed = image * (1 - COVER) + over * COVER
    return np.where(is_class[..., None], mixed, image).astype(np.uint8), labels


def _cover_masks(image: np.ndarray, masks: np.ndarray, labels: Sequence[int],
                 colors: Sequence[Color]) -> np.ndarray:
    pixels = image.astype(np.float32)
    for mask, label in zip(masks, labels):
        inside = np.asarray(mask, bool)
        if inside.shape == pixels.shape[:2]:
            pixels[inside] = pixels[inside] * (1 - COVER) + np.asarray(
                colors[label % len(colors)]) * COVER
    return pixels.astype(np.uint8)


def _draw_boxes(picture: Image.Image, boxes: np.ndarray, labels: Sequence[int],
                colors: Sequence[Color]) -> None:
    pen = ImageDraw.Draw(picture)
    ends = np.tile(picture.size, 2) + 2
    for box, label in zip(boxes, labels):
        # PIL goes through every pixel, also far outside
        left, top, right, bottom = np.clip(np.nan_to_num(box), -2, ends).tolist()
        if right >= left and bottom >= top:
            pen.rectangle((left, top, right, bottom), outline=tuple(colors[label % len(colors)]),
                          width=2)


def _legend(labels: Sequence[int], classes: Sequence[str], colors: Sequence[Color],
            counted: bool) -> List[Name]:
    counts = Counter(labels)
    names = []
    for label, count in counts.most_common(MOST_NAMES):
        text = str(classes[label]) if 0 <= label < len(classes) else f'class {label}'
        color = colors[label % len(colors)]
        names.append(Name(f'{text} × {count}' if counted and count > 1 else text,
                          f'rgb({color[0]}, {color[1]}, {color[2]})'))
    if len(counts) > MOST_NAMES:
        names.append(Name(f'and {len(counts) - MOST_NAMES} more', 'transparent'))
    return names
