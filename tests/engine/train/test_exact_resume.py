"""A training that is killed and resumed ends, bit for bit, as one that never was."""
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mmvssd.checkpoint import read_checkpoint
from mmvssd.datasets import make_sample_data
from mmvssd.engine import GuardsHook
from mmvssd.engine.guards import GUARDS, INEXACT
from mmvssd.engine.train import loops
from mmvssd.errors import CheckpointError

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = Path(__file__).with_name('killed_training.py')
#: A small classifier with all that draws random numbers, four batches an epoch.
SMALL = {
    'model.backbone.arch.embed_dims': 8, 'model.head.in_channels': 64,
    'model.backbone.drop_path_rate': 0.3,
    'model.train_cfg': dict(augments=[dict(type='Mixup', alpha=0.8),
                                      dict(type='CutMix', alpha=1.0)]),
    'train_dataloader.batch_size': 4, 'val_dataloader.batch_size': 1,
    'train_cfg.max_epochs': 3, 'train_cfg.val_interval': 1,
    'default_hooks.checkpoint.interval': 1, 'default_hooks.checkpoint.max_keep_ckpts': 1,
    'default_hooks.checkpoint.save_best': 'auto', 'default_hooks.logger.interval': 1,
}
ONE_PROCESS = {f'{phase}_dataloader.{key}': value for phase in ('train', 'val')
               for key, value in dict(num_workers=0, persistent_workers=False).items()}
AVERAGE = dict(type='mmpretrain.EMAHook', momentum=0.1, evaluate_on_origin=True,
               priority='ABOVE_NORMAL')
ITERATIONS = {
    'default_hooks.checkpoint.by_epoch': False, 'default_hooks.checkpoint.interval': 3,
    'default_hooks.checkpoint.max_keep_ckpts': 2,
    'param_scheduler': [dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=False, T_max=12)],
}
BY_ITERATION = dict(ITERATIONS, **{
    'train_cfg': dict(_delete_=True, type='mmvssd.IterBasedTrainLoop', max_iters=12,
                      val_interval=4),
    'log_processor.by_epoch': False})


def differing(one, other, name=''):
    """Names of what differs in two nested structures of tensors and numbers."""
    if isinstance(one, torch.Tensor):
        same = torch.equal(one, other) and one.dtype == other.dtype
        return [] if same else [name]
    if isinstance(one, dict):
        if set(one) != set(other):
            return [f'{name}: {sorted(set(one) ^ set(other))}']
        return [line for key in one for line in differing(one[key], other[key], f'{name}.{key}')]
    if isinstance(one, (list, tuple)) and len(one) == len(other):
        return [line for index, (a, b) in enumerate(zip(one, other))
                for line in differing(a, b, f'{name}.{index}')]
    return [] if one == other else [f'{name}: {one} {other}']


