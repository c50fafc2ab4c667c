"""Samples as a model sees them: after the pipeline, with the normalization undone."""
import random
from dataclasses import dataclass
from typing import Any, Iterator, List, Optional, Sequence

import numpy as np
import torch
from torch import Tensor

from mmvssd.checkpoint import unwrapped
from mmvssd.engine.data.bands import loader_of
from mmvssd.engine.data.checks import data_sets_in, steps_below, steps_of
from mmvssd.engine.data.findings import Findings
from mmvssd.engine.data.heads import learner_of
from mmvssd.engine.data.names import classes_of
from mmvssd.engine.randomness import seed_cpu
from mmvssd.errors import UnreadableImageError
from mmvssd.phrases import counted
from mmvssd.reports.pictures import Objects, Picture, draw

#: Means beyond which normalized values are no deviations from a mean; those of a single image vary.
FAR = 4.0
#: Deviation of normalized values, over several images, below which they are nearly alike.
FLAT = 0.02


@dataclass
class Sample:
    """A sample that a pipeline made.

    Args:
        path: Its image's file, or the index if it has none.
        picture: The sample, drawn.
        mean: Of the values that the model gets.
        std: Their deviation.
    """

    path: str
    picture: Picture
    mean: Any = None  # numbers, or None if the model's values are not known
    std: Any = None


def samples_of(loader, phase: str, model, count: int, seed: int,
               findings: Findings) -> List[Sample]:
    """Put samples of a phase through its pipeline, and draw what comes out.

    Args:
        loader: Of the phase.
        phase: Which one.
        model: The recipe's, whose preprocessor the samples go through.
        count: How many samples.
        seed: Which ones, and how they are augmented.
        findings: Where samples that fail, or make no sense, are noted.
    """
    dataset = loader.dataset
    where = f'{phase}_dataloader'
    if not hasattr(dataset, '__len__') or not len(dataset):
        return []
    chosen = random.Random(seed).sample(range(len(dataset)), min(count, len(dataset)))
    samples = []
    for position, index in enumerate(sorted(chosen)):
        try:
            seed_cpu(seed, 0, position)
            data = dataset[index]
        except UnreadableImageError as error:
            # a training takes another one in its place
            (findings.warn if phase == 'train' else findings.stop)(
                where, f'{{}} of {counted(len(chosen), "sample")} cannot be read', _short(error))
            continue
        except Exception as error:  # of any step of the pipeline
            findings.stop(where, f'{{}} of {counted(len(chosen), "sample")} [fails|fail] in the '
                          'pipeline', f'{_path(dataset, index)}: {_short(error)}')
            continue
        findings.look_at(f'{where}: its samples', lambda data=data, index=index: samples.append(
            _sample(data, loader, index, model)))
    _check_values(samples, where, findings)
    return samples


