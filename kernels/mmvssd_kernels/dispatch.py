"""Which implementation of an op runs, and why.

An op has any number of implementations. Each is registered with :func:`register`, under a name and
with a priority. One function says why it cannot run on the arguments at hand, another why it should
not, though it can. Callers choose with ``impl``: the name of an implementation, or ``'auto'``,
which takes the one of highest priority that neither speaks against. The environment variable
``MMVSSD_KERNEL`` sets what ``'auto'`` means. A choice that was made by name and cannot run raises;
``'auto'`` falls back and logs the reason once, for debugging only if that is a GPU on a machine
that has none. :func:`used` tells afterwards what ran.

While a model is exported, ``'auto'`` takes only implementations in standard operators, if the op
has any: the program then runs without this package, and on any device.
"""
import functools
import logging
import os
from collections import defaultdict
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from mmvssd_kernels import description
from mmvssd_kernels.library import exporting

logger = logging.getLogger('mmvssd')

ENVIRONMENT_VARIABLE = 'MMVSSD_KERNEL'
AUTO = 'auto'
#: In a reason: no news on a machine without a GPU, so only debugging logs it there.
NEEDS_GPU = 'needs a CUDA GPU'

Objection = Callable[..., Optional[str]]


def _none(*args: Any, **kwargs: Any) -> Optional[str]:
    return None


class Implementation(NamedTuple):
    """One way to compute an op: what does it, and two functions of the same arguments.

    ``obstacle`` says why it cannot run, ``drawback`` why 'auto' should not take it though it can.
    Both give None if nothing stands against it. ``exportable`` tells whether it is made of standard
    operators.
    """

    run: Callable
    obstacle: Objection = _none
    drawback: Objection = _none
    priority: float = 0
    exportable: bool = False


class CannotRun(RuntimeError):
    """An implementation that was chosen by name cannot run; ``reason`` says why."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


# of each op the highest priority first
_implementations: Dict[str, Dict[str, Implementation]] = defaultdict(dict)
#: (op, implementation) -> why it was chosen when it first ran.
_used: Dict[Tuple[str, str], str] = {}


def register(op: str, name: str, obstacle: Objection = _none, drawback: Objection = _none, *,
             priority: float, exportable: bool = False) -> Callable[[Callable], Callable]:
    """Return a decorator that registers a function as implementation ``name`` of ``op``.

    The function takes what the op takes, but ``impl``, in the same order: tensors by position,
    what follows the ``*`` by name, none left out.

    Args:
        op: Name of the op, one of :func:`ops`.
        name: What callers choose it by; no other implementation of the op has it.
        obstacle: Says why it cannot run on the arguments; None if it can.
        drawback: Says why 'auto' should not take it, though it can run; None if it should.
        priority: 'auto' tries the highest first, and equal ones as they were registered.
            ``reference`` has 0, ``triton`` 100. Below 0, only its name reaches it, or an export.
        exportable: Whether it consists of PyTorch's own operators, which any reader of an exported
            program has, and takes sizes that the export left open.

    Raises:
        ValueError: There is no such op, or the name is taken.
    """
    if op not in description.ops():
        raise ValueError(f'implementation {name!r}: there is no op {op!r}; '
                         f'the ops are: {", ".join(description.ops())}')
    if not isinstance(name, str) or name in ('', AUTO):
        raise ValueError(f'implementation of {op}: got the name {name!r}, expected a word that '
                         f'is not {AUTO!r}')
    if name in _implementations[op]:
        raise ValueError(f'{op} has an implementation {name!r} already: choose another name, or '
                         'unregister that one first')

    def file(function: Callable) -> Callable:
        registered = {**_implementations[op],
                      name: Implementation(function, obstacle, drawback, priority, exportable)}
        _implementations[op] = dict(sorted(registered.items(), key=lambda item: -item[1].priority))
        return function

    return file


def unregister(op: str, name: str) -> None:
    """Take implementation ``name`` of ``op`` out again.

    Raises:
        ValueError: There is none.
    """
    if name not in _implementations[op]:
        raise ValueError(f'unregister: {op} has no implementation {name!r}; '
                         f'it has: {", ".join(names(op))}')
    _implementations[op] = {other: way for other, way in _implementations[op].items()
                            if other != name}


def ops() -> Tuple[str, ...]:
    """Return the names of all ops."""
    return description.ops()


def names(op: str) -> Tuple[str, ...]:
    """Return the names of an op's implementations, in the order in which 'auto' tries them."""
    return tuple(_implementations[op])


