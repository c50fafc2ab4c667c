"""What the folder of a run tells: its state, scores, costs and settings."""
import json
import os
import re
import time
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

from mmvssd.analysis.curves import Run, entries_of, files_of, is_measured, read_run
from mmvssd.checkpoint import checkpoints_of
from mmvssd.engine.checkpoints.work_dir import LOCK, SILENCE
from mmvssd.engine.data.training_data import unreadable_images_of
from mmvssd.engine.record.details import FILE as DETAILS
from mmvssd.engine.record.run_record import read_record
from mmvssd.errors import ConfigError
from mmvssd.paths import seen_from
from mmvssd.phrases import some
from mmvssd.reports.runs.settings import get, read_settings

#: Scores that smaller ones are better of, by a part of their name.
SMALLER = ('loss', 'error', 'rmse', 'mae', 'mse', 'abs_rel', 'sq_rel', 'silog')
#: Ends of the scores that runs are compared by, the first that there is.
PREFERRED = ('bbox_mAP', 'segm_mAP', 'mIoU', 'accuracy/top1', 'mAP')
#: What a log says of its data, by the words before it.
DATA_LINE = re.compile(r' - (?:WARNING|INFO) - (Doubtful data|Data not looked at|'
                       r'Faults of the training data|Training data): (.*)')
#: Bytes of a log that are looked through from its start, and from its end.
LOG_PART = 4_000_000


class State(NamedTuple):
    """How a run stands."""

    #: 'running', 'finished', 'killed', 'failed', 'stopped', 'tested', 'did not start' or 'unknown'
    name: str
    reason: str = ''

    def __str__(self) -> str:
        return f'{self.name}: {self.reason}' if self.reason else self.name


class Score(NamedTuple):
    """A score of a run."""

    last: float
    best: float
    at: int  # the best one's epoch or iteration
    axis: str


class Test(NamedTuple):
    """A test of a checkpoint."""

    started: str
    checkpoint: Optional[str]
    scores: Dict[str, float]
    record: dict


class Costs(NamedTuple):
    """What training steps took."""

    step: Optional[float]  # seconds, the median of what was logged
    loading: Optional[float]  # of it, waiting for data
    memory: Optional[float]  # MB of the GPU, the most


@dataclass
class RunFolder:
    """A work dir.

    Args:
        path: The folder.
        records: Every ``run.json`` in it, by its start.
        state: How the run stands.
        curves: What it logged; empty if nothing.
        settings: Of its newest config.
        tests: Of its checkpoints.
        seconds: Time of all its starts together, of those that are known.
        damage: What of its curves cannot be read.
        newest: Folder of the start that :attr:`record` is of.
    """

    path: Path
    records: List[dict]
    state: State
    curves: Run
    settings: Dict[str, Any]
    tests: List[Test]
    seconds: Optional[float] = None
    damage: Sequence[str] = ()
    newest: Optional[Path] = None

    @cached_property
    def details(self) -> Optional[dict]:
        """Return what the newest test wrote down of images and classes; None if none did."""
        return _details(self.path)

    @cached_property
    def costs(self) -> Costs:
        """Return what its steps took, in the start that :attr:`record` is of."""
        return _costs(self.newest or self.path)

    @cached_property
    def notes(self) -> List[str]:
        """Return the lines of its logs on the data."""
        return list(dict.fromkeys(_notes(self.path)))

    @property
    def record(self) -> dict:
        """Return the newest record of a training, or else of anything."""
        trained = [record for record in self.records if record.get('mode') == 'train']
        return (trained or self.records or [{}])[-1]

    @property
    def reached(self) -> Optional[str]:
        """Return the place that it came to, by its record; without an epoch if it counts none."""
        place = self.record.get('reached')
        if not isinstance(place, dict) or not {'epoch', 'iteration'} <= set(place):
            return None
        loop = get(self.settings, 'train_cfg', {})
        by_iterations = isinstance(loop, dict) and 'max_iters' in loop and 'max_epochs' not in loop
        return (f'iteration {place["iteration"]}' if by_iterations
                else f'epoch {place["epoch"]}, iteration {place["iteration"]}')

    @property
    def scores(self) -> Dict[str, Score]:
        """Return the last and the best of each score."""
        return {key: _score(key, curve) for key, curve in self.curves.items() if curve.is_score}

    @property
    def main_score(self) -> Optional[str]:
        """Return the name of the score that runs are compared by."""
        known = [*self.scores, *(key for test in self.tests for key in test.scores)]
        saved = get(self.settings, 'default_hooks.checkpoint.save_best')
        if saved in known:
            return saved
        return next((key for end in PREFERRED for key in known if key.endswith(end)),
                    next(iter(known), None))

    @property
    def size(self) -> int:
        """Return the bytes of all its files."""
        return sum(_sizes(self.path))


