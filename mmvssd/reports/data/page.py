"""A recipe's data as a page, as a table of a terminal, and as JSON."""
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence

from mmvssd.engine.data.findings import EXAMPLES, STOP, WARN, Finding
from mmvssd.errors import printable
from mmvssd.phrases import counted, numbered
from mmvssd.reports.charts import Chart, drawn, histograms
from mmvssd.reports.data.contents import Part
from mmvssd.reports.data.survey import DataReport
from mmvssd.reports.data.suspects import Suspects
from mmvssd.reports.page import render
from mmvssd.reports.pictures import Picture

#: Pixels of the longest bar of a table.
BAR = 120
#: Classes that a terminal's table lists.
MOST_CLASSES = 30


class Shown(NamedTuple):
    """A finding as a page shows it."""

    text: str
    where: str
    advice: str
    first: Sequence[str]
    more: int
    pictures: Sequence[Picture]


class Cell(NamedTuple):
    """A class in a part."""

    count: int  # type: ignore[assignment]  # it hides that of tuples
    width: int  # of its bar


class Row(NamedTuple):
    """A class in all parts."""

    label: int
    name: str
    cells: List[Cell]


def page(report: DataReport, recipe: str, command: str) -> str:
    """Make the page.

    Args:
        report: What was found.
        recipe: The recipe's name.
        command: What makes the page again.
    """
    findings, suspects = report.findings, Suspects(report.parts)
    return render(
        'data.html', title=f'Data of {recipe}', recipe=recipe, command=command,
        faults=[_shown(one, suspects) for one in findings.of(STOP)],
        doubts=[_shown(one, suspects) for one in findings.of(WARN)],
        parts=report.parts, same=report.same, classes=list(_rows(report.parts)),
        counted=_counted(report.parts), charts=_charts(report.parts), samples=report.samples,
        looked_at=findings.looked_at, took=report.seconds,
        not_looked_at=list(dict.fromkeys(findings.not_looked_at)))


def as_json(report: DataReport, recipe: str) -> dict:
    """Return what was found as data."""
    return dict(
        recipe=recipe, sensible=report.is_sensible, findings=report.findings.as_json(),
        parts=[part.as_json() for part in report.parts], same=report.same,
        samples={phase: [dict(file=sample.path, mean=sample.mean, std=sample.std)
                         for sample in samples] for phase, samples in report.samples.items()},
        looked_at=report.findings.looked_at,
        not_looked_at=list(dict.fromkeys(report.findings.not_looked_at)),
        seconds=round(report.seconds, 2))


def table(report: DataReport) -> str:
    """Return what a terminal shows: faults, doubts, parts and classes."""
    findings = report.findings
    lines: List[str] = []
    for title, found in (('FAULTS', findings.of(STOP)), ('DOUBTFUL', findings.of(WARN))):
        if found:
            lines += [f'{title} ({len(found)})', *(line for number, one in enumerate(found, 1)
                                                   for line in _finding_lines(number, one)), '']
    for part in report.parts:
        sizes = ', '.join(f'{width} x {height} ({count})'
                          for (width, height), count in part.sizes.most_common(3))
        more = ', ...' * (len(part.sizes) > 3)
        objects = f', {counted(sum(part.objects.values()), "object")}' * (part.kind == 'objects')
        lines.append(f'{part.phase:6}{counted(part.images, "image")}, {part.kind}{objects}; '
                     f'width x height: {sizes or "not known"}{more}')
    lines += [f'{phase:6}the data of {twin}' for phase, twin in report.same.items()]
    rows = list(_rows(report.parts))
    if rows:
        width = min(40, max(len(row.name) for row in rows))
        lines += ['', f'{"class":{width}}' + ''.join(f'{part.phase:>10}' for part in report.parts)]
        lines += [f'{row.name[:width]:{width}}' + ''.join(f'{cell.count:>10}' for cell in row.cells)
                  for row in rows[:MOST_CLASSES]]
        if len(rows) > MOST_CLASSES:
            lines.append(numbered('... and {} more class[es]', len(rows) - MOST_CLASSES))
    lines += [f'Not looked at: {text}' for text in dict.fromkeys(findings.not_looked_at)]
    return printable('\n'.join(lines))


def verdict(report: DataReport) -> str:
    """Return one line that says whether a training may begin."""
    faults, doubts = (len(report.findings.of(kind)) for kind in (STOP, WARN))
    if faults:
        return f'{counted(faults, "fault")}: training will go wrong'
    return 'no fault' + (f', {doubts} doubtful' if doubts else '') + ': training may begin'


def _finding_lines(number: int, found: Finding) -> Iterator[str]:
    yield f'  {number}. {found.told}'
    yield f'     {found.where}'
    yield from (f'       {place}' for place in found.first[:EXAMPLES])
    if found.advice:
        yield f'     {found.advice}'


def _shown(found: Finding, suspects: Suspects) -> Shown:
    more = found.count - len(found.first) if '{}' in found.what and found.first else 0
    return Shown(found.told, found.where, found.advice, found.first, max(0, more),
                 suspects.of(found))


def _counts(part: Part) -> Dict[str, int]:
    return part.objects if part.kind == 'objects' else part.images_with


def _rows(parts: Sequence[Part]) -> Iterator[Row]:
    names = [name for part in parts for name in part.classes]
    names += [name for part in parts for name in _counts(part)]
    largest = [max(_counts(part).values(), default=0) or 1 for part in parts]
    for label, name in enumerate(dict.fromkeys(names)):
        yield Row(label, str(name), [
            Cell(_counts(part)[name], round(_counts(part)[name] / most * BAR))
            for part, most in zip(parts, largest)])


def _counted(parts: Sequence[Part]) -> str:
    kinds = {part.kind for part in parts}
    if 'objects' in kinds:
        return 'Objects of each class.'
    return ('Images whose label map has the class.' if 'label maps' in kinds else
            'Images of each class.')


def _charts(parts: Sequence[Part]) -> List[Chart]:
    def of(values) -> Dict[str, Sequence[float]]:
        return {part.phase: list(values(part)) for part in parts}

    has_objects = any(part.kind == 'objects' for part in parts)
    charts: List[Optional[Chart]] = [
        histograms('Shorter side of the images', of(lambda part: (
            min(size) for size, count in part.sizes.items() for _ in range(count))), 'pixels'),
        histograms('Width over height of the images', of(lambda part: (
            size[0] / size[1] for size, count in part.sizes.items() for _ in range(count)
            if size[1])), 'width / height'),
        histograms('Objects in an image' if has_objects else 'Classes in an image',
                   of(lambda part: part.per_image), 'number'),
        histograms('Size of the boxes', of(lambda part: (
            max(area, 0) ** 0.5 for area in _areas(part) if area > 0)),
            'square root of the area, pixels', log=True)]
    return drawn(charts)


def _areas(part: Part) -> Iterator[float]:
    for _, boxes, _ in part.boxes:
        yield from ((box[2] - box[0]) * (box[3] - box[1]) for box in boxes)
