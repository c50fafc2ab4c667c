"""Details of a test of a classifier."""
import importlib
from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from mmvssd.engine.record.details.curves import precision_recall, sparse, thinned

TASK = 'classification'
#: Bins of the calibration.
BINS = 15
#: Classes up to which curves are made, of every class's scores.
MOST_CLASSES = 100
#: Predictions that are kept of an image.
TOP = 3


def see(sample, annotations: Optional[list]) -> Dict[str, Any]:
    """Keep the scores of one image of one label; of several labels, nothing is summed up."""
    scores = sample.pred_score.detach().float().cpu().numpy()
    label = sample.gt_label.reshape(-1).tolist() if 'gt_label' in sample else []
    single = len(label) == 1 and 0 <= label[0] < len(scores)
    return dict(scores=scores.astype(np.float32 if len(scores) <= MOST_CLASSES else np.float16),
                label=label[0] if single else None,
                quality=float(scores[label[0]]) if single else None)


def sum_up(results: Sequence[dict], classes: Sequence[str]) -> Dict[str, Any]:
    """Return scores by class, in %, confusions, curves and calibration.

    Args:
        results: What :func:`see` kept of each image.
        classes: Names by label; there may be none.
    """
    metrics = importlib.import_module('mmpretrain.evaluation.metrics')
    scores = np.stack([result['scores'] for result in results]).astype(np.float32)
    truth = np.array([result['label'] for result in results])
    found, count = scores.argmax(1), scores.shape[1]
    names = [*classes[:count], *(f'class {label}' for label in range(len(classes), count))]
    table = metrics.SingleLabelMetric.calculate(
        found, truth, num_classes=count, average=None)
    confusion = metrics.ConfusionMatrix.calculate(found, truth, num_classes=count).numpy()
    columns = dict(zip(('precision', 'recall', 'F1', 'images'), table))
    return dict(
        classes=names,
        by_class=[dict(name=name, **{key: round(float(values[label]), 2)
                                     for key, values in columns.items()})
                  for label, name in enumerate(names)],
        confusion=dict(names=names, cells=sparse(confusion)),
        curves=_curves(scores, truth, names), calibration=_calibration(scores, truth, found))


def _curves(scores: np.ndarray, truth: np.ndarray, names: Sequence[str]) -> List[dict]:
    if len(names) > MOST_CLASSES:
        return []
    right = truth[:, None] == np.arange(len(names))
    curves = [dict(name='all classes', points=thinned(*precision_recall(
        scores.ravel(), right.ravel(), len(truth))))]
    return curves + [
        dict(name=name, points=thinned(*precision_recall(
            scores[:, label], right[:, label], int(right[:, label].sum()))))
        for label, name in enumerate(names) if right[:, label].any()]


def _calibration(scores: np.ndarray, truth: np.ndarray, found: np.ndarray) -> Optional[dict]:
    """Return how often predictions of a confidence are right, and the expected error of it.

    ECE: Naeini et al., 'Obtaining Well Calibrated Probabilities Using Bayesian Binning', 2015.
    None if the scores are no probabilities.
    """
    if not np.isfinite(scores).all() or scores.min() < 0 or np.abs(scores.sum(1) - 1).max() > 0.02:
        return None
    sure, right = scores.max(1), found == truth
    bins = np.clip((sure * BINS).astype(int), 0, BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    safe = np.maximum(counts, 1)
    confidence = np.bincount(bins, sure, BINS) / safe
    accuracy = np.bincount(bins, right.astype(float), BINS) / safe
    return dict(counts=counts.tolist(), confidence=confidence.round(4).tolist(),
                accuracy=accuracy.round(4).tolist(),
                ece=round(float((np.abs(confidence - accuracy) * counts).sum() / len(truth)), 4))


def shown(result: dict) -> Dict[str, Any]:
    """Return what a page shows of an image."""
    scores = result['scores']
    top = np.argsort(-scores, kind='stable')[:TOP]
    return dict(path=result['path'], quality=round(result['quality'], 4),
                truth=dict(labels=[int(result['label'])]),
                predicted=dict(labels=[int(label) for label in top],
                               scores=[round(float(scores[label]), 4) for label in top]))
