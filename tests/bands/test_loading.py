"""Images of any number of bands, normalized; wrong settings and files are named."""
import numpy as np
import pytest
from mmengine.registry import TRANSFORMS

from mmvssd.bands.loading import LoadBands
from mmvssd.errors import ConfigError, DataError

MEAN, STD = [10., 20., 30., 40., 50.], [1., 2., 3., 4., 5.]


@pytest.fixture
def file(tmp_path):
    """Five bands of 16 bits, band i with values around 10 (i + 1)."""
    path = tmp_path / 'a.npy'
    noise = np.random.default_rng(0).integers(-3, 4, (20, 24, 5))
    np.save(path, (noise + np.array(MEAN)).astype('uint16'))
    return path


def change(file, index, value, dtype='float32'):
    array = np.load(file).astype(dtype)
    array[index] = value
    np.save(file, array)


def test_it_is_found_from_any_scope_and_does_what_the_hosts_step_does(file):
    load = TRANSFORMS.build(dict(type='mmvssd.LoadBands', mean=MEAN, std=STD))
    results = load(dict(img_path=str(file), other=1))
    expected = (np.load(file).astype(np.float64) - MEAN) / STD
    assert results.pop('img').dtype == np.float32
    assert results == dict(img_path=str(file), other=1, img_shape=(20, 24), ori_shape=(20, 24))
    image = load(dict(img_path=str(file)))['img']
    assert image.flags.c_contiguous
    np.testing.assert_allclose(image, expected, rtol=1e-6, atol=1e-6)


def test_bands_are_chosen_in_an_order(file):
    image = LoadBands(bands=[3, 0, 3])(dict(img_path=str(file)))['img']
    np.testing.assert_array_equal(image, np.load(file)[..., [3, 0, 3]])


@pytest.mark.parametrize('nodata', ['nan', -9999, ['nan', -9999.0]])
def test_no_data_gets_the_mean(nodata, file):
    values = [np.nan, -9999.] if isinstance(nodata, list) else [float(nodata)]
    for place, value in enumerate(values):
        change(file, (0, place, 2), value)
    image = LoadBands(mean=MEAN, std=STD, nodata=nodata)(dict(img_path=str(file)))['img']
    assert (image[0, :len(values), 2] == 0).all()
    assert abs(image).max() <= 3
    raw = LoadBands(nodata=nodata)(dict(img_path=str(file)))['img']
    rest = np.load(file)[..., 2].ravel()[len(values):].astype(np.float64)
    np.testing.assert_allclose(raw[0, :len(values), 2], rest.mean(), rtol=1e-6)


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named(value, file):
    change(file, (3, 4, 2), value)
    with pytest.raises(DataError, match=r'a\.npy: 1 value is not finite, in band 2') as caught:
        LoadBands(mean=MEAN, std=STD, nodata=-1)(dict(img_path=str(file)))
    assert ("'nan'" in str(caught.value)) == np.isnan(value)
    LoadBands(bands=[0, 1, 4])(dict(img_path=str(file)))  # without that band


@pytest.mark.parametrize(('settings', 'message'), [
    (dict(bands=[0, 5]), r'a\.npy: has 5 bands of 24 x 20 pixels, LoadBands takes band 5'),
    (dict(mean=MEAN[:4], std=STD[:4]), r'a\.npy: has 5 bands .*mean and std of LoadBands have 4'),
    (dict(mean=[0.] * 24, std=[1.] * 24), r"a\.npy: has 5 bands .*layout='HWC' or 'CHW'"),
    (dict(bands=[0], display=[0, 1, 7]), None)])
def test_a_file_of_other_bands_is_named(settings, message, file):
    load = LoadBands(**settings)
    if message is None:
        assert load(dict(img_path=str(file)))['img'].shape == (20, 24, 1)
        with pytest.raises(DataError, match=r'a\.npy: has 5 bands, .* band 7'):
            load.picture(str(file))
        return
    with pytest.raises(DataError, match=message):
        load(dict(img_path=str(file)))


@pytest.mark.parametrize(('settings', 'message'), [
    (dict(mean=MEAN), 'mean only'), (dict(std=STD), 'std only'),
    (dict(mean=MEAN, std=STD[:4]), 'mean has 5, std has 4'),
    (dict(bands=[0, 1], mean=MEAN, std=STD), 'bands has 2, mean has 5, std has 5'),
    (dict(mean=[1., 2.], std=[1., 0.]), r'std\[1\]=0\.0'),
    (dict(mean=[1., float('nan')], std=[1., 1.]), 'mean='), (dict(mean=5, std=5), 'mean=5'),
    (dict(mean=[], std=[]), r'mean=\[\]'), (dict(bands=[]), r'bands=\[\]'),
    (dict(bands=[-1]), r'bands=\[-1\]'), (dict(bands=[0.5]), 'bands='), (dict(bands=3), 'bands=3'),
    (dict(bands='012'), 'bands='), (dict(nodata='none'), "nodata='none'"),
    (dict(layout='CWH'), 'layout='), (dict(display=[0, 1]), 'display=')])
def test_settings_that_do_not_fit_are_named(settings, message):
    with pytest.raises(ConfigError, match=f'LoadBands: .*{message}'):
        LoadBands(**settings)


@pytest.mark.parametrize(('settings', 'seen'), [
    (dict(), [0, 1, 2]), (dict(bands=[4, 3, 2, 1]), [4, 3, 2]), (dict(bands=[4, 3]), [4, 4, 4]),
    (dict(display=[1]), [1, 1, 1]), (dict(bands=[0], display=[3, 2, 1]), [3, 2, 1])])
def test_a_picture_shows_three_bands(settings, seen, file):
    picture = LoadBands(**settings).picture(str(file))
    assert (picture.shape, picture.dtype) == ((20, 24, 3), np.uint8)
    array = np.load(file).astype(float)
    for place, band in enumerate(seen):
        low, high = array[..., band].min(), array[..., band].max()
        np.testing.assert_allclose(picture[..., place], (array[..., band] - low) * 255
                                   / (high - low), atol=0.51)


def test_a_picture_of_bytes_is_as_it_is_and_one_without_data_is_black(file):
    change(file, (0, 0, 0), 7, 'uint8')
    np.testing.assert_array_equal(LoadBands().picture(str(file)), np.load(file)[..., :3])
    change(file, ..., np.nan)
    assert not LoadBands(nodata='nan').picture(str(file)).any()


def test_a_picture_leaves_no_data_dark(file):
    change(file, (slice(0, 5), ), -9999)
    picture = LoadBands(nodata=-9999).picture(str(file))
    assert not picture[:5].any()
    assert picture[5:].max() == 255


@pytest.mark.parametrize(('settings', 'places'), [
    (dict(), [0, 1, 2]), (dict(display=[4, 1, 0]), [4, 1, 0]),
    (dict(bands=[4, 3], nodata=40), [0, 0, 0]), (dict(bands=[4, 3, 1], display=[1, 3, 4]),
                                                 [2, 1, 0]),
    (dict(bands=[4, 3, 1], display=[0, 3, 4]), [0, 1, 2])])
def test_a_picture_of_a_sample_shows_the_same_bands(settings, places, file):
    load = LoadBands(**settings)
    image = load(dict(img_path=str(file)))['img']
    picture = load.picture_of_sample(image)
    assert (picture.shape, picture.dtype) == ((20, 24, 3), np.uint8)
    for channel, place in enumerate(places):
        band = image[..., place].astype(float)
        np.testing.assert_allclose(picture[..., channel], (band - band.min()) * 255
                                   / (band.max() - band.min()), atol=0.51)
