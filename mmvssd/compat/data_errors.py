"""Errors of data sets and of the steps of their pipelines, with the file that they are about.

Whatever a step of a pipeline raises ends a run of MMEngine with a traceback that names neither the
image nor, out of a worker, the step. What a data set raises while it reads its annotations names
no file. Here both are raised once more as a DataError that says so.

Feature: an error that names the file, the annotation and the step.
"""
import copy
import os
from typing import Any, Optional

from mmengine.dataset import BaseDataset, Compose
from torch._utils import ExceptionWrapper

from mmvssd.compat.patching import when_imported, wrap_once
from mmvssd.errors import CheckpointError, ConfigError, DataError, UnreadableImageError

#: Errors that say what is wrong, and one that is of the machine.
AS_THEY_ARE = (CheckpointError, ConfigError, DataError, MemoryError, UnreadableImageError)
#: Keys of a sample that name its file, the first that is there.
FILES = ('img_path', 'filename', 'video_path', 'lidar_path')
#: What a sample is called that has none of them.
NO_FILE = 'an image without a path'
#: Annotations of an image that are tried one by one.
MOST_TRIED = 1000


def apply() -> None:
    """Wrap pipelines and their steps, and what reads the annotations of a data set."""
    wrap_once(Compose, '__call__', _call_steps)
    wrap_once(BaseDataset, 'full_init', _read)
    wrap_once(ExceptionWrapper, 'reraise', _reraise)
    when_imported('mmcv.transforms.base', lambda module: wrap_once(
        module.BaseTransform, '__call__', _call_step))
    when_imported('mmdet.datasets.base_det_dataset', lambda module: wrap_once(
        module.BaseDetDataset, 'full_init', _read))


def _call_step(original, step, results):
    try:
        return original(step, results)
    except AS_THEY_ARE:
        raise
    except Exception as error:
        raise _said_already(error) or _explained(error, step, results) from error


def _call_steps(original, pipeline, data):
    """Cover steps that are no transforms of mmcv's, and inner pipelines that know no file."""
    file = _file_of(data)
    try:
        return original(pipeline, data)
    except DataError as error:
        if file is None or not str(error).startswith(NO_FILE):
            raise
        raise DataError(f'{file}{str(error)[len(NO_FILE):]}') from error.__cause__
    except AS_THEY_ARE:
        raise
    except Exception as error:
        # the loop over the steps is the first frame below this one
        traceback: Any = error.__traceback__
        found = traceback.tb_next.tb_frame.f_locals
        raise _said_already(error) or _explained(
            error, found.get('t', pipeline), found.get('data', data), file) from error


def _read(original, dataset):
    try:
        return original(dataset)
    except AS_THEY_ARE:
        raise
    except Exception as error:
        source = getattr(dataset, 'ann_file', None) or getattr(dataset, 'data_prefix', None)
        raise _said_already(error) or DataError(
            f'{source}: {type(dataset).__name__} cannot read its data ({_reason(error)})'
        ) from error


def _reraise(original, wrapper):
    """Raise what a worker met with its message; PyTorch puts the worker's traceback before it."""
    try:
        return original(wrapper)
    except (ConfigError, DataError, UnreadableImageError) as error:
        name = f'{type(error).__module__}.{type(error).__name__}: '
        raise type(error)(str(error).rpartition(name)[2].strip()) from error


def _said_already(error: Exception) -> Optional[Exception]:
    """Return the error behind another one that says what is wrong; None if there is none."""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    while cause is not None and not isinstance(cause, AS_THEY_ARE):
        cause = cause.__cause__
    return cause


def _explained(error: Exception, step, results, file: Optional[str] = None) -> DataError:
    file = _file_of(results) or file or NO_FILE
    annotation = _annotation_at_fault(step, results if isinstance(results, dict) else {})
    # a function has a name of its own
    name = getattr(step, '__name__', type(step).__name__)
    return DataError(f'{file}{annotation}: the step {name} of the pipeline failed '
                     f'({_reason(error)})')


def _file_of(results) -> Optional[str]:
    """Return the file of a sample, which may be its path; None if it tells of none."""
    if isinstance(results, dict):
        return next((str(results[key]) for key in FILES if results.get(key)), None)
    return os.fspath(results) if isinstance(results, (str, os.PathLike)) else None


def _reason(error: Exception) -> str:
    text = ' '.join(str(error).split())
    return f'{type(error).__name__}{": " if text else ""}{text[:500]}'


def _annotation_at_fault(step, sample: dict) -> str:
    """Name the annotation that a step fails at by itself; '' if there is none."""
    instances = sample.get('instances')
    if not isinstance(instances, list) or ('gt_bboxes' in sample and 'gt_masks' in sample):
        return ''
    for number, instance in enumerate(instances[:MOST_TRIED]):
        if _fails(step, {**sample, 'instances': [instance]}):
            identity = instance.get('ann_id') if isinstance(instance, dict) else None
            return (f', annotation {identity}' if identity is not None
                    else f', its annotation number {number}')
    return ''


def _fails(step, sample: dict) -> Optional[bool]:
    try:
        step.transform(copy.deepcopy(sample))
    except Exception:  # of the same kinds as the one that is explained
        return True
    return False
