"""Recipes of data that are no photographs: LoadBands, its statistics, and as many channels."""
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, DefaultScope

from mmvssd.errors import DataError
from mmvssd.new_recipe import new_recipe
from mmvssd.paths import configs_dir

tifffile = pytest.importorskip('tifffile')
spec = importlib.util.spec_from_file_location('made_data', Path(__file__).parent / 'made_data.py')
made = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made)


def bands(path, count=5, dtype='uint16', **options):
    """Write an image of noise whose bands differ in mean and deviation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(str(path))).random((made.HEIGHT, made.WIDTH, count))
    pixels = (100 * (1 + np.arange(count)) * (1 + noise)).astype(dtype)
    if path.suffix == '.npy':
        np.save(path, pixels)
    else:
        tifffile.imwrite(path, pixels.squeeze(), photometric='minisblack',
                         **dict(dict(planarconfig='contig') if count > 1 else {}, **options))
    return pixels


def make_coco(root, **options):
    names = [f'{index}.tif' for index in range(4)]
    (root / 'images').mkdir(parents=True)
    (root / 'instances.json').write_text(json.dumps(made.coco_content(names)))
    return [bands(root / 'images' / name, **options) for name in names]


def make_label_maps(root, ending='tif', **options):
    for index in range(4):
        made.label_map(root / 'masks' / f'{index}.png', (0, 1))
    return [bands(root / 'images' / f'{index}.{ending}', **options) for index in range(4)]


def make_class_folders(root, ending='npy', **options):
    return [bands(root / name / f'{index}.{ending}', **options)
            for name in made.CLASSES for index in range(3)]


def write(root, out, **options):
    new_recipe(str(root), str(out), **{**dict(arch='vssd-nano'), **options})
    return Config.fromfile(out)


@pytest.mark.parametrize(('make', 'options', 'count', 'host'), [
    (make_coco, {}, 5, 'mmdet'), (make_coco, dict(count=1), 1, 'mmdet'),
    (make_label_maps, dict(count=4, dtype='float32'), 4, 'mmseg'),
    (make_label_maps, dict(ending='npy', count=3), 3, 'mmseg'),
    (make_class_folders, dict(count=13), 13, 'mmpretrain'),
    (make_class_folders, dict(ending='tif', planarconfig='separate', count=made.WIDTH), 64,
     'mmpretrain')])
def test_the_model_gets_the_bands_normalized(make, options, count, host, tmp_path, capsys):
    if 'planarconfig' in options:  # as planes, in tiles that are compressed
        options = dict(ending='tif', count=6, compression='zlib', tile=(32, 32))
        count = 6
    images = make(tmp_path / 'data', **options)
    before = made.snapshot(tmp_path / 'data')
    cfg = write(tmp_path / 'data', tmp_path / 'r.py')
    assert made.snapshot(tmp_path / 'data') == before
    assert f'Bands: {count} of {images[0].dtype}' in capsys.readouterr().out
    assert cfg.default_scope == host
    assert cfg.model.backbone.get('in_channels', 3) == count
    load = cfg.train_dataloader.dataset.pipeline[0]
    assert load.type == 'mmvssd.LoadBands'
    mean = np.mean([image.mean((0, 1), dtype=np.float64) for image in images], 0)
    np.testing.assert_allclose(load.mean, mean, rtol=0.1)  # of those that train
    np.testing.assert_allclose(load.std, 100 * (1 + np.arange(count)) / 12**0.5, rtol=0.1)
    pytest.importorskip(host)
    with DefaultScope.overwrite_default_scope(host):
        for part in ('train', 'val'):
            sample = DATASETS.build(cfg[f'{part}_dataloader'].dataset)[0]
            assert sample['inputs'].shape[0] == count
            assert sample['inputs'].dtype == torch.float32
            assert abs(sample['inputs'].mean()) < 1
        if host == 'mmseg':
            cfg.val_dataloader.dataset.pipeline = cfg.tta_pipeline
            augmented = DATASETS.build(cfg.val_dataloader.dataset)[0]['inputs']
            assert {inputs.shape[0] for inputs in augmented} == {count}
        preprocessor = MODELS.build(cfg.model.get('data_preprocessor') or dict(
            cfg.data_preprocessor, type='ClsDataPreprocessor'))
        assert not getattr(preprocessor, '_enable_normalize', False)


def test_a_checkpoint_of_photographs_is_made_over(tmp_path):
    make_class_folders(tmp_path / 'data')
    backbone = Config.fromfile(configs_dir() / '_base_/backbones/vssd-nano.py').backbone
    weights = {f'backbone.{name}': value for name, value in MODELS.build(
        backbone).state_dict().items()}
    torch.save(dict(state_dict=weights), tmp_path / 'nano.pth')
    cfg = write(tmp_path / 'data', tmp_path / 'r.py', checkpoint=str(tmp_path / 'nano.pth'))
    assert cfg.model.backbone.init_cfg.adapt_stem == 'average'
    model = MODELS.build(cfg.model.backbone)
    model.init_weights()
    first = next(name for name, value in weights.items() if value.ndim == 4)
    loaded = model.state_dict()[first.removeprefix('backbone.')]
    assert loaded.shape[1] == 5
    assert torch.equal(loaded[:, 0], loaded[:, 4])


def test_bands_without_values_and_bands_that_tell_nothing(tmp_path, capsys):
    for name in made.CLASSES:
        for index in range(3):
            pixels = bands(tmp_path / name / f'{index}.tif', dtype='float32')
            pixels[..., 2] = 7
            pixels[0, :3, 0] = np.nan
            pixels[1, :3, 0] = -9999
            tifffile.imwrite(tmp_path / name / f'{index}.tif', pixels, photometric='minisblack',
                             planarconfig='contig', extratags=[(42113, 's', 0, '-9999', True)])
    load = write(tmp_path, tmp_path / 'r.py').train_pipeline[0]
    assert load.bands == [0, 1, 3, 4]
    assert load.nodata == [-9999.0, 'nan']
    assert min(load.mean) > 100
    assert 'Bands 2 have one value throughout' in capsys.readouterr().out


def test_photographs_stay_photographs(tmp_path):
    """In TIFF files, with transparency, and beside images of 16 bits."""
    from PIL import Image
    for name in made.CLASSES:
        for index, mode in enumerate(('L', 'RGB', 'RGBA', 'P')):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new(mode, (64, 48)).save(tmp_path / name / f'{index}.tif')
        np.save(tmp_path / name / '0.npy', np.zeros(5))  # computed of them
    cfg = write(tmp_path, tmp_path / 'a.py')
    assert cfg.train_pipeline[0].type == 'LoadImageFromFile'
    bands(tmp_path / 'cat' / '5.tif', 3)
    assert write(tmp_path, tmp_path / 'b.py').train_pipeline[0].type == 'LoadImageFromFile'


@pytest.mark.parametrize(('spoil', 'message'), [
    (lambda file: bands(file, 4), r'images differ in bands or values: 4 bands of uint16 in 1 '
                                  r'image, such as .*cat/0\.npy; 5 bands of uint16 in 5'),
    (lambda file: bands(file, 5, 'float32'), r'5 bands of float32 in 1 image,.*cat/0\.npy'),
    (lambda file: file.write_bytes(file.read_bytes()[:-9]), r'cat/0\.npy \(.*cannot be read'),
    (lambda file: file.write_bytes(b''), r'cat/0\.npy \(')])
def test_what_does_not_go_together_is_named(spoil, message, tmp_path):
    make_class_folders(tmp_path)
    spoil(tmp_path / 'cat' / '0.npy')
    with pytest.raises(DataError, match=message):
        write(tmp_path, tmp_path / 'r.py')
    assert not (tmp_path / 'r.py').exists()


def test_infinite_values_are_named(tmp_path):
    make_class_folders(tmp_path, dtype='float32')
    for file in tmp_path.rglob('*.npy'):
        np.save(file, np.where(np.load(file) > 900, np.inf, np.load(file)))
    with pytest.raises(DataError, match=r'\.npy: .* values are not finite, in band 4'):
        write(tmp_path, tmp_path / 'r.py')
