"""Classifiers and segmentors as functions of a tensor of images: what is exported."""
import copy
import importlib
from typing import Dict, Sequence, Tuple, Union

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmvssd.errors import ExportError
from mmvssd.host_internals import scores_are_softmax, turns_channels
from mmvssd.models.arguments import check_name

#: Largest deviation, as a share of the largest value; of label maps, the share of pixels.
BAR, LABEL_BAR = 1e-5, 1e-4


class Deployed(nn.Module):
    """Base of the models: images (N, C, H, W) of any size in, one result or several out.

    Args:
        model: The host's model; it is put into evaluation mode.
        result: A name of :attr:`results`.
        normalizes: Take the pixels' values, 0 to 255, and apply mean and standard deviation;
            else images are normalized already. Both have the channels in :attr:`channels`' order.

    Attributes:
        task: What it does.
        results: Names of what it can give.
        open_axes: Axes of the images whose sizes are left open.
    """

    task: str
    results: Sequence[str]
    open_axes: Sequence[int] = (0, 2, 3)

    def __init__(self, model: nn.Module, result: str, normalizes: bool) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.result = check_name('result', result, self.results)
        self.normalizes = normalizes

    @property
    def outputs(self) -> Sequence[str]:
        """Names of the tensors that it gives."""
        return (self.result, )

    def bars(self) -> Dict[str, float]:
        """Return the largest deviations of an export that are taken for rounding, by name."""
        return {self.result: LABEL_BAR if self.result == 'labels' else BAR}

    def deviations(self, found: Sequence[np.ndarray], expected: Sequence[np.ndarray]
                   ) -> Dict[str, float]:
        """Return how far results are from those expected, named as in :meth:`bars`.

        Of numbers that is the largest deviation, as a share of the largest value; of label maps
        the share of pixels.
        """
        return {self.result: difference(found[0], expected[0])}

    def rounding(self, images: Tensor) -> Dict[str, float]:
        """Return how far its results are from its own in float64, named as in :meth:`bars`."""
        with torch.inference_mode():
            truth = copy.deepcopy(self).double()(images.double())
            return self.deviations([self(images).numpy()], [truth.numpy()])

    def overall(self, differences: Sequence[Dict[str, float]], counts: Sequence[int]
                ) -> Dict[str, float]:
        """Return what the deviations of several batches come to: the largest, by name.

        Args:
            differences: Of each batch.
            counts: How many results each has that were expected.
        """
        return {name: float(np.max([values.get(name, 0) for values in differences]))
                for name in self.bars()}

    def forward(self, images: Tensor) -> Union[Tensor, Tuple[Tensor, ...]]:
        """Compute the result of images (N, C, H, W), float32."""
        return self.compute(self._normalized(images) if self.normalizes else images)

    def prepared(self, pixels: Tensor) -> Tensor:
        """Return what the file takes for images (N, C, H, W) of the pixels' values."""
        return pixels if self.normalizes else self._normalized(pixels)

    def _normalized(self, images: Tensor) -> Tensor:
        preprocessor = self.model.data_preprocessor
        if not hasattr(preprocessor, 'mean'):
            return images
        return (images - preprocessor.mean) / preprocessor.std

    def compute(self, images: Tensor) -> Union[Tensor, Tuple[Tensor, ...]]:
        """Compute the result of normalized images."""
        raise NotImplementedError

    def truth(self, pixels: Tensor) -> Sequence[np.ndarray]:
        """Return the host's own results on images (N, C, H, W) of the pixels' values."""
        raise NotImplementedError

    def _preprocessed(self, pixels: Tensor, samples: list) -> dict:
        """Return what the host's preprocessor makes of images and their data samples."""
        preprocessor = self.model.data_preprocessor
        # the host turns the channels around, as those of a file
        turned = turns_channels(preprocessor) and pixels.shape[1] == 3
        images = list(pixels.flip(1) if turned else pixels)
        return preprocessor(dict(inputs=images, data_samples=samples), False)

    def _padded(self, images: Tensor) -> Tensor:
        """Pad normalized images on the right and below, as the host's preprocessor in testing."""
        preprocessor = self.model.data_preprocessor
        divisor = getattr(preprocessor, 'pad_size_divisor', 1)
        if divisor <= 1:
            return images
        return _pad(images, [-side % divisor for side in images.shape[2:]],
                    preprocessor.pad_value)

    @property
    def facts(self) -> Dict[str, object]:
        """What a reader of the results has to know besides, for the file's metadata."""
        return {}

    @property
    def in_channels(self) -> int:
        """Channels of an image: those of the first convolution."""
        return next((module.in_channels for module in self.model.modules()
                     if isinstance(module, nn.Conv2d)), 3)

    @property
    def preprocessing(self) -> Dict[str, object]:
        """What images need before they come in; mean and std are those of 0 to 255."""
        preprocessor = self.model.data_preprocessor
        numbers = {name: [float(value) for value in getattr(preprocessor, name).flatten()]
                   for name in ('mean', 'std') if hasattr(preprocessor, name)}
        return dict(layout='NCHW', dtype='float32', normalizes_itself=self.normalizes, **numbers)


