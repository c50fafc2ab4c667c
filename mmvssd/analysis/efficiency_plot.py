"""Accuracy over speed, in the kind of Fig. 1 of VSSD's appendix."""
import math
import re
from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

from mmvssd.analysis.published_numbers import published_top1
from mmvssd.analysis.published_speed import Speed
from mmvssd.analysis.resolution_scaling import Count, Row
from mmvssd.analysis.resolution_scaling_report import load
from mmvssd.analysis.result_files import compressed, plain
from mmvssd.errors import ConfigError

ACCURACIES = ('published', 'measured')
SIZE_WORDS = r'[-_](nano|micro|tiny|small|base|large|\d+b?)(?=[-_]|$)'
AREA = 8  # square points for a million parameters


class Dot(NamedTuple):
    """A classifier in the figure.

    Attributes:
        label: What it is called.
        family: Models of one are joined by a line.
        images_per_second: Of inference.
        params: Millions.
        top1: Percent.
    """

    label: str
    family: str
    images_per_second: float
    params: float
    top1: float


def read_dots(files: Sequence[Path], size: Optional[str], accuracy: str,
              left_out: List[str]) -> Tuple[List[Dot], str]:
    """Read the models of some results at one size.

    Args:
        files: What resolution_scaling.py wrote as JSON.
        size: As in the files; None if they have only one.
        accuracy: 'published' or 'measured'.
        left_out: Gets a line for each model that lacks a number.

    Returns:
        The models, of one that stands there more than once the first; and size and machine, for a
        title.

    Raises:
        ConfigError: A file cannot be read, there are more sizes, machines or procedures than one,
            or no model has all numbers.
    """
    loaded = [load(file) for file in files]
    _require_one_procedure(files, [protocol for protocol, _ in loaded])
    rows = [row for _, found in loaded for _, row in found]
    sizes = sorted({row.size for row in rows}, key=lambda text: (len(text), text))
    if size is None and len(sizes) != 1:
        raise ConfigError(f'--size: needed, the files have {", ".join(sizes) or "no size"}')
    size, dots = size or sizes[0], {}
    for row in rows:
        if row.size == size:
            lacks = _lacks(row, accuracy)
            if lacks:
                left_out.append(f'{row.model.label} at {row.size}: has no {" and no ".join(lacks)}')
            else:
                dots.setdefault(row.model.label, _dot(row, accuracy))
    speeds = [row.speeds['infer'] for row in rows
              if row.size == size and not _lacks(row, accuracy)]
    batches = sorted({speed.batch for speed in speeds if isinstance(speed, Speed)})
    if len(batches) > 1:
        raise ConfigError(f'speeds of one batch only: --size {size} has models measured with '
                          f'{", ".join(map(str, batches))} images; measure them with one --batch')
    if not dots:
        if size not in sizes:
            raise ConfigError(f'--size: nothing is there of {size}; the files have '
                              f'{", ".join(sizes)}')
        raise ConfigError('\n'.join([f'no model has all numbers at {size}', *left_out]))
    return list(dots.values()), f'{size} pixels, batch {batches[0]}, {loaded[0][0].get("machine")}'


def _require_one_procedure(files: Sequence[Path], protocols: Sequence[dict]) -> None:
    """Raise ConfigError if speeds of some files cannot stand side by side."""
    for key in ('machine', 'device', 'warmup', 'steps', 'mmvssd', 'torch'):
        found = [str(protocol.get(key)) for protocol in protocols]
        if len(set(found)) > 1:
            raise ConfigError(f'speeds of one machine and procedure only: {key} is '
                              + ', '.join(f'{value} in {file}'
                                          for file, value in zip(files, found)))


def _top1(row: Row, accuracy: str) -> Optional[float]:
    if accuracy == 'published':
        return (published_top1(row.model.name, row.shape[0]) if len(set(row.shape)) == 1 else None)
    return row.top1 if isinstance(row.top1, float) else None


