"""Two-stage detectors of MMDetection as functions of an image: what is exported."""
import copy
import importlib
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmvssd.deployment.detection_ops import nms, roi_align
from mmvssd.deployment.masks import paste_masks
from mmvssd.deployment.models import LABEL_BAR, Deployed
from mmvssd.errors import ExportError

#: A score that no box has: of what only fills a place.
NO_SCORE = -1.


class DeployedDetector(Deployed):
    """Faster R-CNN or Mask R-CNN on one image (1, C, H, W), of any size.

    ``detections`` are boxes (n, 4) as x1, y1, x2, y2 in the image's pixels, labels (n,) int64, and
    scores (n,), the highest first. A Mask R-CNN also has masks (n, 28, 28): how likely each cell of
    a box is of the object. ``raw`` is before the last suppression: proposals (P, 4), scores (P,
    classes + 1), the last of them the background's, and boxes (P, classes, 4). If all classes share
    boxes, they are (P, 1, 4).
    """

    task = 'detection'
    results = ('detections', 'raw')
    open_axes = (2, 3)

    def __init__(self, model: nn.Module, result: str, normalizes: bool) -> None:
        super().__init__(model, result, normalizes)
        check_parts(model)
        self.rpn, self.heads = _Proposals(model), _Regions(model)

    @property
    def outputs(self) -> Sequence[str]:
        if self.result == 'raw':
            return 'proposals', 'scores', 'boxes'
        return ('boxes', 'labels', 'scores', *['masks'] * self.model.roi_head.with_mask)

    def bars(self) -> Dict[str, float]:
        # of near equals float32's rounding decides which box is kept
        return dict(boxes=0.05, scores=1e-4, masks=LABEL_BAR, unmatched=0.02)

    def deviations(self, found: Sequence[np.ndarray], expected: Sequence[np.ndarray]
                   ) -> Dict[str, float]:
        """Return how far results are from those expected, whatever their order.

        ``boxes`` is in pixels, ``masks`` the share of pixels, ``unmatched`` the number of boxes
        that only one of the results has, as a share of those expected. A box that gives way to
        another counts once. Boxes at the least score that a result has do not count there.
        """
        if len(found) != len(expected):
            return dict(unmatched=float('inf'))
        found, expected = (dict(zip(self.outputs, values)) for values in (found, expected))
        if self.result == 'raw':
            rows, count = _matched(found['proposals'], expected['proposals'])
            apart = _largest(found['proposals'][rows[0]] - expected['proposals'][rows[1]])
        else:
            rows, count = self._matched(found, expected)
            apart = 0.
        ours, theirs = ({name: values[own] for name, values in results.items()}
                        for results, own in zip((found, expected), rows))
        differences = dict(boxes=max(apart, _largest(ours['boxes'] - theirs['boxes'])),
                           scores=_largest(ours['scores'] - theirs['scores']), unmatched=count)
        if 'masks' in ours:
            differences['masks'] = self._differing_pixels(ours, theirs)
        return differences

    def rounding(self, images: Tensor) -> Dict[str, float]:
        with torch.inference_mode():
            found = [result.numpy() for result in self(images)]
            truth = copy.deepcopy(self).double()(images.double())
        expected = [result.numpy() for result in truth]
        if 'masks' in self.outputs:
            boxes, _, _, masks = expected
            expected[3] = paste_masks(masks, boxes, images.shape[2:], self.mask_threshold)
        return self.deviations(found, expected)

    def overall(self, differences: Sequence[Dict[str, float]], counts: Sequence[int]
                ) -> Dict[str, float]:
        """Return the largest deviations, and the share of all boxes that are unmatched.

        Rounding may decide about any box, so a single one counts as none if there are others.
        """
        alone = sum(values['unmatched'] * max(1, count)
                    for values, count in zip(differences, counts))
        total = sum(counts)
        if np.round(alone) == 1 and total > 1:
            alone = 0.
        return dict(super().overall(differences, counts), unmatched=alone / max(1, total))

    def _matched(self, found: Dict[str, np.ndarray], expected: Dict[str, np.ndarray]):
        cfg, most = self.heads.cfg, len(expected['scores'])
        least = cfg.score_thr
        if most and most == cfg.max_per_img:
            least = max(least, expected['scores'].min())
        # boxes of different labels are far from each other
        moved = [results['boxes'] + 1e6 * results['labels'][:, None].astype(np.float64)
                 for results in (found, expected)]
        counts = [results['scores'] > least + self.bars()['scores']
                  for results in (found, expected)]
        return _matched(*moved, *counts)

    def _differing_pixels(self, ours: Dict[str, np.ndarray], theirs: Dict[str, np.ndarray]
                          ) -> float:
        masks = theirs['masks']
        if not masks.size:
            return 0.
        pasted = paste_masks(ours['masks'], ours['boxes'], masks.shape[1:], self.mask_threshold)
        return float(np.mean(pasted != masks))

    @property
    def facts(self) -> Dict[str, object]:
        return dict(mask_threshold=self.mask_threshold) if 'masks' in self.outputs else {}

    @property
    def mask_threshold(self) -> float:
        """How likely a pixel of the object has to be."""
        return float(self.heads.cfg.mask_thr_binary)

    def truth(self, pixels: Tensor) -> Sequence[np.ndarray]:
        """Return the host's own results on an image (1, C, H, W) of the pixels' values.

        Masks are (n, H, W) bool. Of ``raw`` the host has no form, so that is the module's.
        """
        if self.result == 'raw':
            return [result.numpy() for result in self(self.prepared(pixels))]
        structures = importlib.import_module('mmdet.structures')
        size = tuple(pixels.shape[2:])
        sample = structures.DetDataSample(metainfo=dict(
            img_shape=size, ori_shape=size, scale_factor=(1., 1.)))
        data = self._preprocessed(pixels, [sample])
        sample, = self.model.predict(data['inputs'], data['data_samples'], rescale=True)
        found = sample.pred_instances
        return [getattr(found, 'bboxes' if name == 'boxes' else name).numpy()
                for name in self.outputs]

    def compute(self, images: Tensor) -> Tuple[Tensor, ...]:
        size = images.shape[2:]
        features = self.model.extract_feat(self._padded(images))
        proposals = self.rpn(features, size)
        scores, boxes = self.heads.classified(features, proposals, size)
        if self.result == 'raw':
            return proposals[:-1], scores[:-1], boxes[:-1]
        return self.heads.detections(features, scores[:-1], boxes[:-1])