def _sizes(path: Path) -> Iterator[int]:
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                yield os.lstat(os.path.join(folder, name)).st_size
            except OSError:  # a run that goes on has removed it, such as an old checkpoint
                continue


def closed(path: Path) -> List[str]:
    """Return the folders below a path, and itself, that this user may not list."""
    found: List[str] = []
    for _ in os.walk(path, onerror=lambda error: found.append(str(error.filename))):
        pass
    return found


def is_run(path: Path) -> bool:
    """Tell whether a folder is the work dir of a run, of one that ended before it began as well."""
    return (any(path.glob('*/run*.json')) or any(path.glob('*/vis_data/scalars.json'))
            or any(log.stem == log.parent.name for log in path.glob('*/*_*.log')))


def read_folder(path: Path) -> RunFolder:
    """Read all that a work dir tells.

    Raises:
        ConfigError: It is no folder, or no run has written into it.
    """
    if not path.is_dir():
        raise ConfigError(f'{path}: no such folder{seen_from(path)}')
    if not is_run(path):
        if closed(path):
            raise ConfigError(f'{some(closed(path))}: cannot be listed, no permission to read it')
        raise ConfigError(f'{path}: holds no <time>/run.json, <time>/vis_data/scalars.json or '
                          '<time>/<time>.log, which a run writes; name the --work-dir of a '
                          'training or a test')
    files = {file: record for file in path.glob('*/run*.json')
             if (record := _record(file)) is not None}
    ordered = sorted(files, key=lambda file: str(files[file].get('started')))
    records = [files[file] for file in ordered]
    trained = [file.parent for file in ordered if files[file].get('mode') == 'train']
    damage: List[str] = []
    return RunFolder(
        path, records, _state(path, records), _curves(path, damage),
        _settings(ordered, files, path), list(_tests(ordered, files)), _seconds(records), damage,
        trained[-1] if trained else None)


def _record(file: Path) -> Optional[dict]:
    try:
        record = read_record(file)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # one of the user's own
        return None
    return record if isinstance(record, dict) else None


def _state(path: Path, records: Sequence[dict]) -> State:
    trained = [record for record in records if record.get('mode') == 'train']
    if not trained:
        if not records:
            return (State('unknown', 'it wrote no run.json: it has no run_record') if _results(path)
                    else State('did not start', 'it ended before its first step'))
        return State('tested') if records[-1]['status'] == 'finished' else _state_of(
            path, records[-1])
    return _state_of(path, trained[-1])


def _results(path: Path) -> bool:
    """Tell whether a run without a record has got as far as numbers or checkpoints."""
    return (any(path.glob('*/vis_data/scalars.json')) or any(path.glob('*/[0-9]*.json'))
            or bool(checkpoints_of(str(path), best=True)))


def _state_of(path: Path, record: dict) -> State:
    status, error = record.get('status'), str(record.get('error') or '')
    if status == 'stopped':
        return State('stopped' if error.startswith('ended by ') else 'failed', error)
    if status == 'running' and _silent(path, record):
        return State('killed', f'no sign of life for more than {SILENCE} seconds')
    return State(str(status), error)


def _silent(path: Path, record: dict) -> bool:
    """Tell whether a training of another machine has stopped renewing its lock."""
    if record.get('mode') != 'train':
        return False
    try:
        return time.time() - (path / LOCK).stat().st_mtime > SILENCE
    except OSError:  # it left without a word, or was started without a lock
        return False


def _curves(path: Path, damage: List[str]) -> Run:
    try:
        return read_run(path, damage)
    except (ValueError, OSError):  # nothing was logged yet
        return {}


