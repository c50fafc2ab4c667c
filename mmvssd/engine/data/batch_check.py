"""Stops a run at images or labels that the model cannot take."""
from operator import attrgetter
from typing import Any, Optional, Sequence

from mmengine.hooks import Hook
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mmvssd.checkpoint import unwrapped
from mmvssd.engine.data.checks import (
    CHANNELS_ADVICE,
    check_band_steps,
    check_dataset,
    data_of,
    needs_labels,
)
from mmvssd.engine.data.heads import (
    HEADS,
    heads_of,
    learner_of,
    learns_no_classes,
    sizes_of,
)
from mmvssd.errors import DataError
from mmvssd.host_internals import built_loop
from mmvssd.models.backbones.base import BaseBackbone
from mmvssd.phrases import counted
from mmvssd.registry import HOOKS


class BatchCheck:
    """Compare batches with what a model takes: channels of images, range of labels, boxes.

    It sees them as the pipeline leaves them. Past that, hosts differ in whether a grey image passes
    for a colour one. A fourth channel is dropped, or fails in the normalisation. A label out of
    range fails in the loss, on a GPU as an assertion that names nothing.

    Args:
        model: A model of one of the hosts, not wrapped.
    """

    def __init__(self, model: nn.Module):
        model = learner_of(model)
        self.channels = channels_of(model)
        self.label: Any = None
        self.num_classes: Any = None
        self.ignored: Any = None
        for path, head in () if learns_no_classes(model) else heads_of(model):
            if HEADS[path] and sizes_of(head):
                self.label, self.num_classes = HEADS[path], max(sizes_of(head))
                self.ignored = getattr(head, 'ignore_index', None)
                break

    @classmethod
    def watch(cls, model: nn.Module) -> Optional[RemovableHandle]:
        """Check what a model is given, in training, evaluation and inferencers, from now on.

        Returns:
            What ends it; None for a model without data preprocessor, which is not checked.
        """
        model = unwrapped(model)
        if getattr(model, 'data_preprocessor', None) is None:
            return None
        return model.data_preprocessor.register_forward_pre_hook(cls(model))

    def __call__(self, preprocessor: nn.Module, arguments: tuple) -> None:
        """Look at a batch before it goes into the data preprocessor.

        Raises:
            DataError: It does not fit; the image is named.
        """
        batch = arguments[0]
        if not isinstance(batch, dict):
            return
        training = len(arguments) > 1 and arguments[1]
        images, samples = batch.get('inputs'), batch.get('data_samples') or []
        if not isinstance(images, dict):
            self._check(images, samples, training)
            return
        for branch in images:  # of semi-supervised training, with None for images of the others
            self._check(images[branch], samples[branch] if samples else [], training)

    def _check(self, images, samples: Sequence, training: bool) -> None:
        self._check_images(images, samples)
        if training:  # in evaluation a metric may ignore more labels than the loss
            self._check_labels(samples)
            self._check_boxes(samples)

    def _check_images(self, images, samples: Sequence) -> None:
        if self.channels is None or not isinstance(images, (Tensor, list, tuple)):
            return
        for index, image in enumerate(images):
            if isinstance(image, Tensor) and image.dim() == 3 and len(image) != self.channels:
                raise DataError(
                    f'{_name(samples, index)}: the image has {counted(len(image), "channel")}, the '
                    f'model takes {self.channels}. {CHANNELS_ADVICE}')

    def _check_labels(self, samples: Sequence) -> None:
        if self.label is None:
            return
        for index, sample in enumerate(samples):
            labels = _get(sample, self.label)
            if not isinstance(labels, Tensor) or not labels.numel():
                continue
            wrong = self._out_of_range(labels)
            if wrong is not None:
                ignored = f', or {self.ignored} to be ignored' * (self.ignored is not None)
                raise DataError(
                    f'{_name(samples, index)}: its label is {wrong}, the model has '
                    f'{counted(self.num_classes, "class")}: 0 to {self.num_classes - 1} '
                    f"fit{ignored}. Check the annotations, the data set's classes, and "
                    'num_classes of the heads')

    @staticmethod
    def _check_boxes(samples: Sequence) -> None:
        """Raise DataError at a box that is not finite: RoIAlign would read memory not its own."""
        for index, sample in enumerate(samples):
            boxes = _get(sample, 'gt_instances.bboxes')
            boxes = getattr(boxes, 'tensor', boxes)
            if isinstance(boxes, Tensor) and not boxes.isfinite().all():
                raise DataError(f'{_name(samples, index)}: a box is not finite; check its '
                                'annotations, and the steps of the pipeline')

    def _out_of_range(self, labels: Tensor) -> Optional[int]:
        """Return a label that does not fit, or None."""
        values = labels.cpu().numpy()  # three times as fast as PyTorch on label maps
        wrong = (values < 0) | (values >= self.num_classes)
        if self.ignored is not None:
            wrong &= values != self.ignored
        return int(values[wrong][0]) if wrong.any() else None


@HOOKS.register_module()
class DataCheckHook(Hook):
    """Check data sets before a run, and each batch in it.

    A batch of a hundred labels takes half a millisecond, a label map of 512x512 a third of one.
    """

    def before_run(self, runner) -> None:
        """Raise DataError if a data set cannot serve; have the model's batches checked."""
        model = learner_of(unwrapped(runner.model))
        channels = channels_of(model)
        for phase in ('train', 'val', 'test'):
            loop = built_loop(runner, phase)
            dataset = data_of(loop)
            if dataset is not None:
                metrics = getattr(getattr(loop, 'evaluator', None), 'metrics', ())
                labelled = phase == 'train' or any(map(needs_labels, metrics))
                check_dataset(dataset, phase, channels, labelled=labelled)
                check_band_steps(dataset, phase, channels,
                                 getattr(model, 'data_preprocessor', None))
        self._watch = BatchCheck.watch(runner.model)

    def after_run(self, runner) -> None:
        """Leave the model as it was."""
        if self._watch is not None:
            self._watch.remove()


def channels_of(model: nn.Module) -> Optional[int]:
    """Return the channels that a model takes; None if its backbone is none of ours."""
    backbone = _get(model, 'backbone')
    # in other backbones in_channels may be the width of some layer
    return backbone.in_channels if isinstance(backbone, BaseBackbone) else None


def _get(owner, path: str):
    try:
        return attrgetter(path)(owner)
    except AttributeError:
        return None


def _name(samples: Sequence, index: int) -> str:
    path = _get(samples[index], 'img_path') if index < len(samples) else None
    return path or f'image {index} of the batch'
