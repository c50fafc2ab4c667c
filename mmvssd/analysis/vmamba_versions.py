"""The ladder of VMamba's versions: what each step from the first to the last costs.

It is VMamba's Fig. 9 (arXiv 2401.10166), without its accuracies, which take trainings. The steps
from V1 to V5 changed how the published code computes V0's network, not what. Here every network
runs on one form of the op, so these steps are one rung.
"""
import csv
import io
import textwrap
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from mmvssd.analysis import result_files
from mmvssd.analysis.scan_patterns import Classifier, Cost, count
from mmvssd.analysis.throughput import Setting, Speed, measure
from mmvssd.errors import ConfigError

PUBLISHED_SIZE = 224  # pixels a side, for which the costs are published
FILE = 'vmamba_versions'


class Rung(NamedTuple):
    """A version: what sets it apart from the one before, and what is published of it.

    Attributes:
        change: In words.
        arch: Settings of a :class:`~mmvssd.models.VMamba`.
        params: Parameters with a head of 1000 classes.
        multiply_adds: Those of an image of 224 x 224 pixels.
        speed: Images per second on an A100, at a batch of 128.
        top1: Accuracy on ImageNet in percent.
    """

    change: str
    arch: dict
    params: int
    multiply_adds: int
    speed: Optional[float] = None
    top1: Optional[float] = None


_V0 = dict(embed_dims=96, depths=(2, 2, 9, 2), d_state=16, version='v0')
_V6 = dict(embed_dims=96, depths=(2, 2, 2, 2), d_state=16, ssm_ratio=2, gated=True, conv=False)
_RATIO_1 = dict(_V6, ssm_ratio=1)
_DEEPER = dict(_RATIO_1, depths=(2, 2, 5, 2))
_V8 = dict(_DEEPER, gated=False)
_STATE_1 = dict(_V8, d_state=1, ssm_ratio=2)

#: By the figure's names; steps whose name there is not certain are called by what they change.
RUNGS: Dict[str, Rung] = {
    'V0': Rung('state 16, gate, conv, no MLP', _V0,
               22_893_448, 5_626_895_040, speed=426),
    'V5': Rung('the same network, faster code', _V0, 22_893_448, 5_626_895_040,
               speed=637, top1=82.2),
    'V6': Rung('MLP, no conv, fewer blocks', _V6,
               28_991_656, 5_632_660_224, speed=811, top1=81.6),
    'ratio 1': Rung('ssm_ratio 1 for 2', _RATIO_1, 22_926_376, 4_018_473_216),
    'deeper': Rung('depths 2 2 5 2 for 2 2 2 2', _DEEPER, 28_256_680, 5_178_818_304, speed=1137),
    'V8': Rung('no gate', _V8, 26_247_592, 4_860_903_168, top1=82.2),
    'state 1': Rung('d_state 1 for 16, ssm_ratio 2', _STATE_1, 30_633_256, 4_833_356_544),
    'V9': Rung('conv without bias: tiny-s2l5', dict(_STATE_1, conv=True),
               30_705_832, 4_857_742_080, speed=1336, top1=82.5),
}


class Row(NamedTuple):
    """A rung as it was counted and timed here.

    Attributes:
        name: A name of :data:`RUNGS`.
        cost: What was counted.
        speed: What was timed; None for a network that stands there already.
        ratio: Speed over that of the first rung.
        difference: Parameters and multiply-adds, as published, less the published ones; None at
            another size than the published one.
    """

    name: str
    cost: Cost
    speed: Optional[Speed]
    ratio: Optional[float]
    difference: Optional[Sequence[int]]

    @property
    def rung(self) -> Rung:
        """What is published of it."""
        return RUNGS[self.name]

    @property
    def published_ratio(self) -> Optional[float]:
        """Published speed over that of the first rung."""
        first = RUNGS['V0'].speed
        return self.rung.speed / first if self.rung.speed and first else None


def compare(*, size: int = PUBLISHED_SIZE, batch: int = 1, device: str = 'cpu',
            rounds: int = 3) -> List[Row]:
    """Count the classifier of each rung and time its inference; rungs take turns.

    Args:
        size: Height and width of the images.
        batch: Images of a step that is timed.
        device: A device of PyTorch.
        rounds: Steps of each rung; the median counts.

    Raises:
        ConfigError: A number is not positive.
    """
    check_numbers(size, batch, rounds)
    archs = {name: rung.arch for name, rung in RUNGS.items()}
    makers = {name: partial(Classifier, arch) for i, (name, arch) in enumerate(archs.items())
              if arch not in list(archs.values())[:i]}
    costs = {name: count(arch, size) for name, arch in archs.items()}
    speeds = {row.model: row for row in measure(
        list(makers), [Setting('infer', batch, size)], makers=makers, device=device,
        rounds=rounds)}
    first = speeds['V0']
    return [Row(name, cost, speeds.get(name),
                first.seconds / speeds[name].seconds if name in speeds else None,
                _difference(name, cost) if size == PUBLISHED_SIZE else None)
            for name, cost in costs.items()]


def check_numbers(size: int, batch: int, rounds: int) -> None:
    """Raise ConfigError, which names the option, unless all are positive."""
    for option, number in (('--size', size), ('--batch', batch), ('--rounds', rounds)):
        if number < 1:
            raise ConfigError(f'{option}: got {number}, expected a positive number')


