"""The sample recipes' learning rates, records and curves, as training really has them."""
import json

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmvssd.analysis.curves import read_run
from mmvssd.cli.launch import build_trainer, load_config
from mmvssd.datasets import make_sample_data

pytestmark = pytest.mark.slow

RECIPES = dict(cls='samples/vssd-nano_1xb64_digits.py',
               det='samples/mask-rcnn_vssd-nano_fpn_1xb8_digits.py',
               seg='samples/upernet_vssd-nano_1xb8_digits.py')
OPTIONS = {f'{phase}_dataloader.{key}': value for phase in ('train', 'val')
           for key, value in dict(num_workers=0, persistent_workers=False).items()}
OPTIONS.update({'train_dataloader.batch_size': 4, 'model.backbone.init_cfg': None,
                'default_hooks.logger.interval': 1, 'optim_wrapper.accumulative_counts': 2,
                'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1})
ITERATIONS = dict(type='mmvssd.IterBasedTrainLoop', max_iters=2, val_interval=2)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    make_sample_data(tmp_path / 'data' / 'sample_digits', num_scenes=(8, 2), num_crops=(8, 2),
                     progress=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize('kind', ['epochs', 'iterations'])
@pytest.mark.parametrize('task', RECIPES)
def test_scaled_rate_record_and_curves(folder, task, kind):
    cfg = load_config(RECIPES[task], work_dir=str(folder / 'run'), options=OPTIONS)
    if kind == 'iterations':
        cfg.train_cfg = ITERATIONS
        cfg.log_processor = dict(by_epoch=False)
        cfg.default_hooks.logger.log_metric_by_epoch = False
        cfg.default_hooks.checkpoint.by_epoch = False
        for scheduler in cfg.param_scheduler:
            scheduler.update(by_epoch=False, convert_to_iter_based=False)
    cfg.visualizer.name = folder.name  # of one name there is one in a process, of the first run
    init_default_scope(cfg.default_scope)
    recipe, base = cfg.optim_wrapper.optimizer.lr, cfg.auto_scale_lr.base_batch_size
    runner = build_trainer(cfg, auto_scale_lr=True)
    runner.train()
    scale = 4 * 2 / base  # images x accumulated
    groups = runner.optim_wrapper.optimizer.param_groups
    rates = [group['initial_lr'] for group in groups]
    assert rates == pytest.approx([recipe * scale] * len(rates))

    (file, ) = folder.glob('run/*/run.json')
    record = json.loads(file.read_text())
    assert record['status'] == 'finished'
    assert record['recipe'] == RECIPES[task]
    assert record['lr'] == dict(recipe=recipe, used=pytest.approx(recipe * scale),
                                scale=pytest.approx(scale))
    assert record['batch'] == dict(processes=1, images=4, accumulated=2, base=base, total=8)
    assert list(record['ops']) == ['nc_ssd']
    # the config, with what the command line changed
    written = Config.fromfile(file.parent / record['config'])
    for key in ('model', 'optim_wrapper', 'train_cfg', 'train_dataloader', 'default_hooks'):
        assert written[key] == cfg[key], key

    log = file.with_name(f'{file.parent.name}.log').read_text()
    assert log.count('global batch 8 = 1 process x 4 images x 2 accumulated') == 1
    check_events(file.parent, read_run(folder / 'run'))


def check_events(folder, run):
    """The event file says what scalars.json says."""
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    (file, ) = folder.glob('vis_data/events.out.tfevents.*')
    found = accumulator.EventAccumulator(str(file)).Reload()
    scores = [key for key, curve in run.items() if curve.is_score]
    assert scores
    for key in ('loss', 'lr', *scores):
        values = {event.step: event.value for event in found.Scalars(key)}
        assert values == {point.step: pytest.approx(point.value) for point in run[key].points}
    assert [point.step for point in run['loss'].points] == [1, 2]
