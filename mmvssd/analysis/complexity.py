"""Parameters and multiply-adds of a recipe's model, in full and in the published convention.

MMEngine's :class:`FlopAnalyzer` counts the nodes of a trace: one multiply-add as one, LayerNorm 5
and BatchNorm 2 an element. An op of ours would show up there as whatever its implementation
consists of, so a stand-in takes its place in the trace: one node, counted by the formula below.
The two conventions differ where a product's first operand is broadcast: the counter behind the
published numbers multiplied that operand's own shape by the second's last side, and so saw one
head of several. In a selective scan they don't differ: its published formula is that of the work.
"""
import copy
import inspect
from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Set, Tuple

import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.analysis.jit_handles import einsum_flop_jit, get_shape, matmul_flop_jit
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from mmvssd import ops  # noqa: F401  (files the ops in KERNELS)
from mmvssd.errors import ConfigError
from mmvssd.models.backbones.base import BaseBackbone
from mmvssd.registry import KERNELS

#: Height and width that the field counts at, by the recipe's default scope.
SHAPES = {'mmpretrain': (224, 224), 'mmdet': (800, 1280), 'mmseg': (512, 2048)}

Shapes = Mapping[str, List[int]]
Pair = Tuple[int, int]


class OpFormula(NamedTuple):
    """How an op of ours is counted, from the shapes of its tensor arguments by name."""

    full: Callable[[Shapes], int]
    published: Callable[[Shapes], int]
    left_out: str


def _state_products(shapes: Shapes) -> int:
    """B^T x and C state, each N L S h P; groups and masks change nothing in it."""
    return 2 * prod(shapes['x']) * shapes['B'][-1]


def _state_products_of_one_head(shapes: Shapes) -> int:
    N, L, _, P = shapes['x']
    return 2 * N * L * P * shapes['B'][-1]


def _normalized(shapes: Shapes) -> int:
    """The two products of the state; of the denominator N L S, as in the published numbers."""
    return _state_products(shapes) + prod(shapes['B'])


def _normalized_published(shapes: Shapes) -> int:
    _, _, h, P = shapes['x']
    return prod(shapes['B']) * (h * P + P + 1)


def _scan(shapes: Shapes) -> int:
    """9 a token, channel and entry of its state, and 1 a token and channel for the skip."""
    return prod(shapes['u']) * (9 * shapes['A'][-1] + 1)


def _scan_2d(shapes: Shapes) -> int:
    """Scans of L = H W tokens and 4 D channels, and the product that widens their step sizes."""
    channels, S = shapes['A']
    tokens = prod(shapes['x'][:3])
    return tokens * (channels * (9 * S + 1) + prod(shapes['dt_weight']))


def _causal_state_products(shapes: Shapes) -> int:
    """2 N L S h P: B_t (outer) x_t into the state and C_t . state out of it, for each token.

    So it counts the recurrence, whatever chunks an implementation makes, and a causal mixer as
    much as a non-causal one.
    """
    return _state_products(shapes)


#: Ops of ours; a form of an op that is computed otherwise has an entry of its own. ``cross_scan``
#: and ``cross_merge`` have none: they copy and add, and are traced as they are.
FORMULAS = {
    'nc_ssd': OpFormula(_state_products, _state_products_of_one_head,
                        'token weights, skip'),
    'nc_ssd (normalized)': OpFormula(_normalized, _normalized_published,
                                     "ELU features, softmax, rotation, the heads of the "
                                     "denominator's two products, division, skip"),
    'selective_scan': OpFormula(_scan, _scan, 'bias and softplus of the step sizes'),
    'selective_scan_2d': OpFormula(_scan_2d, _scan_2d, 'bias and softplus of the step sizes, sum '
                                   'of the four sequences'),
    'ssd': OpFormula(_causal_state_products, _causal_state_products,
                     'decay of the state, token weights, skip'),
}
MATMUL = 'matmul'  # PyTorch's, which the two conventions count differently as well
PUBLISHED = '/published'  # marks the second of two counts of one operation

