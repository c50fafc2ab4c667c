"""Loss and score curves of runs, read from what MMEngine logs and drawn to a PNG."""
import io
import json
import re
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from mmvssd.errors import ConfigError, printable
from mmvssd.files import write_whole
from mmvssd.paths import seen_from
from mmvssd.phrases import counted, numbered

#: What a line of the log holds beside losses and scores.
PLACE = ('step', 'iter', 'epoch')
#: Measured at each step, and no result.
COSTS = ('time', 'data_time', 'memory', 'eta')
#: COCO's AP at one overlap or size: not drawn unless asked for.
PARTIAL_SCORE = re.compile(r'AP_(50|75|s|m|l)$')

PANEL_WIDTH, PANEL_HEIGHT = 6.0, 3.6  # inches
COLUMNS = 2


class Point(NamedTuple):
    """A value of a curve."""

    step: int
    value: float
    iteration: Optional[int]  # up to which the run had trained; None if it is not known


class Curve(NamedTuple):
    """The values of one key in one run, by step."""

    axis: str  # 'iteration' or 'epoch'
    is_score: bool  # from a validation, and not from a training step
    points: List[Point]


#: The curves of a run by key.
Run = Dict[str, Curve]


def read_run(path: Path, damage: Optional[List[str]] = None) -> Run:
    """Read the curves of a run.

    Args:
        path: A work dir, or a ``scalars.json``. A work dir has one such file for each start of the
            run. Where a later one begins, what the earlier ones logged from that iteration on is
            left out: it was trained again.
        damage: Takes a text for each file with lines that cannot be read, which are left out then.
            By default they are an error.

    Raises:
        ConfigError: There is no such path, no curve in it, or a line that is none of MMEngine's.
    """
    run: Run = {}
    for file in files_of(path):
        later = _read_file(file, damage)
        starts = [point.iteration for curve in later.values() if not curve.is_score
                  for point in curve.points if point.iteration is not None]
        run = _join(run, later, min(starts, default=None))
    if not run:
        raise ConfigError(f'{path}: no loss and no score was logged yet; a training logs its first '
                          'after default_hooks.logger.interval iterations')
    return run


def files_of(path: Path) -> List[Path]:
    """Return the logged files of a run, one for each start.

    Raises:
        ConfigError: There is no such path, or no such file in it.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ConfigError(f'{path}: no such work dir or scalars.json{seen_from(path)}')
    # a run's folder is named by the time of its start
    files = sorted(path.glob('*/vis_data/scalars.json')) or list(path.glob('**/scalars.json'))
    if not files:
        raise ConfigError(f'{path}: holds no <time>/vis_data/scalars.json, which training writes; '
                          'name the --work-dir of a training')
    return files


def is_measured(key: str, value: Any) -> bool:
    """Tell whether a value is a number that something was measured by.

    COCO's evaluation gives -1 for sizes of which there are no objects.
    """
    return isinstance(value, (int, float)) and not (value == -1 and key.startswith('coco/'))


def _read_file(file: Path, damage: Optional[List[str]]) -> Run:
    curves: Run = {}
    entries = entries_of(file, damage)
    first = next((entry for entry in entries if 'iter' in entry), {})
    last = dict(epoch=first.get('epoch', 0))  # the newest line of a training step
    for entry in entries:
        is_score = 'iter' not in entry
        if not is_score:
            last = entry
        axis = _axis(entry, last) if is_score else 'iteration'
        iteration = (entry.get('iter') or (entry['step'] if axis == 'iteration' else
                                           last.get('iter')))
        for key, value in entry.items():
            if key not in PLACE + COSTS and is_measured(key, value):
                curve = curves.setdefault(key, Curve(axis, is_score, []))
                curve.points.append(Point(entry['step'], value, iteration))
    return curves


def entries_of(file: Path, damage: Optional[List[str]] = None) -> List[dict]:
    """Return the lines of a log; the last one may be half written, of a run that goes on or ended.

    Args:
        file: The log.
        damage: As of :func:`read_run`; a file that cannot be opened is such damage, too.

    Raises:
        ConfigError: A line is none of MMEngine's.
        OSError: The file cannot be opened.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        if damage is None:
            raise
        damage.append(f'{file} cannot be read ({error.strerror or error})')
        return []
    lines, entries, faults = content.splitlines(), [], []
    for number, line in enumerate(lines, 1):
        try:
            entries.append(_entry(line))
        except (ValueError, RecursionError) as error:
            is_half = isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)) and (
                damage is None or not content.endswith(b'\n'))
            if number == len(lines) and is_half:
                break
            if damage is None:
                raise ConfigError(
                    f'{file}, line {number}: got {line[:60].decode(errors="backslashreplace")!r}, '
                    'expected what MMEngine logs: a JSON object with a step') from error
            faults.append(number)
    if faults and damage is not None:
        damage.append(f'{file}: ' + numbered(
            f'{{}} of {counted(len(lines), "line")} cannot be read and [is|are] left out; '
            f'the first is line {faults[0]}', len(faults)))
    return entries


def _entry(line: bytes) -> dict:
    entry = json.loads(line.decode())
    if not isinstance(entry, dict) or 'step' not in entry:
        raise ValueError('no step')
    if not all(isinstance(entry.get(key, 0), int) for key in PLACE):
        raise ValueError(f'{", ".join(PLACE)} are whole numbers')
    return entry


