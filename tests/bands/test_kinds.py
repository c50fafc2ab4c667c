"""Photographs are told from images of bands by their headers."""
import cv2
import numpy as np
import pytest
from PIL import Image

from mmvssd.bands.kinds import Kind, any_header, kind_of, nodata_of
from mmvssd.errors import ConfigError


def pixels(count, dtype='uint8'):
    return np.random.default_rng(0).integers(0, 100, (20, 24, count)).astype(dtype).squeeze()


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK'])
@pytest.mark.parametrize('ending', ['png', 'tif'])
def test_photographs(mode, ending, tmp_path):
    pytest.importorskip('tifffile')
    if (mode, ending) == ('CMYK', 'png'):
        pytest.skip('there is no such PNG')
    file = str(tmp_path / f'a.{ending}')
    Image.new(mode, (24, 20)).save(file)
    assert kind_of(file).photograph
    assert any_header(file) == dict(size=[24, 20], mode=mode, orientation=1)


@pytest.mark.parametrize(('count', 'dtype', 'options'), [
    (1, 'uint16', {}), (3, 'uint16', dict(photometric='rgb')), (1, 'float32', {}),
    (5, 'uint8', dict(planarconfig='contig')), (2, 'uint8', dict(planarconfig='contig')),
    (4, 'uint8', dict(photometric='rgb', extrasamples=['unspecified'])),
    (13, 'int16', dict(planarconfig='contig', tile=(16, 16), compression='zlib'))])
def test_tiffs_of_bands(count, dtype, options, tmp_path):
    tifffile = pytest.importorskip('tifffile')
    file = str(tmp_path / 'a.tif')
    tifffile.imwrite(file, pixels(count, dtype), **{'photometric': 'minisblack', **options})
    assert kind_of(file) == Kind(False, count, dtype)
    assert any_header(file) == dict(size=[24, 20], mode=dtype, orientation=1)
    assert nodata_of(file) is None
    tifffile.imwrite(file, np.moveaxis(np.atleast_3d(pixels(count, dtype)), 2, 0), metadata=None,
                     photometric='minisblack', extratags=[(42113, 's', 0, '-9999', True)])
    assert kind_of(file) == Kind(False, count, dtype)
    assert nodata_of(file) == -9999


@pytest.mark.parametrize(('count', 'dtype'), [(1, 'uint16'), (3, 'uint16'), (4, 'uint16')])
def test_pngs_of_16_bits(count, dtype, tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), pixels(count, dtype))
    assert kind_of(str(tmp_path / 'a.png')) == Kind(False, count, dtype)
    assert any_header(str(tmp_path / 'a.png'))['size'] == [24, 20]


def test_photographs_need_no_package_for_tiff(tmp_path, monkeypatch):
    tifffile = pytest.importorskip('tifffile')
    Image.new('RGB', (24, 20)).save(tmp_path / 'a.tif')
    tifffile.imwrite(tmp_path / 'b.tif', pixels(5), photometric='minisblack',
                     planarconfig='contig')
    monkeypatch.setitem(__import__('sys').modules, 'tifffile', None)
    assert kind_of(str(tmp_path / 'a.tif')) == Kind(True, 3, 'uint8')
    assert any_header(str(tmp_path / 'a.tif'))['size'] == [24, 20]
    with pytest.raises(ConfigError, match=r'b\.tif: .*pip install tifffile'):
        kind_of(str(tmp_path / 'b.tif'))
    assert any_header(str(tmp_path / 'b.tif')) is None


def test_arrays_and_what_is_no_image(tmp_path):
    np.save(tmp_path / 'a.npy', pixels(3))
    assert kind_of(str(tmp_path / 'a.npy')) == Kind(False, 3, 'uint8')
    for name in ('b.npy', 'b.tif', 'b.png'):
        (tmp_path / name).write_bytes(b'II*\0no image')
        assert kind_of(str(tmp_path / name)) is None
        assert any_header(str(tmp_path / name)) is None