@pytest.fixture
def train(tmp_path, tool_runner):
    """Train in a folder as ``killed_training.py`` does; returns what became of each run."""

    def start(runs, recipe='samples/vssd-nano_1xb64_digits.py', hooks=(AVERAGE, )):
        given = dict(recipe=recipe, hooks=hooks, runs=runs)
        done = tool_runner([str(SCRIPT), json.dumps(given)], tmp_path, dict(os.environ), 600)
        assert done.returncode == 0, done.stdout[-5000:]
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{')]

    return start


def scores(work_dir):
    """The last score of each step, from all starts of a run."""
    found = {}
    for file in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in map(json.loads, file.read_text().splitlines()):
            if 'accuracy/top1' in line:
                found[line['step']] = line['accuracy/top1'], line['accuracy/top1_origin']
    return found


@pytest.mark.slow
@pytest.mark.parametrize(('options', 'kills', 'last'), [
    ({}, ['iter:3', 'save', 'val:2', 'save:2', 0.5, 'val'], 'epoch_3.pth'),
    (BY_ITERATION, ['iter:5', 'save', 'val'], 'iter_12.pth'),
    # from within an epoch: the best checkpoint would bring another at its end
    ({**ITERATIONS, 'default_hooks.checkpoint.save_best': None}, ['iter:8', 'save'],
     'iter_12.pth'),
], ids=['by epoch', 'by iteration', 'within an epoch'])
def test_killed_and_resumed(train, tmp_path, options, kills, last):
    pytest.importorskip('mmpretrain')
    make_sample_data(tmp_path / 'data' / 'sample_digits', num_scenes=(1, 1), num_crops=(16, 4),
                     progress=False)
    options = {**SMALL, **options}
    if options.get('train_cfg'):
        options = {key: value for key, value in options.items()
                   if not key.startswith('train_cfg.')}
    if last.startswith('iter') and 'train_cfg' in options:
        options['train_dataloader.sampler.type'] = 'InfiniteSampler'
    whole, pieces = train([
        # read by the training process in the one, by workers in the other
        dict(work_dir='whole', options={**options, **ONE_PROCESS}, kills=[]),
        dict(work_dir='pieces', options=options, kills=kills)])
    assert whole['killed'] == []
    named = [moment.partition(':')[0] for moment in kills if isinstance(moment, str)]
    assert [phase for phase, moment in zip(pieces['killed'], kills)
            if isinstance(moment, str)] == named
    assert pieces['halves'] >= 1
    assert not list((tmp_path / 'pieces').glob('*.partial'))
    one, other = (read_checkpoint(str(tmp_path / name / last)) for name in ('whole', 'pieces'))
    for part in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers'):
        assert not differing(one[part], other[part], part)
    assert [one['meta'][key] for key in ('epoch', 'iter', 'seed')] == [
        other['meta'][key] for key in ('epoch', 'iter', 'seed')]
    assert one['state_dict'].keys() == {name[len('module.'):] for name in one['ema_state_dict']
                                        if name.startswith('module.')}
    # no evaluation is left out, and each gives the same; the best checkpoint is there
    assert scores(tmp_path / 'whole') == scores(tmp_path / 'pieces') != {}
    assert {path.name for path in (tmp_path / 'whole').glob('*.pth')} == {
        path.name for path in (tmp_path / 'pieces').glob('*.pth')}


#: A config of MMDetection's, on which README's example of a user's own config stands.
BASE = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
DIGITS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
DATA = 'data/sample_digits/coco/'

#: The example made small, on three batches of two small images an epoch.
EXAMPLE = {
    'model.backbone.arch': dict(_delete_=True, embed_dims=8, depths=(1, 1, 1, 1),
                                num_heads=(1, 1, 2, 2), d_state=8, mlp_ratio=2),
    'model.backbone.init_cfg': None, 'model.backbone.drop_path_rate': 0.3,
    'model.neck.in_channels': [8, 16, 32, 64], 'model.neck.out_channels': 16,
    'model.rpn_head.in_channels': 16, 'model.rpn_head.feat_channels': 16,
    'model.train_cfg.rpn_proposal.max_per_img': 20, 'model.train_cfg.rcnn.sampler.num': 16,
    'model.test_cfg.rpn.max_per_img': 10,
    **{f'model.roi_head.{part}_roi_extractor.out_channels': 16 for part in ('bbox', 'mask')},
    **{f'model.roi_head.{part}_head.{key}': value for part in ('bbox', 'mask')
       for key, value in dict(in_channels=16, num_classes=10).items()},
    'model.roi_head.bbox_head.fc_out_channels': 32, 'model.roi_head.mask_head.num_convs': 1,
    'model.roi_head.mask_head.conv_out_channels': 16,
    **{f'{phase}_dataloader.dataset.{key}': value for phase in ('train', 'val')
       for key, value in dict(data_root=DATA, metainfo=dict(classes=DIGITS)).items()},
    'train_dataloader.dataset.pipeline.2.scale': 64, 'train_dataloader.num_workers': 1,
    'val_dataloader.dataset.pipeline.1.scale': 64, 'val_dataloader.num_workers': 1,
    'val_evaluator.ann_file': f'{DATA}annotations/instances_val2017.json',
    'val_evaluator.metric': 'bbox',
    'train_cfg.max_epochs': 2, 'default_hooks.checkpoint.max_keep_ckpts': 1,
    'default_hooks.logger.interval': 1, 'randomness': dict(seed=5),
}


def example():
    """The config that README, or a page that it was moved to, tells users to write."""
    for page in (ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))):
        for block in re.findall(r'```python\n(.*?)```', page.read_text(), re.DOTALL):
            if f"_base_ = '{BASE}'" in block:
                return block
    raise AssertionError(f'no page has an example on {BASE}')


@pytest.mark.slow
def test_a_users_own_config(train, tmp_path):
    """A config of a host's on our backbone has all guards, and no line for them."""
    pytest.importorskip('mmdet')
    make_sample_data(tmp_path / 'data' / 'sample_digits', num_scenes=(6, 2), num_crops=(1, 1),
                     progress=False)
    (tmp_path / 'mine.py').write_text(example())
    whole, pieces = train([
        dict(work_dir='whole', options={**EXAMPLE, **ONE_PROCESS}, kills=[]),
        dict(work_dir='pieces', options=EXAMPLE, kills=['iter:2', 'save', 'val'])],
        recipe='mine.py', hooks=())
    assert whole['killed'] == []
    assert pieces['killed'] == ['iter', 'save', 'val']
    one, other = (read_checkpoint(str(tmp_path / name / 'epoch_2.pth'))
                  for name in ('whole', 'pieces'))
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        assert not differing(one[part], other[part], part)
    assert one['meta']['iter'] == 6
    for name, starts in (('whole', 1), ('pieces', 4)):
        log = (tmp_path / name / 'output.txt').read_text()
        assert log.count(f'Guards on: train_loop, {", ".join(GUARDS)}\n') == starts
        assert 'is off' not in log
        assert INEXACT not in log


@pytest.mark.parametrize('places', [[(3, 12), (3, 12)], [(3, 12), (2, 8)]])
def test_processes_begin_at_one_place(monkeypatch, places):
    class Loop(loops.EpochBasedTrainLoop):
        def __init__(self):
            self._runner = SimpleNamespace(seed=1, hooks=[GuardsHook()], _resume=False)
            self.dataloader = torch.utils.data.DataLoader([1, 2])
            self._epoch, self._iter = places[0]

    monkeypatch.setattr(loops, 'all_gather_object', lambda place: places)
    if len(set(places)) == 1:
        Loop()._take_up()
        return
    with pytest.raises(CheckpointError, match=r'1: epoch 2, iteration 8'):
        Loop()._take_up()
