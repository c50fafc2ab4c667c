"""How far a command has come, on stderr."""
import contextlib
import importlib.util
import itertools
import sys
from typing import Callable, Iterator


@contextlib.contextmanager
def progress(doing: str, total: int) -> Iterator[Callable[[str], None]]:
    """Return a function that reports progress on stderr, with rich if it is installed."""
    if importlib.util.find_spec('rich') is None:
        numbers = itertools.count(1)
        yield lambda text: print(f'[{next(numbers)}/{total}] {text}', file=sys.stderr, flush=True)
        return
    from rich.console import Console
    from rich.progress import Progress
    with Progress(console=Console(stderr=True, soft_wrap=True)) as bar:
        task = bar.add_task(doing, total=total)

        def advance(text: str) -> None:
            bar.console.print(text, markup=False, highlight=False)
            bar.advance(task)

        yield advance
