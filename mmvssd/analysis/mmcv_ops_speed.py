"""How fast mmcv's ops are here beside its compiled ones, in turns in one process.

It needs an environment with a compiled mmcv. A machine's speed changes from second to second with
its neighbours. So each round runs both, in an order that alternates. The result is the median of
the rounds' ratios with its quartiles.
"""
import copy
import importlib
import statistics
import time
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Tuple

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from torch import Tensor

from mmvssd.compat.mmcv_ops import MODULE, extension, served_by

Step = Callable[[], object]


class Comparison(NamedTuple):
    """One row: median seconds of both, and quartiles of own over compiled, round by round."""

    what: str
    compiled: float
    own: float
    ratio: Tuple[float, float, float]


def compare(steps: Iterable[Tuple[str, Step]], rounds: int, warmup: int = 2) -> List[Comparison]:
    """Time steps with mmcv's compiled ops and with this package's.

    Args:
        steps: names, and what is run; each is dropped before the next is asked for.
        rounds (int): runs of each that count, 2 at least.
        warmup (int): runs before those.

    Raises:
        ValueError: if mmcv's ops are not compiled here, or there are too few rounds.
    """
    if rounds < 2:
        raise ValueError(f'--rounds: got {rounds}, expected 2 or more')
    return [_compare(what, step, {'compiled': compiled(), 'own': extension()}, rounds, warmup)
            for what, step in steps]


def compiled():
    """Return mmcv's compiled module.

    Raises:
        ValueError: if there is none.
    """
    module: Any = importlib.import_module(MODULE)
    own: Any = extension()
    if module.__spec__.origin == own.__spec__.origin:
        raise ValueError('this environment has no compiled mmcv to compare with: see bash '
                         'tools/setup.sh --with-compiled-mmcv')
    return module


def _compare(what, step, modules, rounds, warmup):
    seconds: Dict[str, List[float]] = {name: [] for name in modules}
    for turn in range(warmup + rounds):
        for name in sorted(modules, reverse=turn % 2 == 1):
            with served_by(modules[name]):
                start = time.perf_counter()
                step()
                elapsed = time.perf_counter() - start
            if turn >= warmup:
                seconds[name].append(elapsed)
    ratios = [own / other for own, other in zip(seconds['own'], seconds['compiled'])]
    low, middle, high = statistics.quantiles(ratios, n=4, method='inclusive')
    return Comparison(what, statistics.median(seconds['compiled']),
                      statistics.median(seconds['own']),
                      (low, middle, high))


def training_step(cfg: Config) -> Tuple[str, Step]:
    """Return a recipe's training step on one batch of its data, read before.

    Args:
        cfg (Config): a recipe whose data are there; its checkpoint is not loaded.
    """
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    settings = copy.deepcopy(cfg.model)
    settings.backbone.init_cfg = None
    model = MODELS.build(settings)
    model.init_weights()
    model.train()
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    loader = {**cfg.train_dataloader, 'num_workers': 0, 'persistent_workers': False}
    batch = next(iter(Runner.build_dataloader(loader, seed=0)))
    return 'training step', lambda: model.train_step(copy.deepcopy(batch), optimizer)


def op_steps() -> Iterable[Tuple[str, Step]]:
    """Yield the ops of a detector of COCO's 800x1333 images, at the sizes of its training."""
    for bins, regions in ((7, 512), (14, 128)):  # boxes, masks
        for stride, share in ((4, 0.6), (8, 0.25), (16, 0.1), (32, 0.05)):
            number = round(2 * regions * share)
            what = f'RoIAlign {bins}x{bins}, stride {stride}, {number} boxes of 2 images'
            yield from _roi_align(what, (2, 256, 800 // stride, 1344 // stride), number,
                                  (bins, bins), 1 / stride, (14 * stride, 28 * stride))
    yield from _roi_align('RoIAlign 28x28 of 20 masks of 800x1333, 100 boxes',
                          (20, 1, 800, 1333), 100, (28, 28), 1., (32, 500))
    for number in (1000, 4000):
        yield _nms(f'nms of {number} boxes', number)
    yield _batched_nms('batched_nms of 5 levels of 2000 boxes', 5, 2000)


def _roi_align(what, shape, number, bins, scale, sizes):
    """Yield the forward pass, and both passes."""
    roi_align = importlib.import_module('mmcv.ops').roi_align
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(shape, generator=generator)
    image = torch.randint(shape[0], (number, 1), generator=generator)
    rois = torch.cat([image, _boxes(number, shape[3] / scale, shape[2] / scale, sizes,
                                    generator)], 1)
    yield f'{what}, forward', lambda: roi_align(features, rois, bins, scale, 0, 'avg', True)
    gradient = torch.randn(number, shape[1], *bins, generator=generator)
    features.requires_grad_()

    def both():
        features.grad = None
        roi_align(features, rois, bins, scale, 0, 'avg', True).backward(gradient)

    yield f'{what}, and backward', both


def _boxes(number: int, width: float, height: float, sizes: Tuple[float, float],
           generator: torch.Generator) -> Tensor:
    """Draw boxes whose sides lie between two sizes, within an image: (number, 4)."""
    low, high = sizes
    side = low + (high - low) * torch.rand(number, 2, generator=generator)
    limit = torch.tensor([width, height])
    start = torch.rand(number, 2, generator=generator) * (limit - side).clamp(min=0)
    return torch.cat([start, torch.minimum(start + side, limit)], 1)


def _clustered(number, generator):
    """Draw proposals: 20 to each of some objects, as a detector gives them."""
    objects = _boxes(number // 20, 1333, 800, (32, 400), generator)
    return (objects.repeat(20, 1)
            + 12 * torch.randn(number // 20 * 20, 4, generator=generator)).clamp(min=0)


def _scores(number, generator):
    """Draw scores of which no two are equal: mmcv's order of equals is not defined."""
    return torch.randperm(number, generator=generator) / number


def _nms(what, number):
    nms = importlib.import_module('mmcv.ops').nms
    generator = torch.Generator().manual_seed(0)
    boxes, scores = _clustered(number, generator), _scores(number, generator)
    return what, lambda: nms(boxes, scores, 0.7)


def _batched_nms(what, levels, number):
    batched_nms = importlib.import_module('mmcv.ops').batched_nms
    generator = torch.Generator().manual_seed(0)
    boxes = torch.cat([_clustered(number, generator) for _ in range(levels)])
    scores = _scores(len(boxes), generator)
    level = torch.arange(levels).repeat_interleave(number)
    return what, lambda: batched_nms(boxes, scores, level, dict(type='nms', iou_threshold=0.7))