class _Proposals(nn.Module):
    """The region proposal network."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.head = model.rpn_head
        self.cfg = model.test_cfg.rpn

    def forward(self, features: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Return boxes (P + 1, 4), the best first; the last only fills the place of none."""
        scores, deltas = self.head(features)
        anchors = self.head.prior_generator.grid_priors(
            [level.shape[-2:] for level in scores], scores[0].dtype, scores[0].device)
        best = [self._best(*level) for level in zip(scores, deltas, anchors)]
        scores, deltas, anchors = (torch.cat(part) for part in zip(*best))
        levels = torch.cat([torch.full_like(part[0], level) for level, part in enumerate(best)])
        boxes = _decode(self.head.bbox_coder, anchors, deltas, size)
        smallest = self.cfg.get('min_bbox_size', -1)
        if smallest >= 0:
            fits = ((boxes[:, 2:] - boxes[:, :2]) > smallest).all(1)
            scores = torch.where(fits, scores, NO_SCORE)
        kept = _suppress(boxes, scores, levels, self.cfg.nms, self.cfg.max_per_img, NO_SCORE / 2)
        return boxes[kept]

    def _best(self, scores: Tensor, deltas: Tensor, anchors: Tensor) -> Tuple[Tensor, ...]:
        """Return the best scores (k,) of a level, with their deltas and anchors (k, 4)."""
        scores = scores[0].permute(1, 2, 0).reshape(-1, self.head.cls_out_channels)
        scores = scores.sigmoid() if self.head.use_sigmoid_cls else scores.softmax(-1)[:, :-1]
        deltas = deltas[0].permute(1, 2, 0).reshape(-1, 4)
        scores, most = scores.squeeze(1), self.cfg.get('nms_pre', -1)
        if most <= 0:
            return scores, deltas, anchors
        # a small level has fewer
        padded = torch.cat([scores, scores.new_full((most, ), NO_SCORE)])
        scores, place = padded.topk(most)
        place = place.clamp(max=anchors.shape[0] - 1)
        return scores, deltas[place], anchors[place]


