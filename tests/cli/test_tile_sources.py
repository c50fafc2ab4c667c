"""Parts of photographs are those of what the hosts read, and so are their pictures."""
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mmvssd.cli import tile_sources
from mmvssd.cli.inputs import Input
from mmvssd.cli.tile_sources import photograph
from mmvssd.cli.tiles import Grid
from mmvssd.errors import UnreadableImageError

tifffile = pytest.importorskip('tifffile')
PIXELS = np.random.default_rng(0).integers(0, 255, (45, 58, 4), np.uint8)
GREY, RGB = PIXELS[..., 0], np.ascontiguousarray(PIXELS[..., :3])


def assert_as_the_hosts_read_it(file, tolerance=0):
    """Compare tiles with OpenCV's image, from which hosts make theirs; tell if it was held."""
    expected = cv2.imread(str(file)).astype(int)
    with photograph(Input(Path(file))) as source:
        assert source.shape == expected.shape[:2]
        for window in Grid(source.shape, 32, 8).windows():
            left, top, right, bottom = window
            tile = source.tile(window)
            assert tile.dtype == np.uint8
            assert np.abs(tile - expected[top:bottom, left:right]).max() <= tolerance
        assert np.abs(source.overview(1) - expected[..., ::-1]).max() <= tolerance
        return source.windows.whole


@pytest.mark.parametrize(('pixels', 'options'), [
    (RGB, {}), (RGB, dict(tile=(16, 32))), (RGB, dict(bigtiff=True, rowsperstrip=7)),
    (RGB, dict(compression='zlib', predictor=True, byteorder='>')),
    (RGB.transpose(2, 0, 1), dict(planarconfig='separate', tile=(16, 16))), (GREY, {}),
    (GREY, dict(tile=(16, 16), compression='zlib'))])
def test_tiffs_that_are_read_by_parts(pixels, options, tmp_path):
    file = tmp_path / 'a.tif'
    tifffile.imwrite(file, pixels, photometric='rgb' if pixels.ndim == 3 else 'minisblack',
                     **options)
    assert not assert_as_the_hosts_read_it(file)


def test_jpeg_within_a_tiff(tmp_path):
    pytest.importorskip('imagecodecs')
    smooth = cv2.resize(RGB[:5, :6], (58, 45))
    file = tmp_path / 'a.tif'
    tifffile.imwrite(file, smooth, photometric='rgb', compression='jpeg', tile=(16, 16))
    assert not assert_as_the_hosts_read_it(file, 3)  # decoders round otherwise
    Image.fromarray(smooth).save(file, compression='jpeg')
    assert not assert_as_the_hosts_read_it(file, 3)


@pytest.mark.parametrize('save', [
    lambda file: Image.fromarray(GREY).convert('P').save(file),
    lambda file: Image.fromarray(GREY).convert('1').save(file),
    lambda file: Image.fromarray(PIXELS).save(file),
    lambda file: Image.fromarray(RGB).save(file, tiffinfo={274: 3}),
    lambda file: tifffile.imwrite(file, GREY, photometric='miniswhite'),
    lambda file: tifffile.imwrite(file, RGB.astype(np.uint16) * 256, photometric='rgb'),
    lambda file: tifffile.imwrite(file, np.stack([GREY, GREY[::-1]]), photometric='minisblack')])
def test_what_is_read_whole(save, tmp_path):
    """Palettes, bits, transparency, turned images, 16 bits, several pages: as OpenCV has it."""
    file = tmp_path / 'a.tif'
    save(file)
    assert assert_as_the_hosts_read_it(file)


def test_a_compression_of_a_package_that_is_not_there(tmp_path, monkeypatch):
    """OpenCV reads it all the same."""
    file = tmp_path / 'a.tif'
    Image.fromarray(RGB).save(file, compression='tiff_lzw')

    def lacking(self, *arguments, **options):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tile_sources.tiff_windows.__globals__['_Segments'], '_decode', lacking)
    assert assert_as_the_hosts_read_it(file)


@pytest.mark.parametrize('options', [{}, dict(tile=(16, 16)), dict(compression='zlib')])
def test_a_file_that_is_cut_off_is_named(options, tmp_path):
    file = tmp_path / 'a.tif'
    tifffile.imwrite(file, RGB, photometric='rgb', **options)
    whole = file.read_bytes()
    for length in (0, 7, 200, len(whole) - 999):
        file.write_bytes(whole[:length])
        with pytest.raises(UnreadableImageError, match=r'a\.tif: cannot be read as an image'), (
                photograph(Input(file))) as source:
            list(map(source.tile, Grid(source.shape, 32, 8).windows()))


def test_pictures_are_made_block_by_block(monkeypatch):
    monkeypatch.setattr(tile_sources, 'BLOCK', 58 * 9)
    with photograph(Input(Path('a.mp4'), 0, RGB)) as source:
        small = source.overview(3)
    expected = cv2.resize(RGB[:, :57], (19, 15), interpolation=cv2.INTER_AREA)[..., ::-1]
    assert small.shape == (15, 20, 3)
    assert np.abs(small[:, :5].astype(int) - expected[:, :5]).max() < 60  # 58 is no multiple of 3
    with photograph(Input(Path('a.mp4'), 0, RGB[:, :57])) as source:
        np.testing.assert_allclose(source.overview(3), expected, atol=1)
