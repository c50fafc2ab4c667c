"""Checks of arguments: one ValueError that names the argument, what was given and what fits.

Integers and numbers of NumPy are taken, and returned as Python's. Booleans are no integers here,
and no text is a number. Such a value was meant for another argument, or comes from a file or a
command line that was read wrongly.
"""
import functools
import inspect
import math
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, Callable, Iterable, Mapping, Optional, Sequence, TypeVar, Union

import numpy as np

from mmvssd.phrases import counted, short, suggestion

F = TypeVar('F', bound=Callable[..., None])


def with_other_names(others: Mapping[str, str]) -> Callable[[F], F]:
    """Decorate a constructor so that an unknown argument's error says what fits.

    Args:
        others: What other packages call an argument, and the sentence that leads to ours.
    """
    def decorate(init: F) -> F:
        known = list(inspect.signature(init).parameters)[1:]  # without self

        @functools.wraps(init)
        def checked(self: Any, *args: Any, **kwargs: Any) -> None:
            for name in kwargs:
                if name not in known:
                    hint = f'; {others[name]}' if name in others else suggestion(name, known)
                    raise TypeError(f'{type(self).__name__}: there is no argument {name}'
                                    f'{hint or "; known: " + ", ".join(known)}')
            init(self, *args, **kwargs)

        return checked  # type: ignore[return-value]

    return decorate


def check_integer(what: str, value: Any, least: int, most: Optional[int] = None) -> int:
    """Return an integer from ``least`` to ``most``; ValueError if it is none."""
    if (not isinstance(value, Integral) or isinstance(value, bool) or int(value) < least
            or (most is not None and int(value) > most)):
        fits = f'an integer from {least} to {most}' if most is not None else (
            f'an integer of {least} or more')
        raise ValueError(f'{what}: got {short(value, 80)}, expected {fits}')
    return int(value)


def check_number(what: str, value: Any, fits: str, *, least: float = -math.inf,
                 below: float = math.inf) -> Union[int, float]:
    """Return a finite number, at least ``least`` and below ``below``; ValueError if it is none.

    Args:
        what: Name of the argument.
        value: What was given.
        fits: What is expected, for the error.
        least: The smallest that fits.
        below: Smaller than this.
    """
    if (not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value)
            or not least <= float(value) < below):
        raise ValueError(f'{what}: got {short(value, 80)}, expected {fits}')
    return int(value) if isinstance(value, Integral) else float(value)


def check_flag(what: str, value: Any) -> bool:
    """Return True or False; ValueError if it is neither."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f'{what}: got {short(value, 80)}, expected True or False')
    return bool(value)


def check_sequence(what: str, value: Any, length: Optional[int] = None, of: str = '') -> tuple:
    """Return a list as a tuple; ValueError if it is none, or has another length.

    Args:
        what: Name of the argument.
        value: What was given.
        length: Entries that fit; None takes any number but zero.
        of: What they are, for the error.
    """
    if not isinstance(value, (list, tuple, range, np.ndarray)):
        expected = 'a list' if length is None else f'a list of {length}'
        raise ValueError(f'{what}: got {short(value, 80)}, expected {expected}{of and f", {of}"}')
    entries = tuple(value)
    if not entries:
        raise ValueError(f'{what}: got an empty list, expected entries{of and f", {of}"}')
    if length not in (None, len(entries)):
        raise ValueError(f'{what} has {counted(len(entries), "entry")} {entries}, expected {length}'
                         f'{of and f", {of}"}')
    return entries


def check_name(what: str, name: Any, known: Iterable[str]) -> str:
    """Return a name that is one of ``known``; ValueError, with those that are similar, if not."""
    known = list(known)
    if not isinstance(name, str) or name not in known:
        raise ValueError(f'{what}: unknown name {name!r}; known: {", ".join(known)}'
                         f'{suggestion(name, known, longer=True)}')
    return name


def check_keys(what: str, given: Iterable, known: Sequence[str], needed: Sequence[str] = (),
               others: Mapping[str, str] = MappingProxyType({})) -> None:
    """Raise ValueError unless all keys are known ones, and all that are needed are there.

    Args:
        what: Name of the argument.
        given: Its keys.
        known: Keys that fit.
        needed: Keys that must be there.
        others: What other packages call some of them, and our names.
    """
    given = list(given)
    unknown = [key for key in given if key not in known]
    missing = [key for key in needed if key not in given]
    if unknown or missing:
        close = ''.join(f'; {key} is called {others[key]} here' if others.get(key) in known
                        else suggestion(key, known) for key in unknown)
        raise ValueError(f'{what}: unknown keys {unknown}, missing keys {missing}; '
                         f'known: {", ".join(known)}{close}')


__all__ = ['check_flag', 'check_integer', 'check_keys', 'check_name', 'check_number',
           'check_sequence', 'with_other_names']
