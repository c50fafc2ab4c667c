"""Exported files as inferencers: images in, the JSON and the pictures of their checkpoint out.

Neither mmcv nor the hosts are needed.
"""
import logging
from abc import ABC, abstractmethod
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple, Type, Union

import cv2
import numpy as np
import torch
from mmengine.logging import print_log
from torch.nn import functional as F

from mmvssd.cli.drawing import draw_class, draw_instances, draw_segments
from mmvssd.cli.entries import best_classes, instances, scores_shape, segments
from mmvssd.cli.image_steps import CenterCrop, apply_steps, read_image, steps_of
from mmvssd.deployment.exported import Exported, open_exported
from mmvssd.deployment.masks import paste_masks
from mmvssd.errors import ConfigError
from mmvssd.palettes import palette_of

#: Longest side of a classifier's picture, and the shorter side that it has if that allows it.
LONGEST_SIDE, SHORT_SIDE = 2048, 224


class Prepared(NamedTuple):
    """An image as a file takes it, (1, 3, H, W); its height and width before, and in steps."""

    images: np.ndarray
    shape: Tuple[int, int]
    ready: Tuple[int, int]


class FileInferencer(ABC):
    """Predicts on images with an exported file.

    Args:
        file: The file's name, for messages.
        exported: What runs it.
        score_thr: Detections below this score are left out.

    Attributes:
        classes: Names of the classes; None if the file has none.
        steps: The steps that an image goes through.
    """

    #: Ending of pictures whatever their images are; None keeps an image's own if it can.
    picture_suffix: Optional[str] = None
    #: Runtimes have threads of their own.
    side_by_side = False
    #: Several images may be run at once.
    batches = True
    #: What threshold of its own a file applies is not known.
    own_threshold: Optional[Tuple[str, float]] = None
    #: Results of a file that can be written down.
    results: Sequence[str]

    def __init__(self, file: str, exported: Exported, score_thr: float) -> None:
        self.exported, self.score_thr = exported, score_thr
        facts = exported.facts
        if facts['result'] not in self.results:
            raise ConfigError(f'--model: {file}: gives {facts["result"]}; export with --result '
                              f'{" or ".join(self.results)}')
        self.needs = facts['preprocessing']
        if self.needs.get('channels') not in ('RGB', 'BGR'):
            raise ConfigError(f'--model: {file}: takes images of unknown channels, no pictures')
        self.classes = facts['classes']
        self.steps = steps_of(facts['pipeline'] or [])

    @property
    def palette(self) -> Sequence[Tuple[int, int, int]]:
        """A color for each class."""
        return palette_of(self.exported.facts.get('palette'), len(self.classes))

    def beside(self) -> 'FileInferencer':
        """Return one for another thread: runtimes may be called from several."""
        return self

    def predict(self, image: Union[str, np.ndarray]):
        """Run the file on an image.

        Args:
            image: A file, or pixels (H, W, 3) uint8 in BGR.

        Raises:
            UnreadableImageError: It cannot be read.
        """
        prediction, = self.forward([self.prepare(image)])
        return prediction

    def prepare(self, image: Union[str, np.ndarray]) -> 'Prepared':
        """Read an image and prepare it as the file takes it.

        Raises:
            UnreadableImageError: It cannot be read.
        """
        if isinstance(image, str):
            image = read_image(image)
        ready = apply_steps(image, self.steps)
        return Prepared(self._prepared(ready), image.shape[:2], ready.shape[:2])

    def shape(self, prepared: 'Prepared') -> Optional[Tuple[int, ...]]:
        """Return the shape in which an image is given to the file; None if it runs singly."""
        return prepared.images.shape[1:] if self.batches else None

    def forward(self, prepared: Sequence['Prepared']) -> List:
        """Run the file on prepared images of one shape."""
        results = self.exported.run(np.concatenate([image.images for image in prepared]))
        results = dict(zip(self.exported.outputs, results))
        if len(prepared) == 1:
            return [self.understood(results, *prepared[0][1:])]
        return [self.understood({name: values[[number]] for name, values in results.items()},
                                *image[1:]) for number, image in enumerate(prepared)]

    def _prepared(self, image: np.ndarray) -> np.ndarray:
        """Return an image (H, W, 3) in BGR as the file takes it, (1, 3, H, W)."""
        image = image.astype(np.float32)
        if self.needs['channels'] == 'RGB':
            image = image[..., ::-1]
        if not self.needs.get('normalizes_itself') and 'mean' in self.needs:
            image = (image - np.float32(self.needs['mean'])) / np.float32(self.needs['std'])
        return np.ascontiguousarray(image.transpose(2, 0, 1)[None])

    @abstractmethod
    def understood(self, results: Dict[str, np.ndarray], shape: Tuple[int, int],
                   ready: Tuple[int, int]):
        """Make a prediction of the results.

        Args:
            results: By name.
            shape: Height and width of the image file.
            ready: Of the image that the model was given.
        """

    @abstractmethod
    def entry(self, prediction) -> dict:
        """Put a prediction into the JSON's form."""

    @abstractmethod
    def picture(self, image: Union[str, np.ndarray], prediction) -> np.ndarray:
        """Draw a prediction on its image: (H, W, 3) uint8, RGB."""


class Detections(NamedTuple):
    """What was found, the best first; masks (n, H, W) bool, or None."""

    labels: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    masks: Optional[np.ndarray]