def _lacks(row: Row, accuracy: str) -> List[str]:
    return [what for what, there in (
        ('count of parameters', isinstance(row.count, Count)),
        ('speed of inference', isinstance(row.speeds.get('infer'), Speed)),
        (f'{accuracy} top-1', _top1(row, accuracy) is not None)) if not there]


def _dot(row: Row, accuracy: str) -> Dot:
    speed: Any = row.speeds['infer']  # none of these is missing
    count: Any = row.count
    top1: Any = _top1(row, accuracy)
    return Dot(row.model.label, family_of(row.model.name), speed.images_per_second,
               count.params / 1e6, top1)


def family_of(name: str) -> str:
    """Return a name without its size: ``vmamba-s2`` of ``vmamba-small-s2l15``."""
    stem = Path(name.rpartition('::')[2]).stem if name.endswith('.py') else name
    stem = stem.partition('_')[0]
    return re.sub(r'(s\d)l\d+$', r'\1', re.sub(SIZE_WORDS, '', stem))


def draw(dots: Sequence[Dot], accuracy: str, title: str) -> bytes:
    """Draw top-1 over images/s; return a PNG.

    Args:
        dots: The models.
        accuracy: 'published' or 'measured', for the axis.
        title: Size and machine.
    """
    from matplotlib.figure import Figure
    figure = Figure(figsize=(8, 5.8), layout='constrained')
    axes = figure.subplots()
    for index, family in enumerate(dict.fromkeys(dot.family for dot in dots)):
        members = sorted((dot for dot in dots if dot.family == family), key=lambda dot: dot.params)
        speeds, top1s = ([getattr(dot, name) for dot in members]
                         for name in ('images_per_second', 'top1'))
        axes.plot(speeds, top1s, color=f'C{index % 10}', linewidth=1)
        axes.scatter(speeds, top1s, [AREA * dot.params for dot in members], alpha=0.6,
                     color=f'C{index % 10}', label=plain(family))
    axes.set_xscale('log')
    for axis in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        axis('{x:g}')
    axes.tick_params(which='both', labelsize=9)
    axes.margins(0.2)
    axes.grid(alpha=0.3, which='both')
    axes.set_xlabel('inference, images/s', fontsize=10)
    axes.set_ylabel(f'top-1, {accuracy} (%)', fontsize=10)
    figure.legend(loc='outside lower center', ncols=4, fontsize=9, markerscale=0.5,
                  title='A line joins a family; the area of a dot is its parameters.',
                  title_fontsize=9)
    figure.suptitle(f'Accuracy over speed: {title}\nWhat to see: higher and further right is '
                    'better.', fontsize=11)
    _name(dots, axes)
    return compressed(figure)


def _name(dots: Sequence[Dot], axes) -> None:
    """Write each dot's name beside it, so that names do not lie on each other or on dots."""
    from matplotlib.transforms import Bbox
    figure = axes.figure
    figure.draw_without_rendering()  # gives places their pixels
    scale = figure.dpi / 72
    taken = []
    for dot in dots:
        radius = (AREA * dot.params / math.pi)**0.5 * scale
        x, y = axes.transData.transform((dot.images_per_second, dot.top1))
        taken.append(Bbox([(x - radius, y - radius), (x + radius, y + radius)]))
    for dot in dots:
        gap = (AREA * dot.params / math.pi)**0.5 + 2
        places = [(0, gap), (gap, 0), (-gap, 0), (0, -gap), (0, gap + 12), (0, -gap - 12)]
        for x, y in places:
            name = axes.annotate(
                f'{plain(dot.label)}, {dot.params:.1f} M', (dot.images_per_second, dot.top1),
                (x, y), textcoords='offset points', fontsize=9,
                ha='left' if x > 0 else 'right' if x else 'center',
                va='bottom' if y > 0 else 'top' if y else 'center')
            name.set_in_layout(False)  # or the axes would move below it
            box = name.get_window_extent()
            inside = axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
            if (x, y) == places[-1] or (inside and not any(map(box.overlaps, taken))):
                break
            name.remove()
        taken.append(box)
