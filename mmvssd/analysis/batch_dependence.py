"""The change of a detector's predictions on an image with the images beside it.

A host pads the images of a batch to one size. A backbone whose state sums all tokens sums the
padding too, unless ``mask_padding`` keeps it out.
"""
from typing import Dict, Iterator, List, NamedTuple, Sequence, Tuple

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS
from mmengine.structures import InstanceData
from rich.progress import track

from mmvssd.checkpoint import read_checkpoint, require_fit
from mmvssd.cli.launch import check_device
from mmvssd.engine.data.checks import check_data
from mmvssd.errors import ConfigError

SAME_BOX = 0.5  # intersection over union from which two boxes of a class are one detection


class Change(NamedTuple):
    """Detections in a batch against those of the single images.

    Attributes:
        kept: Detections of the single images, above the threshold, that the batch has as well.
        lost: Those that it has not.
        new: Detections of the batch, above the threshold, that the single images have not.
        mean_score: Mean absolute change of the scores of what is kept.
        max_score: Largest of these changes.
        mean_overlap: Mean intersection over union of what is kept.
    """

    kept: int
    lost: int
    new: int
    mean_score: float
    max_score: float
    mean_overlap: float


class Result(NamedTuple):
    """One setting: whether padding was masked, the batch, how it changed, the host's scores."""

    mask_padding: bool
    batch: int
    change: Change
    metrics: Dict[str, float]


def measure(cfg: Config, checkpoint: str, batches: Sequence[int], *, score_thr: float = 0.3,
            device: str = 'cpu') -> List[Result]:
    """Run a detector over its test set in batches of one and more, with ``mask_padding`` or not.

    Args:
        cfg: Recipe of a detector on one of the package's backbones.
        checkpoint: Its weights.
        batches: Sizes of batches; images are taken in the data set's order.
        score_thr: Detections below this score do not count.
        device: Where the model runs.

    Returns:
        For each of the two settings one result at batch 1 and at each of ``batches``.

    Raises:
        ConfigError: The recipe is no detector's on a backbone with ``mask_padding``.
        CheckpointError: The checkpoint cannot be read, or is another model's.
        DataError: The data set is missing.
    """
    if cfg.get('default_scope') != 'mmdet':
        raise ConfigError(f'default_scope: got {cfg.get("default_scope")}, expected mmdet: only '
                          'MMDetection pads images of different sizes to one batch in testing')
    if not str(cfg.model.backbone.type).startswith('mmvssd.'):
        raise ConfigError(f'model.backbone: got {cfg.model.backbone.type}, expected a backbone '
                          'of mmvssd, which has mask_padding')
    if min(batches) < 1:
        raise ConfigError(f'--batches: got {min(batches)}, expected a positive number')
    check_device(device)
    check_data(cfg, 'test')
    weights = read_checkpoint(checkpoint)
    results = []
    for mask_padding in (False, True):
        cfg.model.backbone.mask_padding = mask_padding
        from mmdet.apis import init_detector
        model = init_detector(cfg, checkpoint, device=device)
        require_fit(checkpoint, weights, model)
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
        alone = None
        for batch in (1, *batches):
            predictions, metrics = _predict(model, dataset, cfg, batch, mask_padding)
            alone = alone or predictions
            change = compare(alone, predictions, score_thr)
            results.append(Result(mask_padding, batch, change, metrics))
    return results


def _predict(model, dataset, cfg: Config, batch: int, mask_padding: bool) -> tuple:
    """Return detections of each image, and the scores of the recipe's evaluator."""
    evaluator = Evaluator(cfg.test_evaluator)
    evaluator.dataset_meta = dataset.metainfo
    predictions = []
    title = f'batches of {batch}, mask_padding={mask_padding}'
    for start in track(range(0, len(dataset), batch), title):
        indices = range(start, min(start + batch, len(dataset)))
        data = pseudo_collate([dataset[i] for i in indices])
        with torch.no_grad():
            samples = model.test_step(data)
        evaluator.process(data_samples=samples, data_batch=data)
        predictions += [sample.pred_instances.cpu() for sample in samples]
    return predictions, evaluator.evaluate(len(dataset))


def compare(alone: Sequence[InstanceData], together: Sequence[InstanceData],
            score_thr: float) -> Change:
    """Match detections of each image by class and box.

    A detection near the threshold may cross it without being lost: what counts on one side is
    looked for among all detections of the other.

    Args:
        alone: Detections (``bboxes``, ``scores``, ``labels``) of each image alone.
        together: Those of the same images in a batch.
        score_thr: Detections below this score are not counted.
    """
    scores, overlaps, lost, new = [], [], 0, 0
    for a, b in zip(alone, together):
        for before, after, overlap in _partners(a[a.scores >= score_thr], b):
            if overlap >= SAME_BOX:
                scores.append(abs(after - before))
                overlaps.append(overlap)
            else:
                lost += 1
        new += sum(overlap < SAME_BOX
                   for _, _, overlap in _partners(b[b.scores >= score_thr], a))
    kept = len(scores)
    return Change(kept, lost, new, sum(scores) / max(kept, 1), max(scores, default=0.),
                  sum(overlaps) / max(kept, 1))


def _partners(found: InstanceData, others: InstanceData) -> Iterator[Tuple[float, float, float]]:
    """Return the score of each detection, and score and overlap of its best partner."""
    from mmdet.structures.bbox import bbox_overlaps
    overlaps = bbox_overlaps(found.bboxes, others.bboxes)
    overlaps = overlaps * (found.labels[:, None] == others.labels[None, :])
    for score, row in zip(found.scores.tolist(), overlaps):
        best = int(row.argmax()) if len(row) else None
        yield (score, 0., 0.) if best is None else (score, others.scores[best].item(),
                                                    row[best].item())
