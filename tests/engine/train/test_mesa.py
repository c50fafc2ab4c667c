"""When MESA begins and who teaches, in whole runs of a few steps."""
import json
import re
from pathlib import Path
from types import SimpleNamespace

import mmengine
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.hooks import EMAHook
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import load_checkpoint
from torch import nn

from mmvssd.cli.launch import build_tester, load_config
from mmvssd.converters.command import take_weights
from mmvssd.datasets import make_sample_data
from mmvssd.engine import MESAHook
from mmvssd.errors import CheckpointError, ConfigError

SCRIPT = str(Path(__file__).with_name('mesa_training.py'))

RUNS = dict(
    whole=dict(),
    late=dict(begin=0.75),
    resumed=dict(resume='whole/epoch_1.pth'),
    late_resumed=dict(begin=0.75, resume='late/epoch_1.pth'),
    mixed=dict(amp=True),
    alone=dict(batch_size=4),
)


@pytest.fixture(scope='module')
def start(run_script):
    """Train in processes of its own; returns the report of each rank."""

    def run(work_dir, runs, processes=1):
        done = run_script(SCRIPT, json.dumps(dict(work_dir=str(work_dir), runs=runs)),
                          processes=processes)
        assert done.returncode == 0, done.stdout[-3000:]
        return [json.loads(path.read_text()) for path in sorted(Path(work_dir).glob('rank*.json'))]

    return run


@pytest.fixture(scope='module')
def runs(start, tmp_path_factory):
    pytest.importorskip('mmpretrain')
    (report, ) = start(tmp_path_factory.mktemp('mesa'), RUNS)
    return report


def taught(run):
    """Numbers of the steps that had the loss."""
    return [step['iter'] for step in run['steps'] if 'loss_mesa' in step]


@pytest.mark.slow
def test_it_begins_at_its_share_of_the_run(runs):
    assert taught(runs['whole']) == [2, 3, 4, 5, 6, 7]
    assert taught(runs['late']) == [6, 7]
    assert taught(runs['alone']) == [1, 2, 3]


def test_the_moving_average_teaches(runs):
    steps = [step for step in runs['whole']['steps'] if 'loss_mesa' in step]
    assert len({step['expected'] for step in steps}) == len(steps)
    for step in steps:
        assert step['loss_mesa'] == pytest.approx(step['expected'], rel=1e-5)
    for step in runs['whole']['steps']:
        total = step['loss_ce'] + step.get('loss_mesa', 0)
        assert step['loss'] == pytest.approx(total, rel=1e-6)
    assert not runs['whole']['teacher_left']


@pytest.mark.parametrize('begin', ['', 'late_'])
def test_a_resumed_run_goes_on_as_the_whole(runs, begin):
    whole = runs[begin.strip('_') or 'whole']['steps']
    resumed = runs[f'{begin}resumed']['steps']
    assert [step['iter'] for step in resumed] == [4, 5, 6, 7]
    keys = ('iter', 'loss', 'loss_ce', 'loss_mesa')
    assert [{key: step[key] for key in keys if key in step} for step in resumed] == [
        {key: step[key] for key in keys if key in step} for step in whole[4:]]
    assert runs[f'{begin}resumed']['weights'] == runs[begin.strip('_') or 'whole']['weights']


def test_a_checkpoint_holds_average_and_raw_weights(runs):
    run = runs['whole']
    assert run['state_dict'] == pytest.approx(run['average'], rel=1e-5, abs=1e-7)
    assert run['ema_state_dict'] == run['weights']
    assert run['average'] != pytest.approx(run['weights'], rel=1e-2)


def test_both_are_validated_and_logged(runs):
    log = runs['whole']['log']
    scores = [line for line in log if 'share' in line]
    assert len(scores) == 2
    assert all(line['share'] != pytest.approx(line['share_origin'], rel=1e-4) for line in scores)
    training = [line for line in log if 'loss' in line]
    assert ['loss_mesa' in line for line in training] == [False] * 2 + [True] * 6
    assert all('loss_ce' in line for line in training)


def test_mixed_precision(runs):
    steps = runs['mixed']['steps']
    assert taught(runs['mixed']) == [2, 3, 4, 5, 6, 7]
    for step in steps[2:]:
        assert step['loss_mesa'] == pytest.approx(step['expected'], rel=2e-2)


