"""Measured speeds as a table, a CSV and a plot; the first model is the yardstick."""
import csv
import io
import platform
from pathlib import Path
from typing import Mapping, Optional, Sequence

import torch
from rich.console import Console
from rich.table import Table

from mmvssd.analysis.throughput import Speed
from mmvssd.files import write_whole


def machine(device: str) -> str:
    """Name the machine of a measurement, for a title."""
    name = (torch.cuda.get_device_name(device) if torch.device(device).type == 'cuda'
            else f'{platform.machine()} CPU, {torch.get_num_threads()} threads')
    return f'{name}, PyTorch {torch.__version__}'


def ratio(row: Speed, rows: Sequence[Speed]) -> float:
    """Speed over that of the first model in the same setting."""
    first = next(other for other in rows if other.setting == row.setting)
    return first.seconds / row.seconds


def print_speeds(rows: Sequence[Speed], title: str) -> None:
    """Print a table with a row for each setting and model."""
    table = Table('setting', 'model', 'images/s', 'ms a step', 'ratio', 'MB a step', title=title,
                  caption=f'ratio: speed over that of {rows[0].model} in the same setting')
    for row in rows:
        table.add_row(str(row.setting), row.model, f'{row.images_per_second:.2f}',
                      f'{1000 * row.seconds:.1f}', f'{ratio(row, rows):.2f}',
                      f'{row.memory:.0f}' if row.memory else '-')
    Console().print(table)


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
                     *facts[rows[0].model]])
    for row in rows:
        writer.writerow([row.setting, row.model, row.images_per_second, row.seconds,
                         ratio(row, rows), row.memory, *facts[row.model].values()])
    write_whole(file, text.getvalue())


def plot_speeds(rows: Sequence[Speed], title: str, file: Path) -> None:
    """Draw the ratios as bars, in a group for each setting, to a PNG."""
    from matplotlib.figure import Figure
    settings = list(dict.fromkeys(row.setting for row in rows))
    models = list(dict.fromkeys(row.model for row in rows))
    figure = Figure(figsize=(2 + 2.6 * len(settings), 4.5), layout='constrained')
    axes = figure.subplots()
    width = 0.8 / len(models)
    for i, model in enumerate(models):
        heights = [ratio(row, rows) for row in rows if row.model == model]
        places = [j + (i - (len(models) - 1) / 2) * width for j in range(len(settings))]
        axes.bar_label(axes.bar(places, heights, width, label=model), fmt='%.2f', fontsize=7)
    axes.axhline(1, color='black', linewidth=0.8)
    axes.set_xticks(range(len(settings)), [str(setting) for setting in settings])
    axes.set_ylabel(f'speed over {models[0]}')
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=8, ncols=2, loc='upper center', bbox_to_anchor=(0.5, -0.08))
    picture = io.BytesIO()
    figure.savefig(picture, dpi=150, format='png')
    write_whole(file, picture.getvalue())
