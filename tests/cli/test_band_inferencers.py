"""Predictions of a recipe that loads bands: what the model gets, and what pictures show."""
import json
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmvssd.cli.band_inferencers import inferencer_class
from mmvssd.cli.inferencers import Classifier
from mmvssd.cli.launch import load_config
from mmvssd.cli.predict import Options, predict
from mmvssd.deployment import export as exporting
from mmvssd.errors import DataError

LOAD = dict(type='mmvssd.LoadBands', display=[3, 1, 0], mean=[100.] * 5, std=[50.] * 5)
RECIPES = {'mmdet': 'samples/mask-rcnn_vssd-nano_fpn_1xb8_digits.py',
           'mmseg': 'samples/upernet_vssd-nano_1xb8_digits.py',
           'mmpretrain': 'samples/vssd-nano_1xb64_digits.py'}


@pytest.fixture(params=RECIPES)
def untrained(request, tmp_path, monkeypatch):
    """A recipe of each host for five bands, and weights as they are drawn."""
    pytest.importorskip(request.param)
    monkeypatch.chdir(tmp_path)
    cfg = load_config(RECIPES[request.param])
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.update(in_channels=5, init_cfg=None)
    none = dict(mean=None, std=None)
    if request.param == 'mmpretrain':
        cfg.data_preprocessor = dict(none, num_classes=10)
    else:
        cfg.model.data_preprocessor.update(none, bgr_to_rgb=False)
    cfg.test_dataloader.dataset.pipeline[0] = LOAD
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), 'weights.pth')
    (tmp_path / 'images').mkdir()
    return cfg


def image_of(shade, height=48, width=64):
    """Return an image whose bands are 0, 1, ... times a shade, bytes."""
    return np.broadcast_to(np.arange(5) * shade, (height, width, 5)).astype('uint8')


def test_arrays_are_predicted_on_and_pictures_show_the_chosen_bands(untrained):
    np.save('images/a.npy', image_of(50))
    np.save('images/b.npy', image_of(20))
    written = predict(untrained, 'weights.pth', 'images', 'out', device='cpu',
                      options=Options(score_thr=1.))
    entries = json.loads(written.read_text())
    assert [entry['image'] for entry in entries] == ['images/a.npy', 'images/b.npy']
    pictures = sorted(Path('out/pictures').iterdir())
    assert [picture.name for picture in pictures] == ['a.npy.png', 'b.npy.png']
    if untrained.default_scope == 'mmseg':  # colours of classes lie over it
        return
    for picture, shade in zip(pictures, (50, 20)):
        pixels = mmcv.imread(str(picture), channel_order='rgb')
        assert pixels[-1, -1].tolist() == [3 * shade, shade, 0]


def test_tiles_of_bands(untrained):
    """One tile gives what the whole image gives; several are those of the normalized image."""
    tifffile = pytest.importorskip('tifffile')
    if untrained.default_scope == 'mmpretrain':
        pytest.skip('classifiers see an image as a whole')
    pixels = np.random.default_rng(0).integers(0, 250, (80, 96, 5)).astype('uint16')
    tifffile.imwrite('images/a.tif', pixels, photometric='minisblack', planarconfig='contig',
                     tile=(32, 32), compression='zlib')

    def run(image='images/a.tif', **options):
        written = predict(untrained, 'weights.pth', image, 'out', device='cpu',
                          options=Options(score_thr=0, **options))
        (entry, ) = json.loads(written.read_text())
        picture = mmcv.imread(f'out/pictures/{Path(image).name}.png')
        return entry.get('segments', entry.get('instances')), picture.shape

    whole, tiled = run(), run(tile=128)
    assert tiled[1] == whole[1] == (80, 96, 3)
    assert [one['category'] for one in tiled[0]] == [one['category'] for one in whole[0]]
    if untrained.default_scope == 'mmseg':
        assert tiled == whole
        untrained.tta_pipeline[0] = LOAD
        assert run(tta=True)[1] == (80, 96, 3)
    found = run(tile=48, overlap=16)
    assert {tuple(one['segmentation']['size']) for one in found[0]} == {(80, 96)}
    np.save('images/b.npy', pixels)
    assert run('images/b.npy', tile=48, overlap=16) == found
    np.save('images/b.npy', np.where(pixels == 7, np.nan, pixels))
    with pytest.raises(DataError, match=r'b\.npy: \d+ values are not finite, in band 0, 1'):
        run('images/b.npy', tile=48, overlap=16)
    np.save('images/b.npy', pixels[..., :4])
    with pytest.raises(DataError, match=r'b\.npy: has 4 bands of 96 x 80 pixels'):
        run('images/b.npy', tile=48)


def test_the_model_gets_what_the_pipeline_makes(untrained):
    np.save('images/a.npy', image_of(50))
    inferencer = inferencer_class(untrained)(untrained, 'weights.pth', {}, 0.3, 'cpu')
    inputs = inferencer.prepare('images/a.npy')['inputs'][0]
    assert inputs.shape[0] == 5
    np.testing.assert_allclose(inputs[:, 3, 3], (np.arange(5) * 50 - 100.) / 50, rtol=1e-6)
    assert untrained.test_dataloader.dataset.pipeline[0]['type'] == 'mmvssd.LoadBands'


def test_an_image_of_other_bands_is_left_out_and_named(untrained):
    np.save('images/a.npy', image_of(50))
    np.save('images/b.npy', image_of(50)[..., :4])
    np.save('images/c.npy', np.where(image_of(50) == 100, np.nan, image_of(50)))
    with open('images/d.npy', 'wb') as file:
        file.write(b'broken')
    with pytest.raises(DataError) as caught:
        predict(untrained, 'weights.pth', 'images', 'out', device='cpu')
    text = str(caught.value)
    assert '3 of 4 images were left out' in text
    assert 'images/b.npy: has 4 bands of 64 x 48 pixels' in text
    assert 'images/c.npy: 3072 values are not finite, in band 2' in text
    assert 'images/d.npy: cannot be read as an image' in text
    assert len(json.loads(Path('out/predictions.json').read_text())) == 1


def test_arrays_beside_images_are_not_looked_at(untrained):
    """A folder with images is one of images."""
    np.save('images/a.npy', image_of(50)[..., :3])
    mmcv.imwrite(image_of(50)[..., :3], 'images/a.png')
    untrained.test_dataloader.dataset.pipeline[0] = dict(LOAD, mean=[1.] * 3, std=[1.] * 3,
                                                         display=None)
    with pytest.raises(DataError, match='1 image was left out'):
        predict(untrained, 'weights.pth', 'images', 'out', device='cpu')


def test_an_export_takes_the_recipe(untrained):
    """Tracing it, which takes a minute, is the same for any number of channels."""
    host, model = exporting._models(untrained, 'weights.pth', '', False)
    assert model.in_channels == 5
    assert exporting._channels(untrained, model) is None
    if untrained.default_scope != 'mmdet':  # others are compared on noise
        return
    np.save('images/a.npy', image_of(50))
    pixels = exporting._pixels(host, Path('images/a.npy'))
    assert pixels.shape[1] == 5
    np.testing.assert_allclose(pixels[0, :, 3, 3], (np.arange(5) * 50 - 100.) / 50, rtol=1e-6)


def test_other_recipes_have_the_hosts_inferencers():
    for step in (dict(type='LoadImageFromFile'), dict(type=dict)):
        dataset = dict(pipeline=[step])
        cfg = Config(dict(default_scope='mmpretrain', test_dataloader=dict(dataset=dataset)))
        assert inferencer_class(cfg) is Classifier
