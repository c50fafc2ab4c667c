"""Details of a test of a segmentor."""
import base64
import importlib
import io
from typing import Any, Dict, Optional, Sequence

import numpy as np
import torch
from PIL import Image

from mmvssd.engine.record.details.curves import sparse

TASK = 'segmentation'
#: Label of pixels that are not scored.
IGNORED = 255
#: Pixels of the longer side of label maps that are kept for pictures.
SIDE = 320


def see(sample, annotations: Optional[list]) -> Dict[str, Any]:
    """Count which classes of one image's pixels were taken for which."""
    found = sample.pred_sem_seg.data.squeeze(0).cpu().numpy().astype(np.int64)
    if 'gt_sem_seg' not in sample:
        return dict(quality=None)
    truth = sample.gt_sem_seg.data.squeeze(0).cpu().numpy().astype(np.int64)
    scored = truth != IGNORED
    pairs, counts = np.unique(truth[scored] * 2**16 + found[scored], return_counts=True)
    pairs = np.stack([pairs // 2**16, pairs % 2**16, counts], 1).reshape(-1, 3)
    return dict(pairs=pairs.astype(np.int32), quality=_quality(pairs),
                picture=dict(truth=dict(label_map=_packed(truth)),
                             predicted=dict(label_map=_packed(found))))


def _quality(pairs: np.ndarray) -> Optional[float]:
    """Return the mean IoU of the classes that an image has; None if nothing in it is scored."""
    overlaps = []
    for label in np.unique(pairs[:, 0]):
        true, found = pairs[:, 0] == label, pairs[:, 1] == label
        overlaps.append(pairs[true & found, 2].sum() / pairs[true | found, 2].sum())
    return float(np.mean(overlaps)) if overlaps else None


def _packed(label_map: np.ndarray) -> str:
    """Return a label map as a small PNG, in text."""
    step = -(-max(label_map.shape) // SIDE)
    content = io.BytesIO()
    Image.fromarray(label_map[::step, ::step].clip(0, 255).astype(np.uint8)).save(content, 'png')
    return base64.b64encode(content.getvalue()).decode()


def sum_up(results: Sequence[dict], classes: Sequence[str]) -> Dict[str, Any]:
    """Return scores by class, in %, and confusions.

    Args:
        results: What :func:`see` kept of each image.
        classes: Names by label.
    """
    count = max([len(classes), *(int(result['pairs'][:, :2].max(initial=0)) + 1
                                 for result in results)])
    names = [*classes, *(f'class {label}' for label in range(len(classes), count))]
    matrix = np.zeros((count, count), np.int64)
    for result in results:
        np.add.at(matrix, (result['pairs'][:, 0], result['pairs'][:, 1]), result['pairs'][:, 2])
    hit, found, true = matrix.diagonal(), matrix.sum(0), matrix.sum(1)
    metric = importlib.import_module('mmseg.evaluation.metrics').IoUMetric
    areas = (torch.from_numpy(area.astype(float)) for area in (
        hit, true + found - hit, found, true))
    table = metric.total_area_to_metrics(*areas, ['mIoU', 'mFscore'])
    columns = {key: table[key] for key in ('IoU', 'Precision', 'Recall')}
    return dict(
        classes=names, confusion=dict(names=names, cells=sparse(matrix)),
        by_class=[dict(name=name, pixels=int(true[label]),
                       **{key.replace('P', 'p').replace('R', 'r'): _rounded(values[label])
                          for key, values in columns.items()})
                  for label, name in enumerate(names)])


def _rounded(value) -> Optional[float]:
    return round(float(value) * 100, 2) if np.isfinite(value) else None


def shown(result: dict) -> Dict[str, Any]:
    """Return what a page shows of an image."""
    return dict(path=result['path'], quality=round(result['quality'], 4), **result['picture'])