def _short(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f'{type(error).__name__}: {text[0] if text else ""}'[:300]


def _path(dataset, index: int) -> str:
    leaf = next(iter(data_sets_in(dataset)))
    if leaf is dataset and hasattr(dataset, 'get_data_info'):
        entry = dataset.get_data_info(index)
        return str(entry.get('img_path', f'sample {index}'))
    return f'sample {index}'


def _sample(data: dict, loader, index: int, model) -> Sample:
    dataset = loader.dataset
    image, element = data['inputs'], data.get('data_samples')
    if not isinstance(image, Tensor) or image.dim() != 3:
        raise TypeError('samples of several images are not drawn')
    preprocessor = getattr(learner_of(unwrapped(model)), 'data_preprocessor', None)
    path = str(getattr(element, 'img_path', None) or _path(dataset, index))
    leaf = next(iter(data_sets_in(dataset)))
    metainfo = getattr(leaf, 'metainfo', {})
    picture = draw(visible(image, steps_of(leaf), preprocessor), objects_in(element, leaf),
                   classes_of(leaf) or [], path,
                   [tuple(color) for color in metainfo.get('palette') or ()])
    values = _normalized(data, loader, preprocessor)
    mean, std = (None, None) if values is None else (values.mean().item(), values.std().item())
    return Sample(path, picture, mean, std)


def _normalized(data: dict, loader, preprocessor) -> Optional[Tensor]:
    """Return what the model gets of a sample; None if its preprocessor needs more than it."""
    if preprocessor is None:
        return None
    try:
        with torch.no_grad():
            values = preprocessor(loader.collate_fn([data]), False)['inputs']
    except Exception:  # of one that takes whole batches, or pairs of images
        return None
    return values.float() if isinstance(values, Tensor) and values.numel() > 1 else None


def _check_values(samples: Sequence[Sample], where: str, findings: Findings) -> None:
    known = [sample for sample in samples if sample.mean is not None]
    for sample in known:
        if not np.isfinite(sample.mean):
            findings.stop(where, '{} sample[s] [has|have] values that are not finite as the model '
                                 'gets '
                                 'them', sample.path)
        elif sample.std == 0:
            findings.warn(where, '{} sample[s] [is|are] of one value throughout as the model gets '
                                 '[it|them]',
                          sample.path)
    finite = [sample for sample in known if np.isfinite(sample.mean)]
    if not finite:
        return
    mean = sum(sample.mean for sample in finite) / len(finite)
    std = sum(sample.std for sample in finite) / len(finite)
    if abs(mean) > FAR or 0 < std < FLAT or std > 1 / FLAT:
        findings.warn(where, f'the model gets values of mean {mean:.3g} and deviation {std:.3g} '
                             f'({counted(len(finite), "sample")}), where 0 and 1 are usual',
                      advice='Compare mean and std of the data_preprocessor, and a Normalize step, '
                             'with the range of the images')


def visible(image: Tensor, steps: Sequence, preprocessor: Any = None) -> np.ndarray:
    """Turn a sample's image into one to look at.

    Args:
        image: (C, H, W), as a pipeline leaves it.
        steps: The pipeline's; what a ``Normalize`` step did is undone.
        preprocessor: The model's, which may say in which order it expects the channels.

    Returns:
        (H, W, 3) uint8, RGB. Of more than three channels the first three; values that are no bytes
        are stretched from their lowest to their highest. LoadBands shows its samples itself.
    """
    pixels = image.detach().cpu().numpy().transpose(1, 2, 0).astype(np.float32)
    load = loader_of(steps)
    if load is not None:
        return load.picture_of_sample(pixels)
    normalize = next((step for step in reversed([*steps_of_pipeline(steps)])
                      if type(step).__name__ == 'Normalize'
                      and np.size(getattr(step, 'mean', ())) == pixels.shape[2]), None)
    is_rgb = False
    if normalize is not None:
        pixels = pixels * np.asarray(normalize.std) + np.asarray(normalize.mean)
        is_rgb = bool(getattr(normalize, 'to_rgb', False))
    pixels = np.repeat(pixels, 3, 2) if pixels.shape[2] == 1 else pixels[..., :3]
    if pixels.shape[2] == 2:
        pixels = np.dstack([pixels, pixels[..., :1]])
    if not is_rgb and image.shape[0] == 3 and not getattr(preprocessor, 'rgb_to_bgr', False):
        pixels = pixels[..., ::-1]  # images are loaded as BGR
    if image.dtype != torch.uint8 and not (pixels.min() >= -1 and 2 < pixels.max() <= 256):
        pixels = np.nan_to_num(pixels)
        low, high = pixels.min(), pixels.max()
        pixels = (pixels - low) * (255 / max(high - low, 1e-12))
    return np.rint(np.nan_to_num(pixels)).clip(0, 255).astype(np.uint8)


def steps_of_pipeline(steps: Sequence) -> Iterator:
    """Yield steps and those in them."""
    for step in steps:
        yield from steps_below(step)


def objects_in(element, dataset=None) -> Objects:
    """Return what a data sample of one of the hosts is annotated with.

    Args:
        element: The data sample, or None.
        dataset: Its data set, whose pipeline may load boxes after it has resized the image.
    """
    if element is None:
        return Objects()
    if 'gt_instances' in element and 'bboxes' in element.gt_instances:
        return _instances(element, _factor(element, dataset))
    if 'gt_sem_seg' in element:
        return Objects(label_map=element.gt_sem_seg.data.squeeze(0).cpu().numpy())
    if 'gt_label' in element:
        return Objects(labels=element.gt_label.reshape(-1).tolist())
    if 'gt_score' in element:
        labels = torch.nonzero(element.gt_score).reshape(-1).tolist()
        return Objects(labels=labels)
    return Objects(notes=['no annotations'])


def _factor(element, dataset) -> Sequence[float]:
    """Return by what boxes are to be multiplied: those loaded after Resize are the file's."""
    names = [type(step).__name__ for step in steps_of(dataset)] if dataset is not None else []
    resized = next((place for place, name in enumerate(names) if 'Resize' in name), None)
    if resized is None or 'LoadAnnotations' not in names[resized:]:
        return 1.0, 1.0
    return tuple(element.get('scale_factor', (1.0, 1.0)))[:2]


def _instances(element, factor: Sequence[float]) -> Objects:
    instances = element.gt_instances
    boxes = getattr(instances.bboxes, 'tensor', instances.bboxes)
    boxes = boxes.cpu().numpy() if isinstance(boxes, Tensor) else np.asarray(boxes)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        return Objects(labels=instances.labels.tolist(), notes=['boxes are not drawn'])
    return Objects(labels=instances.labels.tolist(), boxes=boxes * np.tile(factor, 2),
                   masks=_masks(element, factor))


def _masks(element, factor: Sequence[float]) -> Optional[np.ndarray]:
    """Return masks (N, H, W) of MMDetection's, resized as their boxes are."""
    masks = element.gt_instances.get('masks')
    if masks is None or not hasattr(masks, 'to_ndarray'):
        return None
    if tuple(factor) != (1.0, 1.0):
        masks = masks.resize(tuple(element.img_shape[:2]))
    return np.asarray(masks.to_ndarray(), bool)
