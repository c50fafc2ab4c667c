"""The hosts' inferencers behind one form: an image in, an entry of the JSON and a picture out."""
import copy
import itertools
import logging
from abc import ABC, abstractmethod
from typing import Any, Dict, List, Optional, Sequence, Tuple, Type, Union

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DATASETS
from mmengine.structures import BaseDataElement, PixelData
from torch.nn import functional as F

from mmvssd.cli.drawing import draw_instances, draw_segments
from mmvssd.cli.entries import best_classes, instances, scores_shape, segments
from mmvssd.cli.image_files import resized
from mmvssd.engine.checkpoints import class_order
from mmvssd.engine.data.batch_check import BatchCheck
from mmvssd.errors import ConfigError, UnreadableImageError
from mmvssd.palettes import palette_of
from mmvssd.phrases import counted, some

#: A file, or pixels (H, W, 3) uint8 in BGR.
Image = Union[str, np.ndarray]

#: Longest side of a classifier's picture.
LONGEST_SIDE = 2048


class Inferencer(ABC):
    """Predicts on images with the inferencer of a host.

    Args:
        cfg: Recipe of the model.
        checkpoint: Its weights.
        meta: What the checkpoint says of its training's data.
        score_thr: Detections below this score are left out.
        device: Device to run on; None takes a GPU if there is one.

    Attributes:
        classes: Names of the model's classes, from the checkpoint, else from the recipe; None if
            neither has them.
    """

    #: Ending of pictures whatever their images are; None keeps an image's own if it can.
    picture_suffix: Optional[str] = None

    def __init__(self, cfg: Config, checkpoint: str, meta: dict, score_thr: float,
                 device: Optional[str]):
        self.score_thr = score_thr
        self.inferencer = self.build(_without_backends(cfg), checkpoint, device)
        self.model = self.inferencer.model
        own = self.recipe_meta(cfg)
        self.dataset_meta = {**own, **meta}
        self.classes: Any = self.dataset_meta.get('classes')
        if meta.get('classes') and own.get('classes'):
            _warn_of_order(checkpoint, meta['classes'], own['classes'])

    def check_classes(self) -> None:
        """Raise ConfigError unless the model has as many classes as there are names."""
        expected = BatchCheck(self.model).num_classes
        if self.classes is not None and expected not in (None, len(self.classes)):
            raise ConfigError(
                f'{counted(len(self.classes), "name")} of classes ({some(self.classes)}), '
                f'but the head has {counted(expected, "class")}: set num_classes of the heads, or '
                "the data set's metainfo.classes, so that they agree")

    @staticmethod
    @abstractmethod
    def build(cfg: Config, checkpoint: str, device: Optional[str]):
        """Make the host's inferencer."""

    def recipe_meta(self, cfg: Config) -> dict:
        """Return what the recipe's data set says of its classes, without reading the data."""
        dataset = dict(cfg.test_dataloader.dataset, lazy_init=True)
        return dict(DATASETS.build(dataset).metainfo)

    @property
    def palette(self) -> Optional[Sequence[Sequence[int]]]:
        """A color for each class, if the checkpoint or the recipe names them."""
        palette = {**(self.model.dataset_meta or {}), **self.dataset_meta}.get('palette')
        return None if isinstance(palette, str) else palette  # such as MMDetection's "random"

    @property
    def steps(self) -> Sequence:
        """Transforms that an image goes through."""
        return self.inferencer.pipeline.transforms

    @property
    def own_threshold(self) -> Optional[Tuple[str, float]]:
        """The recipe's setting below which the model itself drops scores, and its value."""
        return None

    @property
    def side_by_side(self) -> bool:
        """Whether several models in threads are faster than one: on a CPU."""
        return next(self.model.parameters()).device.type == 'cpu'

    def beside(self) -> 'Inferencer':
        """Return one for another thread: its modules are its own, the weights are shared."""
        own = copy.copy(self)
        own.inferencer = copy.copy(self.inferencer)
        weights = itertools.chain(self.model.parameters(), self.model.buffers())
        shared = {id(tensor): tensor for tensor in weights}
        own.model = own.inferencer.model = copy.deepcopy(self.model, shared)
        return own

    def predict(self, image: Image) -> BaseDataElement:
        """Run the model on an image.

        Args:
            image: A file, or pixels (H, W, 3) uint8 in BGR.

        Raises:
            UnreadableImageError: It cannot be read, or a step of the recipe's pipeline fails.
        """
        sample, = self.forward([self.prepare(image)])
        return sample

    def forward(self, prepared: Sequence[dict]) -> List[BaseDataElement]:
        """Run the model on prepared images of one shape."""
        return list(map(self.finished, self.inferencer.forward(_merged(prepared))))

    def finished(self, sample: BaseDataElement) -> BaseDataElement:
        """Bring a prediction into the form that entries and pictures are made of."""
        return sample

    def shape(self, prepared: dict) -> Optional[Tuple[int, ...]]:
        """Return the shape in which an image is given to the model; None if it runs singly."""
        image = prepared['inputs'][0] if len(prepared['inputs']) == 1 else None
        return tuple(image.shape) if isinstance(image, torch.Tensor) else None

    def prepare(self, image: Image) -> dict:
        """Read an image and prepare it as the recipe has it.

        Args:
            image: A file, or pixels (H, W, 3) uint8 in BGR.

        Raises:
            UnreadableImageError: It cannot be read, or a step of the recipe's pipeline fails.
        """
        try:
            batch = next(iter(self.inferencer.preprocess([image])))
        except (MemoryError, UnreadableImageError):
            raise
        except Exception as error:  # each decoder and each transform has errors of its own
            file = f'{image}: ' if isinstance(image, str) else ''
            reason = (str(error).strip() or 'no message').splitlines()[0].removeprefix(file)
            raise UnreadableImageError(f'{file}cannot be read as an image, or not prepared as '
                                       f'the recipe has it ({type(error).__name__}: {reason})'
                                       ) from error
        return self.batch_of(batch)

    def batch_of(self, preprocessed):
        """Take the batch out of what the host's preprocessing gives."""
        return preprocessed

    @abstractmethod
    def entry(self, sample: BaseDataElement) -> dict:
        """Put a prediction into the JSON's form."""

    @abstractmethod
    def picture(self, image: Image, sample: BaseDataElement) -> np.ndarray:
        """Draw a prediction on its image: (H, W, 3) uint8, RGB."""