def _pad(images: Tensor, more: Sequence[int], value: float) -> Tensor:
    down, right = more
    return F.pad(images, (0, right, 0, down), value=float(value))


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the share of integers that differ, or the deviation as a share of the largest."""
    if found.shape != expected.shape:
        return float('inf')
    if expected.dtype.kind == 'i':
        return float(np.mean(found != expected))
    return float(np.abs(found - expected).max() / np.abs(expected).max())


class DeployedClassifier(Deployed):
    """A classifier of MMPreTrain: logits or scores (N, classes)."""

    task = 'classification'
    results = ('scores', 'logits')

    def __init__(self, model: nn.Module, result: str, normalizes: bool) -> None:
        super().__init__(model, result, normalizes)
        if getattr(model, 'head', None) is None:
            raise ExportError(f'{type(model).__name__}: has no head; an ImageClassifier of a '
                              'backbone and a head is exported')
        if result == 'scores' and not scores_are_softmax(model.head):
            raise ExportError(f'{type(model.head).__name__}: its scores are not a softmax of its '
                              'logits; export with --result logits')

    def compute(self, images: Tensor) -> Tensor:
        logits = self.model.head(self.model.extract_feat(self._padded(images)))
        return logits.softmax(1) if self.result == 'scores' else logits

    def truth(self, pixels: Tensor) -> Sequence[np.ndarray]:
        structures = importlib.import_module('mmpretrain.structures')
        samples = [structures.DataSample() for _ in pixels]
        images = self._preprocessed(pixels, samples)['inputs']
        if self.result == 'logits':
            return [self.model(images, mode='tensor').numpy()]
        return [np.stack([sample.pred_score.numpy() for sample in self.model.predict(images)])]


class DeployedSegmentor(Deployed):
    """A segmentor of MMSegmentation, on whole images, at their size.

    A recipe's sliding windows are left out, and :attr:`facts` says so.

    ``labels`` is the map (N, H, W) of the most likely classes, int64; ``scores`` and ``logits``
    are (N, classes, H, W).
    """

    task = 'segmentation'
    results = ('labels', 'scores', 'logits')

    def __init__(self, model: nn.Module, result: str, normalizes: bool) -> None:
        super().__init__(model, result, normalizes)
        head = getattr(model, 'decode_head', None)
        if head is None:
            raise ExportError(f'{type(model).__name__}: has no decode_head; an EncoderDecoder is '
                              'exported')
        if isinstance(head, nn.ModuleList) or head.out_channels == 1:
            raise ExportError(f'{type(model).__name__}: a cascade of heads, or a head of one '
                              'channel, is not exported; a single head with a channel for each '
                              'class is')
        base = importlib.import_module('mmseg.models.decode_heads.decode_head').BaseDecodeHead
        if getattr(type(head), 'predict', None) is not base.predict:
            raise ExportError(f'{type(model).__name__}: its decode_head is a '
                              f'{type(head).__name__}, which predicts in a way of its own; heads '
                              'that enlarge their logits to the image are exported')
        replace_adaptive_pools_(head)

    def compute(self, images: Tensor) -> Tensor:
        head = self.model.decode_head
        height, width = images.shape[2:]
        padded = self._padded(images)
        logits = F.interpolate(head(self.model.extract_feat(padded)), size=padded.shape[2:],
                               mode='bilinear', align_corners=head.align_corners)
        if padded is not images:
            # torch.export would hold on to whether a slice leaves anything out
            logits = _pad(logits, [height - padded.shape[2], width - padded.shape[3]], 0)
        if self.result == 'labels':
            return logits.argmax(1)
        return logits.softmax(1) if self.result == 'scores' else logits

    def truth(self, pixels: Tensor) -> Sequence[np.ndarray]:
        structures = importlib.import_module('mmseg.structures')
        size = tuple(pixels.shape[2:])
        samples = [structures.SegDataSample(metainfo=dict(img_shape=size, ori_shape=size))
                   for _ in pixels]
        data = self._preprocessed(pixels, samples)
        images, samples = data['inputs'], data['data_samples']
        if self.windows:
            logits = self.model.whole_inference(images, [sample.metainfo for sample in samples])
            found = self.model.postprocess_result(logits, samples)
        else:
            found = self.model.predict(images, samples)
        if self.result == 'labels':
            return [torch.cat([sample.pred_sem_seg.data for sample in found]).numpy()]
        logits = torch.stack([sample.seg_logits.data for sample in found])
        return [(logits.softmax(1) if self.result == 'scores' else logits).numpy()]

    def _padded(self, images: Tensor) -> Tensor:
        preprocessor = self.model.data_preprocessor
        padding = getattr(preprocessor, 'test_cfg', None) or {}
        sides, least, divisor = images.shape[2:], padding.get('size'), padding.get('size_divisor')
        if least is not None:
            more = [torch.sym_max(low - side, 0) for low, side in zip(least, sides)]
        elif divisor is not None:
            more = [-side % divisor for side in sides]
        else:
            return images
        return _pad(images, more, preprocessor.pad_val)

    @property
    def facts(self) -> Dict[str, object]:
        windows = {'windows': self.windows} if self.windows else {}
        return dict(align_corners=self.model.decode_head.align_corners, **windows)

    @property
    def windows(self) -> Dict[str, object]:
        """The recipe's sliding windows, which the export does without; {} if it has none."""
        cfg = self.model.test_cfg
        if cfg.get('mode') != 'slide':
            return {}
        return {name: cfg.get(name) for name in ('crop_size', 'stride')}


