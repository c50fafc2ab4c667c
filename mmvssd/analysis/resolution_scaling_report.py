"""What models cost at rising resolution, as files and as a table."""
import csv
import io
import json
import math
import textwrap
from pathlib import Path
from typing import Callable, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from mmvssd.analysis.named_models import ModelName
from mmvssd.analysis.published_comparison import comparisons
from mmvssd.analysis.published_speed import Speed
from mmvssd.analysis.resolution_scaling import Count, Missing, Row
from mmvssd.analysis.result_files import compressed, facts, plain, write
from mmvssd.errors import ConfigError
from mmvssd.files import strict_json

NAME = 'resolution_scaling'
#: Of a run's protocol, what a count of multiply-adds depends on.
OF_COUNTS = ('mmvssd', )
KINDS = (Count, Speed, Missing)


class Field(NamedTuple):
    """A column: its heading, its value in a row, how it is written, and if a figure shows it.

    Attributes:
        heading: With the unit.
        value: A number, why there is none, or None.
        format: Of a number.
        panel: Title of its panel in the figure; None leaves it out.
        mode: What it is measured in, if in steps of a batch.
        linear: Its panel has a linear axis, else a logarithmic one.
    """

    heading: str
    value: Callable[[Row], Union[float, Missing, None]]
    format: str
    panel: Optional[str] = None
    mode: Optional[str] = None
    linear: bool = False


def _of_count(read: Callable[[Count], float]) -> Callable[[Row], Union[float, Missing, None]]:
    return lambda row: read(row.count) if isinstance(row.count, Count) else row.count


def _of_speed(mode: str, attribute: str) -> Callable[[Row], Union[float, Missing, None]]:
    def value(row: Row) -> Union[float, Missing, None]:
        speed = row.speeds.get(mode)
        return getattr(speed, attribute) if isinstance(speed, Speed) else speed

    return value


FIELDS = (
    Field('params (M)', _of_count(lambda count: count.params / 1e6), '.2f'),
    Field('GFLOPs in full', _of_count(lambda count: count.full / 1e9), '.3f', 'GFLOPs in full'),
    Field('GFLOPs as published', _of_count(lambda count: count.published / 1e9), '.3f'),
    Field('images/s', _of_speed('infer', 'images_per_second'), '.1f', 'inference, images/s',
          'infer'),
    Field('peak MiB', _of_speed('infer', 'peak_mib'), '.0f', 'inference, peak MiB', 'infer'),
    Field('train images/s', _of_speed('train', 'images_per_second'), '.1f', 'training, images/s',
          'train'),
    Field('train peak MiB', _of_speed('train', 'peak_mib'), '.0f', 'training, peak MiB', 'train'),
    Field('top-1 (%)', lambda row: row.top1, '.2f', 'top-1 (%)', linear=True),
)


def fields_of(rows: Sequence[Row]) -> List[Field]:
    """Return :data:`FIELDS`, and behind them the time a pixel in each mode.

    It is a model's seconds for a pixel over those at the smallest size at which the model was
    timed. If cost grows with the number of pixels, it stays 1. Of a single size there is none.
    """
    return [*FIELDS, *(
        Field(f'{start}time a pixel', _over_smallest(rows, mode), '.2f',
              f'{what}, time a pixel', mode, linear=True)
        for mode, start, what in (('infer', '', 'inference'), ('train', 'train ', 'training')))]


def _over_smallest(rows: Sequence[Row],
                   mode: str) -> Callable[[Row], Union[float, Missing, None]]:
    if len({row.shape for row in rows}) < 2:
        return lambda row: None
    smallest = {}  # of each model
    for row in sorted(rows, key=lambda row: math.prod(row.shape)):
        speed = row.speeds.get(mode)
        if isinstance(speed, Speed):
            smallest.setdefault(row.model, _seconds_a_pixel(row, speed))

    def value(row: Row) -> Union[float, Missing, None]:
        speed = row.speeds.get(mode)
        return (_seconds_a_pixel(row, speed) / smallest[row.model] if isinstance(speed, Speed)
                else speed)

    return value


def _seconds_a_pixel(row: Row, speed: Speed) -> float:
    return 1 / (speed.images_per_second * math.prod(row.shape))


def write_rows(rows: Sequence[Row], protocol: Mapping[str, object], folder: Path) -> None:
    """Write all rows to the JSON.

    Args:
        rows: What was measured so far.
        protocol: How.
        folder: It is there.
    """
    write(folder / f'{NAME}.json', strict_json(
        dict(protocol=protocol, rows=list(map(_entry, rows))), indent=1))