class Detector(Inferencer):
    """MMDetection's."""

    @staticmethod
    def build(cfg: Config, checkpoint: str, device: Optional[str]):
        from mmdet.apis import DetInferencer
        return DetInferencer(model=cfg, weights=checkpoint, device=device, show_progress=False)

    def batch_of(self, preprocessed):
        _, batch = preprocessed  # beside the files
        resizing = [step for step in self.steps if type(step).__name__ == 'Resize']
        if len(resizing) > 1:  # the host would put boxes back by the factors of the last one only
            for sample in batch['data_samples']:
                sample.set_metainfo(dict(scale_factor=_factors(resizing, sample)))
        return batch

    @property
    def own_threshold(self) -> Optional[Tuple[str, float]]:
        test_cfg = getattr(self.model, 'test_cfg', None) or {}
        for name, settings in (('model.test_cfg.rcnn', test_cfg.get('rcnn')),
                               ('model.test_cfg', test_cfg)):
            if isinstance(settings, dict) and settings.get('score_thr'):
                return f'{name}.score_thr', float(settings['score_thr'])
        return None

    def entry(self, sample: BaseDataElement) -> dict:
        labels, scores, boxes, masks = self.detections(sample)
        return instances(labels, scores, boxes, masks, self.classes)

    def detections(self, sample: BaseDataElement) -> Tuple[np.ndarray, ...]:
        """Return labels, scores, boxes (n, 4), masks (n, H, W) or None of what was found."""
        found = sample.pred_instances.cpu().numpy()
        found = found[found.scores >= self.score_thr]
        return found.labels, found.scores, found.bboxes, found.get('masks')

    def picture(self, image: Image, sample: BaseDataElement) -> np.ndarray:
        # the host draws every picture three times, of which this needs one
        labels, scores, boxes, masks = self.detections(sample)
        return draw_instances(_rgb(image), labels, scores, boxes, masks, self.classes,
                              palette_of(self.palette, len(self.classes)))