class FileDetector(FileInferencer):
    """A detector."""

    results = ('detections', )
    batches = False

    def __init__(self, file: str, exported: Exported, score_thr: float) -> None:
        super().__init__(file, exported, score_thr)
        if any(isinstance(step, CenterCrop) for step in self.steps):
            raise ConfigError(f'--model: {file}: its pipeline has CenterCrop, and a detector gives '
                              'no boxes of the whole image then; take it out of the recipe and '
                              'export again')

    def understood(self, results, shape, ready) -> Detections:
        kept = results['scores'] >= self.score_thr
        results = {name: values[kept] for name, values in results.items()}
        factors = [np.float32(new / old) for new, old in zip(ready, shape)]
        boxes = results['boxes'] / np.array([factors[1], factors[0]] * 2)
        masks = results.get('masks')
        if masks is not None:
            masks = paste_masks(masks, boxes, shape, self.exported.facts['mask_threshold'])
        return Detections(results['labels'], results['scores'], boxes, masks)

    def detections(self, prediction: Detections) -> Detections:
        """Return labels, scores, boxes (n, 4), masks (n, H, W) or None of what was found."""
        return prediction

    def entry(self, prediction: Detections) -> dict:
        return instances(*prediction, self.classes)

    def picture(self, image: Union[str, np.ndarray], prediction: Detections) -> np.ndarray:
        return draw_instances(_rgb(image), *prediction, self.classes, self.palette)


class FileSegmentor(FileInferencer):
    """A segmentor. The host enlarges logits to the image; a label map has no values between."""

    results = ('logits', 'labels', 'scores')

    #: Predictions are scores (classes, H, W), not label maps, if :meth:`whole_scores` is to come.
    keeps_scores = False

    def __init__(self, file: str, exported: Exported, score_thr: float) -> None:
        super().__init__(file, exported, score_thr)
        if exported.facts.get('windows'):
            print_log(f'{file}: takes whole images, though its recipe tests in sliding windows '
                      f'({exported.facts["windows"]}): maps differ from those of the checkpoint',
                      logger='current', level=logging.WARNING)

    def understood(self, results, shape, ready) -> np.ndarray:
        (name, values), = results.items()
        if self.keeps_scores:
            return self._likely(name, values, shape)
        if name != 'labels':
            smaller = scores_shape(shape, len(self.classes))
            values = F.interpolate(torch.from_numpy(values), smaller, mode='bilinear',
                                   align_corners=self.exported.facts['align_corners'])
            values = values.argmax(1).numpy()
        labels = values[0].astype(np.uint16)
        return cv2.resize(labels, shape[::-1], interpolation=cv2.INTER_NEAREST)

    def _likely(self, name: str, values: np.ndarray, shape: Tuple[int, int]) -> np.ndarray:
        if name == 'labels':  # seams then follow the weights
            labels = cv2.resize(values[0].astype(np.uint16), shape[::-1],
                                interpolation=cv2.INTER_NEAREST)
            return np.stack([labels == label for label in range(len(self.classes))]
                            ).astype(np.float32)
        values = F.interpolate(torch.from_numpy(values), shape, mode='bilinear',
                               align_corners=self.exported.facts['align_corners'])
        return (values.softmax(1) if name == 'logits' else values)[0].numpy()

    def whole_scores(self, prediction: np.ndarray, shape: Tuple[int, int]) -> np.ndarray:
        """Return how likely the classes of each pixel are: (classes, H, W) float32."""
        return prediction

    def decide(self, scores: np.ndarray) -> np.ndarray:
        """Return the labels (H, W) of scores (classes, H, W)."""
        return scores.argmax(0)

    def entry(self, prediction: np.ndarray) -> dict:
        return segments(prediction, self.classes)

    def picture(self, image: Union[str, np.ndarray], prediction: np.ndarray) -> np.ndarray:
        return draw_segments(_rgb(image), prediction, self.classes, self.palette)


class FileClassifier(FileInferencer):
    """A classifier."""

    picture_suffix = '.png'
    results = ('scores', )

    def understood(self, results, shape, ready) -> np.ndarray:
        return results['scores'][0]

    def entry(self, prediction: np.ndarray) -> dict:
        return best_classes(prediction, self.classes)

    def picture(self, image: Union[str, np.ndarray], prediction: np.ndarray) -> np.ndarray:
        image, label = _rgb(image), int(prediction.argmax())
        short, long = sorted(image.shape[:2])
        return draw_class(image, label, float(prediction[label]),
                          self.classes[label] if self.classes else None,
                          max(1, min(SHORT_SIDE, LONGEST_SIDE * short // long)))


def _rgb(image: Union[str, np.ndarray]) -> np.ndarray:
    return (read_image(image) if isinstance(image, str) else image)[..., ::-1]


#: How files are run, by their task.
TASKS: Dict[str, Type[FileInferencer]] = {
    'detection': FileDetector, 'segmentation': FileSegmentor, 'classification': FileClassifier}


def file_inferencer(file: str, score_thr: float) -> FileInferencer:
    """Return what predicts with an exported file.

    Raises:
        ConfigError: It cannot be read, is none of ``tools/deployment/export.py``, or gives
            results that have no form in the JSON.
    """
    exported = open_exported(file)
    task = exported.facts['task']
    if task not in TASKS:
        raise ConfigError(f'--model: {file}: is of the task {task}, expected one of '
                          f'{", ".join(TASKS)}; is it of a newer mmvssd?')
    return TASKS[task](file, exported, score_thr)
