"""Measured speeds as a table, a CSV and a plot; the first model is the yardstick."""
import csv
import io
import math
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, List, Mapping, Optional, Sequence, Tuple

import torch
from rich.console import Console
from rich.table import Column, Table

from mmvssd.analysis.throughput import Setting, Speed, Times
from mmvssd.files import write_whole
from mmvssd.phrases import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def machine(device: str) -> str:
    """Name the machine of a measurement, for a title."""
    name = (torch.cuda.get_device_name(device) if torch.device(device).type == 'cuda'
            else f'{platform.machine()} CPU, {counted(torch.get_num_threads(), "thread")}')
    return f'{name}, PyTorch {torch.__version__}'


def ratio(row: Speed, rows: Sequence[Speed]) -> float:
    """Speed over that of the first model in the same setting."""
    first = next(other for other in rows if other.setting == row.setting)
    return first.seconds / row.seconds


def slowdowns(row: Speed) -> Tuple[float, float]:
    """Return a step's seconds, and its CPU seconds, on the busy machine over the quiet one's."""
    busy, quiet = row.busy, row.times
    if busy is None or quiet is None:
        return math.nan, math.nan
    return (busy.seconds / quiet.seconds,
            busy.cpu_seconds / quiet.cpu_seconds if quiet.cpu_seconds else math.nan)


def print_speeds(rows: Sequence[Speed], title: str) -> None:
    """Print a table with a row for each setting and model."""
    columns: List[Any] = ['setting', Column('model', overflow='fold'), 'images/s',
               Column('ms a step', no_wrap=True), 'ratio', 'MB a step']
    caption = [f'ratio: speed over that of {rows[0].model} in the same setting']
    if any(row.times for row in rows):
        caption.append('ms: median over rounds (quartiles)')
    busy = any(row.busy for row in rows)
    if busy:
        columns += [Column('ms, busy', no_wrap=True), 'busy: time', 'busy: CPU time']
        caption.append('busy: over the same on the quiet machine')
    table = Table(*columns, title=title, caption='; '.join(caption))
    for row in rows:
        cells = [str(row.setting), row.model, f'{row.images_per_second:.2f}',
                 _milliseconds(row.times) if row.times else f'{1000 * row.seconds:.1f}',
                 f'{ratio(row, rows):.2f}', f'{row.memory:.0f}' if row.memory else '-']
        if row.busy:
            cells += [_milliseconds(row.busy), *(f'{value:.2f}' for value in slowdowns(row))]
        table.add_row(*cells)
    Console(width=150 if busy else 120).print(table)


def _milliseconds(times: Times) -> str:
    return (f'{1000 * times.seconds:.1f} '
            f'({1000 * times.low:.1f} to {1000 * times.high:.1f})')


#: Columns behind all others: readers of older files find theirs where they were.
TIMES = ('seconds_low', 'seconds_high', 'cpu_seconds')
BUSY = ('busy_seconds', 'busy_seconds_low', 'busy_seconds_high', 'busy_cpu_seconds',
        'busy_over_quiet', 'busy_cpu_over_quiet')


def write_speeds(rows: Sequence[Speed], file: Path,
                 facts: Optional[Mapping[str, Mapping[str, object]]] = None) -> None:
    """Write a CSV with a row for each setting and model.

    Args:
        rows: What was measured.
        file: The CSV; its folder is there.
        facts: Further columns of each model, the same for all.
    """
    facts = facts or {row.model: {} for row in rows}
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(['setting', 'model', 'images_per_second', 'seconds', 'ratio', 'mb_a_step',
                     *facts[rows[0].model], *TIMES, *BUSY])
    for row in rows:
        times = row.times[1:] if row.times else [''] * len(TIMES)
        busy = [*row.busy, *slowdowns(row)] if row.busy else [''] * len(BUSY)
        writer.writerow([row.setting, row.model, row.images_per_second, row.seconds,
                         ratio(row, rows), row.memory, *facts[row.model].values(), *times, *busy])
    write_whole(file, text.getvalue())


def plot_speeds(rows: Sequence[Speed], title: str, file: Path) -> None:
    """Draw the ratios as bars, in a group for each setting, to a PNG.

    A line on a bar reaches from one quartile of its seconds to the other. What a busy machine adds
    has a panel of its own, if it was measured.
    """
    from matplotlib.figure import Figure
    settings = list(dict.fromkeys(row.setting for row in rows))
    panels: List[tuple] = [(f'speed over {rows[0].model}', lambda row: ratio(row, rows), _spread)]
    if all(row.busy for row in rows):
        panels.append(('busy: seconds over quiet', lambda row: slowdowns(row)[0], None))
        panels.append(('busy: CPU seconds over quiet', lambda row: slowdowns(row)[1], None))
    heights = [3.5, *[2.2] * (len(panels) - 1)]
    figure = Figure(figsize=(2 + 2.6 * len(settings), 1 + sum(heights)), layout='constrained')
    grid = figure.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0]
    for axes, (label, height, spread) in zip(grid, panels):
        _bars(axes, rows, settings, height, spread)
        axes.set_ylabel(label)
    grid[0].set_title(title, fontsize=9)
    grid[-1].legend(fontsize=8, ncols=2, loc='upper center', bbox_to_anchor=(0.5, -0.08))
    picture = io.BytesIO()
    figure.savefig(picture, dpi=150, format='png')
    write_whole(file, picture.getvalue())


def _bars(axes: 'Axes', rows: Sequence[Speed], settings: Sequence[Setting],
          height: Callable[[Speed], float],
          spread: Optional[Callable[[Speed, float], Tuple[float, float]]]) -> None:
    from matplotlib import colormaps
    models = list(dict.fromkeys(row.model for row in rows))
    width = 0.8 / len(models)
    # more models than the usual ten colours take each in two shades
    axes.set_prop_cycle(color=colormaps['tab10' if len(models) <= 10 else 'tab20'].colors)
    for i, model in enumerate(models):
        own = [row for row in rows if row.model == model]
        heights = [height(row) for row in own]
        errors = spread and list(zip(*map(spread, own, heights)))
        places = [j + (i - (len(models) - 1) / 2) * width for j in range(len(settings))]
        bars = axes.bar(places, heights, width, label=model, yerr=errors,
                        error_kw=dict(elinewidth=0.8))
        axes.bar_label(bars, fmt='%.2f', fontsize=7, padding=1.5,  # the line at 1 strikes none out
                       bbox=dict(facecolor='white', edgecolor='none', pad=0.4))
    axes.axhline(1, color='black', linewidth=0.8)
    axes.set_xticks(range(len(settings)), [str(setting) for setting in settings])


def _spread(row: Speed, ratio: float) -> Tuple[float, float]:
    """Return how far below and above a ratio those of its seconds' quartiles lie."""
    if row.times is None:
        return 0., 0.
    return (ratio * (1 - row.times.seconds / row.times.high),
            ratio * (row.times.seconds / row.times.low - 1))
