"""Whole numbers of a kernel's programs and of the trips of its loops, all at once."""
import functools
import math
from typing import Callable, Optional

import torch
from torch import Tensor

#: Numbers that a tensor of programs and trips may have. With more, it is not known.
LIMIT = 2**22


def divide(a: Tensor, b: Tensor) -> Tensor:
    """Divide, and cut off what is behind the point."""
    return torch.div(a, b, rounding_mode='trunc')


def choose(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return ``a`` if the condition holds, else ``b``."""
    return torch.where(condition != 0, a, b)


def _unsigned(a: Tensor) -> Tensor:
    """Move numbers so that they compare as unsigned ones do."""
    return a ^ torch.iinfo(torch.int64).min


#: Arithmetic of whole numbers, by operation. A truth is 0 or 1.
ARITHMETIC = {
    'arith.addi': torch.add, 'arith.subi': torch.sub, 'arith.muli': torch.mul,
    'arith.divsi': divide, 'arith.divui': divide, 'arith.remsi': torch.fmod,
    'arith.remui': torch.fmod, 'arith.minsi': torch.minimum, 'arith.minui': torch.minimum,
    'arith.maxsi': torch.maximum, 'arith.maxui': torch.maximum,
    'arith.andi': torch.bitwise_and, 'arith.ori': torch.bitwise_or,
    'arith.xori': torch.bitwise_xor, 'arith.select': choose,
    'arith.extsi': torch.clone, 'arith.extui': torch.clone, 'arith.trunci': torch.clone,
    'arith.index_cast': torch.clone}
#: Comparisons of signed numbers, by predicate; those of unsigned ones begin with a u.
_COMPARISONS = {'eq': torch.eq, 'ne': torch.ne, 'slt': torch.lt, 'sle': torch.le, 'sgt': torch.gt,
                'sge': torch.ge}


def compare(predicate: str, a: Tensor, b: Tensor) -> Tensor:
    """Return 1 if a comparison holds, else 0. Its predicate is such as ``slt``."""
    if predicate.startswith('u'):
        a, b, predicate = _unsigned(a), _unsigned(b), f's{predicate[1:]}'
    return _COMPARISONS[predicate](a, b).long()


def trips_between(begin: Tensor, end: Tensor, stride: Tensor) -> Tensor:
    """Return how many trips a loop takes."""
    return divide(end - begin + stride - 1, stride).clamp_min(0)


def index_of(begin: Tensor, stride: Tensor, places: Tensor) -> Tensor:
    """Return a loop's index in each trip."""
    return begin + stride * places


def fit(*numbers: Tensor) -> bool:
    """Tell whether numbers may be computed for each other's programs and trips."""
    return math.prod(torch.broadcast_shapes(*(number.shape for number in numbers))) <= LIMIT


class Number:
    """A number that is computed if somebody asks for it: most are parts of addresses.

    Its value has the programs as last dimension. Before it stand the trips of each loop around,
    the innermost first. A dimension along which it does not change has the size 1, or is left out.
    """

    def __init__(self, compute: Callable[..., Optional[Tensor]], *operands: 'Number') -> None:
        self.compute, self.operands = compute, operands

    @functools.cached_property
    def value(self) -> Optional[Tensor]:
        """Return the value, or None if it is not known."""
        values = [operand.value for operand in self.operands]
        known = [value for value in values if value is not None]
        return self.compute(*known) if len(known) == len(values) and fit(*known) else None


def constant(value: Optional[Tensor]) -> Number:
    """Return a number with a value, or an unknown one."""
    return Number(lambda: value)