def _axis(entry: dict, last: dict) -> str:
    """Find whether the steps of scores are epochs or iterations, which MMEngine does not say."""
    return 'epoch' if entry['step'] <= last.get('epoch', 0) else 'iteration'


def _join(run: Run, later: Run, start: Optional[int]) -> Run:
    """Join the curves of a run that was started again and first logged at iteration ``start``."""
    joined: Run = {}
    for key in {**run, **later}:
        earlier = [point for point in run[key].points
                   if start is None or point.iteration is None or point.iteration < start
                   ] if key in run else []
        newer = later[key].points if key in later else []
        points = {point.step: point for point in [*earlier, *newer]}
        if points:
            axis, is_score, _ = run.get(key) or later[key]
            joined[key] = Curve(axis, is_score, [points[step] for step in sorted(points)])
    return joined


def name_runs(paths: Sequence[Path]) -> List[str]:
    """Short names for a legend: the last parts of the paths, as many as tell them apart."""
    parts = [path.resolve().parts for path in paths]
    # of <work dir>/<time>/vis_data/scalars.json
    parts = [part[:-2] if part[-2:] == ('vis_data', 'scalars.json') else part for part in parts]
    for count in range(1, max(map(len, parts)) + 1):
        names = ['/'.join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise ConfigError(f'{", ".join(map(str, paths))}: the same run twice')


def choose_keys(runs: Sequence[Run], wanted: Optional[Sequence[str]] = None) -> List[str]:
    """Choose the keys to draw, one panel each.

    Args:
        runs: What there is.
        wanted: Keys that were asked for; None takes the total loss, each score (of COCO's the
            averages), and the learning rate.

    Raises:
        ConfigError: No run has a key; those that there are are listed.
    """
    curves = {key: curve for run in runs for key, curve in run.items()}
    unknown = [key for key in wanted or () if key not in curves]
    if unknown:
        raise ConfigError(f'--keys: {", ".join(unknown)} was not logged; there are '
                          f'{", ".join(sorted(curves))}')
    if wanted:
        return list(dict.fromkeys(wanted))
    scores = [key for key, curve in curves.items()
              if curve.is_score and not PARTIAL_SCORE.search(key)]
    return [key for key in ('loss', *scores, 'lr') if key in curves]


def plain(text: object) -> str:
    """Return text that matplotlib draws as it is, with what cannot be drawn written out.

    A ``$`` would begin a formula, and a legend leaves out labels that are empty or begin with
    ``_``; a blank stands before those.
    """
    shown = printable(text, kept='').replace('$', r'\$')
    return shown if shown and not shown.startswith('_') else f' {shown}'


def smoothed(values: Sequence[float], window: int) -> List[float]:
    """Return the means of each value and up to ``window - 1`` before it."""
    parts = [values[max(0, end - window):end] for end in range(1, len(values) + 1)]
    return [sum(part) / len(part) for part in parts]


def plot_curves(runs: Dict[str, Run], keys: Sequence[str], file: Path, *, smooth: int = 1) -> None:
    """Draw a panel for each key, with a line for each run, to a PNG.

    Args:
        runs: Curves of each run, by the name that the legend gives it.
        keys: What to draw.
        file: The PNG; its folder is there.
        smooth: Draw training curves as means over so many points, the points themselves pale
            behind them. Scores and learning rates are drawn as they are.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    columns = min(COLUMNS, len(keys))
    rows = -(-len(keys) // columns)
    figure = Figure(figsize=(PANEL_WIDTH * columns, PANEL_HEIGHT * rows + 0.4),
                    layout='constrained')
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    lines = {}
    for axes, key in zip(panels, keys):
        for number, (name, run) in enumerate(runs.items()):
            if key in run:
                is_noisy = not run[key].is_score and not key.endswith('lr')
                lines[name] = _draw(axes, run[key], f'C{number % 10}', smooth if is_noisy else 1)
        _describe(axes, key, {run[key].axis for run in runs.values() if key in run})
    for axes in panels[len(keys):]:
        axes.set_visible(False)
    figure.legend(lines.values(), map(plain, lines), loc='outside upper center',
                  ncols=min(4, len(lines)))
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, format='png')
    write_whole(file, picture.getvalue())


def _draw(axes, curve: Curve, color: str, smooth: int):
    steps = [point.step for point in curve.points]
    values = [point.value for point in curve.points]
    marker = 'o' if curve.is_score or len(steps) == 1 else None
    if smooth > 1:
        axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
        values = smoothed(values, smooth)
    (line, ) = axes.plot(steps, values, color=color, marker=marker, markersize=3.5, linewidth=1.5)
    return line


def _describe(axes, key: str, axis: set) -> None:
    from matplotlib.ticker import MaxNLocator
    axes.set_title(plain(key))
    axes.set_xlabel(' or '.join(sorted(axis)))
    # of a single step, whose axis is short, it would else mark fractions
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    if key.endswith('lr'):
        axes.ticklabel_format(axis='y', style='sci', scilimits=(0, 0))
    axes.grid(alpha=0.3)