class _Regions(nn.Module):
    """The heads of regions: classes and boxes, then masks."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.head = model.roi_head
        self.cfg = model.test_cfg.rcnn

    def classified(self, features: Sequence[Tensor], proposals: Tensor, size: Sequence[int]
                   ) -> Tuple[Tensor, Tensor]:
        """Return scores (P, classes + 1) and boxes (P, classes or 1, 4) of proposals (P, 4)."""
        logits, deltas = self.head.bbox_head(
            _pool(self.head.bbox_roi_extractor, features, proposals))
        deltas = deltas.unflatten(1, (-1, 4))
        anchors = proposals[:, None].expand_as(deltas)
        boxes = _decode(self.head.bbox_head.bbox_coder, anchors.flatten(0, 1),
                        deltas.flatten(0, 1), size)
        return logits.softmax(-1), boxes.view(deltas.shape)

    def detections(self, features: Sequence[Tensor], scores: Tensor, boxes: Tensor
                   ) -> Tuple[Tensor, ...]:
        """Return boxes, labels and scores, and masks if there is a head for them."""
        scores = scores[:, :-1]
        boxes = boxes.expand(*scores.shape, 4).flatten(0, 1)
        labels = torch.arange(scores.shape[1], device=boxes.device).expand_as(scores).flatten()
        scores = scores.flatten()
        kept = _suppress(boxes, scores, labels, self.cfg.nms, self.cfg.max_per_img,
                         self.cfg.score_thr)
        boxes, labels, scores = boxes[kept], labels[kept], scores[kept]
        found = [boxes[:-1], labels[:-1], scores[:-1]]
        if self.head.with_mask:
            masks = self.head.mask_head(_pool(self.head.mask_roi_extractor, features, boxes))
            own = torch.zeros_like(labels) if self.head.mask_head.class_agnostic else labels
            own = own[:, None, None, None].expand(-1, 1, *masks.shape[2:])
            found.append(masks.gather(1, own).squeeze(1).sigmoid()[:-1])
        return tuple(found)


def _decode(coder, anchors: Tensor, deltas: Tensor, size: Sequence[int]) -> Tensor:
    """Return the boxes (R, 4) that deltas make of anchors, clipped to an image's size."""
    boxes = coder.decode(anchors, deltas)
    if not coder.clip_border:
        return boxes
    height, width = size
    x, y = boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)
    return torch.stack([x, y], -1).flatten(1)


def _suppress(boxes: Tensor, scores: Tensor, groups: Tensor, cfg, most: int, threshold: float
              ) -> Tensor:
    """Return (n + 1,) indices of the boxes kept in each group, and one that fills a place.

    Groups are moved apart, as mmcv's ``batched_nms`` moves them: to the same places, so that an
    IoU is rounded the same.
    """
    if not cfg.get('class_agnostic', False):
        counted = torch.where(scores[:, None] > threshold, boxes, boxes.min())
        moved = boxes + (groups.to(boxes.dtype) * (counted.max() + 1))[:, None]
    else:
        moved = boxes
    kept = nms(moved, scores, cfg.iou_threshold, threshold, most if most > 0 else 2**31 - 1)
    return F.pad(kept, (0, 1))


