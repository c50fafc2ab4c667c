"""One run on a page, or several side by side."""
import math
import shlex
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from mmvssd.analysis.curves import choose_keys, name_runs, smoothed
from mmvssd.phrases import counted
from mmvssd.reports.charts import Chart, Line, drawn, lines
from mmvssd.reports.page import render
from mmvssd.reports.runs.details import Details, details_of
from mmvssd.reports.runs.folder import RunFolder, checkpoints, read_folder
from mmvssd.reports.runs.settings import Difference, differences, get
from mmvssd.reports.runs.tables import Table, class_table

#: Settings that differ, of which a page lists no more.
MOST_DIFFERENCES = 200
#: Parts of a training's loss that are drawn.
MOST_LOSSES = 8


class RunView(NamedTuple):
    """What a page shows of one run."""

    name: str
    folder: RunFolder
    facts: List[Tuple[str, str]]
    environment: List[Tuple[str, str]]
    details: Optional[Details]
    table: Optional[Table]
    missing: List[str]
    again: str
    checkpoints: List[str]


def page(paths: Sequence[Path], command: str) -> str:
    """Make the page of one or more work dirs.

    Args:
        paths: The work dirs.
        command: What makes the page again.

    Raises:
        ConfigError: One of them is no work dir.
    """
    folders = [read_folder(path) for path in paths]
    names = name_runs(paths)
    views = [_view(name, folder) for name, folder in zip(names, folders)]
    curves = {view.name: view.folder.curves for view in views}
    changed: List[Difference] = differences([folder.settings for folder in folders]) if len(
        folders) > 1 else []
    return render('runs.html', title=f'Report of {", ".join(names)}', views=views,
                  charts=_charts(curves), differences=changed[:MOST_DIFFERENCES],
                  more=max(0, len(changed) - MOST_DIFFERENCES), command=command,
                  scores=_scores(folders))


def _view(name: str, folder: RunFolder) -> RunView:
    record = folder.record
    details = details_of(folder.details) if folder.details else None
    table = None if details and details.by_class else class_table(folder.path)
    return RunView(name, folder, _facts(folder), _environment(record), details, table,
                   _missing(folder, details, table), _again(record), checkpoints(folder))


def _facts(folder: RunFolder) -> List[Tuple[str, str]]:
    record, settings, costs = folder.record, folder.settings, folder.costs
    batch, start, rate = (part if isinstance(part, dict) else {}
                          for part in map(record.get, ('batch', 'start', 'lr')))
    step, at_once = costs.step, _at_once(batch)
    facts = [
        ('recipe', record.get('recipe')), ('model', _model(settings)),
        ('trained on', _data(settings, 'train')), ('validated on', _data(settings, 'val')),
        ('began from', start.get('checkpoint') or ', '.join(map(str, start.get('pretrained') or []))
         or 'random weights'),
        ('started', record.get('started')), ('ended', record.get('ended')),
        ('starts', len([one for one in folder.records if one.get('mode') == 'train']) or None),
        ('reached', folder.reached),
        ('batch', _batch(batch)),
        ('learning rate', f'{rate["used"]:g}' if isinstance(rate.get('used'), float) else None),
        ('precision', record.get('precision')), ('seed', record.get('seed')),
        ('an iteration', f'{step:.3g} s, of which {costs.loading or 0:.2g} s wait for data'
         if step else None),
        ('speed', f'{at_once / step:.4g} images/s' if step and at_once else None),
        ('GPU memory', f'{costs.memory:.0f} MB' if costs.memory else None)]
    return [(name, str(value)) for name, value in facts if value not in (None, '')]


def _at_once(batch: Dict[str, Any]) -> Optional[int]:
    """Return the images of an iteration, of which a step of the optimizer may sum several."""
    counts: Any = batch.get('processes'), batch.get('images')
    return math.prod(counts) if all(isinstance(count, int) for count in counts) else None


def _batch(batch: Dict[str, Any]) -> Optional[str]:
    if not batch:
        return None
    steps = batch.get('accumulated', 1)
    accumulated = f' × {steps} accumulated' if steps != 1 else ''
    return (f'{counted(batch.get("total") or 0, "image")}: {batch.get("processes")} × '
            f'{batch.get("images")}{accumulated}')


def _model(settings: Dict[str, Any]) -> Optional[str]:
    kind = get(settings, 'model.type')
    backbone, arch = get(settings, 'model.backbone.type'), get(settings, 'model.backbone.arch')
    if kind is None:
        return None
    arch = arch if isinstance(arch, str) else ''
    return f'{kind} with {backbone} {arch}'.strip() if backbone else str(kind)


