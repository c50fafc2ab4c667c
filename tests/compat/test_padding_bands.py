"""Padding of images of many channels."""
import numpy as np
import pytest
from mmengine.registry import TRANSFORMS, DefaultScope

pytest.importorskip('mmcv')


@pytest.mark.parametrize('channels', [1, 3, 4, 5, 8, 13])
@pytest.mark.parametrize('dtype', ['uint8', 'float32'])
@pytest.mark.parametrize(('options', 'shape'), [
    (dict(size=(40, 30)), (30, 40)), (dict(size_divisor=32, pad_val=7), (32, 32)),
    (dict(pad_to_square=True, pad_val=dict(img=7, seg=255)), (24, 24)),
    (dict(size=(40, 30), padding_mode='reflect'), (30, 40))])
def test_every_channel_is_padded(channels, dtype, options, shape):
    image = np.random.default_rng(0).integers(0, 99, (20, 24, channels)).astype(dtype)
    with DefaultScope.overwrite_default_scope('mmengine'):
        pad = TRANSFORMS.build(dict(type='Pad', **options))
    given = dict(img=image.copy(), gt_seg_map=image[..., 0].astype('uint8'))
    results = pad(given)
    value = options.get('pad_val', 0)
    value = value['img'] if isinstance(value, dict) else value
    widths = [(0, shape[0] - 20), (0, shape[1] - 24), (0, 0)]
    expected = (np.pad(image, widths, 'reflect') if 'padding_mode' in options
                else np.pad(image, widths, constant_values=value))
    assert results['img'].dtype == dtype
    np.testing.assert_array_equal(results['img'].reshape(expected.shape), expected)
    assert results['img_shape'] == shape
    assert results['pad_shape'][:2] == shape
    assert results['gt_seg_map'].shape == shape
    if channels > 1:
        assert results['pad_shape'] == (*shape, channels)
