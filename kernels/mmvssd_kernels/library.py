"""Python functions as PyTorch operators that ``torch.compile`` takes as they are."""
import functools
from typing import Callable

import torch

_library = torch.library.Library('mmvssd_kernels', 'DEF')
# PyTorch before 2.4 has it under another name
_register_fake = getattr(torch.library, 'register_fake', None) or torch.library.impl_abstract


def operator(schema: str, fake: Callable) -> Callable[[Callable], Callable]:
    """Return a decorator that makes a function an operator ``torch.ops.mmvssd_kernels.NAME``.

    Tracers see one node where the function may loop over a number of steps that depends on
    sizes. It has no gradient: what calls it is an autograd function. Autocast does not reach what
    the function calls.

    Args:
        schema: The operator's name, arguments (the first a tensor) and results.
        fake: Takes the same arguments and gives results of the right shape, dtype and device.
    """

    def register(function: Callable) -> Callable:
        name = _library.define(schema)
        _library.impl(name, _without_autocast(function), 'CompositeExplicitAutograd')
        _register_fake(f'mmvssd_kernels::{name}')(fake)
        return getattr(torch.ops.mmvssd_kernels, name)

    return register


def _without_autocast(function: Callable) -> Callable:
    @functools.wraps(function)
    def run(first, *others):
        with torch.autocast(first.device.type, enabled=False):
            return function(first, *others)

    return run
