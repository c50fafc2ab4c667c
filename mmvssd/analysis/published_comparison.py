"""Measured numbers beside the published ones, as Markdown."""
from typing import Iterator, List, Optional, Sequence, Tuple

from mmvssd.analysis.published_numbers import (
    APPENDIX_2,
    POINTS,
    SERIES,
    SIZES,
    Numbers,
    Series,
    reproduced,
)
from mmvssd.analysis.published_speed import Speed
from mmvssd.analysis.resolution_scaling import Count, Row

#: Speeds are compared as ratios to that of this model at the same size,
YARDSTICK = 'resnet-50'
#: and those of VMamba's Table 1 to that of this one.
YARDSTICK_AT_128 = 'convnext-tiny'


def comparisons(rows: Sequence[Row]) -> str:
    """Write a table for each quantity that is published of any of the rows; empty if none is.

    Args:
        rows: What was measured.
    """
    parts = [('Multiply-adds in 1e9, beside the published ones', gflops_table(rows)),
             ('Multiply-adds in 1e9 at 224, beside the published ones', gflops_at_224(rows))]
    for attribute, what in (('images_per_second', 'inference'),
                            ('train_images_per_second', 'training')):
        parts.append((f'Speed in {what} over that of {YARDSTICK} at the same size, beside the '
                      'published ratio', speed_table(rows, attribute)))
    parts.append((f'Speed over that of {YARDSTICK_AT_128} at 224 and a batch of 128, beside the '
                  'published ratio', points_table(rows)))
    parts.append(('Peak MiB of inference, beside the published ones of the same batch',
                  memory_table(rows)))
    return '\n'.join(f'{title}:\n\n{table}' for title, table in parts if table)


def gflops_table(rows: Sequence[Row]) -> str:
    """Write counts beside published ones, each marked reproduced or not; '' if there is none.

    A count is reproduced if it has every published digit, in the published convention.
    """
    lines = []
    for series in SERIES:
        counts = [row.count if row and isinstance(row.count, Count) else None
                  for row in _at_sizes(series.name, rows)]
        if not any(counts):
            continue
        params = next(filter(None, counts)).params / 1e6
        lines.append([series.source, series.model, 'published', f'{series.params}',
                      *map(str, series.gflops)])
        lines.append(['', f'`{series.name}`', 'counted', f'{params:.2f}',
                      *(f'{count.published / 1e9:.3f}' if count else '-' for count in counts)])
        if any(count and count.full != count.published for count in counts):
            lines.append(['', '', 'counted in full', '',
                          *(f'{count.full / 1e9:.3f}' if count else '-' for count in counts)])
        lines.append(['', '', 'reproduced', _mark(params, series.params),
                      *(_mark(count.published / 1e9, published) if count and published else '-'
                        for count, published in zip(counts, series.gflops))])
    return _table(['source', 'model', '', 'params (M)', *map(str, SIZES)], lines)


def gflops_at_224(rows: Sequence[Row]) -> str:
    """Write counts at 224 beside those published for that size only; '' if there is none."""
    counts = {row.model.name: row.count for row in rows
              if row.shape == (224, 224) and isinstance(row.count, Count)}
    lines = [[point.model, f'`{point.name}`', f'{point.params}', f'{count.params / 1e6:.2f}',
              f'{point.gflops}', f'{count.published / 1e9:.3f}',
              _mark(count.published / 1e9, point.gflops)]
             for point in POINTS for count in [counts.get(point.name or '')]
             if point.gflops and count]
    return _table([APPENDIX_2, '', 'params (M)', 'counted', 'GFLOPs', 'counted', 'reproduced'],
                  lines)


def _mark(measured: float, published: float) -> str:
    return 'yes' if reproduced(measured, published) else '**no**'


def speed_table(rows: Sequence[Row], attribute: str) -> str:
    """Write ratios of speeds to the yardstick's beside the published ratios; '' if there is none.

    Args:
        rows: What was measured.
        attribute: Of a :class:`~mmvssd.analysis.published_numbers.Series`: 'images_per_second' or
            'train_images_per_second'.
    """
    mode = 'train' if attribute.startswith('train') else 'infer'

    def speeds(series: Series) -> Numbers:
        return tuple(_speed(row, mode, 'images_per_second')
                     for row in _at_sizes(series.name, rows, series.batches))

    table_4 = [series for series in SERIES if getattr(series, attribute)]
    base = next(series for series in table_4 if series.name == YARDSTICK)
    lines = []
    for series in table_4:
        measured = _over(speeds(series), speeds(base))
        if series is base or not any(measured):
            continue
        published = _over(getattr(series, attribute), getattr(base, attribute))
        lines += [[series.model, 'published', *map(_ratio, published)],
                  [f'`{series.name}`', 'measured', *map(_ratio, measured)]]
    return _table(['model', '', *map(str, SIZES)], lines)


