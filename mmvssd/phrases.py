"""Parts of messages: some of many names, a name that may be meant, a value in short."""
import difflib
import re
from typing import Any, Dict, Iterable, List, Optional, Sequence

SHOWN = 5  # names that a message lists
LEAST = 3  # characters of which a beginning tells something


def some(names: Sequence, separator: str = ', ') -> str:
    """List the first of some names."""
    return (separator.join(quoted(name, separator.strip()) for name in names[:SHOWN])
            + ' ...' * (len(names) > SHOWN))


def quoted(name: Any, separator: str = ',') -> str:
    """Return a name as a list has it: in quotes if its end could not be seen there."""
    text = str(name)
    return repr(text) if separator in text or text != text.strip() or not text else text


def first_and_more(names: Sequence) -> str:
    """List the first of some names, and count the others."""
    more = len(names) - SHOWN
    return ', '.join(map(quoted, names[:SHOWN])) + f' and {more} more' * (more > 0)


def counted(count: int, noun: str) -> str:
    """Return a number with a regular noun, such as ``1 image`` and ``2 images``."""
    if count == 1:
        return f'{count} {noun}'
    if noun.endswith('y'):
        return f'{count} {noun[:-1]}ies'
    return f'{count} {noun}' + ('es' if noun.endswith(('s', 'x')) else 's')


def numbered(text: str, count: int) -> str:
    """Put a number into a text, and the words around it into singular or plural.

    Args:
        text: Has ``{}`` in place of the number, endings of the plural as ``image[s]``, and words
            that change as ``[is|are]``.
        count: The number.
    """
    one = count == 1
    text = re.sub(r'\[([\w ]+)\|([\w ]+)\]', r'\1' if one else r'\2', text)
    text = re.sub(r'(?<=[a-z])\[(e?s)\]', '' if one else r'\1', text)
    return text.replace('{}', str(count))


def of_all(count: int, total: int, noun: str) -> str:
    """Return a share, such as ``2 of 5 images``, ``all 5 images`` or ``1 image``."""
    if count != total:
        return f'{count} of {counted(total, noun)}'
    return f'{"all " * (total > 1)}{counted(total, noun)}'


def none_of(count: int, noun: str) -> str:
    """Return what has nothing, such as ``none of the 5 images`` or ``none of 1 image``."""
    return f'none of {"the " * (count > 1)}{counted(count, noun)}'


def left_out(count: int, total: int) -> str:
    """Return the line above a list of images that were left out."""
    return numbered(f'{of_all(count, total, "image")} [was|were] left out:', count)


def similar(name: Any, known: Iterable, most: int = 3, cutoff: float = 0.6) -> List[str]:
    """Return the known names that are most alike, the best first; capitals do not count."""
    by_lower = {str(candidate).lower(): str(candidate) for candidate in sorted(map(str, known))}
    close = difflib.get_close_matches(str(name).lower(), by_lower, n=most, cutoff=cutoff)
    return [by_lower[candidate] for candidate in close]


def suggestion(name: Any, known: Iterable, *, longer: bool = False) -> str:
    """Return a question that suggests the known names that are most alike; empty if none is.

    Args:
        name: The name that was given.
        known: Those that there are.
        longer: Suggest names too that only begin alike, such as ``tiny-s1l8`` for ``tinny``.
    """
    known = list(known)
    close = similar(name, known)
    is_same = close and close[0].lower() == str(name).lower()
    if longer and not is_same and len(str(name)) >= LEAST:
        beginnings: Dict[str, List[str]] = {}
        for candidate in sorted(map(str, known)):
            beginnings.setdefault(candidate[:len(str(name))], []).append(candidate)
        for beginning in similar(name, beginnings, cutoff=0.8):
            close += [candidate for candidate in beginnings[beginning] if candidate not in close]
    return f'; did you mean {" or ".join(close[:SHOWN])}?' if close else ''


def short(value: Any, longest: int = 60) -> str:
    """Return a value as Python writes it, cut if it is long."""
    text = repr(value)
    return text if len(text) <= longest else f'{text[:longest - 3]}...'


def emptiness(text: Any) -> Optional[str]:
    """Say that a name or a path is empty, as of a variable that is not set; None if it is not."""
    return None if str(text).strip() else f'got {text!r}; is a variable of your script not set?'
