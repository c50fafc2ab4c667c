"""What a test wrote down, as charts, tables and pictures."""
import base64
import io
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mmvssd.bands import LoadBands
from mmvssd.reports.charts import Chart, Line, bars, lines, matrix
from mmvssd.reports.pictures import Objects, Picture, draw

TASKS = ('classification', 'detection', 'segmentation')
#: Classes of which a confusion matrix is drawn.
MOST_MATRIX = 100
#: Lines of a chart of precision over recall.
MOST_CURVES = 10
#: Pairs of classes that are listed.
PAIRS = 10


class Pair(NamedTuple):
    """An image as it is annotated, and as it was predicted."""

    title: str
    truth: Optional[Picture]
    predicted: Optional[Picture]
    problem: str = ''


class Confusion(NamedTuple):
    """Two classes that are confused."""

    true: str
    predicted: str
    count: int  # type: ignore[assignment]  # it hides that of tuples


class Details(NamedTuple):
    """What a page shows of a test."""

    task: str
    checkpoint: str
    images: int
    header: List[str]
    by_class: List[List[Any]]
    charts: List[Chart]
    large: List[Chart]
    confusions: List[Confusion]
    worst: List[Pair]
    best: List[Pair]
    notes: List[str]


def details_of(content: Dict[str, Any]) -> Optional[Details]:
    """Draw what a test wrote down; None if it is something else.

    Args:
        content: Of a ``test_details.json``.
    """
    try:
        return _details(content, Path(str(content.get('folder') or '.')))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return None


def _details(content: Dict[str, Any], folder: Path) -> Details:
    if content['task'] not in TASKS:
        raise ValueError(f'no such task: {content["task"]}')
    rows = content.get('by_class') or []
    header = list(dict.fromkeys(key for row in rows for key in row))
    confusion = content.get('confusion')
    large, notes = [], []
    names = confusion['names'] if confusion else []
    if confusion and len(names) <= MOST_MATRIX:
        large.append(matrix('Confusion matrix, % of each true class', _dense(confusion), names))
    charts = [chart for chart in (_curves(content), _calibration(content)) if chart is not None]
    if not rows:
        notes.append('The test data have no labels, or several an image: no scores by class.')
    return Details(
        content['task'], content.get('checkpoint', ''), content.get('images', 0), header,
        [[row.get(key) for key in header] for row in rows], charts, large,
        _confusions(confusion) if confusion else [],
        [_pair(entry, content, folder) for entry in content.get('worst') or []],
        [_pair(entry, content, folder) for entry in content.get('best') or []], notes)


def _dense(confusion: Dict[str, Any]) -> np.ndarray:
    counts = np.zeros((len(confusion['names']), ) * 2)
    for row, column, count in confusion['cells']:
        counts[row, column] = count
    return counts


def _confusions(confusion: Dict[str, Any]) -> List[Confusion]:
    names = confusion['names']
    cells = sorted((cell for cell in confusion['cells'] if cell[0] != cell[1]),
                   key=lambda cell: -cell[2])
    return [Confusion(names[row], names[column], count) for row, column, count in cells[:PAIRS]]


def _line(points: Sequence[Sequence[float]]) -> Line:
    return Line([x for x, _ in points], [y for _, y in points])


def _curves(content: Dict[str, Any]) -> Optional[Chart]:
    known = [curve for curve in content.get('curves') or [] if curve['points']]
    chosen = known if len(known) <= MOST_CURVES + 1 else known[:1]
    overlap = content.get('overlap')
    title = 'Precision over recall' + (f', overlap {overlap}' if overlap else '')
    return lines(title, {curve['name']: _line(curve['points']) for curve in chosen},
                 'recall', 'precision', limits=(-0.02, 1.02), main='all classes')


def _calibration(content: Dict[str, Any]) -> Optional[Chart]:
    found = content.get('calibration')
    if not found:
        return None
    count = len(found['counts'])
    edges = [index / count for index in range(count + 1)]
    expected = [confidence if seen else float('nan')
                for confidence, seen in zip(found['confidence'], found['counts'])]
    return bars(f'Calibration, expected error {found["ece"] * 100:.1f} %', found['accuracy'], edges,
                'confidence', 'share that is right', expected)


def _pair(entry: Dict[str, Any], content: Dict[str, Any], folder: Path) -> Pair:
    title = f'{entry["path"]}: {float(entry["quality"]):.2f}'  # JSON has no NaN but its name
    path = folder / entry['path']
    try:
        pixels = _pixels(path)
    except Exception as error:  # of PIL's decoders; and files may have been moved
        return Pair(title, None, None, f'{path} cannot be shown ({type(error).__name__})')
    classes = content.get('classes') or []
    colors = [tuple(color) for color in content.get('palette') or ()]
    sides = []
    for side, name in (('truth', 'annotated'), ('predicted', 'predicted')):
        objects, shown = _objects(entry[side], pixels, classes)
        sides.append(draw(shown, objects, classes, name, colors))
    truth, predicted = sides
    return Pair(title, truth, predicted)


def _pixels(path: Path) -> np.ndarray:
    """Read an image (H, W, 3), also one of other bands."""
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert('RGB'))
    except UnidentifiedImageError:  # it is no photograph
        return LoadBands().picture(str(path))


def _objects(found: Dict[str, Any], pixels: np.ndarray,
             classes: Sequence[str]) -> Tuple[Objects, np.ndarray]:
    if 'label_map' in found:
        label_map = np.asarray(Image.open(io.BytesIO(base64.b64decode(found['label_map']))))
        size = label_map.shape[1], label_map.shape[0]
        return Objects(label_map=label_map), np.asarray(Image.fromarray(pixels).resize(size))
    labels, scores = found['labels'], [float(score) for score in found.get('scores') or ()]
    if 'boxes' in found:
        boxes = np.asarray(found['boxes'], float).reshape(-1, 4)
        notes = [f'scores {min(scores):.2f} to {max(scores):.2f}'] if scores else []
        return Objects(labels, boxes, notes=notes), pixels
    names = [classes[label] if label < len(classes) else f'class {label}' for label in labels]
    notes = [f'{name} {score:.2f}' for name, score in zip(names, scores)] if scores else []
    return Objects(labels[:1], notes=notes), pixels
