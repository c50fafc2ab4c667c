"""Finds the module that makes the first number that is not finite, in a step that is run again."""
from functools import partial
from typing import Callable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmvssd.phrases import counted

#: What a module is given and gives: tensors in lists, tuples, dicts and data elements.
Tensors = List[Tensor]


class Finding(NamedTuple):
    """Where the first number that is not finite arose."""

    text: str  # which module, in words
    images: Tuple[int, ...]  # of the batch, with such numbers; empty where that cannot be told


class _Call(NamedTuple):
    """A module that is being computed."""

    module: nn.Module
    inputs: Tensors
    broken: Tensors  # of the inputs, those that are not finite, as they were given


class FaultTrace:
    """Watch a training step of a model: its forward pass, then its backward pass.

    In the forward pass it looks at inputs and outputs of each module. The first module that ends
    with numbers that are not finite counts, so parts come before their parents. In the backward
    pass it looks at the gradients of inputs, outputs and parameters, in the order in which they
    arise.

    Every input gets a view of its own, whose gradient is that of this module only; the tensor's
    gradient is a sum over all that read it. PyTorch's hooks on a module's gradients would forbid
    operations in place on its output.

    Args:
        model: A model, not wrapped; nothing of it is changed after the ``with`` block.
        batch_size: Images of the batch; a tensor of as many rows is taken to have one for each.
    """

    def __init__(self, model: nn.Module, batch_size: int):
        self.model, self.batch_size = model, batch_size
        self._names = {module: name for name, module in model.named_modules()}
        self._calls: List[_Call] = []
        self._forward: Optional[Finding] = None
        self._backward: Optional[Finding] = None

    @property
    def finding(self) -> Optional[Finding]:
        """The first fault of the forward pass, else that of the backward pass, else None."""
        return self._forward or self._backward

    def __enter__(self) -> 'FaultTrace':
        self._handles = []
        for module in self._names:
            self._handles += [
                module.register_forward_pre_hook(self._enter_module, with_kwargs=True),
                module.register_forward_hook(self._leave_module)]
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.requires_grad:
                    what = f'the gradient {{shape}} of its {name} has {{count}}'
                    self._handles.append(
                        parameter.register_hook(partial(self._see_gradient, module, what)))
        return self

    def __exit__(self, *error) -> None:
        for handle in self._handles:
            handle.remove()

    def _enter_module(self, module: nn.Module, args: tuple, kwargs: dict) -> Tuple[tuple, dict]:
        """Remember a module's inputs before it may change them, and have their gradients seen."""
        inputs = list(_tensors((args, kwargs)))
        broken = [t.detach().clone() for t in inputs if not t.isfinite().all()]
        self._calls.append(_Call(module, inputs, broken))
        if not torch.is_grad_enabled():
            return args, kwargs
        return _changed((args, kwargs), partial(self._watched_view, module))

    def _watched_view(self, module: nn.Module, t: Tensor) -> Tensor:
        if not t.requires_grad or t.is_leaf:
            return t
        t = t.view_as(t)
        what = 'the gradient {shape} of its input has {count}; that of its output was finite'
        t.register_hook(partial(self._see_gradient, module, what))
        return t

    def _leave_module(self, module: nn.Module, args: tuple, output) -> None:
        """Look at a module's outputs, and have their gradients seen."""
        call = self._calls.pop()
        caller = self._calls[-1].module if self._calls else None
        if module is self.model and isinstance(output, Mapping):
            output = losses_of(output)  # what else it reports may be anything
        outputs = list(_tensors(output))
        broken = [t for t in outputs if not t.isfinite().all()]
        if broken and self._forward is None:
            self._forward = self._describe(call, broken, caller)
        what = (f'the gradient {{shape}} that reaches its output has {{count}}: '
                f'{self._name(caller)} makes them with that output')
        for t in outputs:
            if t.requires_grad and not t.is_leaf:
                t.register_hook(partial(self._see_gradient, module, what))

    def _describe(self, call: _Call, outputs: Tensors, caller: Optional[nn.Module]) -> Finding:
        """Describe a fault of the forward pass."""
        broken = outputs[0]
        parts = [f'in the forward pass, {self._name(call.module)}: its output '
                 f'{tuple(broken.shape)} has {_count([broken])}']
        suspects = [call.module]
        if not call.inputs:
            parts.append('it has no inputs of floating point')
        elif not call.broken:
            parts.append('its inputs were finite')
        else:
            parts.append(f'its inputs had {_count(call.broken)} already')
            if caller is not None:
                parts[-1] += f': {self._name(caller)} makes them before it'
                suspects.append(caller)
        parts += [text for module in suspects for text in self._broken_state(module)]
        return Finding('; '.join(parts), self._images([*outputs, *call.broken]))

    def _broken_state(self, module: nn.Module) -> Iterator[str]:
        """Return a module's own parameters and buffers that are not finite."""
        for entries in (module.named_parameters(recurse=False),
                        module.named_buffers(recurse=False)):
            for name, value in entries:
                if value.is_floating_point() and not value.isfinite().all():
                    yield f'{name} of {self._name(module)} has {_count([value])} itself'

    def _see_gradient(self, module: nn.Module, what: str, gradient: Tensor) -> None:
        if self._backward is None and not gradient.isfinite().all():
            what = what.format(shape=tuple(gradient.shape), count=_count([gradient]))
            self._backward = Finding(f'in the backward pass, {self._name(module)}: {what}',
                                     self._images([gradient]))

    def _name(self, module: Optional[nn.Module]) -> str:
        if module is None:
            return 'what calls the model'
        return f'{self._names[module] or "the model itself"} ({type(module).__name__})'

    def _images(self, broken: Tensors) -> Tuple[int, ...]:
        """Return rows that are not finite, of the first tensor with a row for each image."""
        for t in broken:
            if t.dim() and len(t) == self.batch_size:
                rows = ~t.detach().isfinite().reshape(len(t), -1).all(1)
                return tuple(rows.nonzero().flatten().tolist())
        return ()


def losses_of(outputs: Mapping) -> Tensors:
    """Return those of a model's outputs that MMEngine adds up to the loss."""
    return [t for name, value in outputs.items() if 'loss' in name
            for t in (value if isinstance(value, (list, tuple)) else [value])]


def _count(tensors: Sequence[Tensor]) -> str:
    """Say how many numbers are not finite."""
    nan, inf, total = (sum(int(f(t)) for t in tensors) for f in (
        lambda t: t.isnan().sum(), lambda t: t.isinf().sum(), Tensor.numel))
    return f'{nan} NaN and {inf} Inf of {counted(total, "number")}'


def _tensors(value) -> Iterator[Tensor]:
    """Return tensors of floating point in what a module is given or gives."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, (Mapping, BaseDataElement)):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(getattr(value, 'tensor', None), Tensor):  # boxes
        yield from _tensors(value.tensor)


def _changed(value, change: Callable[[Tensor], Tensor]):
    """Return the same lists, tuples and dicts with other tensors."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return type(value)((key, _changed(part, change)) for key, part in value.items())
    if isinstance(value, (list, tuple)):
        parts = [_changed(part, change) for part in value]
        return type(value)(*parts) if hasattr(value, '_fields') else type(value)(parts)
    return value
