"""Python functions as PyTorch operators that ``torch.compile`` takes as they are."""
import functools
from contextlib import nullcontext
from typing import Callable

import torch

_library = torch.library.Library('mmvssd_kernels', 'DEF')
# PyTorch before 2.4 has it under another name
_register_fake = getattr(torch.library, 'register_fake', None) or torch.library.impl_abstract


def operator(schema: str, fake: Callable) -> Callable[[Callable], Callable]:
    """Return a decorator that makes a function an operator ``torch.ops.mmvssd_kernels.NAME``.

    Tracers see one node where the function may loop over a number of steps that depends on sizes,
    or launch kernels. It runs on its first argument's device, and autocast does not reach what it
    calls. Its gradient is what :func:`register_gradient` gives it.

    Args:
        schema: The operator's name, arguments (the first a tensor) and results.
        fake: Takes the same arguments and gives results of the right shape, dtype and device.
    """

    def register(function: Callable) -> Callable:
        name = _library.define(schema)
        _library.impl(name, _isolated(function), 'CompositeExplicitAutograd')
        _register_fake(f'mmvssd_kernels::{name}')(fake)
        return getattr(torch.ops.mmvssd_kernels, name)

    return register


def _isolated(function: Callable) -> Callable:
    @functools.wraps(function)
    def run(first, *others):
        device = torch.cuda.device(first.device) if first.is_cuda else nullcontext()
        with device, torch.autocast(first.device.type, enabled=False):
            return function(first, *others)

    return run


def register_gradient(name: str, save: Callable, backward: Callable) -> None:
    """Give an operator its gradient.

    Args:
        name: The operator's name.
        save: ``save(ctx, inputs, output)`` keeps what backward needs, as
            ``torch.library.register_autograd`` has it.
        backward: ``backward(ctx, *gradients)`` gives one gradient, or None, for each input.
    """
    if hasattr(torch.library, 'register_autograd'):
        torch.library.register_autograd(f'mmvssd_kernels::{name}', backward, setup_context=save,
                                        lib=_library)
    else:
        _register_autograd_function(name, save, backward)


def _register_autograd_function(name: str, save: Callable, backward: Callable) -> None:
    """The same for PyTorch before 2.4."""

    def forward(ctx, *inputs):
        with torch._C._AutoDispatchBelowAutograd():
            output = getattr(torch.ops.mmvssd_kernels, name)(*inputs)
        save(ctx, inputs, output)
        return output

    function = type(name, (torch.autograd.Function, ),
                    {'forward': staticmethod(forward), 'backward': staticmethod(backward)})
    _library.impl(name, lambda *inputs: function.apply(*inputs), 'Autograd')


def register_no_gradient(name: str) -> None:
    """Make differentiating an operator an error: what is itself a gradient has none."""

    def refuse(ctx, *gradients):
        raise RuntimeError(f'{name} has no gradient: the op can be differentiated once. Of nc_ssd '
                           "and ssd, impl='reference' can be differentiated again.")

    register_gradient(name, lambda ctx, inputs, output: None, refuse)
