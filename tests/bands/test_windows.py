"""Parts of images are those of the whole, however it lies in its file."""
import numpy as np
import pytest

from mmvssd.bands import windows as reading
from mmvssd.bands.files import read_bands
from mmvssd.bands.windows import open_windows
from mmvssd.errors import DataError, UnreadableImageError

HEIGHT, WIDTH = 45, 58
PARTS = [(slice(0, 45), slice(0, 58)), (slice(7, 21), slice(30, 58)), (slice(44, 45), slice(0, 1)),
         (slice(16, 32), slice(16, 32))]


def pixels(count=5, dtype='uint16'):
    return np.random.default_rng(0).integers(0, 100, (HEIGHT, WIDTH, count)).astype(dtype)


def assert_same(path, whole=False):
    """Compare with the file that is read whole; tell whether it had to be."""
    expected = read_bands(str(path))
    with open_windows(str(path)) as windows:
        assert windows.shape == expected.shape
        assert windows.whole == whole
        for rows, columns in PARTS:
            part = windows.read(rows, columns)
            assert part.dtype == expected.dtype.newbyteorder('=')
            np.testing.assert_array_equal(part, expected[rows, columns])


CONTIG = dict(photometric='minisblack', planarconfig='contig')
SEPARATE = dict(photometric='minisblack', planarconfig='separate')


@pytest.mark.parametrize('options', [
    {}, dict(compression='zlib'), dict(tile=(16, 32)), dict(tile=(16, 16), compression='zlib'),
    dict(rowsperstrip=7), dict(rowsperstrip=7, compression='zlib', predictor=True),
    dict(tile=(64, 64), compression='zlib'), dict(bigtiff=True, byteorder='>', tile=(32, 16)),
    dict(byteorder='>')])
@pytest.mark.parametrize('dtype', ['uint8', 'float32'])
def test_tiffs(options, dtype, tmp_path):
    """Bands as samples, as planes and as pages; one band; colours."""
    tifffile = pytest.importorskip('tifffile')
    file, image = tmp_path / 'a.tif', pixels(dtype=dtype)
    first = np.moveaxis(image, 2, 0)
    for written, more in ((image, CONTIG), (first, SEPARATE), (first, dict(
            photometric='minisblack')), (first, dict(photometric='minisblack', metadata=None)),
            (image[..., 0], {}), (image[..., :3], dict(photometric='rgb'))):
        tifffile.imwrite(file, written, **{**options, **more})
        assert_same(file)


def test_tiffs_of_other_pixels(tmp_path):
    """One bit, a palette, JPEG, parts that hold nothing, and an image of slices of an array."""
    tifffile = pytest.importorskip('tifffile')
    pytest.importorskip('imagecodecs')
    file, image = tmp_path / 'a.tif', pixels(dtype='uint8')
    tifffile.imwrite(file, image[..., 0] > 50, compression='packbits')
    assert_same(file)
    tifffile.imwrite(file, image[..., 0], photometric='palette', tile=(16, 16),
                     colormap=np.zeros((3, 256), np.uint16))
    assert_same(file)
    tifffile.imwrite(file, image[..., :3], photometric='rgb', tile=(32, 16), compression='jpeg')
    assert_same(file)
    from PIL import Image
    Image.fromarray(image[..., :3]).save(file, compression='jpeg')
    assert_same(file)
    tifffile.imwrite(file, iter([b''] * 4), shape=(HEIGHT, WIDTH, 5), dtype='uint16',
                     tile=(32, 32), compression='zlib', **CONTIG)
    assert_same(file)
    tifffile.imwrite(file, image, photometric='minisblack', compression='zlib')
    assert_same(file, whole=True)


def test_arrays_and_photographs(tmp_path):
    np.save(tmp_path / 'a.npy', pixels())
    assert_same(tmp_path / 'a.npy')
    np.save(tmp_path / 'b.npy', np.asfortranarray(np.moveaxis(pixels(dtype='>f4'), 2, 0)))
    assert_same(tmp_path / 'b.npy')
    import cv2
    cv2.imwrite(str(tmp_path / 'c.png'), pixels(3))
    assert_same(tmp_path / 'c.png', whole=True)


def test_few_decoded_parts_are_kept(tmp_path, monkeypatch):
    tifffile = pytest.importorskip('tifffile')
    monkeypatch.setattr(reading, 'KEPT', 3 * 16 * 16 * 5 * 2)
    tifffile.imwrite(tmp_path / 'a.tif', pixels(), tile=(16, 16), compression='zlib', **CONTIG)
    assert_same(tmp_path / 'a.tif')
    with open_windows(str(tmp_path / 'a.tif')) as windows:
        windows.read(*PARTS[0])
        assert len(windows.decoded) == 12  # as the window needs
        windows.read(*PARTS[2])
        assert len(windows.decoded) == 3
        before = set(windows.decoded)
        windows.read(*PARTS[3])
        assert len(windows.decoded) == 3
        assert len(before - set(windows.decoded)) == 1


@pytest.mark.parametrize('options', [{}, dict(compression='zlib'), dict(tile=(16, 16)),
                                     dict(tile=(16, 16), compression='zlib')])
def test_a_file_that_is_cut_off_is_named(options, tmp_path):
    tifffile = pytest.importorskip('tifffile')
    file = tmp_path / 'a.tif'
    tifffile.imwrite(file, pixels(), **CONTIG, **options)
    content = file.read_bytes()
    for length in (0, 4, 100, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(UnreadableImageError, match=r'a\.tif: cannot be read as an image'), (
                open_windows(str(file))) as windows:
            windows.read(*PARTS[0])


def test_a_broken_part_is_named(tmp_path):
    tifffile = pytest.importorskip('tifffile')
    file = tmp_path / 'a.tif'
    tifffile.imwrite(file, pixels(), tile=(16, 16), compression='zlib', **CONTIG)
    with tifffile.TiffFile(file) as opened:
        offset, count = (getattr(opened.pages[0], name)[5]
                         for name in ('dataoffsets', 'databytecounts'))
    content = bytearray(file.read_bytes())
    content[offset:offset + count] = bytes(count)
    file.write_bytes(content)
    with open_windows(str(file)) as windows:
        windows.read(slice(0, 16), slice(0, 16))
        with pytest.raises(UnreadableImageError, match=r'a\.tif: cannot be read as an image'):
            windows.read(*PARTS[0])


@pytest.mark.parametrize('array', [np.zeros(5), np.zeros((4, 4), complex)])
def test_what_is_no_image_is_named(array, tmp_path):
    np.save(tmp_path / 'a.npy', array)
    with pytest.raises(DataError, match=r'a\.npy: has '), open_windows(str(tmp_path / 'a.npy')):
        pass
    (tmp_path / 'a.npy').write_bytes(b'')
    with pytest.raises(UnreadableImageError, match=r'a\.npy: cannot be read'), open_windows(
            str(tmp_path / 'a.npy')):
        pass
