"""Charts as pictures that a page holds."""
import io
import logging
import warnings
from itertools import pairwise
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter

from mmvssd.analysis.curves import plain
from mmvssd.errors import printable
from mmvssd.reports.page import data_uri

#: Inches of a chart.
WIDTH, HEIGHT = 4.6, 2.9
#: Points of a line; more are no finer on a screen.
MOST_POINTS = 1500
#: Lines whose names stand in a chart; more stand below it.
MOST_INSIDE = 5
#: Cells of a matrix along a side that hold numbers.
MOST_NUMBERS = 20
#: Characters of a name along an axis.
LONGEST_NAME = 18


class Chart(NamedTuple):
    """A chart that was drawn."""

    uri: str
    title: str


class Line(NamedTuple):
    """Points that a line joins."""

    x: Sequence[float]
    y: Sequence[float]
    marked: bool = False  # each point is drawn


def histograms(title: str, values: Dict[str, Sequence[float]], label: str,
               log: bool = False) -> Optional[Chart]:
    """Draw how values are spread, a line for each name; None without values.

    Args:
        title: The chart's.
        values: By name.
        label: What the values are.
        log: Whether their axis is logarithmic; they are positive then.
    """
    known = {name: np.asarray(numbers, float) for name, numbers in values.items() if len(numbers)}
    if not known:
        return None
    joined = np.concatenate(list(known.values()))
    low, high = joined.min(), joined.max()
    if low == high:
        low, high = low * 0.9 - 0.5 * (not log), high * 1.1 + 0.5
    whole = not log and bool((joined == joined.round()).all()) and high - low <= 40
    if whole:
        edges = np.arange(np.floor(low) - 0.5, np.ceil(high) + 1)
    else:
        edges = np.geomspace(low, high, 31) if log else np.linspace(low, high, 31)
    figure, axes = _chart()
    for number, (name, numbers) in enumerate(known.items()):
        counts, _ = np.histogram(numbers, edges)
        axes.stairs(counts / len(numbers) * 100, edges, color=f'C{number}', label=plain(name),
                    fill=True, alpha=0.45)
    if log:
        axes.set_xscale('log')
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FormatStrFormatter('%g'))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(label)
    axes.set_ylabel('%')
    axes.legend(fontsize=8)
    return _finish(figure, title)


def lines(title: str, curves: Dict[str, Line], x: str, y: str = '', *,
          limits: Optional[Tuple[float, float]] = None, main: str = '') -> Optional[Chart]:
    """Draw lines; None without points.

    Args:
        title: The chart's.
        curves: By name.
        x: What the horizontal axis is.
        y: What the vertical axis is.
        limits: Ends of the vertical axis.
        main: Name of a line that is drawn in black.
    """
    # a name has the same colour in all charts of the same names
    known = [(number, name, line) for number, (name, line) in enumerate(curves.items())
             if len(line.x)]
    if not known:
        return None
    figure, axes = _chart()
    drawn_lines = []
    for number, name, line in known:
        step = -(-len(line.x) // MOST_POINTS)
        marker = 'o' if line.marked or len(line.x) == 1 else None
        drawn_lines += axes.plot(
            line.x[::step], line.y[::step], color='k' if name == main else f'C{number % 10}',
            label=plain(name), linewidth=1.4, marker=marker, markersize=3.5)
    if all(isinstance(value, int) for *_, line in known for value in line.x):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7, min_n_ticks=1))
    if limits:
        axes.set_ylim(*limits)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    if len(known) > MOST_INSIDE:
        figure.legend(handles=drawn_lines, loc='outside lower center', ncols=4, fontsize=7)
    elif len(curves) > 1:
        axes.legend(fontsize=8)
    return _finish(figure, title)


def matrix(title: str, counts: np.ndarray, names: Sequence[str]) -> Chart:
    """Draw a confusion matrix: a row for each true class, its cells as shares of the row.

    Args:
        title: The chart's.
        counts: (C, C) numbers; rows are true classes, columns predicted ones.
        names: Of the classes.
    """
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(9.0, max(3.6, 0.36 * len(names) + 1.6))
    figure = Figure(figsize=(side, side), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.imshow(shares, cmap='Blues', vmin=0, vmax=1, interpolation='nearest')
    if len(names) <= 3 * MOST_NUMBERS:
        shown = [_short(name) for name in names]
        axes.set_xticks(range(len(names)), shown, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), shown, fontsize=7)
    if len(names) <= MOST_NUMBERS:
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.005:
                axes.text(column, row, f'{share * 100:.0f}', ha='center', va='center', fontsize=7,
                          color='white' if share > 0.5 else 'black')
    axes.set_xlabel('predicted')
    axes.set_ylabel('true')
    return _finish(figure, title)


def bars(title: str, heights: Sequence[float], edges: Sequence[float], x: str, y: str,
         expected: Optional[Sequence[float]] = None) -> Chart:
    """Draw bars between edges, and points at what is expected of them."""
    figure, axes = _chart()
    axes.stairs(heights, edges, fill=True, alpha=0.6)
    if expected is not None:
        centers = [(low + high) / 2 for low, high in pairwise(edges)]
        axes.plot(centers, expected, 'o', color='C3', markersize=3.5)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return _finish(figure, title)


def _chart():
    figure = Figure(figsize=(WIDTH, HEIGHT), layout='constrained')
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _short(name: object) -> str:
    shown = printable(name, kept='')
    return plain(shown if len(shown) <= LONGEST_NAME else f'{shown[:LONGEST_NAME - 1]}…')


def _finish(figure: Figure, title: str) -> Chart:
    picture = io.BytesIO()
    fonts = logging.getLogger('matplotlib.font_manager')
    level = fonts.level
    fonts.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), rc_context({'svg.hashsalt': 'mmvssd'}):
            warnings.filterwarnings('ignore', message='Glyph')  # of scripts that the font lacks
            figure.savefig(picture, format='svg', metadata=dict(Date=None))
    finally:
        fonts.setLevel(level)
    return Chart(data_uri(picture.getvalue(), 'image/svg+xml'), title)


def drawn(charts: List[Optional[Chart]]) -> List[Chart]:
    """Return the charts that were drawn."""
    return [chart for chart in charts if chart is not None]
