"""All runs below a folder, as a table and as JSON, and two of them compared."""
import os
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence

from mmvssd.errors import ConfigError, printable
from mmvssd.paths import seen_from
from mmvssd.phrases import some, suggestion
from mmvssd.reports.page import shown_number, shown_seconds, shown_size
from mmvssd.reports.runs.folder import RunFolder, closed, is_run, read_folder
from mmvssd.reports.runs.settings import differences

#: Characters of a setting.
LONGEST = 60
HEADER = ('run', 'state', 'reached', 'score', 'best', 'at', 'last', 'tested', 'time', 'on disk')
#: Columns of numbers.
RIGHT = (4, 6, 7, 8, 9)


def find_runs(*roots: Path) -> List[RunFolder]:
    """Read all work dirs below some folders, the folders themselves among them, each once.

    Raises:
        ConfigError: There is no such folder, or no run in one.
    """
    runs: Dict[Path, RunFolder] = {}
    for root in roots:
        if not root.is_dir():
            raise ConfigError(f'{root}: no such folder{seen_from(root)}')
        paths, hidden = list(_work_dirs(root)), closed(root)
        if hidden and not paths:
            raise ConfigError(f'{some(hidden)}: cannot be listed, no permission to read it')
        if hidden:  # beside the table, which may be JSON
            print(printable(f'{some(hidden)}: left out, no permission to list it'),
                  file=sys.stderr)
        if not paths:
            raise ConfigError(f'{root}: no run has written into a folder below it; name the '
                              'folder of your work dirs, by default work_dirs')
        for path in paths:
            if path.resolve() not in runs:
                runs[path.resolve()] = read_folder(path)
    return list(runs.values())


def _work_dirs(root: Path) -> Iterator[Path]:
    for folder, names, _ in os.walk(root):
        path = Path(folder)
        names[:] = sorted(name for name in names if not name.startswith('.'))
        if is_run(path):
            yield path


def find_run(name: str, *roots: Path) -> RunFolder:
    """Read a run by its path, or by its path below one of some folders.

    Raises:
        ConfigError: There is none; similar names are listed.
    """
    for path in (*(root / name for root in roots), Path(name)):
        if path.is_dir() and is_run(path):
            return read_folder(path)
    known = [str(path.relative_to(root)) for root in roots for path in _work_dirs(root)]
    raise ConfigError(f'--compare: {name} is not a run, neither in {", ".join(map(str, roots))} '
                      f'nor from {Path.cwd()}{suggestion(name, known)}')


def as_json(run: RunFolder) -> Dict[str, Any]:
    """Return what a table shows of a run, as data."""
    record, main = run.record, run.main_score
    scores = {key: score._asdict() for key, score in run.scores.items()}
    return dict(
        folder=str(run.path), state=run.state.name, reason=run.state.reason or None,
        recipe=record.get('recipe'), started=record.get('started'), ended=record.get('ended'),
        reached=record.get('reached'), main_score=main, scores=scores,
        tests=[dict(started=test.started, checkpoint=test.checkpoint, scores=test.scores)
               for test in run.tests], seconds=run.seconds, bytes=run.size,
        damage=list(run.damage))


def table(runs: Sequence[RunFolder], root: Optional[Path] = None) -> str:
    """Return the table of a terminal, the reason for what did not finish below it.

    Args:
        runs: The runs.
        root: The folder that all are in: their names are their paths below it. Without one they
            are the paths themselves.
    """
    rows = [_row(run, root) for run in runs]
    lines = _aligned([HEADER, *rows], RIGHT)
    reasons = [f'{_name(run, root)}: {str(run.state).splitlines()[0]}' for run in runs
               if run.state.reason]
    reasons += [text for run in runs for text in run.damage]
    return printable('\n'.join([*lines, *([''] if reasons else []), *reasons]))


def _name(run: RunFolder, root: Optional[Path]) -> str:
    if root is None:
        return str(run.path)
    return str(run.path.relative_to(root)) if run.path != root else run.path.resolve().name


def _row(run: RunFolder, root: Optional[Path]) -> List[str]:
    entry, main = as_json(run), run.main_score
    score = run.scores.get(main) if main else None
    tested = [test.scores[main] for test in run.tests if main in test.scores]
    return [_name(run, root), run.state.name, run.reached or _logged(run), main or '–',
            shown_number(score.best) if score else '–',
            f'{score.axis} {score.at}' if score else '–',
            shown_number(score.last) if score else '–',
            shown_number(tested[-1]) if tested else '–',
            shown_seconds(run.seconds), shown_size(entry['bytes'])]


def _logged(run: RunFolder) -> str:
    """Return the last iteration that was logged, of a run that did not come to its end."""
    steps = [curve.points[-1].step for curve in run.curves.values() if not curve.is_score]
    return f'iteration {max(steps)}' if steps else '–'


def _aligned(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> List[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ['  '.join(cell.rjust(width) if column in right else cell.ljust(width)
                      for column, (cell, width) in enumerate(zip(row, widths))).rstrip()
            for row in rows]


def _difference(values: Sequence[Optional[float]]) -> Optional[float]:
    before, after = values
    return None if before is None or after is None else after - before


def comparison(first: RunFolder, second: RunFolder) -> Dict[str, Any]:
    """Return the settings and the scores in which two runs differ, and their states."""
    scores = {}
    for key in dict.fromkeys([*first.scores, *second.scores]):
        values = [run.scores[key].best if key in run.scores else None for run in (first, second)]
        scores[key] = dict(best=values, difference=_difference(values))
    tests = {}
    tested = [{key: value for test in run.tests for key, value in test.scores.items()}
              for run in (first, second)]
    for key in dict.fromkeys([*tested[0], *tested[1]]):
        values = [one.get(key) for one in tested]
        tests[key] = dict(tested=values, difference=_difference(values))
    return dict(runs=[str(first.path), str(second.path)],
                states=[str(first.state), str(second.state)],
                settings={row.key: list(row.values) for row in differences(
                    [first.settings, second.settings])},
                scores=scores, tests=tests)


def comparison_table(found: Dict[str, Any]) -> str:
    """Return a comparison as a terminal shows it."""
    rows = [['', *found['runs'], 'difference'], ['state', *found['states'], '']]
    for kind in ('scores', 'tests'):
        for key, entry in found[kind].items():
            values = entry['best' if kind == 'scores' else 'tested']
            rows.append([f'{key}, {"best" if kind == "scores" else "tested"}',
                         *map(shown_number, values),
                         '' if entry['difference'] is None else f'{entry["difference"]:+.4g}'])
    settings = [['setting', *found['runs']]]
    settings += [[key, *(_cut(value) for value in values)]
                 for key, values in found['settings'].items()]
    lines = [*_aligned(rows), '']
    lines += _aligned(settings) if len(settings) > 1 else ['no setting differs']
    return printable('\n'.join(lines))


def _cut(value: Optional[str]) -> str:
    text = value or '–'
    return text if len(text) <= LONGEST else f'{text[:LONGEST - 3]}...'