def _entry(row: Row) -> dict:
    return dict(facts(row.model), height=row.shape[0], width=row.shape[1], batch=row.batch,
                count=_encoded(row.count), top1=_encoded(row.top1),
                speeds={mode: _encoded(value) for mode, value in row.speeds.items()})


def _encoded(value):
    return (dict(kind=type(value).__name__, **value._asdict()) if isinstance(value, KINDS)
            else value)


def _decoded(value):
    if not isinstance(value, dict):
        return value
    kinds = {kind.__name__: kind for kind in KINDS}
    return kinds[value['kind']](**{key: value[key] for key in value if key != 'kind'})


def read_rows(protocol: Mapping[str, object], folder: Path) -> List[Row]:
    """Read the rows that :func:`write_rows` wrote, to go on from.

    Of another protocol, as that of another machine, only the counts are taken. Rows of a checkpoint
    that was written since are left out.

    Args:
        protocol: How models are measured.
        folder: Where the rows are, if there are any.

    Raises:
        ConfigError: What is there cannot be read.
    """
    file = folder / f'{NAME}.json'
    if not file.exists():
        return []
    written, rows = load(file, option='--continue')
    if any(written.get(key) != protocol[key] for key in OF_COUNTS):
        print(f'{file}: is of another version; all is measured again')
        return []
    rows = [row for told, row in rows if told == facts(row.model)]
    if written == dict(protocol):
        return rows
    print(f'{file}: is of other settings, versions or another machine; of what is there only the '
          'counts are kept')
    return [Row(row.model, row.shape, row.batch, row.count) for row in rows if row.count]


def load(file: Path, option: str = '') -> Tuple[dict, List[Tuple[dict, Row]]]:
    """Read a JSON of :func:`write_rows`.

    Args:
        file: The JSON.
        option: That names it, for the error.

    Returns:
        The protocol; and of each row what told its model and checkpoint apart, and the row.

    Raises:
        ConfigError: It cannot be read, or is another file.
    """
    try:
        content = json.loads(file.read_text())
        rows = [_row(entry) for entry in content['rows']]
        return dict(content['protocol']), rows
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        start = f'{option}: ' if option else ''
        advice = 'run it anew, without --continue' if option else 'name a JSON that it wrote'
        raise ConfigError(f'{start}{file} cannot be read as a result of resolution_scaling.py '
                          f'({type(error).__name__}: {error}); {advice}') from error


def _row(entry: dict) -> Tuple[dict, Row]:
    model = ModelName(entry['model'], entry['checkpoint'], entry['label'])
    row = Row(model, (entry['height'], entry['width']), entry['batch'], _decoded(entry['count']),
              {mode: _decoded(value) for mode, value in entry['speeds'].items()},
              _decoded(entry['top1']))
    return {key: entry[key] for key in facts(model)}, row


def cell(field: Field, row: Row) -> str:
    """Write a value, the batch beside it if that is not the one asked for, or why there is none."""
    value = field.value(row)
    if value is None:
        return '-'
    if isinstance(value, Missing):
        return value.text
    speed = row.speeds.get(field.mode) if field.mode else None
    batch = speed.batch if isinstance(speed, Speed) else row.batch
    return f'{value:{field.format}}' + f' (batch {batch})' * (batch != row.batch)


def _used(rows: Sequence[Row]) -> List[Field]:
    """Return the columns that have something to show in any row."""
    return [field for field in fields_of(rows) if any(field.value(row) is not None for row in rows)]


def write_report(rows: Sequence[Row], title: str, folder: Path) -> None:
    """Write ``resolution_scaling`` as ``.csv``, ``.md`` and ``.png``.

    Args:
        rows: What was measured.
        title: Machine, versions and procedure.
        folder: It is there.
    """
    write(folder / f'{NAME}.csv', as_csv(rows))
    write(folder / f'{NAME}.md', as_markdown(rows, title))
    write(folder / f'{NAME}.png', draw(rows, title))


def as_csv(rows: Sequence[Row]) -> str:
    """Write rows with all digits, and the batches that speeds were measured with."""
    text = io.StringIO()
    writer = csv.writer(text)
    behind = fields_of(rows)[len(FIELDS):]  # of the batches, which older files end with
    writer.writerow(['model', 'size', 'batch', *(field.heading for field in FIELDS),
                     'infer batch', 'train batch', *(field.heading for field in behind)])
    for row in rows:
        batches = [speed.batch if isinstance(speed, Speed) else None
                   for speed in map(row.speeds.get, ('infer', 'train'))]
        writer.writerow([row.model.label, row.size, row.batch, *_exact(FIELDS, row), *batches,
                         *_exact(behind, row)])
    return text.getvalue()


