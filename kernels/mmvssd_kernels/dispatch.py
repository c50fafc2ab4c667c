"""Which implementation of an op runs, and why.

An op registers its implementations here, each with a function that says why it cannot run on the
arguments at hand, and one that says why it should not, though it can. Callers choose with
``impl``: the name of an implementation, or ``'auto'``, which takes the first of
:data:`PREFERENCE` that neither speaks against. The environment variable ``MMVSSD_KERNEL`` sets
what ``'auto'`` means. A choice that was made by name and cannot run raises; ``'auto'`` falls back
and logs the reason once. :func:`used` tells afterwards what ran.
"""
import functools
import logging
import os
from collections import defaultdict
from typing import Callable, Dict, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

logger = logging.getLogger('mmvssd')

ENVIRONMENT_VARIABLE = 'MMVSSD_KERNEL'
#: Fastest first. ``'reference'`` is PyTorch, runs on any device and defines the result.
PREFERENCE = ('triton', 'reference')
CHOICES = ('auto', *PREFERENCE)


Objection = Callable[..., Optional[str]]


def _none(*args, **kwargs) -> Optional[str]:
    return None


class Implementation(NamedTuple):
    """One way to compute an op: what does it, and two functions of the same arguments.

    ``obstacle`` says why it cannot run, ``drawback`` why 'auto' should not take it though it can.
    Both give None where nothing stands against it.
    """

    run: Callable
    obstacle: Objection = _none
    drawback: Objection = _none


_implementations: Dict[str, Dict[str, Implementation]] = defaultdict(dict)
#: (op, implementation) -> why it was chosen when it first ran.
_used: Dict[Tuple[str, str], str] = {}


def register(op: str, name: str, obstacle: Objection = _none, drawback: Objection = _none):
    """Return a decorator that files a function as implementation ``name`` of ``op``."""
    if name not in PREFERENCE:
        raise ValueError(f'implementation {name!r} of {op} is none of {", ".join(PREFERENCE)}')

    def file(function: Callable) -> Callable:
        _implementations[op][name] = Implementation(function, obstacle, drawback)
        return function

    return file


def ops() -> Tuple[str, ...]:
    """Names of all ops that have an implementation."""
    return tuple(_implementations)


def obstacle(op: str, name: str, *args, **kwargs) -> Optional[str]:
    """Why implementation ``name`` of ``op`` cannot run on these arguments; None if it can."""
    if name not in _implementations[op]:
        return f'{op} has no {name} implementation'
    return _implementations[op][name].obstacle(*args, **kwargs)


def used() -> Dict[str, Dict[str, str]]:
    """What ran in this process so far: op -> implementation -> why it was chosen first.

    An op that ran in more than one, such as on two devices, has an entry for each. Shapes alone
    (the meta device) do not count; a compiled graph counts when it is traced.
    """
    found = defaultdict(dict)
    for (op, name), reason in _used.items():
        found[op][name] = reason
    return dict(found)


def forget_used() -> None:
    """Have :func:`used` begin anew."""
    _used.clear()


def call(op: str, impl: str, *args, **kwargs):
    """Compute ``op`` with the implementation that fits its arguments.

    Args:
        op: Name of the op.
        impl: 'auto' or the name of an implementation.
        args: The op's arguments, as its implementations take them.
        kwargs: The same.

    Raises:
        ValueError: ``impl`` or the environment variable names no implementation.
        RuntimeError: The implementation chosen by name cannot run.
    """
    name, reason = _chosen(op, impl, args, kwargs)
    if not _on_meta(args):
        _note(op, name, reason)
    return _implementations[op][name].run(*args, **kwargs)


# a tracer shall not see the dict change; this runs while it traces
@torch.compiler.assume_constant_result
def _note(op: str, name: str, reason: str) -> None:
    _used.setdefault((op, name), reason)


def _chosen(op: str, impl: str, args: tuple, kwargs: dict) -> Tuple[str, str]:
    """The implementation to run, and why this one."""
    chosen, source = _check(impl, 'impl'), 'impl'
    if chosen == 'auto':
        chosen = _check(os.environ.get(ENVIRONMENT_VARIABLE) or 'auto', ENVIRONMENT_VARIABLE)
        source = ENVIRONMENT_VARIABLE
    if chosen == 'auto':
        return _fastest(op, args, kwargs)
    reason = obstacle(op, chosen, *args, **kwargs)
    if reason:
        able = [name for name in PREFERENCE if not obstacle(op, name, *args, **kwargs)]
        raise RuntimeError(f'{source}={chosen!r} cannot run: {reason}. '
                           f'What can run here: auto, {", ".join(able)}.')
    return chosen, f'{source}={chosen}'


def _check(choice: str, source: str) -> str:
    if choice not in CHOICES:
        raise ValueError(f'{source}={choice!r} is no implementation; '
                         f'what fits: {", ".join(CHOICES)}')
    return choice


def _fastest(op: str, args: tuple, kwargs: dict) -> Tuple[str, str]:
    why = 'the fastest'
    for name in PREFERENCE:
        if name not in _implementations[op]:
            continue
        way = _implementations[op][name]
        reason = way.obstacle(*args, **kwargs) or way.drawback(*args, **kwargs)
        if not reason:
            return name, why
        why = f'not {name}: {reason}'
        # on the meta device there is nothing to be fast at
        if not _on_meta(args):
            _report_fallback(op, name, reason)
    raise RuntimeError(f'{op}: no implementation can run on these arguments')


def _on_meta(args: tuple) -> bool:
    return any(isinstance(arg, Tensor) and arg.is_meta for arg in args)


# a tracer shall not see the logging; it runs while it traces, which looks through a cache
@torch.compiler.assume_constant_result
def _report_fallback(op: str, name: str, reason: str) -> None:
    _log_fallback(op, name, reason)


@functools.cache
def _log_fallback(op: str, name: str, reason: str) -> None:
    """Log once for each op and reason: the cache swallows repetitions."""
    # a warning: without a handler of the user's, Python shows nothing below
    logger.warning('%s: not using %s: %s', op, name, reason)
