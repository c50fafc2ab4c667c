"""Batches that a norm, a loader or a preprocessor cannot take."""
from types import SimpleNamespace

import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler, default_collate, pseudo_collate
from torch import nn
from torch.utils.data import BatchSampler, DataLoader

from mmvssd.engine.data import batches
from mmvssd.engine.data.findings import STOP, WARN, Findings


def stops(check, *args):
    findings = Findings()
    check(*args, 'train_dataloader', findings)
    return [str(found) for found in findings.of(STOP)]


@pytest.mark.parametrize(('settings', 'message'), [
    (dict(batch_size=4, num_workers=0, persistent_workers=False), None),
    (dict(batch_size=4, num_workers=2, persistent_workers=True, prefetch_factor=4), None),
    (dict(batch_size=4), None),
    (dict(num_workers=0, persistent_workers=True), 'persistent_workers=True needs workers'),
    (dict(persistent_workers=True), 'num_workers=0'),
    (dict(num_workers=0, prefetch_factor=4), 'prefetch_factor=4 needs workers'),
    (dict(num_workers=-1), 'num_workers is -1'),
    (dict(num_workers='2'), "num_workers is '2'"),
    (dict(batch_size=0), 'batch_size is 0'), (dict(batch_size='8'), "batch_size is '8'"),
    (dict(batch_size=2.5), 'batch_size is 2.5'),
])
def test_settings(settings, message):
    found = stops(batches.check_settings, settings)
    assert bool(found) == bool(message)
    assert not message or message in found[0]


def pyramid(norm):
    """A branch of UperNet's: pooled to one value, then a norm."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Sequential(nn.Conv2d(3, 4, 1), norm))


@pytest.mark.parametrize(('images', 'size', 'drop_last', 'model', 'stopped'), [
    (9, 4, False, pyramid(nn.BatchNorm2d(4)), True),
    (9, 4, False, pyramid(nn.SyncBatchNorm(4)), True),
    (9, 4, True, pyramid(nn.BatchNorm2d(4)), False),
    (8, 4, False, pyramid(nn.BatchNorm2d(4)), False),
    (8, 1, False, pyramid(nn.BatchNorm2d(4)), True),
    (9, 4, False, pyramid(nn.GroupNorm(1, 4)), False),
    (9, 4, False, pyramid(nn.BatchNorm2d(4)).eval(), False),  # frozen
    (9, 4, False, nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), False),
])
def test_a_batch_of_one_image(images, size, drop_last, model, stopped):
    sampler = DefaultSampler(range(images), shuffle=True)
    loader = DataLoader(range(images), batch_sampler=BatchSampler(sampler, size, drop_last))
    found = stops(batches.check_training, loader, model)
    assert bool(found) == stopped
    if stopped:
        with pytest.raises(ValueError, match='more than 1 value'):  # what it foresees
            model(torch.rand(1, 3, 8, 8))


def test_a_norm_of_vectors_is_doubtful():
    """LeViT's sees a vector of each place in an image."""
    loader = DataLoader(range(9), batch_sampler=BatchSampler(
        DefaultSampler(range(9), shuffle=True), 4, False))
    findings = Findings()
    batches.check_training(loader, nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), 'train',
                           findings)
    assert not findings.of(STOP)
    assert 'the last of 9 images in batches of 4 is alone' in str(findings.of(WARN)[0])


def test_no_batch_at_all():
    def loader(images, size):
        return DataLoader(range(images), batch_size=size, drop_last=True)

    assert 'give no batch of 4' in stops(batches.check_count, loader(3, 4))[0]
    assert '0 images give no batch' in stops(batches.check_count, loader(0, 4))[0]
    assert not stops(batches.check_count, loader(4, 4))
    assert not stops(batches.check_count, None)


def test_batches_without_end_are_full():
    sampler = InfiniteSampler(range(9))
    loader = DataLoader(range(9), batch_sampler=BatchSampler(sampler, 4, False))
    assert not stops(batches.check_training, loader, pyramid(nn.BatchNorm2d(4)))


class Images(list):
    """Images of some sizes."""

    def __getitem__(self, index):
        return dict(inputs=torch.zeros(3, *super().__getitem__(index)))


class SegDataPreProcessor(nn.Module):
    def __init__(self, test_cfg=None):
        super().__init__()
        self.test_cfg = test_cfg


@pytest.mark.parametrize(('sizes', 'size', 'stored', 'preprocessor', 'collate', 'stopped'), [
    ([(4, 4), (4, 8)], 2, None, SegDataPreProcessor(), pseudo_collate, True),
    ([(4, 4), (4, 8)], 2, None, SegDataPreProcessor(dict(size=(8, 8))), pseudo_collate, False),
    ([(4, 4), (4, 8)], 1, None, SegDataPreProcessor(), pseudo_collate, False),
    # batches happen to be of one size
    ([(4, 4), (4, 4), (4, 8), (4, 8)], 2, None, SegDataPreProcessor(), pseudo_collate, False),
    # the pipeline makes them one size
    ([(4, 4), (4, 4)], 2, {0: (4, 4), 1: (9, 9)}, SegDataPreProcessor(), pseudo_collate, False),
    ([(4, 4), (4, 8)], 2, None, nn.Identity(), pseudo_collate, False),  # pads, or is not known
    ([(4, 4), (4, 8)], 2, None, nn.Identity(), default_collate, True),
])
def test_images_of_several_sizes(sizes, size, stored, preprocessor, collate, stopped):
    data = Images(sizes)
    loader = DataLoader(data, collate_fn=collate, batch_sampler=BatchSampler(
        DefaultSampler(data, shuffle=False), size, False))
    state = torch.get_rng_state()
    found = stops(batches.check_sizes, loader, SimpleNamespace(data_preprocessor=preprocessor),
                  stored or dict(enumerate(sizes)))
    assert bool(found) == stopped
    assert not stopped or '4 x 4 and 4 x 8' in found[0]
    assert torch.equal(state, torch.get_rng_state())