def _exact(fields: Sequence[Field], row: Row) -> List[Union[float, str]]:
    values = [field.value(row) for field in fields]
    return ['' if value is None else value.reason if isinstance(value, Missing) else value
            for value in values]


def as_markdown(rows: Sequence[Row], title: str) -> str:
    """Write rows as a table, why values are missing, and tables beside the published numbers."""
    used = _used(rows)
    lines = [['model', 'size', 'batch', *(field.heading for field in used)]]
    lines.append(['---'] * len(lines[0]))
    lines += [[row.model.label.replace('|', '/'), row.size, str(row.batch),
               *(cell(field, row) for field in used)] for row in rows]
    table = ''.join(f'| {" | ".join(line)} |\n' for line in lines)
    missing = ''.join(f'- {line}\n' for line in notes(rows))
    return '\n'.join(filter(None, (f'{title}\n', table, missing, comparisons(rows))))


def notes(rows: Sequence[Row]) -> List[str]:
    """Return a line for each reason for which values are missing, with all that it holds for."""
    places = {}
    for row in rows:
        for what, value in (('count', row.count), *row.speeds.items(), ('top-1', row.top1)):
            if isinstance(value, Missing):
                places.setdefault(value.reason, []).append(f'{row.model.label} {row.size} {what}')
    return [f'{reason}: {", ".join(found)}' for reason, found in places.items()]


def print_rows(rows: Sequence[Row], title: str) -> None:
    """Print a table with a row for each model and size."""
    used = _used(rows)
    table = Table(Column('model', overflow='fold'), 'size', 'batch',
                  *(Column(field.heading, justify='right') for field in used), title=title)
    for row in rows:
        table.add_row(escape(row.model.label), row.size, str(row.batch),
                      *(cell(field, row) for field in used))
    Console(width=120).print(table)


def draw(rows: Sequence[Row], title: str) -> bytes:
    """Draw each quantity over the image's side, a line for each model; return a PNG.

    A panel is there for each quantity that was measured. Sides of images that are no squares are
    those of a square with as many pixels.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator
    panels = [field for field in fields_of(rows) if field.panel and any(map(_is_number, map(
        field.value, rows)))]
    models = list(dict.fromkeys(row.model for row in rows))
    sides = sorted({math.sqrt(math.prod(row.shape)) for row in rows})
    across = min(len(panels), 2) or 1
    lines = math.ceil(len(panels) / across) or 1
    figure = Figure(figsize=(8, 3.3 * lines + 1.3), layout='constrained')
    grid = figure.subplots(lines, across, squeeze=False)
    for axes in grid.flat[len(panels):]:
        axes.axis('off')
    for axes, field in zip(grid.flat, panels):
        for index, model in enumerate(models):
            points = sorted((math.sqrt(math.prod(row.shape)), field.value(row)) for row in rows
                            if row.model == model and _is_number(field.value(row)))
            axes.plot(*zip(*points) if points else ([], []), label=plain(model.label),
                      marker='osD^vPX*'[index % 8], markersize=5, color=f'C{index % 10}')
        axes.set_xscale('log')
        if not field.linear:
            axes.set_yscale('log')
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter('{x:g}')
            axes.yaxis.set_minor_formatter('')
        axes.set_title(field.panel, fontsize=11)
        axes.set_xticks(sides, [f'{side:.0f}' for side in sides])
        axes.set_xticks([], minor=True)
        axes.tick_params(labelsize=9)
        axes.set_xlabel('side of the image, pixels', fontsize=10)
        axes.set_ylabel(field.heading, fontsize=10)
        axes.grid(alpha=0.3, which='both')
    figure.suptitle('\n'.join([
        'Cost of classifiers at rising resolution', *textwrap.wrap(title.partition(': ')[2], 100),
        *textwrap.wrap(_reading(panels), 100)]), fontsize=10)
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc='outside lower center', ncols=3,
                  fontsize=9)
    return compressed(figure)


def _reading(panels: Sequence[Field]) -> str:
    text = ('What to see: cost that grows with the number of pixels is a straight line. That of a '
            'model that attends to all pairs of tokens bends upwards. A single size is a dot.')
    if any('time a pixel' in field.heading for field in panels):
        text += " Time a pixel is over that at the model's smallest size."
    return text


def _is_number(value) -> bool:
    return isinstance(value, (int, float))
