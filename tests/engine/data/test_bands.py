"""Faults of images of many bands are named before the first step; healthy ones train."""
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmvssd.bands import LoadBands
from mmvssd.cli.launch import build_trainer
from mmvssd.engine.data.bands import check_steps
from mmvssd.errors import ConfigError, DataError

MEAN = [1000., 200., 30., 4., 500.]
PIPELINE = [dict(type='mmvssd.LoadBands', mean=MEAN, std=MEAN),
            dict(type='RandomResizedCrop', scale=32), dict(type='PackInputs')]


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A classifier of eight arrays of five bands, two of them for validation."""
    pytest.importorskip('mmpretrain')
    monkeypatch.chdir(tmp_path)
    init_default_scope('mmpretrain')
    for part, count in (('train', 6), ('val', 2)):
        for index in range(count):
            image = np.random.default_rng(index + count).normal(MEAN, 1, (40, 36, 5))
            folder = tmp_path / 'data' / part / 'ab'[index % 2]
            folder.mkdir(parents=True, exist_ok=True)
            np.save(folder / f'{index}.npy', image.astype('float32'))

    def loader(part):
        return dict(
            batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
            dataset=dict(type='CustomDataset', data_root='data', data_prefix=part,
                         extensions=('.npy', ), pipeline=PIPELINE))

    return Config(dict(
        default_scope='mmpretrain', work_dir='work', optim_wrapper=dict(
            type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3)),
        model=dict(
            type='ImageClassifier',
            backbone=dict(type='mmvssd.VSSD', in_channels=5, out_indices=(1, ), arch=dict(
                embed_dims=16, depths=(1, 1), num_heads=(2, 2), d_state=8)),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=2, in_channels=32)),
        train_cfg=dict(by_epoch=True, max_epochs=1), val_cfg=dict(),
        val_evaluator=dict(type='Accuracy', topk=(1, )),
        train_dataloader=loader('train'), val_dataloader=loader('val')))


def train(cfg):
    """Train; return the run's log."""
    build_trainer(cfg).train()
    log, = Path('work').rglob('*.log')
    return log.read_text()


def change(path, array):
    np.save(f'data/{path}.npy', array(np.load(f'data/{path}.npy')))


def test_healthy_data_train(recipe):
    log = train(recipe)
    assert 'Doubtful data' not in log
    assert 'train: values of 6 images' in log


def spoilt(image):
    image[3, 4, 1] = np.nan
    return image


FAULTS = dict(
    bands=('train/a/2', lambda image: image[..., :4],
           r'data/train/a/2\.npy: has 4 bands of 36 x 40 pixels, mean and std of LoadBands have 5'),
    of_validation=('val/b/1', lambda image: image[..., :4], r'data/val/b/1\.npy: has 4 bands'),
    nan=('train/b/1', spoilt, r'data/train/b/1\.npy: 1 value is not finite, in band 1'),
    shape=('train/b/1', lambda image: image[None], r'data/train/b/1\.npy: has the shape 1 x 40'),
    text=('train/b/1', lambda image: image.astype(str), r'data/train/b/1\.npy: has values of dty'))


@pytest.mark.parametrize('name', FAULTS)
def test_a_wrong_file_stops_the_run(name, recipe):
    path, array, message = FAULTS[name]
    change(path, array)
    with pytest.raises(DataError, match=message):
        train(recipe)


def test_a_broken_file_is_left_out_as_a_broken_photograph_is(recipe):
    with open('data/train/b/1.npy', 'wb') as file:
        file.write(b'broken')
    train(recipe)
    with open('work/unreadable_images.txt') as file:
        assert 'data/train/b/1.npy: cannot be read as an image' in file.read()


def test_a_band_of_one_value_is_doubtful(recipe):
    for path in ('a/0', 'a/2', 'a/4', 'b/1', 'b/3', 'b/5'):
        change(f'train/{path}', lambda image: np.concatenate([image[..., :4], image[..., :1] * 0],
                                                             2))
    log = train(recipe)
    assert 'Doubtful data: train_dataloader, CustomDataset: band 4 has one value throughout' in log


@pytest.mark.parametrize(('settings', 'error', 'message'), [
    ({'model.backbone.in_channels': 4}, DataError,
     r'\.npy: LoadBands gives 5 bands of it, the model takes 4. Set in_channels=5'),
    ({'model.data_preprocessor': dict(mean=[1.] * 3, std=[1.] * 3)}, DataError,
     'normalized twice, by LoadBands and by the data_preprocessor: set mean=None'),
    ({'train_dataloader.dataset.pipeline': [PIPELINE[0], dict(
        type='ColorJitter', brightness=.4), *PIPELINE[1:]]}, DataError,
     'train_dataloader, CustomDataset: the pipeline loads bands, and ColorJitter is for'),
    ({'val_dataloader.dataset.pipeline': [PIPELINE[0], dict(
        type='ResizeEdge', scale=32, backend='pillow'), PIPELINE[2]]}, DataError,
     "val_dataloader, CustomDataset: ResizeEdge has backend='pillow'"),
    ({'train_dataloader.dataset.pipeline': [
        dict(PIPELINE[0], std=MEAN[:4]), *PIPELINE[1:]]}, ConfigError,
     'LoadBands: mean has 5, std has 4 numbers')])
def test_settings_that_do_not_suit_bands_are_named(settings, error, message, recipe):
    recipe.merge_from_dict(settings)
    with pytest.raises(error, match=message):
        train(recipe)


def step(name, **attributes):
    return type(name, (), attributes)()


PLAIN = LoadBands(bands=[0, 1, 2, 3, 4])
NORMALIZING = LoadBands(mean=MEAN, std=MEAN)


def preprocessor(count):
    return SimpleNamespace(mean=torch.zeros(count, 1, 1))


@pytest.mark.parametrize('steps', [
    [NORMALIZING], [NORMALIZING, step('Resize', backend='cv2', interpolation='bilinear')],
    [NORMALIZING, step('RandAugment', policies=[dict(type='Rotate'), [dict(type='Shear')]])],
    [PLAIN, step('Normalize')]])
def test_steps_that_suit_bands_pass(steps):
    check_steps(steps, 'here', 5)
    check_steps(steps, 'here', 5, SimpleNamespace())
    if steps[0] is PLAIN:
        for count in (1, 5):
            check_steps(steps, 'here', 5, preprocessor(count))


@pytest.mark.parametrize(('steps', 'given', 'message'), [
    ([NORMALIZING, step('PhotoMetricDistortion')], None, 'PhotoMetricDistortion is for the col'),
    ([NORMALIZING, step('RandAugment', policies=[dict(type='mmpretrain.Posterize')])], None,
     'Posterize is for the colours'),
    ([NORMALIZING, step('AutoAugment', policies=[[dict(type='Solarize'), dict(type='Color')]])],
     None, 'Color, Solarize is for the colours'),
    ([NORMALIZING, step('Resize', interpolation='area')], None, "has interpolation='area'"),
    ([NORMALIZING, step('Normalize')], None, 'normalized twice'),
    ([NORMALIZING], preprocessor(5), 'normalized twice'),
    ([PLAIN], preprocessor(3), 'have 5 bands, mean of the data_preprocessor has 3')])
def test_steps_that_do_not_suit_bands_are_named(steps, given, message):
    with pytest.raises(DataError, match=f'here: .*{message}'):
        check_steps(steps, 'here', 5, given)
