"""Repeat what a function did with its tensors, without the Python that found out what to do.

Shapes, strides and settings decide what an op allocates and launches, and with which numbers. To
find that out takes longer than to do it. So a function runs once on tensors without memory, and
what it does is kept: allocations, operators of PyTorch, and launches of kernels that are compiled.
A :class:`Replay` does the same with other tensors of that layout.
"""
import functools
from operator import itemgetter
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

#: Operators that give a tensor whose numbers nobody has written yet.
_ALLOCATIONS = ('empty', 'empty_like', 'empty_strided', 'new_empty', 'new_empty_strided')


class CannotRecord(Exception):
    """What a function does is more than a :class:`Record` holds."""


class _Step(NamedTuple):
    """A call with some values, and the value that its result becomes."""

    call: Callable
    values: Tuple[int, ...]
    result: Optional[int]
    writes: bool


class Record(TorchDispatchMode):
    """Note, within a ``with`` block, what is done with tensors on the meta device.

    Args:
        inputs: The tensors that a replay will be given others for.
        device: The device of those.
    """

    def __init__(self, inputs: Sequence[Tensor], device: torch.device) -> None:
        super().__init__()
        self._device = device
        self._steps: List[_Step] = []
        self._values: list = []
        # by id, so that each of them is kept
        self._numbers: Dict[int, int] = {}
        self._kept: List[Tensor] = []
        # views that begin where what they show begins: a kernel gets the latter
        self._starts: Dict[int, Tensor] = {}
        for t in inputs:
            self._add(t)

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = operator(*args, **kwargs)
        if isinstance(result, int):  # a dtype's number
            return result
        if result is None or any(map(_has_tensors, kwargs.values())):
            raise CannotRecord(f'{operator} gives nothing, or takes tensors by name')
        name = operator.overloadpacket.__name__
        if name == 'detach':  # the same tensor, for a replay has no gradients
            self._numbers[id(result)] = self._number(args[0])
            self._kept.append(result)
            return result
        if name in _ALLOCATIONS:
            call = functools.partial(torch.empty_strided, result.shape, result.stride(),
                                     dtype=result.dtype, device=self._device)
            self._note(call, (), result)
            return result
        if 'device' in kwargs:
            kwargs = {**kwargs, 'device': self._device}
        self._note(functools.partial(operator, **kwargs), args, result,
                   writes=operator._schema.is_mutable)
        if isinstance(result, (list, tuple)):
            for i, t in enumerate(result):
                self._note(itemgetter(i), (result, ), t)
        elif operator.is_view and _begin_together(result, args[0]):
            self._starts[id(result)] = self._start(args[0])
        return result

    def launch(self, call: Callable, args: Sequence) -> None:
        """Note a call that launches a kernel."""
        self._note(call, [self._start(a) if isinstance(a, Tensor) else a for a in args], None,
                   writes=True)

    def replay(self, results: Sequence[Tensor]) -> 'Replay':
        """Return what does the same with other tensors, and returns these results of theirs."""
        return Replay(self._values, self._steps, [self._number(t) for t in results])

    def _note(self, call: Callable, args: Sequence, result, writes: bool = False) -> None:
        values = tuple([self._number(a) if _has_tensors(a) else self._add(a) for a in args])
        if result is not None:
            known = self._numbers.get(id(result))
            result = self._add(result) if known is None else known
        self._steps.append(_Step(call, values, result, writes))

    def _add(self, value) -> int:
        self._values.append(value)  # which keeps its id
        if _has_tensors(value):
            self._numbers[id(value)] = len(self._values) - 1
        return len(self._values) - 1

    def _number(self, value) -> int:
        """Return the number of a tensor, or of a list of tensors that an operator gave."""
        if id(value) not in self._numbers:
            raise CannotRecord('a tensor is neither given nor made, or a list of them is taken')
        return self._numbers[id(value)]

    def _start(self, t: Tensor) -> Tensor:
        return self._starts.get(id(t), t)


def _begin_together(view: Tensor, base: Tensor) -> bool:
    """Tell whether two tensors without memory, of which one may be a view, begin at one place.

    What may be a view can be a copy: below autograd, ``contiguous`` and ``to`` are one operator.
    """
    return (view.untyped_storage()._cdata == base.untyped_storage()._cdata
            and view.data_ptr() == base.data_ptr())


def _has_tensors(value) -> bool:
    return isinstance(value, Tensor) or (
        isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) for v in value))


class Replay:
    """Calls that follow each other, of which each takes what inputs and calls before it gave.

    Args:
        values: Inputs, constants, and in the places of results anything.
        steps: The calls.
        results: Numbers of the values to return.
    """

    def __init__(self, values: Sequence, steps: Sequence[_Step], results: Sequence[int]) -> None:
        needed, kept = set(results), []
        made = {step.result for step in steps}
        for step in reversed(steps):
            if step.writes or step.result in needed:
                last = made.intersection((*step.values, step.result)) - needed - {None}
                needed.update(step.values)
                kept.append((step, tuple(last)))
        # tensors of the record are let go; the last place is of calls that give nothing
        self._values = [None if _has_tensors(v) else v for v in values] + [None]
        self._steps = [(step.call, _getter(step.values),
                        -1 if step.result is None else step.result, last)
                       for step, last in reversed(kept)]
        self._results = _getter(results)

    def __call__(self, inputs: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        values = self._values.copy()
        values[:len(inputs)] = inputs
        for call, get, result, last in self._steps:
            values[result] = call(*get(values))
            for number in last:  # which nothing needs any more: its memory is free
                values[number] = None
        return self._results(values)


def _getter(numbers: Sequence[int]) -> Callable[[list], tuple]:
    """Return a function that takes values out of a list, as a tuple."""
    if len(numbers) > 1:
        return itemgetter(*numbers)
    return lambda values: tuple([values[number] for number in numbers])
