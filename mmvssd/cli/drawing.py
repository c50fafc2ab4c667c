"""Pictures of predictions without the hosts, in the same way: MMEngine's visualizer draws."""
from typing import Optional, Sequence

import cv2
import numpy as np
from mmengine.visualization import Visualizer

from mmvssd.palettes import Color

#: Side of a picture in which a text has its own size.
USUAL_SIDE = 224
#: Width of a box's line, in pixels.
LINE = 3
#: Pixels around a text, and the smallest size of letters.
MARGIN, SMALLEST = 2, 4


def draw_instances(image: np.ndarray, labels: np.ndarray, scores: np.ndarray, boxes: np.ndarray,
                   masks: Optional[np.ndarray], classes: Sequence[str],
                   palette: Sequence[Color]) -> np.ndarray:
    """Draw boxes (n, 4) with their classes and scores, and masks (n, H, W), on an RGB image."""
    if not len(boxes):
        return image
    canvas = Visualizer(image=image)
    # the visualizer warns of each box that reaches beyond the last pixel, as by rounding
    boxes = np.clip(boxes, 0, np.tile((canvas.width - 1, canvas.height - 1), 2))
    colors = [palette[label] for label in labels]
    if masks is not None:
        canvas.draw_binary_masks(masks, colors, alphas=0.8)
        outlines = [outline[:, 0] for mask in masks for outline in cv2.findContours(
            mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[-2]]
        canvas.draw_polygons(outlines, edge_colors='w', alpha=0.8)
    canvas.draw_bboxes(boxes, edge_colors=colors, alpha=0.8, line_widths=LINE)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    for label, score, box, area in zip(labels, scores, boxes, areas):
        size = 13 if area > 30000 else 6
        _write(canvas, f'{classes[label]}: {100 * score:.1f}', box[:2] + LINE, size,
               bboxes=dict(facecolor='black', alpha=0.8, pad=0.7, edgecolor='none'))
    return canvas.get_image()


def draw_segments(image: np.ndarray, labels: np.ndarray, classes: Sequence[str],
                  palette: Sequence[Color]) -> np.ndarray:
    """Draw a label map (H, W) half transparent, with the classes' names, on an RGB image."""
    labels = labels.astype(np.uint16, copy=False)  # of two classes they may be bool, which selects
    colors = np.array(palette, np.uint8)[labels]
    canvas = Visualizer(image=((image.astype(np.float32) + colors) / 2).astype(np.uint8))
    size = max(4, min(image.shape[:2]) * 7 // USUAL_SIDE)
    for label in np.unique(labels):
        _write(canvas, classes[label], _inside(labels == label), size, bboxes=dict(
            facecolor=np.array(palette[label]) / 255, pad=0.7, edgecolor='black'))
    return canvas.get_image()


def _write(canvas: Visualizer, text: str, point: np.ndarray, size: int, **settings) -> None:
    """Write a text at a point, moved and made smaller so that no edge of the picture cuts it."""
    inside = np.clip(point, 0, (canvas.width - 1, canvas.height - 1))
    canvas.draw_texts(text, inside, size, 'white', **settings)
    written = canvas.ax_save.texts[-1]
    written.set_parse_math(False)  # a dollar sign in a class's name is one
    room = max(1, canvas.width - 2 * MARGIN)
    extent = written.get_window_extent()
    if extent.width > room:
        written.set_fontsize(max(SMALLEST, size * room / extent.width))
        extent = written.get_window_extent()
    corner = np.minimum(written.get_position(),
                        np.subtract((canvas.width - MARGIN, canvas.height - MARGIN), extent.size))
    written.set_position(np.maximum(corner, MARGIN))


def _inside(mask: np.ndarray) -> np.ndarray:
    """Return a point (x, y) of a mask: the middle one of the row that has most of it."""
    row = mask.sum(1).argmax()
    across = np.flatnonzero(mask[row])
    return np.array([across[len(across) // 2], row])


def draw_class(image: np.ndarray, label: int, score: float, name: Optional[str], side: int
               ) -> np.ndarray:
    """Draw the best class on an RGB image, which is brought to a shorter side of so much."""
    height, width = image.shape[:2]
    short = min(height, width)
    image = cv2.resize(image, (side * width // short, side * height // short))
    scale = min(max(side / USUAL_SIDE, 0.3), 3)
    canvas = Visualizer(image=image)
    _write(canvas, f'Prediction: {label}, {score:.2f}' + (f' ({name})' if name else ''),
           np.array([5 * scale, 5 * scale]), int(7 * scale), font_families='monospace',
           bboxes=dict(facecolor='black', alpha=0.5, boxstyle='Round'))
    return canvas.get_image()