@pytest.mark.slow
def test_two_processes_are_one_with_their_images(runs, start, tmp_path):
    """Two of two images each, against one of four: the images of a step are the same."""
    ranks = start(tmp_path, dict(pair=dict(launcher='pytorch')), processes=2)
    first, second = (rank['pair'] for rank in ranks)
    assert taught(first) == taught(second) == [1, 2, 3]
    assert first['weights'] == second['weights']
    for rank in (first, second):
        for step in rank['steps'][1:]:
            assert step['loss_mesa'] == pytest.approx(step['expected'], rel=1e-5)
    assert first['weights'] == pytest.approx(runs['alone']['weights'], rel=1e-4, abs=1e-6)
    # each sees images of its own
    assert first['steps'][1]['loss_mesa'] != pytest.approx(second['steps'][1]['loss_mesa'])


def test_what_does_not_fit():
    runner = SimpleNamespace(hooks=[], model=nn.Linear(1, 1))
    with pytest.raises(ConfigError, match='MESAHook: the run has no EMAHook'):
        MESAHook().before_train(runner)
    runner.hooks.append(EMAHook())
    with pytest.raises(ConfigError, match='MESAHook: the model is a Linear; set model.type='):
        MESAHook().before_train(runner)
    for begin in (-0.1, 1):
        with pytest.raises(ConfigError, match=f'begin: got {begin}, expected a share'):
            MESAHook(begin)


RECIPE = 'samples/vssd-nano_mesa_1xb64_digits.py'
# two batches of four, read by the process itself; an average that is far from the weights
SMALL = ['train_dataloader.batch_size=4', 'train_cfg.max_epochs=1', 'custom_hooks.0.momentum=0.5',
         'default_hooks.checkpoint.interval=1', 'default_hooks.logger.interval=1',
         'train_cfg.val_interval=1', 'default_hooks.mesa.begin=0.5', 'param_scheduler.0.end=0.5',
         *[f'{phase}_dataloader.{key}' for phase in ('train', 'val', 'test')
           for key in ('num_workers=0', 'persistent_workers=False')]]


@pytest.mark.slow
def test_a_recipe_and_its_two_kinds_of_weights(run_tool, tmp_path):
    """Trained, tested both ways, and each kind alone in a plain checkpoint."""
    pytest.importorskip('mmpretrain')
    make_sample_data(tmp_path / 'data' / 'sample_digits', num_scenes=(1, 1), num_crops=(8, 4),
                     progress=False)
    out = run_tool('train.py', RECIPE, '--work-dir', 'run', '--cfg-options', *SMALL)
    assert 'MESA: from iteration 2 of 2 on' in out
    assert re.search(r'accuracy/top1: .*accuracy/top1_origin: ', out)

    scores = {}
    for kind in ('ema', 'raw'):
        run_tool('test.py', RECIPE, 'run/epoch_1.pth', '--weights', kind, '--out', f'{kind}.pkl',
                 '--cfg-options', *SMALL)
        scores[kind] = [sample['pred_score'] for sample in mmengine.load(tmp_path / f'{kind}.pkl')]
        take_weights(str(tmp_path / 'run' / 'epoch_1.pth'), str(tmp_path / f'{kind}.pth'), kind)
    assert not torch.equal(scores['ema'][0], scores['raw'][0])
    for kind, expected in scores.items():
        cfg = load_config(RECIPE)
        init_default_scope(cfg.default_scope)
        model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor)).eval()
        load_checkpoint(model, str(tmp_path / f'{kind}.pth'), strict=True)
        dataset = DATASETS.build(dict(
            cfg.test_dataloader.dataset,
            data_root=str(tmp_path / 'data' / 'sample_digits' / 'imagenet')))
        with torch.no_grad():
            given = [model.test_step(pseudo_collate([dataset[i]]))[0].pred_score for i in range(4)]
        torch.testing.assert_close(given, expected)
        backbone = MODELS.build(dict(cfg.model.backbone, init_cfg=dict(
            type='Pretrained', checkpoint=str(tmp_path / f'{kind}.pth'), prefix='backbone.')))
        backbone.init_weights()
        for name, value in backbone.state_dict().items():
            assert torch.equal(value, model.backbone.state_dict()[name])
    with pytest.raises(CheckpointError, match='raw.pth: holds no moving average beside the raw'):
        build_tester(load_config(RECIPE), str(tmp_path / 'raw.pth'), weights='raw')