class Segmentor(Inferencer):
    """MMSegmentation's.

    A model of many classes would need gigabytes for the scores of a large photograph's label map.
    Beyond :data:`~mmvssd.cli.entries.LARGEST_SCORES` the map is made smaller and enlarged.
    """

    @staticmethod
    def build(cfg: Config, checkpoint: str, device: Optional[str]):
        from mmseg.apis import MMSegInferencer
        return MMSegInferencer(cfg, weights=checkpoint, device=device)

    def batch_of(self, preprocessed):
        for sample in preprocessed['data_samples']:
            shape = sample.ori_shape
            smaller = scores_shape(shape, len(self.classes))
            if smaller != shape:
                sample.set_metainfo(dict(image_shape=shape, ori_shape=smaller))
        return preprocessed

    def finished(self, sample: BaseDataElement) -> BaseDataElement:
        labels = sample.pred_sem_seg.data[0].cpu().numpy()
        shape = sample.get('image_shape')
        if shape:
            labels = mmcv.imresize(labels.astype(np.uint16), shape[::-1], interpolation='nearest')
        sample.pred_sem_seg = PixelData(data=labels[None])
        return sample

    def entry(self, sample: BaseDataElement) -> dict:
        return segments(sample.pred_sem_seg.data[0], self.classes)

    def whole_scores(self, sample: BaseDataElement, shape: Tuple[int, int]) -> np.ndarray:
        """Return how likely the classes of each pixel are: (channels, H, W) float32.

        A model of two classes may have one channel, which is the second one's.

        Args:
            sample: A prediction.
            shape: Height and width of the image.
        """
        logits = sample.seg_logits.data.float()[None]
        if logits.shape[2:] != shape:
            logits = F.interpolate(logits, shape, mode='bilinear', align_corners=False)
        scores = logits[0].sigmoid() if logits.shape[1] == 1 else logits[0].softmax(0)
        return scores.cpu().numpy()

    def decide(self, scores: np.ndarray) -> np.ndarray:
        """Return the labels (H, W) of scores (channels, H, W)."""
        if len(scores) == 1:
            return scores[0] > self.model.decode_head.threshold
        return scores.argmax(0)

    def picture(self, image: Image, sample: BaseDataElement) -> np.ndarray:
        # the host's picture cuts names at its edges
        return draw_segments(_rgb(image), sample.pred_sem_seg.data[0], self.classes,
                             palette_of(self.palette, len(self.classes)))


class Classifier(Inferencer):
    """MMPreTrain's."""

    picture_suffix = '.png'

    @staticmethod
    def build(cfg: Config, checkpoint: str, device: Optional[str]):
        from mmpretrain.apis import ImageClassificationInferencer
        return ImageClassificationInferencer(cfg, pretrained=checkpoint, device=device)

    def recipe_meta(self, cfg: Config) -> dict:
        # a plain folder's data set would have to be read for its names
        named = cfg.test_dataloader.dataset.get('metainfo') or {}
        return {'classes': self.inferencer.classes, **named}

    def entry(self, sample: BaseDataElement) -> dict:
        return best_classes(sample.pred_score.cpu().numpy(), self.classes)

    def picture(self, image: Image, sample: BaseDataElement) -> np.ndarray:
        from mmpretrain.visualization import UniversalVisualizer
        image = _rgb(image)
        short, long = sorted(image.shape[:2])
        # the host writes scores in a size for photographs: onto a short side of 224 pixels
        return UniversalVisualizer().visualize_cls(
            image, sample, classes=self.classes, draw_gt=False,
            resize=max(1, min(224, LONGEST_SIDE * short // long)))


def _without_backends(cfg: Config) -> Config:
    """Return a recipe whose visualizer writes nothing: it has no folder, and warns of that."""
    if not cfg.get('visualizer'):
        return cfg
    quiet = copy.deepcopy(cfg)
    quiet.visualizer.vis_backends = None
    return quiet


def _factors(steps: Sequence, sample: BaseDataElement) -> Tuple[float, float]:
    """Return how much wider and higher several steps together make an image."""
    original = width, height = sample.ori_shape[::-1]
    for step in steps:
        width, height = resized(step, width, height)
    return width / original[0], height / original[1]


def _merged(prepared: Sequence[dict]) -> dict:
    """Make one batch of several, of which each is a list or a tensor by its keys."""
    if len(prepared) == 1:
        return prepared[0]
    parts = {key: [batch[key] for batch in prepared] for key in prepared[0]}
    return {key: torch.cat(values) if isinstance(values[0], torch.Tensor)
            else list(itertools.chain(*values)) for key, values in parts.items()}


def _rgb(image: Image) -> np.ndarray:
    """Return the pixels of an image (H, W, 3) in RGB."""
    if isinstance(image, str):
        return mmcv.imread(image, channel_order='rgb')
    return np.ascontiguousarray(image[..., ::-1])


def _warn_of_order(checkpoint: str, trained: Sequence, named: Sequence) -> None:
    if class_order.are_reordered(trained, named):
        print_log(f"{checkpoint}: its classes are the recipe's in another order: "
                  f"{class_order.first_difference(trained, named)}. The checkpoint's are used",
                  logger='current', level=logging.WARNING)


#: How each host predicts, by default scope.
HOSTS: Dict[str, Type[Inferencer]] = {
    'mmdet': Detector, 'mmseg': Segmentor, 'mmpretrain': Classifier}