def _pool(extractor, features: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """Return the features (R, C, size, size) of boxes (R, 4)."""
    layers = extractor.roi_layers
    sides = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
    scale = torch.sqrt(sides[0] * sides[1]) / extractor.finest_scale + 1e-6
    limits = torch.tensor(_limits(len(layers)), device=boxes.device)
    levels = (scale[:, None] >= limits).sum(1)
    return roi_align(list(features[:len(layers)]), boxes, levels, list(layers[0].output_size),
                     [layer.spatial_scale for layer in layers], layers[0].sampling_ratio,
                     layers[0].aligned)


def _limits(levels: int) -> List[float]:
    """Return the float32 numbers from which on PyTorch's log2 is 1, 2, ..., levels - 1.

    They are powers of two or just below. A runtime's own logarithm may round otherwise.
    """
    limits = []
    for power in range(1, levels):
        limit = torch.tensor(2.**power)
        while (lower := torch.nextafter(limit, torch.tensor(0.))).log2() >= power:
            limit = lower
        limits.append(limit.item())
    return limits


def _matched(found: np.ndarray, expected: np.ndarray, found_count=True, expected_count=True):
    """Pair each box expected with the nearest found, less than a pixel away.

    Returns:
        The pairs' indices, of boxes found and expected, and the share of boxes in no pair. That
        counts the side that has more of them, over the boxes expected.
    """
    distance = np.abs(found[:, None] - expected).max(-1, initial=0)
    pairs = ([], [])
    for own in range(len(expected) if len(found) else 0):
        nearest = distance[:, own].argmin()
        if distance[nearest, own] < 1:
            pairs[0].append(nearest)
            pairs[1].append(own)
            distance[nearest] = np.inf
    alone = []
    for boxes, counted, own in zip((found, expected), (found_count, expected_count), pairs):
        left = np.ones(len(boxes), bool)
        left[own] = False
        alone.append(int((left & counted).sum()))
    pairs = tuple(np.array(own, int) for own in pairs)
    return pairs, max(alone) / max(1, len(expected))


def _largest(deviation: np.ndarray) -> float:
    return float(np.abs(deviation).max(initial=0))


#: Detectors and parts that are exported, exactly these classes of MMDetection: a subclass,
#: or another class of that name, may compute something else.
DETECTORS = ('FasterRCNN', 'MaskRCNN', 'TwoStageDetector')
PARTS = {'rpn_head': ('RPNHead', ), 'rpn_head.bbox_coder': ('DeltaXYWHBBoxCoder', ),
         'roi_head': ('StandardRoIHead', ),
         'roi_head.bbox_roi_extractor': ('SingleRoIExtractor', ),
         'roi_head.bbox_head': ('BBoxHead', 'ConvFCBBoxHead', 'Shared2FCBBoxHead',
                                'Shared4Conv1FCBBoxHead'),
         'roi_head.bbox_head.bbox_coder': ('DeltaXYWHBBoxCoder', ),
         'roi_head.mask_roi_extractor': ('SingleRoIExtractor', ),
         'roi_head.mask_head': ('FCNMaskHead', )}


def check_parts(model: nn.Module) -> None:
    """Raise ExportError if a detector has a part that is not exported.

    Raises:
        ExportError: It names the part, the reason and what can be exported.
    """
    reason = _obstacle(model)
    if reason:
        raise ExportError(f'{type(model).__name__}: {reason}. What can be exported: Faster R-CNN '
                          "and Mask R-CNN of MMDetection's standard parts")


def _foreign(part: nn.Module, names: Sequence[str]) -> str:
    """Say what a part is; '' if it is one of MMDetection's classes of these names."""
    models = (importlib.import_module(f'mmdet.models{place}') for place in ('', '.task_modules'))
    known = [getattr(module, name) for module in models for name in names
             if hasattr(module, name)]
    kind = type(part)
    if kind in known:
        return ''
    return f'is a {kind.__name__} of {kind.__module__}, expected {" or ".join(names)} of mmdet'


def _obstacle(model: nn.Module) -> str:
    if _foreign(model, DETECTORS):
        return f'it {_foreign(model, DETECTORS)}'
    for path, names in PARTS.items():
        part = model
        for name in path.split('.'):
            part = getattr(part, name, None)
        if part is None and not path.startswith('roi_head.mask'):
            return f'it has no {path}'
        if part is not None and _foreign(part, names):
            return f'its {path} {_foreign(part, names)}'
    return _setting(model) or next(
        (reason for stage in ('rpn', 'rcnn')
         if (reason := _suppression(stage, model.test_cfg[stage].get('nms')))), '')


def _suppression(stage: str, cfg: Optional[dict]) -> str:
    """Say what of a stage's suppression is not exported."""
    where = f'its test_cfg.{stage}.nms'
    if cfg is None:
        return f'{where} is None, expected type nms with an iou_threshold'
    kind = cfg.get('type', 'nms')
    if kind not in ('nms', importlib.import_module('mmcv.ops').nms):
        return f'{where} is of type {getattr(kind, "__name__", kind)}, expected nms'
    if 'iou_threshold' not in cfg:
        return f'{where} has no iou_threshold'
    unknown = set(cfg) - {'type', 'iou_threshold', 'class_agnostic', 'split_thr'}
    return f'{where} has {", ".join(sorted(unknown))}' if unknown else ''


def _setting(model: nn.Module) -> str:
    """Say which setting of a detector's parts is not exported."""
    head = model.roi_head
    extractors = [head.bbox_roi_extractor]
    if head.with_mask:
        extractors.append(head.mask_roi_extractor)
    mmcv_ops = importlib.import_module('mmcv.ops')
    layers = [layer for extractor in extractors for layer in extractor.roi_layers]
    reasons = {
        'mask_padding of its backbone is set': getattr(model.backbone, 'mask_padding', False),
        'its roi_head has a shared_head': head.with_shared_head,
        'its bbox_head has no classes, or no boxes': not (head.bbox_head.with_cls
                                                          and head.bbox_head.with_reg),
        'its scores are not a softmax': head.bbox_head.custom_cls_channels,
        'its test_cfg.rcnn.mask_thr_binary is below 0, which leaves masks of several values':
            head.with_mask and model.test_cfg.rcnn.mask_thr_binary < 0,
        # as a slice, a negative number would leave the last ones out
        'its test_cfg.rpn.max_per_img is not a positive number': not (
            model.test_cfg.rpn.get('max_per_img') or 0) > 0,
        'its regions are not pooled by averages of RoIAlign': any(
            type(layer) is not mmcv_ops.RoIAlign or layer.pool_mode != 'avg' for layer in layers),
    }
    return next((reason for reason, applies in reasons.items() if applies), '')
