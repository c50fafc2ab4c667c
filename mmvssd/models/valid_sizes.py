"""The sizes of a padded batch's images, on their way from a host's model to its backbone.

A host hands its backbone a tensor and nothing else, while the sizes are in the data samples that
its model gets. All models of a host pass through the ``forward`` of one base class, in training,
testing, test-time augmentation and inferencers alike. That one function is wrapped, once a
backbone asks for it, to keep the samples of the call at hand in a context variable. So neither
detectors nor segmentors need subclasses, recipes of any host's model need one setting, and the
tensor stays what the hosts expect.
"""
import functools
from contextvars import ContextVar
from types import ModuleType
from typing import Any, Callable, NamedTuple, Optional, Sequence, Tuple

from torch import Tensor

from mmvssd.compat.patching import when_imported, wrap_once
from mmvssd.phrases import counted

#: Module and class of each host whose ``forward(inputs, data_samples, mode)`` all models share.
HOST_MODELS = {
    'mmdet.models.detectors.base': 'BaseDetector',
    'mmseg.models.segmentors.base': 'BaseSegmentor',
    'mmpretrain.models.classifiers.image': 'ImageClassifier',
}


class Batch(NamedTuple):
    """Arguments of a host's model: the batch's (H, W), and a data sample for each image.

    Without a grid it was no batch of images, but several or a list of images.
    """

    grid: Optional[Tuple[int, int]]
    data_samples: Sequence


_batch: ContextVar[Optional[Batch]] = ContextVar('mmvssd_batch', default=None)


def _follow(name: str, module: ModuleType) -> None:
    wrap_once(getattr(module, name), 'forward', _keep_samples)


def follow_hosts() -> None:
    """Have the hosts' models keep their data samples at hand; a second call does nothing."""
    for module, name in HOST_MODELS.items():
        when_imported(module, functools.partial(_follow, name))


def _keep_samples(forward: Callable, model: Any, inputs: Any, data_samples: Any = None,
                  *args: Any, **kwargs: Any) -> Any:
    grid = tuple(inputs.shape[-2:]) if isinstance(inputs, Tensor) else None
    batch = None if data_samples is None else Batch(grid, data_samples)
    token = _batch.set(batch)
    try:
        return forward(model, inputs, data_samples, *args, **kwargs)
    finally:
        _batch.reset(token)


def valid_sizes(x: Tensor) -> Optional[Sequence[Tuple[int, int]]]:
    """Height and width of each image of a batch, as the host's model at work has them.

    Args:
        x: What the backbone is given, (N, C, H, W).

    Returns:
        One (height, width) for each image; None if no host's model is at work, or one that
        was called without data samples.

    Raises:
        ValueError: ``x`` is not the batch that the model was given, or a sample has no size.
    """
    batch = _batch.get()
    if batch is None:
        return None
    if batch.grid is None:
        raise ValueError('mask_padding: the model got no single batch of images (semi-supervised '
                         'detectors get several), and the sizes are not known; set '
                         'mask_padding=False')
    if tuple(x.shape[-2:]) != batch.grid or len(x) != len(batch.data_samples):
        raise ValueError(
            f'mask_padding: the backbone got a batch of shape {tuple(x.shape)}, the model one of '
            f'{counted(len(batch.data_samples), "image")} of {batch.grid}; where its images lie in '
            "the former is not known. Sliding windows cut such parts: set test_cfg.mode='whole', "
            'or mask_padding=False')
    return [_size_of(sample, batch.grid) for sample in batch.data_samples]


def _size_of(sample: Any, grid: Tuple[int, int]) -> Tuple[int, int]:
    size = sample.metainfo.get('img_shape')
    if size is None:
        raise ValueError(
            f'mask_padding: the data sample of {sample.metainfo.get("img_path", "an image")} has '
            'no img_shape, the size before padding; add it to meta_keys of the Pack...Inputs '
            'transform of the pipeline, or set mask_padding=False')
    height, width = (int(side) for side in size[:2])
    if not (0 < height <= grid[0] and 0 < width <= grid[1]):
        raise ValueError(
            f'mask_padding: the data sample of {sample.metainfo.get("img_path", "an image")} has '
            f'img_shape {tuple(size)}, expected at most the size {grid} of the batch')
    return height, width
