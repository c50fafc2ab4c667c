"""Receptive fields as a figure, a table and files."""
import csv
import io
import json
import math
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from mmvssd.analysis.named_models import ModelName
from mmvssd.analysis.receptive_field import DISPLAYS, SHARES, ReceptiveField, Row, numbers
from mmvssd.analysis.result_files import compressed, facts, plain, write
from mmvssd.errors import ConfigError
from mmvssd.files import strict_json

#: What the colours of a figure stand for; each takes (H, W) and gives 0 .. 1.
FIGURES: Dict[str, Callable[[np.ndarray], np.ndarray]] = {
    'power': DISPLAYS['power'],
    'log': lambda a: DISPLAYS['log'](a) / DISPLAYS['log'](a).max(),
    'linear': lambda a: a / a.max(),
}
FORMULAS = {'power': '(a / max a)$^{0.2}$', 'log': 'log$_{10}$(a + 1), over its maximum',
            'linear': 'a / max a'}
JSON = 'receptive_field.json'
ACROSS = 4  # panels in a line, legible at a width of 800 pixels


def write_rows(rows: Sequence[Row], protocol: Mapping[str, object], folder: Path) -> None:
    """Write the last row's map, float32 (H, W), to ``<title>.npy``, and all rows to the JSON.

    Args:
        rows: What was measured so far.
        protocol: How.
        folder: It is there.
    """
    content = io.BytesIO()
    np.save(content, rows[-1].field.map.astype(np.float32))
    write(folder / f'{rows[-1].title}.npy', content.getvalue())
    entries = [_entry(row) for row in rows]
    write(folder / JSON, strict_json(dict(protocol=protocol, models=entries), indent=1))


def read_rows(models: Sequence[ModelName], protocol: Mapping[str, object],
              folder: Path) -> List[Row]:
    """Read the rows that :func:`write_rows` wrote for these models by the same protocol.

    Rows of a checkpoint that was written since are left out.

    Args:
        models: The models.
        protocol: How they are measured; what the figure looks like does not count.
        folder: Where the rows are, if there are any.

    Raises:
        ConfigError: What is there cannot be read.
    """
    file = folder / JSON
    if not file.exists():
        return []
    try:
        content = json.loads(file.read_text())
        if {**content['protocol'], 'display': ''} != {**protocol, 'display': ''}:
            print(f'{file}: is of other settings, versions or another machine; all is measured '
                  'again')
            return []
        rows = []
        for model in models:
            for entry in content['models']:
                if facts(model) == {key: entry[key] for key in facts(model)}:
                    values = np.load(folder / entry['map']).astype(np.float64)
                    rows.append(Row(model, entry['state'], ReceptiveField(
                        values, tuple(entry['grid']), entry['images_used'],
                        entry['images_left_out'])))
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f'--continue: {file} or a map beside it cannot be read '
                          f'({type(error).__name__}: {error}); start anew without it') from error
    return rows


def write_report(rows: Sequence[Row], folder: Path, display: str = 'power') -> None:
    """Write ``receptive_field`` as ``.csv``, ``.md`` and ``.png``.

    Args:
        rows: What was measured.
        folder: It is there.
        display: One of :data:`FIGURES`.
    """
    for ending, content in (('csv', _as_csv(rows)), ('md', _as_markdown(rows)),
                            ('png', draw(rows, display))):
        write(folder / f'receptive_field.{ending}', content)


def _entry(row: Row) -> dict:
    return dict(facts(row.model), state=row.state, map=f'{row.title}.npy',
                grid=list(row.field.grid), images_used=row.field.used,
                images_left_out=row.field.left_out, **numbers(row.field))


def _columns() -> List[str]:
    return ['model', 'state', 'grid', 'images', 'left out',
            *(f'{display} {share} {what}' for display in DISPLAYS for share in SHARES
              for what in ('side', 'area')),
            'cross', 'cross of a uniform map', 'coverage']


def _cells(row: Row) -> list:
    found = numbers(row.field)
    return [row.title, row.state, '{} x {}'.format(*row.field.grid), row.field.used,
            len(row.field.left_out),
            *(found[what][display][str(share)] for display in DISPLAYS for share in SHARES
              for what in ('sides', 'areas')),
            found['cross'], found['cross_uniform'], found['coverage']]


