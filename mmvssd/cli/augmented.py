"""Predictions of a segmentor as the mean over the recipe's augmentations of an image."""
import copy
from typing import Any, List, Optional, Sequence

import torch
from mmengine.config import Config
from mmengine.structures import BaseDataElement, PixelData

from mmvssd.cli.image_files import resized
from mmvssd.cli.inferencers import Segmentor
from mmvssd.cli.launch import require_tta
from mmvssd.errors import ConfigError

#: Side of the image by which augmentations are compared.
PROBE = 512
#: Least score of which a logit is made.
SMALLEST = 1e-7


def augmented(cfg: Config) -> Config:
    """Return a copy of a recipe whose test data are augmented, without annotations.

    Raises:
        ConfigError: The recipe is of no segmentor, or says nothing of augmentations.
    """
    if cfg.default_scope != 'mmseg':
        raise ConfigError(f'--tta: is for segmentors, and the recipe is of {cfg.default_scope}; '
                          'predict without it')
    require_tta(cfg)
    if _name(cfg.tta_model.get('type')) != 'SegTTAModel':
        raise ConfigError('--tta: predicts with the mean of SegTTAModel; the tta_model of the '
                          f'recipe is {_name(cfg.tta_model.get("type"))}')
    own = copy.deepcopy(cfg)
    *_, last = own.tta_pipeline
    if _name(last.get('type')) != 'TestTimeAug':
        raise ConfigError('--tta: the last step of tta_pipeline should be TestTimeAug, got '
                          f'{_name(last.get("type"))}')
    choices = [[step for step in steps if _name(step.get('type')) != 'LoadAnnotations']
               for steps in last.transforms]
    last.transforms = [steps for steps in choices if steps]
    own.test_dataloader.dataset.pipeline = own.tta_pipeline
    return own


def _name(kind: Any) -> str:
    """Return the name of a type that a recipe names by itself, with a scope, or as a class."""
    return str(getattr(kind, '__name__', kind)).rpartition('.')[2]


class AugmentedSegmentor(Segmentor):
    """A segmentor of a recipe that :func:`augmented` returned."""

    @property
    def steps(self) -> Sequence:
        """Transforms of the augmentation that gives the largest image."""
        *before, augmentations = self.inferencer.pipeline.transforms
        return [*before, *max((one.transforms for one in augmentations.subroutines), key=_pixels)]

    def batch_of(self, preprocessed):
        for samples in preprocessed['data_samples']:  # of one augmentation each
            super().batch_of(dict(data_samples=samples))
        return preprocessed

    def shape(self, prepared: dict) -> None:
        """Return None: an image runs by itself, since its augmentations differ in shape."""

    def forward(self, prepared: Sequence[dict]) -> List[BaseDataElement]:
        return [self.finished(self._mean(image)) for image in prepared]

    def _mean(self, image: dict) -> BaseDataElement:
        """Predict on all augmentations of an image, one after the other, to spare memory."""
        total: Optional[torch.Tensor] = None
        for inputs, samples in zip(image['inputs'], image['data_samples']):
            sample, = self.inferencer.forward(dict(inputs=inputs, data_samples=samples))
            logits = sample.seg_logits.data.float()
            scores = logits.sigmoid() if len(logits) == 1 else logits.softmax(0)
            total = scores if total is None else total.add_(scores)
        assert total is not None  # there is an augmentation at least
        mean = total / len(image['inputs'])
        # tiles are blended by softmax or sigmoid of logits, which give the mean again
        if len(mean) == 1:
            logits = mean.logit(SMALLEST)
            decided = mean > self.model.decode_head.threshold
        else:
            logits = mean.clamp(min=SMALLEST).log()
            decided = mean.argmax(0, keepdim=True)
        sample.seg_logits = PixelData(data=logits)
        sample.pred_sem_seg = PixelData(data=decided)
        return sample


def _pixels(steps: Sequence) -> int:
    """Return the pixels that steps make of an image."""
    width = height = PROBE
    for step in steps:
        width, height = resized(step, width, height)
    return width * height
