"""Files of any number of bands are read as they were written, or said to be wrong."""
import struct
import zlib

import cv2
import numpy as np
import pytest

from mmvssd.bands import files
from mmvssd.bands.files import read_bands, read_header
from mmvssd.errors import ConfigError, DataError, UnreadableImageError

DTYPES = ('uint8', 'uint16', 'int16', 'uint32', 'float32', 'float64')


def pixels(count, dtype='uint16', height=20, width=24):
    return np.random.default_rng(count).integers(0, 100, (height, width, count)).astype(dtype)


@pytest.mark.parametrize('count', [1, 2, 3, 4, 5, 13])
@pytest.mark.parametrize('dtype', DTYPES)
def test_a_tiff_in_every_arrangement(count, dtype, tmp_path):
    """Bands as samples of a pixel, as planes, as pages, and an array without metadata."""
    tifffile = pytest.importorskip('tifffile')
    expected, file = pixels(count, dtype), tmp_path / 'a.tif'
    first = np.moveaxis(expected, 2, 0)
    ways = [(expected, dict(photometric='minisblack', planarconfig='contig')),
            (first, dict(photometric='minisblack', planarconfig='separate')),
            (first, dict(photometric='minisblack', compression='zlib', tile=(16, 16))),
            (expected, dict(photometric='minisblack')),
            (first, dict(photometric='minisblack', metadata=None))]
    for written, options in ways[:2] if count == 1 else ways:
        if count == 1:
            written, options = expected[..., 0], dict(compression='zlib')
        tifffile.imwrite(file, written, **options)
        read = read_bands(str(file))
        assert read.dtype == dtype
        np.testing.assert_array_equal(read, expected)
        assert read_header(str(file)) == (20, 24, count, dtype)


def test_a_compression_of_another_package(tmp_path, monkeypatch):
    tifffile = pytest.importorskip('tifffile')
    file = tmp_path / 'a.tif'

    def lacking(self, **options):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    tifffile.imwrite(file, pixels(5), photometric='minisblack', planarconfig='contig')
    monkeypatch.setattr(tifffile.TiffPageSeries, 'asarray', lacking)
    with pytest.raises(ConfigError, match=r'a\.tif: .*pip install imagecodecs'):
        read_bands(str(file))


def test_without_the_package_for_tiff(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'tifffile', None)
    with pytest.raises(ConfigError, match=r'a\.tif: .*pip install tifffile'):
        read_bands(str(tmp_path / 'a.tif'))


@pytest.mark.parametrize(('shape', 'layout', 'expected'), [
    ((20, 24), None, (20, 24, 1)), ((20, 24, 5), None, (20, 24, 5)),
    ((5, 20, 24), None, (20, 24, 5)), ((13, 20, 13), None, (13, 20, 13)),
    ((4, 24, 5), None, (24, 5, 4)), ((4, 24, 5), 'HWC', (4, 24, 5)),
    ((9, 20, 5), 'CHW', (20, 5, 9))])
def test_an_array_has_its_bands_on_the_shorter_axis(shape, layout, expected, tmp_path):
    file = tmp_path / 'a.npy'
    np.save(file, np.arange(np.prod(shape), dtype='int16').reshape(shape))
    read = read_bands(str(file), layout)
    assert read.shape == expected
    assert tuple(read_header(str(file), layout)) == (*expected, 'int16')
    if len(shape) == 3:  # moved, not reshaped
        axis = 0 if layout == 'CHW' or (layout is None and shape[0] < shape[2]) else 2
        np.testing.assert_array_equal(read[..., 1], np.load(file).take(1, axis))


@pytest.mark.parametrize(('count', 'dtype'), [
    (1, 'uint8'), (3, 'uint8'), (4, 'uint8'), (1, 'uint16'), (3, 'uint16'), (4, 'uint16')])
def test_a_png_is_rgb(count, dtype, tmp_path):
    file, expected = tmp_path / 'a.png', pixels(count, dtype)
    cv2.imwrite(str(file), expected[..., [2, 1, 0, 3][:count]] if count > 1 else expected)
    read = read_bands(str(file))
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, expected)
    assert read_header(str(file))[:3] == (20, 24, count)


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16'])
def test_headers_agree_with_what_is_decoded(mode, tmp_path):
    from PIL import Image
    file = str(tmp_path / 'a.png')
    image = Image.new(mode, (24, 20))
    for options in ({}, dict(transparency=0 if mode in ('1', 'L', 'P') else (0, 0, 0))):
        if options and mode in ('LA', 'RGBA', 'I;16'):
            continue
        image.save(file, **options)
        assert read_header(file)[:3] == read_bands(file).shape


def test_a_transparent_colour_is_counted_as_it_is_decoded(tmp_path):
    """A PNG of three channels with a chunk that names a transparent colour."""
    file = tmp_path / 'a.png'
    cv2.imwrite(str(file), pixels(3, 'uint8'))
    content, body = file.read_bytes(), b'tRNS' + bytes(6)
    chunk = struct.pack('>I', 6) + body + struct.pack('>I', zlib.crc32(body))
    place = content.index(b'IDAT') - 4
    file.write_bytes(content[:place] + chunk + content[place:])
    assert read_header(str(file))[:3] == read_bands(str(file)).shape


@pytest.mark.parametrize('name', ['a.npy', 'a.tif', 'a.png', 'a.jp2'])
@pytest.mark.parametrize('content', [None, b'', b'no image at all', b'\x93NUMPY', b'II*\0\x08'])
def test_what_is_no_image_is_named(name, content, tmp_path):
    if name == 'a.tif':
        pytest.importorskip('tifffile')
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    for read in (read_bands, read_header):
        with pytest.raises(UnreadableImageError, match=f'{name}: cannot be read as an image'):
            read(str(file))


@pytest.mark.parametrize('name', ['a.npy', 'a.tif'])
def test_a_file_that_is_cut_off_is_named(name, tmp_path):
    file = tmp_path / name
    if name == 'a.tif':
        pytest.importorskip('tifffile').imwrite(file, pixels(5), photometric='minisblack',
                                                planarconfig='contig')
    else:
        np.save(file, pixels(5))
    file.write_bytes(file.read_bytes()[:-999])
    with pytest.raises(UnreadableImageError, match=f'{name}: cannot be read as an image'):
        read_bands(str(file))


@pytest.mark.parametrize('array', [
    np.zeros(5), np.zeros((2, 3, 4, 5)), np.zeros((0, 5)), np.zeros((), int),
    np.zeros((4, 4), complex), np.full((4, 4), 'a')])
def test_an_array_that_is_no_image_is_named(array, tmp_path):
    file = tmp_path / 'a.npy'
    np.save(file, array)
    for read in (read_bands, read_header):
        with pytest.raises(DataError, match=r'a\.npy: has '):
            read(str(file))


def test_nothing_of_a_file_is_evaluated(tmp_path):
    file = tmp_path / 'a.npy'
    np.save(file, np.array([[print]], object), allow_pickle=True)
    for read in (read_bands, read_header):
        with pytest.raises((DataError, UnreadableImageError), match=r'a\.npy: '):
            read(str(file))


def test_endings_do_not_depend_on_capitals(tmp_path):
    np.save(tmp_path / 'a.npy', pixels(5))
    (tmp_path / 'a.npy').rename(tmp_path / 'A.NPY')
    assert read_bands(str(tmp_path / 'A.NPY')).shape == (20, 24, 5)
    assert files.NUMPY == ('.npy', )
