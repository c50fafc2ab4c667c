"""Accuracy of a trained classifier at a resolution, on its recipe's test set."""
import copy
from pathlib import Path
from typing import List, Sequence, Union

from mmvssd.analysis.named_models import ModelName, classifier_recipe
from mmvssd.analysis.resolution_scaling import Missing, Shape
from mmvssd.cli.launch import build_tester, require
from mmvssd.errors import ConfigError, DataError

METRIC = 'accuracy/top1'
#: Transforms that change a picture's size.
RESIZES = ('CenterCrop', 'EfficientNetCenterCrop', 'EfficientNetRandomCrop', 'RandomCrop',
           'RandomResizedCrop', 'Resize', 'ResizeEdge')


def check_accuracy(names: Sequence[ModelName]) -> None:
    """Raise ConfigError unless each recipe with a checkpoint says how it is tested."""
    for name in names:
        if name.is_recipe and name.checkpoint:
            require(classifier_recipe(name), 'test_dataloader', 'test_cfg', 'test_evaluator')


def measure_top1(name: ModelName, shape: Shape, work_dir: Path) -> Union[float, Missing]:
    """Test a recipe's checkpoint at a size, in float32.

    Args:
        name: A classification recipe with a checkpoint, see :func:`check_accuracy`.
        shape: Height and width of the images, a square.
        work_dir: Folder of the test's log.

    Returns:
        Percent; or why there is none: no recipe, no checkpoint, no square, or no data.

    Raises:
        ConfigError: The recipe's evaluator has no top-1.
        CheckpointError: The checkpoint cannot be read.
    """
    size = shape[0]
    if shape != (size, size):
        return Missing('accuracy is measured on squares')
    if not name.is_recipe or not name.checkpoint:
        return Missing('accuracy takes RECIPE@CHECKPOINT')
    cfg = classifier_recipe(name)
    cfg.work_dir = str(work_dir)
    cfg.launcher, cfg.log_level = 'none', 'WARNING'
    cfg.experiment_name = work_dir.name  # several tests may start in one second
    dataset = cfg.test_dataloader.dataset
    dataset.pipeline = resized(dataset.get('pipeline') or [], size)
    try:
        found = build_tester(cfg, name.checkpoint).test()
    except DataError as error:
        first, *_ = str(error).strip().splitlines()
        return Missing(f'no data: {first}', final=False)
    if METRIC not in found:
        raise ConfigError(f'{name.name}: its test has no {METRIC}, but {", ".join(found)}; give '
                          "it test_evaluator = dict(type='Accuracy', topk=(1, ))")
    return float(found[METRIC])


def resized(pipeline: List[dict], size: int) -> List[dict]:
    """Return a test pipeline with the published resizing in the place of its own.

    The shorter side becomes 256 / 224 of ``size``, bicubic, and the centre is cropped. Pictures of
    a pipeline without a resizing become ``size`` x ``size``.

    Args:
        pipeline: Transforms; it stays as it is.
        size: Side in pixels.
    """
    kinds = [str(step['type']).rpartition('.')[2].rpartition('/')[2] for step in pipeline]
    own = [index for index, kind in enumerate(kinds) if kind in RESIZES]
    bicubic = dict(backend='pillow', interpolation='bicubic')
    if own:
        place = own[0]
        new = [dict(type='ResizeEdge', scale=int(256 / 224 * size), edge='short', **bicubic),
               dict(type='CenterCrop', crop_size=size)]
    else:
        place = next((index for index, kind in enumerate(kinds) if kind.startswith('Load')), -1) + 1
        new = [dict(type='Resize', scale=(size, size), **bicubic)]
    kept = [(index, copy.deepcopy(step)) for index, step in enumerate(pipeline)
            if index not in own]
    return [*(step for index, step in kept if index < place), *new,
            *(step for index, step in kept if index >= place)]