#: Operations that compute nothing in evaluation, beyond those that the analyzer knows already.
NO_ARITHMETIC = ('aten::clone', 'aten::expand_as', 'aten::feature_dropout', 'aten::flip',
                 'aten::mT', 'aten::movedim', 'aten::repeat', 'aten::reshape_as', 'aten::unflatten',
                 'aten::view_as')

_library = torch.library.Library('mmvssd', 'FRAGMENT')
_library.define('counted(str op, str names, Tensor[] tensors) -> Tensor')
_library.impl('counted', lambda op, names, tensors: tensors[0].clone(),
              'CompositeExplicitAutograd')


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
    """What a forward pass costs; multiply-adds, one counted as one.

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
    _put_stand_ins(model)
    device = next((p.device for p in model.parameters()), torch.device('cpu'))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        images = torch.randn(batch_size, _channels(model), *shape).to(device)
        analysis = _analyze(_TensorMode(model), images)
        counts = {name: _both_ways(counter)
                  for name, counter in analysis.by_module_and_operator().items()}
    operations = counts['']
    full, published = _total(operations)
    return Complexity(
        shape=tuple(shape),
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
        raise ConfigError(f"{type(model).__name__}: its forward has no mode, so it is no host's "
                          'model; give a recipe whose model is a classifier, detector or '
                          'segmentor')


def _channels(model: nn.Module) -> int:
    backbone = getattr(model, 'backbone', None)
    # other backbones call the width of some layer in_channels
    return backbone.in_channels if isinstance(backbone, BaseBackbone) else 3


class _TensorMode(nn.Module):
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
    """Names of modules, once they have been called."""
    called = set()
    for name, module in model.named_modules():
        module.register_forward_pre_hook(lambda module, inputs, name=name: called.add(name))
    return called


def _put_stand_ins(model: nn.Module) -> None:
    """Replace the ops that layers hold by nodes that are counted by formula."""
    names = {op: name for name, op in KERNELS.module_dict.items() if name in FORMULAS}
    for module in model.modules():
        for attribute, value in list(vars(module).items()):
            if inspect.isfunction(value) and value in names:
                setattr(module, attribute, _stand_in(names[value], value))


def _stand_in(name: str, op: Callable) -> Callable[..., Tensor]:
    signature = inspect.signature(op)

    def run(*args, **kwargs) -> Tensor:
        arguments = signature.bind(*args, **kwargs).arguments
        tensors = {key: value for key, value in arguments.items() if isinstance(value, Tensor)}
        form = f'{name} (normalized)' if arguments.get('normalize') else name
        return torch.ops.mmvssd.counted(form, ' '.join(tensors), list(tensors.values()))

    return run


def _analyze(model: nn.Module, images: Tensor) -> FlopAnalyzer:
    analysis = FlopAnalyzer(model, images)
    # what they would say is part of the result
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.set_op_handle(**{
        'mmvssd::counted': _count_op,
        'aten::einsum': _count_einsum,
        'aten::matmul': _count_matmul,
        'aten::scaled_dot_product_attention': _count_attention,
        **dict.fromkeys(NO_ARITHMETIC)})
    return analysis


def _count_op(inputs, outputs) -> Counter:
    form, names = inputs[0].toIValue(), inputs[1].toIValue().split()
    shapes = dict(zip(names, map(get_shape, inputs[2].node().inputs())))
    formula = FORMULAS[form]
    return Counter({form: formula.full(shapes), form + PUBLISHED: formula.published(shapes)})


def _count_matmul(inputs, outputs) -> Counter:
    full = prod(get_shape(outputs[0])) * get_shape(inputs[0])[-1]
    return Counter({MATMUL: full, MATMUL + PUBLISHED: matmul_flop_jit(inputs, outputs)})


def _count_einsum(inputs, outputs) -> int:
    """Of two operands, a multiply-add for each choice of indices."""
    terms = inputs[0].toIValue().replace(' ', '').partition('->')[0].split(',')
    if len(terms) != 2 or '...' in ''.join(terms):
        return einsum_flop_jit(inputs, outputs)  # which knows four digits of the number
    shapes = map(get_shape, inputs[1].node().inputs())
    return prod({letter: size for term, shape in zip(terms, shapes)
                 for letter, size in zip(term, shape)}.values())


def _count_attention(inputs, outputs) -> Counter:
    query, key, value = map(get_shape, inputs[:3])
    return Counter({'attention': prod(query[:-1]) * key[-2] * (query[-1] + value[-1])})


def _both_ways(counter: Counter) -> Dict[str, Pair]:
    """Multiply-adds of each operation, (in full, published)."""
    counts = {op: full for op, full in counter.items() if not op.endswith(PUBLISHED)}
    return {op: (int(full), int(counter[op + PUBLISHED] if op in (MATMUL, *FORMULAS) else full))
            for op, full in counts.items()}


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
    """Modules of the first two levels; those that lists of the backbone hold, one by one."""
    for name, module in model.named_children():
        yield name, module
        for inner, part in module.named_children():
            if name == 'backbone' and isinstance(part, nn.ModuleList):
                yield from ((f'{name}.{inner}.{i}', entry) for i, entry in enumerate(part))
            else:
                yield f'{name}.{inner}', part


def _uncalled(model: nn.Module, called: Set[str]) -> Iterator[Tuple[str, nn.Module]]:
    """Modules neither called nor holding one that was; not the parts of one named already."""
    alive = {'.'.join(name.split('.')[:depth]) for name in called
             for depth in range(name.count('.') + 2)}
    for name, module in model.named_modules():
        parent = name.rpartition('.')[0]
        runs = any(type(part).forward is not nn.Module.forward for part in module.modules())
        if name and name not in alive and (not parent or parent in alive) and runs:
            yield name, module


def report(complexity: Complexity, title: str, console: Optional[Console] = None) -> None:
    """Print a count: parts, operations, and what is not counted."""
    console = console or Console()
    H, W = complexity.shape
    parts = _table('part', 'class', 'params (M)')
    for part in complexity.parts:
        top, _, inner = part.name.partition('.')
        parts.add_row(f'  {inner}' if inner else top, part.kind, f'{part.params / 1e6:.3f}',
                      *_giga(part.full, part.published))
    parts.add_section()
    parts.add_row('total', '', f'{complexity.params / 1e6:.3f}',
                  *_giga(complexity.full, complexity.published))
    operations = _table('operation')
    for op, pair in complexity.operations.items():
        operations.add_row(op, *_giga(*pair))
    _print_line(console, f'{title}: GFLOPs over one image of {H} x {W} (height x width)')
    console.print(parts, operations)
    for line in _footnotes(complexity):
        _print_line(console, line)


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(first, no_wrap=True)
    for heading in (*others, 'in full', 'published'):
        table.add_column(heading, justify='left' if heading == 'class' else 'right')
    return table


def _print_line(console: Console, line: str) -> None:
    # names are printed as they are, and not broken in two
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _giga(*counts: int) -> List[str]:
    return [f'{count / 1e9:.3f}' for count in counts]


def _footnotes(complexity: Complexity) -> Iterator[str]:
    yield 'One multiply-add counts as one. The columns differ in nc_ssd and in broadcast products.'
    uncounted = [f'{op} x {times}' for op, times in complexity.uncounted.items()]
    yield f'Not counted: {", ".join(uncounted) or "nothing"}'
    for op, what in complexity.left_out.items():
        yield f'Not counted inside {op}: {what}'
    uncalled = [f'{module.name} ({module.kind}, {module.params / 1e6:.3f} M parameters)'
                for module in complexity.uncalled]
    yield f'Never called: {", ".join(uncalled) or "no module"}'
