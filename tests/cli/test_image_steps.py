"""Steps of pipelines beside those of mmcv and MMPreTrain."""
import mmcv
import numpy as np
import pytest
from mmcv import transforms

from mmvssd.cli.image_steps import apply_steps, read_image, steps_of
from mmvssd.errors import ConfigError, UnreadableImageError


def image(height, width):
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize('size', [(60, 80), (81, 50), (64, 64), (33, 200)])
@pytest.mark.parametrize('settings', [
    dict(type='Resize', scale=(128, 64), keep_ratio=True, clip_object_border=False),
    dict(type='Resize', scale=(40, 70)),
    dict(type='Resize', scale=50), dict(type='Resize', scale_factor=1.7, keep_ratio=True),
    dict(type='Resize', scale_factor=(0.5, 0.7), interpolation='area'),
    dict(type='Resize', scale=(90, 90), interpolation='lanczos', backend='pillow'),
    dict(type='CenterCrop', crop_size=40), dict(type='CenterCrop', crop_size=(31, 44)),
    dict(type='mmpretrain.ResizeEdge', scale=47),
    dict(type='ResizeEdge', scale=47, edge='long', backend='pillow', interpolation='bicubic'),
    dict(type='ResizeEdge', scale=50, edge='width', interpolation='nearest')], ids=str)
def test_the_hosts_pixels(size, settings):
    options = dict(settings)
    name = options.pop('type').rpartition('.')[2]
    if name == 'ResizeEdge':
        processing = pytest.importorskip('mmpretrain.datasets.transforms')
        step = processing.ResizeEdge(**options)
    else:
        step = getattr(transforms, name)(**options)
    expected = step(dict(img=image(*size)))['img']
    found = apply_steps(image(*size), steps_of([dict(type='LoadImageFromFile'), settings]))
    assert np.array_equal(found, expected)


def test_steps_that_change_no_image_are_passed_by():
    pipeline = [dict(type='LoadImageFromFile', backend_args=None, to_float32=True),
                dict(type='LoadAnnotations', with_bbox=True), dict(type='PackDetInputs')]
    assert steps_of(pipeline) == []


def test_a_scope_that_mmengine_notes():
    """The pipeline of a recipe whose base is of another host has it in every step."""
    step, = steps_of([dict(type='LoadImageFromFile', _scope_='mmpretrain'),
                      dict(type='Resize', scale=(32, 32), _scope_='mmpretrain')])
    assert apply_steps(image(64, 48), [step]).shape == (32, 32, 3)


@pytest.mark.parametrize('settings', [
    dict(type='RandomFlip', prob=0.5), dict(type='CenterCrop', crop_size=9, auto_pad=True),
    dict(type='Resize', scale=(1, 2), ratio=3), dict(scale=3), 7,
    dict(type='LoadImageFromFile', color_type='grayscale'),
    dict(type='LoadImageFromFile', imdecode_backend='pillow')], ids=str)
def test_steps_that_are_not_known(settings):
    with pytest.raises(ConfigError, match='file is run'):
        steps_of([settings])


def test_images_are_read_as_mmcv_reads_them(tmp_path):
    file = str(tmp_path / 'a.png')
    for pixels in (image(4, 5), image(4, 5)[..., 0],
                   np.dstack([image(4, 5), np.full((4, 5), 9, np.uint8)])):
        mmcv.imwrite(pixels, file)
        assert np.array_equal(read_image(file), mmcv.imread(file))
    (tmp_path / 'b.png').write_bytes(b'\x89PNG')
    with pytest.raises(UnreadableImageError, match='b.png: cannot be read as an image'):
        read_image(str(tmp_path / 'b.png'))