def points_table(rows: Sequence[Row]) -> str:
    """Write ratios of speeds at 224 and a batch of 128; '' if there is none."""
    found = {row.model.name: row for row in rows if row.shape == (224, 224) and row.batch == 128}
    timed = [point for point in POINTS if point.images_per_second]
    base = next(point for point in timed if point.name == YARDSTICK_AT_128)
    lines = []
    for point in timed:
        cells = []
        for mode, attribute in (('infer', 'images_per_second'),
                                ('train', 'train_images_per_second')):
            published = getattr(point, attribute), getattr(base, attribute)
            measured = [_speed(found.get(name or ''), mode, 'images_per_second')
                        for name in (point.name, base.name)]
            cells += [_ratio(*_over(published[:1], published[1:])),
                      _ratio(*_over(measured[:1], measured[1:]))]
        if point is not base and {*cells[1::2]} != {'-'}:
            lines.append([point.model, *cells])
    return _table(['model', 'infer, published', 'measured', 'train, published', 'measured'], lines)


def memory_table(rows: Sequence[Row]) -> str:
    """Write peak memory of inference beside the published one; '' if there is none."""
    lines = []
    for series in filter(lambda series: series.peak_mib, SERIES):
        measured = [_speed(row, 'infer', 'peak_mib')
                    for row in _at_sizes(series.name, rows, series.batches)]
        if any(measured):
            lines += [[series.model, 'published', *('OOM' if value is None else f'{value}'
                                                    for value in series.peak_mib or ())],
                      [f'`{series.name}`', 'measured', *('-' if value is None else f'{value:.0f}'
                                                         for value in measured)]]
    return _table(['model', '', *(f'{size}, batch {batch}' for size, batch in zip(
        SIZES, SERIES[-1].batches))], lines)


def published_tables() -> str:
    """Write what is published and no arithmetic: speeds, memory and accuracies."""
    lines = []
    for series in SERIES:
        rows = [(what, values) for what, values in (
            ('images/s', series.images_per_second),
            ('train images/s', series.train_images_per_second),
            ('peak MiB', series.peak_mib), ('top-1', series.top1)) if values]
        titles = [[series.source, series.model], *[['', '']] * len(rows)]
        lines += [[*title, what, *('OOM' if value is None else f'{value}' for value in values)]
                  for title, (what, values) in zip(titles, rows)]
    at_sizes = _table(['source', 'model', '', *map(str, SIZES)], lines)
    speeds = _table(['source', 'model', 'images/s', 'train images/s'], [
        [point.source, point.model, f'{point.images_per_second}',
         f'{point.train_images_per_second}'] for point in POINTS if point.images_per_second])
    others = _table(['source', 'model', 'params (M)', 'GFLOPs', 'top-1'], [
        [point.source, point.model, f'{point.params}', f'{point.gflops}', f'{point.top1}']
        for point in POINTS if point.top1])
    return '\n'.join([at_sizes, speeds, others])


def _speed(row: Optional[Row], mode: str, attribute: str) -> Optional[float]:
    """Return what a row measured with the batch that it was asked for."""
    if row is None:
        return None
    speed = row.speeds.get(mode)
    return (getattr(speed, attribute) if isinstance(speed, Speed) and speed.batch == row.batch
            else None)


def _at_sizes(name: str, rows: Sequence[Row],
              batches: Optional[Tuple[int, ...]] = None) -> Iterator[Optional[Row]]:
    """Find the row of a model at each published size, of a batch if one is given."""
    for index, size in enumerate(SIZES):
        yield next((row for row in rows if row.model.name == name and row.shape == (size, size)
                    and (batches is None or row.batch == batches[index])), None)


def _over(values: Sequence[Optional[float]],
          base: Sequence[Optional[float]]) -> List[Optional[float]]:
    return [value / other if value and other else None for value, other in zip(values, base)]


def _ratio(value: Optional[float]) -> str:
    return '-' if value is None else f'{value:.2f}'


def _table(heading: List[str], lines: List[List[str]]) -> str:
    if not lines:
        return ''
    return ''.join('|' + ''.join(f' {cell} |' if cell else ' |' for cell in line) + '\n'
                   for line in (heading, ['---'] * len(heading), *lines))
