"""Multiply-adds of operations, in full and in the published convention.

MMEngine's :class:`FlopAnalyzer` counts the nodes of a trace: one multiply-add as one, LayerNorm 5
and BatchNorm 2 an element. An op of ours would show up there as the parts of its implementation,
so a stand-in takes its place in the trace: one node, counted by the formula below. The two
conventions differ if a product's first operand is broadcast. The counter behind the published
numbers multiplied that operand's own shape by the second's last side. So it saw one head of
several. In a selective scan they don't differ: its published formula is that of the work.
"""
import inspect
from collections import Counter
from math import prod
from typing import Callable, Dict, List, Mapping, NamedTuple, Tuple

import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.analysis.jit_handles import einsum_flop_jit, get_shape, matmul_flop_jit
from torch import Tensor, nn

from mmvssd import ops  # noqa: F401  (files the ops in KERNELS)
from mmvssd.registry import KERNELS

Shapes = Mapping[str, List[int]]
Pair = Tuple[int, int]


class OpFormula(NamedTuple):
    """The count of an op of ours, from the shapes of its tensor arguments by name."""

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
    """Count the two products of the state; of the denominator N L S, as published."""
    return _state_products(shapes) + prod(shapes['B'])


def _normalized_published(shapes: Shapes) -> int:
    _, _, h, P = shapes['x']
    return prod(shapes['B']) * (h * P + P + 1)


def _scan(shapes: Shapes) -> int:
    """9 a token, channel and entry of its state, and 1 a token and channel for the skip."""
    return prod(shapes['u']) * (9 * shapes['A'][-1] + 1)


def _scan_2d(shapes: Shapes) -> int:
    """Count scans of L = H W tokens and 4 D channels, and the product that widens their steps."""
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


def put_stand_ins(model: nn.Module) -> None:
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


def analyze(model: nn.Module, images: Tensor) -> FlopAnalyzer:
    """Count the operations of a model whose ops have stand-ins; it is traced when asked."""
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
    """Count a multiply-add for each choice of indices, of two operands."""
    terms = inputs[0].toIValue().replace(' ', '').partition('->')[0].split(',')
    if len(terms) != 2 or '...' in ''.join(terms):
        return einsum_flop_jit(inputs, outputs)  # which knows four digits of the number
    shapes = map(get_shape, inputs[1].node().inputs())
    return prod({letter: size for term, shape in zip(terms, shapes)
                 for letter, size in zip(term, shape)}.values())


def _count_attention(inputs, outputs) -> Counter:
    query, key, value = map(get_shape, inputs[:3])
    return Counter({'attention': prod(query[:-1]) * key[-2] * (query[-1] + value[-1])})


def both_ways(counter: Counter) -> Dict[str, Pair]:
    """Return the multiply-adds of each operation, (in full, published)."""
    counts = {op: full for op, full in counter.items() if not op.endswith(PUBLISHED)}
    return {op: (int(full), int(counter[op + PUBLISHED] if op in (MATMUL, *FORMULAS) else full))
            for op, full in counts.items()}