def _text(cell) -> str:
    return ('not reached' if cell is None else f'{cell:.4f}' if isinstance(cell, float)
            else str(cell))


def _as_csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_columns())
    writer.writerows(['not reached' if cell is None else cell for cell in _cells(row)]
                     for row in rows)
    return text.getvalue()


def _as_markdown(rows: Sequence[Row]) -> str:
    lines = [_columns(), ['---'] * len(_columns()), *([_text(cell) for cell in _cells(row)]
                                                      for row in rows)]
    return ''.join(f'| {" | ".join(cell.replace("|", "/") for cell in line)} |\n'
                   for line in lines)


def print_rows(rows: Sequence[Row], title: str) -> None:
    """Print a table with the sides of the raw maps, cross and coverage."""
    table = Table(Column('model', overflow='fold'), 'state', 'grid',
                  *(f'{share:g}' for share in SHARES), 'cross / uniform', 'coverage', title=title,
                  caption='0.2 to 0.99: side in pixels of the square around the centre that holds '
                  "this share of the map; cross: share in the centre's rows and columns, beside "
                  "a uniform map's; coverage: share of the pixels above a hundredth of the maximum")
    for row in rows:
        found = numbers(row.field)
        sides = found['sides']['raw'].values()
        table.add_row(escape(row.model.label), row.state, '{} x {}'.format(*row.field.grid),
                      *('not reached' if side is None else str(side) for side in sides),
                      f'{found["cross"]:.3f} / {found["cross_uniform"]:.3f}',
                      f'{found["coverage"]:.3f}')
    Console(width=100).print(table)


def draw(rows: Sequence[Row], display: str = 'power') -> bytes:
    """Draw the maps, a column for each model, states before above those after; return a PNG."""
    from matplotlib.figure import Figure
    models = list(dict.fromkeys(row.model for row in rows))
    states = 1 + any(row.state == 'before' for row in rows)
    lines = math.ceil(len(models) / ACROSS)
    across = math.ceil(len(models) / lines)
    H, W = rows[0].field.map.shape
    figure = Figure(figsize=(2.4 * max(across, 3) + 1.2,  # with fewer the texts would not fit
                             2.75 * states * lines + 1), layout='compressed')
    grid = figure.subplots(states * lines, across, squeeze=False)
    for axes in grid.flat:
        axes.axis('off')
    for row in rows:
        line, column = divmod(models.index(row.model), across)
        axes = grid[states * line + (states - 1) * (row.state != 'before'), column]
        axes.axis('on')
        shown = axes.imshow(FIGURES[display](row.field.map), cmap='RdYlGn', vmin=-1, vmax=1)
        label = plain(row.model.label)
        axes.set_title(f'{label}\n{_state(row, states > 1)}', fontsize=10)
        axes.set_xticks([0, W // 2, W - 1], [0, W // 2, W])
        axes.set_yticks([0, H // 2, H - 1], [0, H // 2, H])
        axes.tick_params(labelsize=9)
        axes.set_xlabel('pixels', fontsize=9)
    for axes in grid[:, 0]:
        axes.set_ylabel('pixels', fontsize=9)
    bar = figure.colorbar(shown, ax=grid, boundaries=np.linspace(0, 1, 129),
                          ticks=[0, 0.25, 0.5, 0.75, 1], shrink=0.8)
    bar.set_label(FORMULAS[display], fontsize=10)
    images = max(row.field.used for row in rows)
    figure.suptitle(f'Effective receptive field, {W} x {H} pixels, mean of {images} '
                    f'image{"s" * (images > 1)}', fontsize=12)
    figure.supxlabel('Green: pixels that move the centre of the last feature map; a is the '
                     'gradient to the pixel.\nA spot: local. A cross: rows and columns. Green '
                     'everywhere: global.', fontsize=10)
    return compressed(figure)


def _state(row: Row, upper: bool) -> str:
    return {'fresh': 'untrained', 'before': 'untrained',
            'trained': 'after training' if upper else 'trained'}[row.state]
