"""Names of classes of a checkpoint beside those of other data: what their numbers mean."""
from collections import Counter
from typing import Dict, List, Sequence

from mmvssd.errors import printable


def are_reordered(trained: Sequence, named: Sequence) -> bool:
    """Tell whether names are the same in another order, or most of the common ones are elsewhere.

    Capitals and blanks at the ends do not count. A name that stands twice has no place of its own,
    nor has a number: the same classes may be counted from 0 or from 1.
    """
    trained, named = _plain(trained), _plain(named)
    if trained == named:
        return False
    places, others = _places(trained), _places(named)
    common = places.keys() & others.keys()
    moved = sum(places[name] != others[name] for name in common)
    return Counter(trained) == Counter(named) or moved > len(common) - moved


def first_difference(trained: Sequence, named: Sequence) -> str:
    """Say which class is the first to have two names, of two lists as long as each other."""
    place = next((place for place, (before, now) in enumerate(zip(_plain(trained), _plain(named)))
                  if before != now), None)
    if place is None:  # in their spelling only
        place = next(place for place, (before, now) in enumerate(zip(trained, named))
                     if before != now)
    return printable(f'number {place} is {trained[place]!r} in the checkpoint and '
                     f'{named[place]!r} in the data')


def _plain(names: Sequence) -> List[str]:
    return [str(name).strip().casefold() for name in names]


def _places(names: List[str]) -> Dict[str, int]:
    counts = Counter(names)
    return {name: place for place, name in enumerate(names)
            if counts[name] == 1 and not name.isdecimal()}