def choices(op: str) -> Tuple[str, ...]:
    """Return what ``impl`` may be for an op."""
    return (AUTO, *names(op))


def implementation(op: str, name: str) -> Implementation:
    """Return an implementation of an op.

    Raises:
        KeyError: There is none.
    """
    return _implementations[op][name]


def used() -> Dict[str, Dict[str, str]]:
    """Return what ran in this process so far: op -> implementation -> why it was chosen first.

    An op that ran in more than one, such as on two devices, has an entry for each. The meta device,
    which has only shapes, does not count; a compiled graph counts when it is traced.
    """
    found = defaultdict(dict)
    for (op, name), reason in _used.items():
        found[op][name] = reason
    return dict(found)


def forget_used() -> None:
    """Have :func:`used` begin anew."""
    _used.clear()


def call(op: str, impl: str, *args: Any, **kwargs: Any) -> Any:
    """Compute ``op`` with the implementation that fits its arguments.

    Args:
        op: Name of the op.
        impl: 'auto' or the name of an implementation.
        args: The op's arguments, as its implementations take them.
        kwargs: The same.

    Raises:
        ValueError: ``impl`` or the environment variable names no implementation of the op.
        CannotRun: The implementation chosen by name cannot run; a RuntimeError.
    """
    name, reason = _chosen(op, impl, args, kwargs)
    if not _on_meta(args):
        _note(op, name, reason)
    return _implementations[op][name].run(*args, **kwargs)


# a tracer shall not see the dict change; this runs while it traces
@torch.compiler.assume_constant_result
def _note(op: str, name: str, reason: str) -> None:
    _used.setdefault((op, name), reason)


# traced, PyTorch 2.4 fails on a variable that is not set; a graph keeps the choice of its trace
@torch.compiler.assume_constant_result
def _environment() -> str:
    """Return what the environment variable says."""
    return os.environ.get(ENVIRONMENT_VARIABLE) or AUTO


def _chosen(op: str, impl: str, args: tuple, kwargs: dict) -> Tuple[str, str]:
    """Return the implementation to run, and why this one."""
    chosen, source = impl, 'impl'
    if chosen == AUTO:
        chosen, source = _environment(), ENVIRONMENT_VARIABLE
    if chosen == AUTO:
        return _best(op, args, kwargs)
    _check(op, chosen, source)
    reason = _implementations[op][chosen].obstacle(*args, **kwargs)
    if reason:
        able = [name for name, way in _implementations[op].items()
                if not way.obstacle(*args, **kwargs)]
        raise CannotRun(f'{source}={chosen!r} cannot run: {reason}. '
                        f'What can run here: {", ".join([AUTO, *able])}.', reason)
    return chosen, f'{source}={chosen}'


def _check(op: str, name: str, source: str) -> None:
    if not isinstance(name, str) or name not in _implementations[op]:
        raise ValueError(f'{source}={name!r} is not an implementation of {op}; '
                         f'what fits: {", ".join(choices(op))}')


def _best(op: str, args: tuple, kwargs: dict) -> Tuple[str, str]:
    passed_over: List[str] = []
    for name, way in _candidates(op).items():
        reason = way.obstacle(*args, **kwargs) or way.drawback(*args, **kwargs)
        if not reason:
            return name, '; '.join(passed_over) or (
                'a model is exported' if exporting() else 'the fastest')
        passed_over.append(f'not {name}: {reason}')
        # on the meta device there is nothing to be fast at
        if not _on_meta(args):
            _report_fallback(op, name, reason)
    raise RuntimeError(f'{op}: no implementation can run on these arguments: '
                       f'{"; ".join(passed_over) or "none is registered"}')


def _candidates(op: str) -> Dict[str, Implementation]:
    """Return what 'auto' chooses among, the highest priority first."""
    ways = _implementations[op]
    exportable = {name: way for name, way in ways.items() if way.exportable}
    return exportable if exportable and exporting() else ways


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
    is_news = NEEDS_GPU not in reason or torch.cuda.is_available()
    logger.log(logging.WARNING if is_news else logging.DEBUG, '%s: not using %s: %s', op, name,
               reason)