def _settings(ordered: Sequence[Path], files: Dict[Path, dict], path: Path) -> Dict[str, Any]:
    trained = [file for file in ordered if files[file].get('mode') == 'train']
    for file in reversed(trained or ordered):
        settings = read_settings(file.parent / str(files[file].get('config') or 'config.py'))
        if settings:
            return settings
    others = [*sorted(path.glob('*/vis_data/config.py')), *sorted(path.glob('*.py'))]
    return read_settings(others[-1]) if others else {}


def _tests(ordered: Sequence[Path], files: Dict[Path, dict]) -> Iterator[Test]:
    for file in ordered:
        record = files[file]
        if record.get('mode') != 'test':
            continue
        scores: Dict[str, float] = {}
        for written in sorted(file.parent.glob('[0-9]*.json')):
            content = _json(written)
            scores.update({key: value for key, value in (content or {}).items()
                           if is_measured(key, value) and not key.endswith('time')})
        start = record.get('start')
        start = start if isinstance(start, dict) else {}
        yield Test(str(record.get('started')), start.get('checkpoint'), scores, record)


def _json(file: Path) -> Optional[dict]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _details(path: Path) -> Optional[dict]:
    for file in sorted(path.glob(f'*/{DETAILS}'), reverse=True):
        content = _json(file)
        if content is not None and content.get('task'):
            return content
    return None


def _costs(path: Path) -> Costs:
    try:
        # the curves tell of lines that cannot be read
        logs = [[entry for entry in entries_of(file, []) if 'iter' in entry]
                for file in files_of(path)]
        entries = next(filter(None, reversed(logs)), [])
    except (ValueError, OSError):
        entries = []

    def values(key: str) -> List[float]:
        return sorted(entry[key] for entry in entries if isinstance(entry.get(key), (int, float)))

    steps, loading, memory = values('time'), values('data_time'), values('memory')
    return Costs(steps[len(steps) // 2] if steps else None,
                 loading[len(loading) // 2] if loading else None, memory[-1] if memory else None)


def _notes(path: Path) -> Iterator[str]:
    for log in sorted(path.glob('*/*.log')):
        for line in _part_of(log):
            found = DATA_LINE.search(line)
            if found:
                yield f'{found[1]}: {found[2]}'
    try:
        listed = Path(unreadable_images_of(str(path))).read_text(errors='replace').splitlines()
    except OSError:
        return
    yield from (f'Unreadable image: {line}' for line in listed[:20])


def _part_of(log: Path) -> Iterator[str]:
    """Yield the lines of a log, of a long one those at its ends."""
    try:
        with open(log, 'rb') as file:
            head = file.read(LOG_PART)
            size = file.seek(0, 2)
            file.seek(max(LOG_PART, size - LOG_PART))
            tail = file.read()
    except OSError:
        return
    yield from (head + tail).decode(errors='replace').splitlines()


def _seconds(records: Sequence[dict]) -> Optional[float]:
    """Sum up the time of the trainings; of one that was killed only its start is known."""
    total = None
    for record in records:
        if record.get('mode') != 'train':
            continue
        try:
            begin = datetime.fromisoformat(record['started'])
            end = (datetime.fromisoformat(record['ended']) if record.get('ended')
                   else datetime.now().astimezone() if record.get('status') == 'running' else None)
            took = None if end is None else (end - begin).total_seconds()
        except (ValueError, TypeError, KeyError):  # or one of them has no time zone
            continue
        if took is not None:
            total = (total or 0) + took
    return total


def is_smaller_better(key: str) -> bool:
    """Tell whether a score is the better the smaller it is, by its name."""
    return any(part in key.lower() for part in SMALLER)


def _score(key: str, curve) -> Score:
    points = [point for point in curve.points if point.value == point.value] or curve.points
    choose = min if is_smaller_better(key) else max
    best = choose(points, key=lambda point: point.value)
    return Score(points[-1].value, best.value, best.step, curve.axis)


def checkpoints(folder: RunFolder) -> List[str]:
    """Return the names of a work dir's checkpoints."""
    return [path.name for path in checkpoints_of(str(folder.path), best=True)]
