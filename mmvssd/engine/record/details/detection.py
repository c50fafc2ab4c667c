"""Details of a test of a detector, by boxes."""
import importlib
from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from mmvssd.engine.record.details.curves import precision_recall, sparse, thinned

TASK = 'detection'
#: Overlap from which on a box is found.
OVERLAP = 0.5
#: Score from which on a box is shown, and counted as confused with another class.
SHOWN_SCORE = 0.3
#: Boxes that are kept of an image for its picture.
MOST_BOXES = 60
#: What is predicted of an object that is not found, and what is true of a box without an object.
NOTHING = 'nothing'
#: Classes that have a curve of their own.
MOST_CURVES = 100


def see(sample, annotations: Optional[list]) -> Dict[str, Any]:
    """Match the boxes of one image with its annotations.

    Args:
        sample: With ``pred_instances``, in pixels of the file.
        annotations: The data set's ``instances`` of the image; None if they are not known.
    """
    found = sample.pred_instances.detach().cpu().numpy()
    boxes, scores = np.asarray(found.bboxes, float).reshape(-1, 4), np.asarray(found.scores, float)
    labels = np.asarray(found.labels, int)
    if annotations is None:
        return dict(quality=None)
    objects = [one for one in annotations if 'bbox' in one and 'bbox_label' in one]
    truth = np.array([one['bbox'] for one in objects], float).reshape(-1, 4)
    truth_labels = np.array([one['bbox_label'] for one in objects], int)
    ignored = np.array([bool(one.get('ignore_flag')) for one in objects], bool)
    hits, misses = _matched(boxes, scores, labels, truth, truth_labels, ignored)
    sure = scores >= SHOWN_SCORE
    kept = ~ignored
    confused = _confused(boxes[sure], scores[sure], labels[sure], truth[kept], truth_labels[kept],
                         truth[~kept])
    right, predicted = int(hits[sure].sum()), int((hits | misses)[sure].sum())
    total = predicted + int(kept.sum())
    order = np.argsort(-scores, kind='stable')[:MOST_BOXES]
    order = order[sure[order]]
    return dict(
        labels=labels, scores=scores.astype(np.float32), hits=hits, misses=misses,
        truth_labels=truth_labels[kept], confused=confused,
        quality=2 * right / total if total else 1.0, empty=not total,
        picture=dict(truth=dict(boxes=truth[kept].tolist(), labels=truth_labels[kept].tolist()),
                     predicted=dict(boxes=boxes[order].round(1).tolist(),
                                    labels=labels[order].tolist(),
                                    scores=scores[order].round(3).tolist())))


def _matched(boxes, scores, labels, truth, truth_labels, ignored):
    """Return which boxes find an object of their class, and which find none."""
    match = importlib.import_module('mmdet.evaluation.functional.mean_ap').tpfp_default
    hits, misses = np.zeros(len(labels), bool), np.zeros(len(labels), bool)
    for label in np.unique(labels):
        mine, of_class = labels == label, truth_labels == label
        hit, miss = match(
            np.hstack([boxes[mine], scores[mine][:, None]]).astype(np.float32),
            truth[of_class & ~ignored].astype(np.float32), np.zeros((0, 4), np.float32), OVERLAP)
        hits[mine] = hit[0] > 0
        misses[mine] = (miss[0] > 0) & ~_excused(boxes[mine], truth[of_class & ignored])
    return hits, misses


def _excused(boxes: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """Return which boxes lie for the most part in an object that does not count, such as a crowd.

    COCO's rule: the overlap is a share of the box, as a crowd holds many objects.
    """
    overlaps = importlib.import_module('mmdet.evaluation.functional.bbox_overlaps').bbox_overlaps
    return overlaps(boxes, ignored, mode='iof').max(1, initial=0) >= OVERLAP


def _confused(boxes, scores, labels, truth, truth_labels, ignored) -> List[List[int]]:
    """Pair boxes with objects of any class, the surest box first; -1 stands for none."""
    overlaps = importlib.import_module('mmdet.evaluation.functional.bbox_overlaps').bbox_overlaps
    table = overlaps(truth, boxes)
    free, pairs = np.ones(len(truth), bool), []
    excused = _excused(boxes, ignored)
    for index in np.argsort(-scores, kind='stable'):
        column = np.where(free, table[:, index], 0) if len(truth) else np.zeros(0)
        # of objects that overlap alike the one of its class
        place = int(np.argmax(column + 1e-6 * (truth_labels == labels[index]))) if len(
            column) else -1
        if place >= 0 and column[place] >= OVERLAP:
            free[place] = False
            pairs.append([int(truth_labels[place]), int(labels[index])])
        elif not excused[index]:
            pairs.append([-1, int(labels[index])])
    return pairs + [[int(label), -1] for label in truth_labels[free]]


def sum_up(results: Sequence[dict], classes: Sequence[str]) -> Dict[str, Any]:
    """Return scores by class, in %, confusions and curves, at an overlap of 0.5.

    Args:
        results: What :func:`see` kept of each image.
        classes: Names by label.
    """
    area = importlib.import_module('mmdet.evaluation.functional.mean_ap').average_precision
    labels, scores, hits, misses = (np.concatenate([result[key] for result in results])
                                    for key in ('labels', 'scores', 'hits', 'misses'))
    truth = np.concatenate([result['truth_labels'] for result in results])
    count = max([len(classes), *(labels + 1), *(truth + 1)])
    names = [*classes, *(f'class {label}' for label in range(len(classes), count))]
    by_class, curves = [], []
    for label, name in enumerate(names):
        # a box at an object that does not count, such as a crowd, is neither right nor wrong
        mine, total = (labels == label) & (hits | misses), int((truth == label).sum())
        precision, recall = precision_recall(scores[mine], hits[mine], total)
        sure = mine & (scores >= SHOWN_SCORE)
        by_class.append({
            'name': name, 'objects': total,
            'AP at 0.5': _percent(np.ravel(area(recall, precision))[0] if len(recall) else 0)
            if total else None,
            'precision': _percent(hits[sure].mean()) if sure.any() else None,
            'recall': _percent(hits[sure].sum() / total) if total else None})
        if total and len(curves) < MOST_CURVES:
            curves.append(dict(name=name, points=thinned(precision, recall)))
    counted = hits | misses
    curves.insert(0, dict(name='all classes', points=thinned(*precision_recall(
        scores[counted], hits[counted], len(truth)))))
    return dict(classes=names, by_class=by_class, curves=curves,
                threshold=SHOWN_SCORE, overlap=OVERLAP,
                confusion=dict(names=[*names, NOTHING],
                               cells=sparse(_confusion(results, count))))


def _percent(share: float) -> float:
    return round(float(share) * 100, 2)


def _confusion(results: Sequence[dict], count: int) -> np.ndarray:
    matrix = np.zeros((count + 1, count + 1), int)
    for result in results:
        for true, predicted in result['confused']:
            matrix[true, predicted] += 1  # -1 is the last one
    return matrix


def shown(result: dict) -> Dict[str, Any]:
    """Return what a page shows of an image."""
    return dict(path=result['path'], quality=round(result['quality'], 4), **result['picture'])
