"""Data that depend on the seed and on their place in the training alone."""
import json
import pickle
import random

import numpy as np
import pytest
import torch

from mmvssd.engine.data import training_data
from mmvssd.engine.data.training_data import (
    ResumableBatchSampler,
    SeededDataset,
    SeededIndex,
    SeededPair,
    SeededSampler,
)
from mmvssd.errors import ConfigError, UnreadableImageError

IN_TURN, ENDLESS = (dict(type=name) for name in ('DefaultSampler', 'InfiniteSampler'))


class Drawn(torch.utils.data.Dataset):
    """Each sample is its index and three random numbers, of Python, NumPy and PyTorch."""

    metainfo = dict(classes=('a', 'b'))

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return index, random.random(), np.random.rand(), torch.rand(()).item()

    def full_init(self):
        pass

    def get_data_info(self, index):
        """Upright and lying images in turn."""
        return dict(width=1 + index % 3, height=2)

    def get_cat_ids(self, index):
        return [index % 2]


class Frames(Drawn):
    """One whose indices are pairs, as those of videos."""

    def __getitem__(self, index):
        video, frame = index
        return video * 10 + frame, random.random()


class Sources(torch.utils.data.ConcatDataset):
    """Several data sets in one, as the hosts have it."""

    def get_data_info(self, index):
        return self.datasets[0].get_data_info(index % 10)


def batch_sampler(sampler, dataset, seed=3, **settings):
    return ResumableBatchSampler(SeededSampler(dataset, sampler, seed),
                                 **{'batch_size': 4, **settings})


def batches(sampler, seed=3, epoch=0, start=0, count=None, workers=0, data=None, **settings):
    """Samples of each batch, as a data loader gives them."""
    dataset = SeededDataset(data or Drawn(), '/nowhere')
    batches = batch_sampler(sampler, dataset, seed, **settings)
    batches.sampler.set_epoch(epoch)
    batches.start = start
    loader = torch.utils.data.DataLoader(dataset, batch_sampler=batches, collate_fn=list,
                                         num_workers=workers)
    return [batch for batch, _ in zip(loader, range(count or len(batches)))]


def test_data_depend_on_their_place_alone():
    assert isinstance(next(iter(SeededSampler(Drawn(), IN_TURN, 3))), SeededIndex)
    first = batches(IN_TURN)
    random.seed(8)
    torch.manual_seed(8)
    assert batches(IN_TURN) == batches(IN_TURN, workers=2) == first
    assert sorted(sample[0] for batch in first for sample in batch) == list(range(10))
    assert len({sample[1:] for batch in first for sample in batch}) == 10
    for other in (batches(IN_TURN, epoch=1), batches(IN_TURN, seed=4)):
        assert [sample[0] for batch in first for sample in batch] != [
            sample[0] for batch in other for sample in batch]
        assert not {sample[1:] for batch in first for sample in batch} & {
            sample[1:] for batch in other for sample in batch}
    for workers in (0, 2):
        assert batches(IN_TURN, start=1, count=2, workers=workers) == first[1:]


@pytest.mark.parametrize('sampler', [IN_TURN, ENDLESS], ids=str)
def test_two_processes_see_what_one_with_twice_the_batch_sees(monkeypatch, sampler):
    one = batches(sampler, count=2)
    halves = []
    for rank in (0, 1):
        for module in ('mmengine.dataset.sampler', 'mmvssd.engine.data.training_data'):
            monkeypatch.setattr(f'{module}.get_dist_info', lambda rank=rank: (rank, 2))
        halves.append(batches(sampler, count=2, batch_size=2))
    for whole, first, second in zip(one, *halves):
        assert sorted(whole) == sorted(first + second)


@pytest.mark.parametrize('sampler', [IN_TURN, ENDLESS], ids=str)
def test_the_seed_of_a_resumed_run(sampler):
    """With a host's own --resume it is known only when the data are built."""
    dataset = SeededDataset(Drawn(), '/nowhere')
    resumed = batch_sampler(sampler, dataset, seed=6)
    resumed.sampler.set_seed(5)
    loader = torch.utils.data.DataLoader(dataset, collate_fn=list, batch_sampler=resumed)
    assert [batch for batch, _ in zip(loader, range(2))] == batches(sampler, seed=5, count=2)


