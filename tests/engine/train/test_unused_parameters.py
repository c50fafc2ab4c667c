"""Parameters without a gradient are named at the first step of several processes."""
import json
import runpy
from pathlib import Path

import pytest
from torch import nn

from mmvssd.engine.train.unused_parameters import explain

SCRIPT = str(Path(__file__).with_name('unused_training.py'))

#: Trainings in two processes: what of the recipe, what is said, and after which iteration.
RUNS = {
    'retinanet': (dict(model=dict(start=1)), 0, [
        '2 parameters get no gradient, and several processes cannot train such: '
        'model.backbone.norm0.',
        'No head reads output 0 of model.backbone. Set model.backbone.out_indices=(1, 2)',
        'Or set find_unused_parameters=True at the top of the recipe']),
    'accumulating': (dict(model=dict(start=1), counts=2), 1, ['model.backbone.norm0.']),
    'idle': (dict(model=dict(idle=True)), 0, [
        '2 parameters get no gradient', 'The loss does not depend on model.idle: leave out']),
    'looked for': (dict(model=dict(start=1), find_unused=True), 4, None),
    'as is said': (dict(model=dict(start=0, out_indices=(1, 2))), 4, None),
    'all used': (dict(model=dict()), 4, None),
}


@pytest.fixture(scope='module')
def reports(run_script, tmp_path_factory):
    """Train all, one after the other, in two processes; returns reports by run and rank."""
    folders = {name: tmp_path_factory.mktemp(name.replace(' ', '_')) for name in RUNS}
    runs = [dict(RUNS[name][0], work_dir=str(folder)) for name, folder in folders.items()]
    done = run_script(SCRIPT, json.dumps(runs), processes=2)
    assert done.returncode == 0, done.stdout[-5000:]
    return {name: [json.loads((folder / f'rank{rank}.json').read_text()) for rank in range(2)]
            for name, folder in folders.items()}


@pytest.mark.parametrize('name', RUNS)
def test_two_processes(reports, name):
    _, iterations, said = RUNS[name]
    for report in reports[name]:
        assert report['iterations'] == iterations
        assert (report['error'] is None) == (said is None)
        assert all(text in report['error'] for text in said or ())


def test_one_process_trains_without(tmp_path):
    build = runpy.run_path(SCRIPT)['build']
    runner = build(str(tmp_path), dict(start=1), launcher='none')
    runner.train()
    assert runner.iter == 8


def test_backbones_of_others_and_backbones_alone():
    model = nn.ModuleDict(dict(norm0=nn.LayerNorm(2), head=nn.Linear(2, 2)))
    said = explain(model, ['norm0.weight', 'norm0.bias', 'head.bias'])
    assert '3 parameters' in said
    assert 'The loss does not depend on model.norm0, model.head:' in said
    assert 'No head reads' not in said
    # a backbone of which nothing is read
    model = runpy.run_path(SCRIPT)['Detector']()
    said = explain(model, [f'backbone.norm{i}.weight' for i in range(3)])
    assert 'out_indices' not in said
