"""Parameters and multiply-adds of a recipe's model, by part and by operation."""
import copy
import inspect
from dataclasses import dataclass
from typing import Dict, Iterator, List, Optional, Set, Tuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmvssd.analysis.operations import FORMULAS, Pair, analyze, both_ways, put_stand_ins
from mmvssd.errors import ConfigError
from mmvssd.models.backbones.base import BaseBackbone
from mmvssd.models.layers import GridLinear

#: Height and width that the field counts at, by the recipe's default scope.
SHAPES = {'mmpretrain': (224, 224), 'mmdet': (800, 1280), 'mmseg': (512, 2048)}


@dataclass(frozen=True)
class Part:
    """A module's share: multiply-adds in full and as published."""

    name: str
    kind: str
    params: int
    full: int
    published: int


@dataclass(frozen=True)
class Uncalled:
    """A module that the forward pass never called."""

    name: str
    kind: str
    params: int


@dataclass(frozen=True)
class Complexity:
    """The cost of a forward pass; multiply-adds, one counted as one.

    Attributes:
        shape: Height and width of the image.
        params: Parameters of the whole model, also of modules that were not called.
        full: Multiply-adds in full.
        published: Multiply-adds in the published convention.
        parts: Modules, each before its own parts.
        operations: Multiply-adds of each kind of operation, (in full, published).
        left_out: What the count of an operation in ``operations`` leaves out.
        uncounted: Kinds of operation that are not counted, and how often each occurred.
        uncalled: Modules that were never called, without the parts of one named already.
    """

    shape: Pair
    params: int
    full: int
    published: int
    parts: List[Part]
    operations: Dict[str, Pair]
    left_out: Dict[str, str]
    uncounted: Dict[str, int]
    uncalled: List[Uncalled]


def count_recipe(cfg: Config, shape: Optional[Pair] = None) -> Complexity:
    """Count a recipe's model over one image; no checkpoint is read.

    Args:
        cfg: A recipe of MMPreTrain, MMDetection or MMSegmentation.
        shape: Height and width; None takes what the field counts at, see :data:`SHAPES`.

    Raises:
        ConfigError: The recipe or its model cannot be counted, or the shape is none.
    """
    if shape is None:
        scope = cfg.get('default_scope')
        if scope not in SHAPES:
            raise ConfigError(f'default_scope: got {scope}, and a default size is known only for '
                              f'{", ".join(SHAPES)}; give the size with --shape HEIGHT WIDTH')
        shape = SHAPES[scope]
    return count_model(build_model(cfg), shape)


def build_model(cfg: Config) -> nn.Module:
    """Build a recipe's model with weights from a fixed seed, whatever ``init_cfg`` names."""
    if 'model' not in cfg:
        raise ConfigError(f'{cfg.filename}: has no model; give a whole recipe')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    # init_weights, which would read a checkpoint, is not called
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MODELS.build(cfg.model)


def count_model(model: nn.Module, shape: Pair, batch_size: int = 1) -> Complexity:
    """Count the tensor-mode forward of a host's model, in evaluation mode; it stays as it is.

    Args:
        model: A model of MMPreTrain, MMDetection or MMSegmentation, on any device.
        shape: Height and width of the images.
        batch_size: Number of images; the count is for all of them.

    Raises:
        ConfigError: The shape is not two positive numbers, or the model has no tensor mode.
    """
    _check_shape(shape)
    _check_tensor_mode(model)
    # a copy, for hooks and stand-ins would have to be taken off again, also after an error
    model = copy.deepcopy(model)
    model.eval()
    called = _watch(model)
    put_stand_ins(model)
    for layer in model.modules():
        if isinstance(layer, GridLinear):
            layer.convolves = False  # the same table on every CPU
    device = next((p.device for p in model.parameters()), torch.device('cpu'))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        images = torch.randn(batch_size, _channels(model), *shape).to(device)
        analysis = analyze(TensorMode(model), images)
        counts = {name: both_ways(counter)
                  for name, counter in analysis.by_module_and_operator().items()}
    operations = counts['']
    full, published = _total(operations)
    return Complexity(
        shape=(shape[0], shape[1]),
        params=_params(model),
        full=full,
        published=published,
        parts=[part for part in _parts(model, counts) if part.params or part.full],
        operations=dict(sorted(operations.items(), key=lambda item: -item[1][0])),
        left_out={op: FORMULAS[op].left_out for op in operations if op in FORMULAS},
        uncounted=dict(analysis.unsupported_ops().most_common()),
        uncalled=[Uncalled(name, type(module).__name__, _params(module))
                  for name, module in _uncalled(model, called)])


