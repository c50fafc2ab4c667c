"""A count of parameters and multiply-adds as tables."""
from typing import Iterator, List, Optional

from rich import box
from rich.console import Console
from rich.table import Table

from mmvssd.analysis.complexity import Complexity


def report(complexity: Complexity, title: str, console: Optional[Console] = None) -> None:
    """Print a count: parts, operations, and what is not counted."""
    console = console or Console()
    H, W = complexity.shape
    parts = _table('part', 'class', 'params (M)')
    for part in complexity.parts:
        top, _, inner = part.name.partition('.')
        parts.add_row(f'  {inner}' if inner else top, part.kind, f'{part.params / 1e6:.3f}',
                      *_giga(part.full, part.published))
    parts.add_section()
    parts.add_row('total', '', f'{complexity.params / 1e6:.3f}',
                  *_giga(complexity.full, complexity.published))
    operations = _table('operation')
    for op, pair in complexity.operations.items():
        operations.add_row(op, *_giga(*pair))
    _print_line(console, f'{title}: GFLOPs over one image of {H} x {W} (height x width)')
    console.print(parts, operations)
    for line in _footnotes(complexity):
        _print_line(console, line)


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(first, no_wrap=True)
    for heading in (*others, 'in full', 'published'):
        table.add_column(heading, justify='left' if heading == 'class' else 'right')
    return table


def _print_line(console: Console, line: str) -> None:
    # names are printed as they are, and not broken in two
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _giga(*counts: int) -> List[str]:
    return [f'{count / 1e9:.3f}' for count in counts]


def _footnotes(complexity: Complexity) -> Iterator[str]:
    yield 'One multiply-add counts as one. The columns differ in nc_ssd and in broadcast products.'
    uncounted = [f'{op} x {times}' for op, times in complexity.uncounted.items()]
    yield f'Not counted: {", ".join(uncounted) or "nothing"}'
    for op, what in complexity.left_out.items():
        yield f'Not counted inside {op}: {what}'
    uncalled = [f'{module.name} ({module.kind}, {module.params / 1e6:.3f} M parameters)'
                for module in complexity.uncalled]
    yield f'Never called: {", ".join(uncalled) or "no module"}'