def _data(settings: Dict[str, Any], phase: str) -> Optional[str]:
    entry = get(settings, f'{phase}_dataloader.dataset')
    while isinstance(entry, dict) and isinstance(entry.get('dataset'), dict):
        entry = entry['dataset']
    if not isinstance(entry, dict):
        return None
    root = str(entry.get('data_root') or '')
    prefix = entry.get('data_prefix')
    parts = [str(entry.get('ann_file') or ''),
             *(map(str, prefix.values()) if isinstance(prefix, dict) else [str(prefix or '')])]
    return f'{entry.get("type", "data set")}: {root} {", ".join(filter(None, parts))}'.strip()


def _environment(record: Dict[str, Any]) -> List[Tuple[str, str]]:
    def joined(value: Any) -> str:
        if isinstance(value, dict):
            return ', '.join(f'{name} {entry}' for name, entry in value.items())
        return ', '.join(map(str, value)) if isinstance(value, list) else str(value)

    devices = record.get('devices')
    patches = record.get('patches')
    facts = [('devices', ', '.join(f'{count} × {name}' for name, count in devices.items())
              if isinstance(devices, dict) else None),
             ('processes', record.get('processes')), ('versions', record.get('versions')),
             ('checkout', record.get('checkout')), ('ops', record.get('ops')),
             ('patches', patches.get('in_effect') if isinstance(patches, dict) else None),
             ('deterministic', record.get('deterministic'))]
    return [(name, joined(value)) for name, value in facts if value not in (None, {}, [])]


def _missing(folder: RunFolder, details: Optional[Details], table: Optional[Table]) -> List[str]:
    """Say how to get what the folder does not hold."""
    missing = list(folder.damage)
    if not folder.curves and not folder.damage and folder.state.name != 'tested':
        missing.append('No loss and no score was logged yet; a training logs its first after '
                       'default_hooks.logger.interval iterations.')
    if details is None and folder.details:
        missing.append('Its test_details.json is damaged, or of another version; test again.')
    if details is None:
        recipe = folder.record.get('recipe') or 'RECIPE'
        test = shlex.join(['python', 'tools/test.py', str(recipe), 'CHECKPOINT', '--work-dir',
                           str(folder.path), '--report'])
        known = '' if table else 'scores by class, '
        missing.append(f'To see {known}confusions, precision over recall, and the best and worst '
                       f'images: {test}')
    if not folder.records:
        missing.append('No run.json: what the run was started with is not known. Trainings with '
                       'the guard run_record write it.')
    return missing


def _again(record: Dict[str, Any]) -> str:
    command = record.get('command')
    if not command:
        return ''
    return f'cd {shlex.quote(str(record.get("folder", ".")))} && {command}'


def _scores(folders: Sequence[RunFolder]) -> List[Tuple[str, List[Any]]]:
    """Return each score with one entry for each run, the main one first."""
    keys = [key for folder in folders for key in ([folder.main_score] if folder.main_score else [])]
    keys += [key for folder in folders for key in folder.scores]
    keys += [key for folder in folders for test in folder.tests for key in test.scores]
    rows = []
    for key in dict.fromkeys(keys):
        cells = []
        for folder in folders:
            tested = [test.scores[key] for test in folder.tests if key in test.scores]
            cells.append(dict(trained=folder.scores.get(key),
                              tested=tested[-1] if tested else None))
        rows.append((key, cells))
    return rows


def _charts(runs: Dict[str, Any]) -> List[Chart]:
    if not any(runs.values()):
        return []
    charts: List[Optional[Chart]] = []
    for key in choose_keys(list(runs.values())):
        charts.append(_chart(key, runs))
    if len(runs) == 1:
        (run, ) = runs.values()
        losses = [key for key, curve in run.items() if 'loss' in key and key != 'loss'
                  and not curve.is_score][:MOST_LOSSES]
        if len(losses) > 1:
            charts.append(lines('Parts of the loss', {key: _line(run[key]) for key in losses},
                                'iteration'))
    if any('grad_norm' in run for run in runs.values()):
        charts.append(_chart('grad_norm', runs))
    return drawn(charts)


def _chart(key: str, runs: Dict[str, Any]) -> Optional[Chart]:
    axes = sorted({run[key].axis for run in runs.values() if key in run})
    return lines(key, {name: _line(run[key]) if key in run else Line([], [])
                       for name, run in runs.items()}, ' or '.join(axes))


def _line(curve) -> Line:
    points = [point for point in curve.points if math.isfinite(point.value)]
    values = [point.value for point in points]
    if not curve.is_score:
        values = smoothed(values, max(1, len(values) // 100))
    return Line([point.step for point in points], values, curve.is_score)
