"""Which implementation of an op runs, and why.

An op registers its implementations here, each with a function that says why it cannot run on the
tensors at hand. Callers choose with ``impl``: the name of an implementation, or ``'auto'``, which
takes the first of :data:`PREFERENCE` that can run. The environment variable ``MMVSSD_KERNEL``
sets what ``'auto'`` means. A choice that was made by name and cannot run raises; ``'auto'`` falls
back and logs the reason once.
"""
import functools
import logging
import os
from collections import defaultdict
from typing import Callable, Dict, NamedTuple, Optional, Tuple

from torch import Tensor

logger = logging.getLogger('mmvssd')

ENVIRONMENT_VARIABLE = 'MMVSSD_KERNEL'
#: Fastest first. ``'reference'`` is PyTorch, runs on any device and defines the result.
PREFERENCE = ('triton', 'reference')
CHOICES = ('auto', *PREFERENCE)


class Implementation(NamedTuple):
    """One way to compute an op: ``run`` does it, ``obstacle`` says why it cannot (None: it can)."""

    run: Callable
    obstacle: Callable[[Tensor], Optional[str]]


_implementations: Dict[str, Dict[str, Implementation]] = defaultdict(dict)


def _no_obstacle(x: Tensor) -> Optional[str]:
    return None


def register(op: str, name: str, obstacle: Callable[[Tensor], Optional[str]] = _no_obstacle):
    """Return a decorator that files a function as implementation ``name`` of ``op``."""
    if name not in PREFERENCE:
        raise ValueError(f'implementation {name!r} of {op} is none of {", ".join(PREFERENCE)}')

    def file(function: Callable) -> Callable:
        _implementations[op][name] = Implementation(function, obstacle)
        return function

    return file


def ops() -> Tuple[str, ...]:
    """Names of all ops that have an implementation."""
    return tuple(_implementations)


def obstacle(op: str, name: str, x: Tensor) -> Optional[str]:
    """Why implementation ``name`` of ``op`` cannot run on a tensor like ``x``; None if it can."""
    if name not in _implementations[op]:
        return f'{op} has no {name} implementation yet'
    return _implementations[op][name].obstacle(x)


def select(op: str, impl: str, x: Tensor) -> Callable:
    """Choose the function that computes ``op`` on a tensor like ``x``.

    Args:
        op: Name of the op.
        impl: 'auto' or the name of an implementation.
        x: The op's first input; its device and dtype decide what can run.

    Raises:
        ValueError: ``impl`` or the environment variable names no implementation.
        RuntimeError: The implementation chosen by name cannot run.
    """
    chosen = _check(impl, 'impl')
    source = 'impl'
    if chosen == 'auto':
        chosen = _check(os.environ.get(ENVIRONMENT_VARIABLE) or 'auto', ENVIRONMENT_VARIABLE)
        source = ENVIRONMENT_VARIABLE
    if chosen == 'auto':
        return _first_that_runs(op, x)
    reason = obstacle(op, chosen, x)
    if reason:
        able = [name for name in PREFERENCE if not obstacle(op, name, x)]
        raise RuntimeError(f'{source}={chosen!r} cannot run: {reason}. '
                           f'What can run here: auto, {", ".join(able)}.')
    return _implementations[op][chosen].run


def _check(choice: str, source: str) -> str:
    if choice not in CHOICES:
        raise ValueError(f'{source}={choice!r} is no implementation; '
                         f'what fits: {", ".join(CHOICES)}')
    return choice


def _first_that_runs(op: str, x: Tensor) -> Callable:
    for name in PREFERENCE:
        if name not in _implementations[op]:
            continue
        reason = obstacle(op, name, x)
        if not reason:
            return _implementations[op][name].run
        _log_fallback(op, name, reason)
    raise RuntimeError(f'{op}: no implementation can run on a {x.dtype} tensor on {x.device}')


@functools.cache
def _log_fallback(op: str, name: str, reason: str) -> None:
    """Log once for each op and reason: the cache swallows repetitions."""
    # a warning: without a handler of the user's, Python shows nothing below
    logger.warning('%s: not using %s: %s', op, name, reason)
