"""A training that is killed and resumed ends, bit for bit, as one that never was."""
import json
import pickle
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler

from mmvssd.checkpoint import read_checkpoint
from mmvssd.datasets import make_sample_data
from mmvssd.engine.data import training_data
from mmvssd.engine.data.training_data import (
    ResumableBatchSampler,
    SeededDataset,
    SeededIndex,
    SeededSampler,
)
from mmvssd.engine.train import loops
from mmvssd.errors import CheckpointError

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


def train(folder, runs):
    given = dict(recipe='samples/vssd-nano_1xb64_digits.py', hooks=[AVERAGE], runs=runs)
    done = subprocess.run([sys.executable, str(SCRIPT), json.dumps(given)], cwd=folder, text=True,
                          capture_output=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-5000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{')]


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
    ({}, ['iter:3', 'save', 'val:2', 'save:2', 1.5, 'val'], 'epoch_3.pth'),
    (BY_ITERATION, ['iter:5', 'save', 'val'], 'iter_12.pth'),
    # from within an epoch: the best checkpoint would bring another at its end
    ({**ITERATIONS, 'default_hooks.checkpoint.save_best': None}, ['iter:8', 'save'],
     'iter_12.pth'),
], ids=['by epoch', 'by iteration', 'within an epoch'])
def test_killed_and_resumed(tmp_path, options, kills, last):
    pytest.importorskip('mmpretrain')
    make_sample_data(tmp_path / 'data' / 'sample_digits', num_scenes=(1, 1), num_crops=(16, 4),
                     progress=False)
    options = {**SMALL, **options}
    if options.get('train_cfg'):
        options = {key: value for key, value in options.items()
                   if not key.startswith('train_cfg.')}
    if last.startswith('iter') and 'train_cfg' in options:
        options['train_dataloader.sampler.type'] = 'InfiniteSampler'
    whole, pieces = train(tmp_path, [
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


class Drawn(torch.utils.data.Dataset):
    """Each sample is its index and three random numbers, of Python, NumPy and PyTorch."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        import numpy as np
        return index, random.random(), np.random.rand(), torch.rand(()).item()


def batches(sampler, seed=3, epoch=0, start=0, count=None, workers=0, **settings):
    """Samples of each batch, as a data loader gives them."""
    batch_sampler = ResumableBatchSampler(sampler, seed=seed, **{'batch_size': 4, **settings})
    batch_sampler.sampler.set_epoch(epoch)
    batch_sampler.start = start
    loader = torch.utils.data.DataLoader(
        SeededDataset(Drawn(), '/nowhere'), batch_sampler=batch_sampler, collate_fn=list,
        num_workers=workers)
    return [batch for batch, _ in zip(loader, range(count or len(batch_sampler)))]


def test_data_depend_on_their_place_alone():
    sampler = DefaultSampler(Drawn(), seed=5)
    assert isinstance(next(iter(SeededSampler(sampler, 3))), SeededIndex)
    first = batches(sampler)
    random.seed(8)
    torch.manual_seed(8)
    assert batches(sampler) == batches(sampler, workers=2) == first
    assert sorted(sample[0] for batch in first for sample in batch) == list(range(10))
    assert len({sample[1:] for batch in first for sample in batch}) == 10
    for other in (batches(sampler, epoch=1), batches(sampler, seed=4)):
        assert not {sample[1:] for batch in first for sample in batch} & {
            sample[1:] for batch in other for sample in batch}
    for workers in (0, 2):
        assert batches(sampler, start=1, count=2, workers=workers) == first[1:]


def test_data_from_the_middle_of_a_stream():
    whole = batches(InfiniteSampler(Drawn(), seed=5), count=7)
    assert batches(InfiniteSampler(Drawn(), seed=5), start=4, count=3) == whole[4:]
    used = InfiniteSampler(Drawn(), seed=5)
    batches(used, count=2)
    assert batches(used, count=7) == whole


@pytest.mark.parametrize('kind', [DefaultSampler, InfiniteSampler])
def test_two_processes_see_what_one_with_twice_the_batch_sees(monkeypatch, kind):
    one = batches(kind(Drawn(), seed=5), count=2)
    halves = []
    for rank in (0, 1):
        for module in ('mmengine.dataset.sampler', 'mmvssd.engine.data.training_data'):
            monkeypatch.setattr(f'{module}.get_dist_info', lambda rank=rank: (rank, 2))
        halves.append(batches(kind(Drawn(), seed=5), count=2, batch_size=2))
    for whole, first, second in zip(one, *halves):
        assert sorted(whole) == sorted(first + second)


@pytest.mark.parametrize('kind', [DefaultSampler, InfiniteSampler])
def test_the_seed_of_a_resumed_run(kind):
    """With a host's own --resume it is known only when the data are built."""
    whole = batches(kind(Drawn(), seed=5), seed=5, count=2)
    batch_sampler = ResumableBatchSampler(kind(Drawn(), seed=6), batch_size=4, seed=6)
    batch_sampler.sampler.set_seed(5)
    loader = torch.utils.data.DataLoader(SeededDataset(Drawn(), '/nowhere'), collate_fn=list,
                                         batch_sampler=batch_sampler)
    assert [batch for batch, _ in zip(loader, range(2))] == whole


@pytest.mark.parametrize('places', [[(3, 12), (3, 12)], [(3, 12), (2, 8)]])
def test_processes_begin_at_one_place(monkeypatch, places):
    class Loop(loops.EpochBasedTrainLoop):
        def __init__(self):
            self._runner = SimpleNamespace(seed=1)
            self.dataloader = torch.utils.data.DataLoader(Drawn())
            self._epoch, self._iter = places[0]

    monkeypatch.setattr(loops, 'all_gather_object', lambda place: places)
    if len(set(places)) == 1:
        Loop()._take_up()
        return
    with pytest.raises(CheckpointError, match=r'1: epoch 2, iteration 8'):
        Loop()._take_up()


def test_grouped_batches_can_be_resumed():
    """MMDetection's groups by aspect ratio keep indices of one iteration for the next."""
    samplers = pytest.importorskip('mmdet.datasets.samplers')
    assert samplers.AspectRatioBatchSampler

    class Oblong(Drawn):
        def get_data_info(self, index):
            return dict(width=1 + index % 3, height=2)

    sampler = DefaultSampler(Oblong(), seed=5)
    grouped = dict(batch_sampler=dict(type='mmdet.AspectRatioBatchSampler'))
    whole = batches(sampler, **grouped)
    for batch in whole[:-1]:
        assert len({sample[0] % 3 == 0 for sample in batch}) == 1
    batches(sampler, count=1, **grouped)
    assert batches(sampler, start=1, count=2, **grouped) == whole[1:]


def test_a_data_set_in_its_wrapper_is_itself():
    inner = Drawn()
    inner.metainfo = dict(classes=('a', ))
    inner.pipeline = 'weak'
    wrapped = SeededDataset(inner, 'nowhere')
    assert wrapped.metainfo is inner.metainfo
    wrapped.pipeline = 'strong'  # as hooks of the hosts do
    assert inner.pipeline == wrapped.pipeline == 'strong'
    inner.__dict__['__getitems__'] = None  # PyTorch would take it in place of the wrapper's own
    assert not hasattr(wrapped, '__getitems__')
    assert pickle.loads(pickle.dumps(wrapped)).pipeline == 'strong'
    assert len(wrapped) == 10
    with pytest.raises(AttributeError, match='no_such'):
        _ = wrapped.no_such


def test_a_config_is_not_changed():
    cfg = dict(dataset=dict(type='Inner'), sampler=dict(type='DefaultSampler'), batch_size=4,
               drop_last=True, batch_sampler=dict(type='Grouped'), num_workers=2)
    before = json.dumps(cfg)
    built = training_data.resumable(cfg, 7, 'faults.txt')
    assert json.dumps(cfg) == before
    assert built == dict(
        dataset=dict(type='mmvssd.SeededDataset', dataset=cfg['dataset'],
                     unreadable='faults.txt'),
        sampler=cfg['sampler'], batch_size=4, num_workers=2,
        batch_sampler=dict(type='mmvssd.ResumableBatchSampler', seed=7, drop_last=True,
                           batch_sampler=cfg['batch_sampler']))