def _check_shape(shape: Pair) -> None:
    if len(shape) != 2 or not all(isinstance(side, int) and side > 0 for side in shape):
        raise ConfigError(f'--shape: got {" ".join(map(str, shape))}, expected two positive '
                          'numbers, height and width in pixels')


def _check_tensor_mode(model: nn.Module) -> None:
    if 'mode' not in inspect.signature(model.forward).parameters:
        raise ConfigError(f"{type(model).__name__}: its forward has no mode, so it is not a host's "
                          'model; give a recipe whose model is a classifier, detector or '
                          'segmentor')


def _channels(model: nn.Module) -> int:
    backbone = getattr(model, 'backbone', None)
    # other backbones call the width of some layer in_channels
    return backbone.in_channels if isinstance(backbone, BaseBackbone) else 3


class TensorMode(nn.Module):
    """Turns a host's model into one from images to tensors, as tracing wants it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tuple[Tensor, ...]:
        H, W = (int(side) for side in images.shape[2:])
        sample = BaseDataElement(metainfo=dict(
            img_shape=(H, W), ori_shape=(H, W), pad_shape=(H, W), batch_input_shape=(H, W),
            scale_factor=(1., 1.)))
        try:
            outputs = self.model(images, [sample] * len(images), mode='tensor')
        except (NotImplementedError, RuntimeError) as error:
            if isinstance(error, NotImplementedError) or 'Invalid mode' in str(error):
                raise ConfigError(f'{type(self.model).__name__}: has no tensor mode, the forward '
                                  'pass that is counted') from error
            raise
        return tuple(_tensors(outputs))


def _tensors(outputs) -> Iterator[Tensor]:
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, dict):
        yield from _tensors(list(outputs.values()))
    elif isinstance(outputs, (list, tuple)):
        for value in outputs:
            yield from _tensors(value)


def _watch(model: nn.Module) -> Set[str]:
    """Collect the names of modules once they have been called."""
    called = set()
    for name, module in model.named_modules():
        module.register_forward_pre_hook(lambda module, inputs, name=name: called.add(name))
    return called


def _total(operations: Dict[str, Pair]) -> Pair:
    return (sum(full for full, _ in operations.values()),
            sum(published for _, published in operations.values()))


def _params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _parts(model: nn.Module, counts: Dict[str, Dict[str, Pair]]) -> Iterator[Part]:
    for name, module in _upper_levels(model):
        full, published = _total(counts[f'model.{name}'])
        yield Part(name, type(module).__name__, _params(module), full, published)


def _upper_levels(model: nn.Module) -> Iterator[Tuple[str, nn.Module]]:
    """Return modules of the first two levels; those that lists of the backbone hold, one by one."""
    for name, module in model.named_children():
        yield name, module
        for inner, part in module.named_children():
            if name == 'backbone' and isinstance(part, nn.ModuleList):
                yield from ((f'{name}.{inner}.{i}', entry) for i, entry in enumerate(part))
            else:
                yield f'{name}.{inner}', part


def _uncalled(model: nn.Module, called: Set[str]) -> Iterator[Tuple[str, nn.Module]]:
    """Return modules neither called nor holding one that was; not parts of one named already."""
    alive = {'.'.join(name.split('.')[:depth]) for name in called
             for depth in range(name.count('.') + 2)}
    for name, module in model.named_modules():
        parent = name.rpartition('.')[0]
        runs = any(type(part).forward is not nn.Module.forward for part in module.modules())
        if name and name not in alive and (not parent or parent in alive) and runs:
            yield name, module