class AdaptivePool(nn.Module):
    """Adaptive average pooling as two products, which has no loop over a size left open.

    Args:
        size: Height and width of the result.
    """

    def __init__(self, size: Tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, *size)."""
        rows, columns = (_means(x.shape[axis], count, x)
                         for axis, count in zip((2, 3), self.size))
        return rows @ x @ columns.mT


def _means(side: int, count: int, x: Tensor) -> Tensor:
    """Return a matrix (count, side) whose product is the mean of each of count bins."""
    place = torch.arange(side, device=x.device)
    bins = torch.arange(count, device=x.device)[:, None]
    # bin i is from floor(i side / count) to ceil((i + 1) side / count)
    inside = (place >= bins * side // count) & (place * count < (bins + 1) * side)
    inside = inside.to(x.dtype)
    return inside / inside.sum(1, keepdim=True)


def replace_adaptive_pools_(module: nn.Module) -> None:
    """Put :class:`AdaptivePool` in the place of adaptive average pools of more than 1 x 1."""
    for name, child in module.named_children():
        if isinstance(child, nn.AdaptiveAvgPool2d):
            size = child.output_size
            size = size if isinstance(size, (tuple, list)) else (size, size)
            if None not in size and tuple(size) != (1, 1):
                setattr(module, name, AdaptivePool(tuple(size)))
        else:
            replace_adaptive_pools_(child)