#: The hosts' samplers, with the data set that each takes.
TWICE = Sources([Drawn(), Drawn()])
SAMPLERS = {
    'in turn': (IN_TURN, Drawn()),
    'endless': (ENDLESS, Drawn()),
    'without shuffling': (dict(IN_TURN, shuffle=False), Drawn()),
    'by class': (dict(type='mmdet.ClassAwareSampler'), Drawn()),
    'from sources': (dict(type='mmdet.MultiSourceSampler', batch_size=4, source_ratio=[1, 3]),
                     TWICE),
    # draws from NumPy's global random numbers
    'from grouped sources': (
        dict(type='mmdet.GroupMultiSourceSampler', batch_size=4, source_ratio=[1, 3]), TWICE),
    'repeated': (dict(type='mmpretrain.RepeatAugSampler'), Drawn()),
    'one after the other': (dict(type='mmpretrain.SequentialSampler'), Drawn()),
}


@pytest.mark.parametrize('grouped', [None, 'mmdet.AspectRatioBatchSampler'])
@pytest.mark.parametrize('name', SAMPLERS)
def test_resumed_at_any_batch(name, grouped):
    """A run of seven batches, whether a pass over the data ends in it or not."""
    pytest.importorskip('mmdet.datasets')
    pytest.importorskip('mmpretrain.datasets')
    sampler, data = SAMPLERS[name]
    dataset = SeededDataset(data, '/nowhere')
    settings = dict(batch_sampler=dict(type=grouped)) if grouped else {}

    def run(start):
        """All batches from one of them on, as MMEngine's endless iteration gives them."""
        np.random.seed(start)
        resumed = batch_sampler(sampler, dataset, **settings)
        list(zip(resumed, range(2)))  # an iteration that only filled a queue
        epoch = resumed.go_to(start)
        found = []
        while len(found) < 7 - start:
            np.random.rand()  # the training draws in between
            for batch in resumed:
                np.random.rand()
                found.append([dataset[index] for index in batch])
                if len(found) == 7 - start:
                    break
            epoch += 1
            resumed.sampler.set_epoch(epoch)
        return found

    whole = run(0)
    assert len({sample for batch in whole for sample in batch}) > 10
    for start in (1, 3, 5):
        assert run(start) == whole[start:], start


def test_grouped_batches():
    pytest.importorskip('mmdet.datasets')
    for batch in batches(IN_TURN, batch_sampler=dict(type='mmdet.AspectRatioBatchSampler'))[:-1]:
        assert len({sample[0] % 3 == 0 for sample in batch}) == 1


def test_indices_of_several_numbers():
    class Sampler:
        def __init__(self, dataset, seed):
            pass

        def __iter__(self):
            return iter([(0, 3), (2, 1)])

        def __len__(self):
            return 2

    sampler = dict(type=Sampler)
    index = next(iter(SeededSampler(Frames(), sampler, 3)))
    assert isinstance(index, SeededPair)
    assert pickle.loads(pickle.dumps(index)).place == index.place == (3, 0, 0)
    first = batches(sampler, data=Frames())
    assert [sample[0] for batch in first for sample in batch] == [3, 21]
    assert batches(sampler, data=Frames(), workers=1) == first


def test_an_unreadable_frame_has_no_substitute(tmp_path):
    class Broken(Frames):
        def __getitem__(self, index):
            raise UnreadableImageError('frame.jpg')

    with pytest.raises(UnreadableImageError):
        SeededDataset(Broken(), str(tmp_path / 'list'))[SeededPair((0, 1), (3, 0, 0))]


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


def test_a_loader_without_sampler():
    with pytest.raises(ConfigError, match='train_dataloader: has no sampler; set'):
        training_data.resumable(dict(dataset={}, batch_size=2), 3, 'faults.txt')


def test_a_config_is_not_changed():
    cfg = dict(dataset=dict(type='Inner'), sampler=dict(type='DefaultSampler'), batch_size=4,
               drop_last=True, batch_sampler=dict(type='Grouped'), num_workers=2)
    before = json.dumps(cfg)
    built = training_data.resumable(cfg, 7, 'faults.txt')
    assert json.dumps(cfg) == before
    assert built == dict(
        dataset=dict(type='mmvssd.SeededDataset', dataset=cfg['dataset'],
                     unreadable='faults.txt'),
        sampler=dict(type='mmvssd.SeededSampler', sampler=cfg['sampler'], seed=7), batch_size=4,
        num_workers=2,
        batch_sampler=dict(type='mmvssd.ResumableBatchSampler', drop_last=True,
                           batch_sampler=cfg['batch_sampler']))