def _difference(name: str, cost: Cost) -> Sequence[int]:
    return cost.params - RUNGS[name].params, cost.published - RUNGS[name].multiply_adds


def reproduced(row: Row) -> str:
    """Say if a rung's counts are the published ones, to the unit."""
    if row.difference is None:
        return 'other size'
    if not any(row.difference):
        return 'yes'
    return ', '.join(f'{number:+,} {what}' for number, what in
                     zip(row.difference, ('parameters', 'multiply-adds')) if number)


HEADINGS = ('version', 'change', 'params (M)', 'GFLOPs', 'as published', 'images/s',
            'over V0', 'published: images/s', 'over V0', 'top-1')


def _cells(row: Row) -> List[str]:
    numbers = ((row.speed and row.speed.images_per_second, '.2f'), (row.ratio, '.2f'),
               (row.rung.speed, 'g'), (row.published_ratio, '.2f'), (row.rung.top1, '.1f'))
    return [row.name, row.rung.change, f'{row.cost.params / 1e6:.2f}',
            f'{row.cost.published / 1e9:.3f}', reproduced(row),
            *('-' if number is None else format(number, form) for number, form in numbers)]


def print_rows(rows: Sequence[Row], title: str) -> None:
    """Print a table with a row for each rung."""
    table = Table(*HEADINGS, title=title, caption=NOTE)
    for row in rows:
        table.add_row(*_cells(row))
    Console(width=130).print(table)


#: What one must know to read the numbers.
NOTE = ('Published speeds are of an A100 at a batch of 128: compare ratios, not images/s. V5 is '
        "V0's network, so it is timed once. Accuracies are published, none was measured.")


def write_report(rows: Sequence[Row], title: str, folder: Path) -> None:
    """Write ``vmamba_versions`` as ``.csv``, ``.md`` and ``.png``.

    Args:
        rows: What was measured.
        title: Setting and machine.
        folder: Where.

    Raises:
        ConfigError: A file cannot be written.
    """
    for ending, content in (('csv', _as_csv(rows)), ('md', _as_markdown(rows, title)),
                            ('png', draw(rows, title))):
        result_files.write(folder / f'{FILE}.{ending}', content)


def _as_csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(['version', 'change', 'params', 'multiply_adds', 'published_params',
                     'published_multiply_adds', 'counts_as_published', 'images_per_second',
                     'seconds', 'ratio', 'mb_a_step', 'published_images_per_second',
                     'published_ratio', 'published_top1'])
    for row in rows:
        speed = row.speed
        timed = (['', '', '', ''] if speed is None else
                 [speed.images_per_second, speed.seconds, row.ratio, speed.memory])
        writer.writerow([row.name, row.rung.change, row.cost.params, row.cost.published,
                         row.rung.params, row.rung.multiply_adds, reproduced(row), *timed,
                         row.rung.speed, row.published_ratio, row.rung.top1])
    return text.getvalue()


def _as_markdown(rows: Sequence[Row], title: str) -> str:
    lines = [HEADINGS, ['---'] * len(HEADINGS), *map(_cells, rows)]
    table = ''.join(f'| {" | ".join(line)} |\n' for line in lines)
    return f'# {title}\n\n{table}\n{NOTE}\n'


def _short(speed: Any) -> str:
    return f'{speed:.3g}' if speed < 100 else f'{speed:.0f}'


def draw(rows: Sequence[Row], title: str) -> bytes:
    """Draw the speeds over V0's as bars, measured beside published, 800 pixels wide; a PNG."""
    figure = Figure(figsize=(8, 5), dpi=100, layout='constrained')
    axes = figure.subplots()
    for offset, heights, speeds, label in (
            (-0.2, [row.ratio for row in rows],
             [row.speed and row.speed.images_per_second for row in rows], 'measured here'),
            (0.2, [row.published_ratio for row in rows], [row.rung.speed for row in rows],
             'published: A100, batch 128')):
        shown = [i for i, height in enumerate(heights) if height is not None]
        bars = axes.bar([i + offset for i in shown], [heights[i] for i in shown], 0.4, label=label)
        axes.bar_label(bars, [_short(speeds[i]) for i in shown], fontsize=8)
    axes.axhline(1, color='black', linewidth=0.8)
    axes.margins(y=0.12)
    axes.set_xticks(range(len(rows)), [_tick(row) for row in rows], fontsize=7)
    axes.set_ylabel('speed over V0 (numbers: images/s)', fontsize=9)
    axes.legend(fontsize=8, loc='upper left')
    figure.suptitle(f'VMamba from V0 to V9: {title}', fontsize=10)
    note = f'A bar above the line is faster than V0. {NOTE}'
    figure.supxlabel('\n'.join(textwrap.wrap(note, 125)), fontsize=8)
    picture = io.BytesIO()
    figure.savefig(picture, format='png', dpi=100)
    return picture.getvalue()


def _tick(row: Row) -> str:
    top1 = '' if row.rung.top1 is None else f'top-1 {row.rung.top1:.1f} %'
    return (f'{row.name}\n{row.cost.published / 1e9:.2f} GFLOPs\n'
            f'{row.cost.params / 1e6:.1f} M params\n{top1}')
