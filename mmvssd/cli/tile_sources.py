"""Images that are cut into tiles: their pixels, part by part, and a small picture of the whole."""
from contextlib import contextmanager
from typing import Iterator, Optional, Protocol, Tuple

import cv2
import numpy as np
from mmengine.logging import print_log

from mmvssd.bands import LoadBands
from mmvssd.bands.files import TIFF
from mmvssd.bands.windows import Held, Windows, open_windows, tiff_windows
from mmvssd.cli.image_steps import read_image
from mmvssd.cli.inputs import Input
from mmvssd.cli.tiles import Window
from mmvssd.errors import ConfigError, UnreadableImageError

#: Longest side of a picture of predictions; a larger image is made smaller for it.
LONGEST_SIDE = 3072
#: Pixels that are read at once for it.
BLOCK = 2**23
#: Pixels from which on it is said that an image is held whole.
LARGE = 2**26
#: What is said of a video whose frames LoadBands is to read.
NO_FRAMES = "the recipe's LoadBands reads files, no frames of a video"
#: TIFF's tag of how an image is turned; the value of one that is not.
ORIENTATION, UPRIGHT = 274, 1


class TileSource(Protocol):
    """An image that is cut into tiles.

    Attributes:
        shape: Its height and width.
    """

    shape: Tuple[int, int]

    def tile(self, window: Window) -> np.ndarray:
        """Return a tile (h, w, channels), as an inferencer takes arrays."""

    def overview(self, factor: int) -> np.ndarray:
        """Return a picture of the whole (H, W, 3) uint8 in RGB, a whole factor smaller."""


def factor_of(shape: Tuple[int, int]) -> int:
    """Return by what factor an image is made smaller for its picture."""
    return -(-max(shape) // LONGEST_SIDE)


class _Photograph:
    """An image of 8 bits, (H, W, 3) in BGR, or of one band."""

    def __init__(self, windows: Windows, colours: str):
        self.windows, self.colours = windows, colours
        self.shape = windows.shape[:2]

    def tile(self, window: Window) -> np.ndarray:
        left, top, right, bottom = window
        pixels = self.windows.read(slice(top, bottom), slice(left, right))
        if pixels.shape[2] == 1:
            return np.repeat(pixels, 3, axis=2)
        return np.ascontiguousarray(pixels[..., ::-1]) if self.colours == 'RGB' else pixels

    def overview(self, factor: int) -> np.ndarray:
        parts = [_smaller(self.tile(window), factor) for window in _blocks(self.shape, factor)]
        return np.ascontiguousarray(np.concatenate(parts)[..., ::-1])


class _Bands:
    """An image that a recipe's LoadBands reads."""

    def __init__(self, windows: Windows, load: LoadBands, path: str):
        self.windows, self.load, self.path = windows, load, path
        self.shape = windows.shape[:2]
        load.check_count(windows.shape, path)

    def tile(self, window: Window) -> np.ndarray:
        return self.load.normalized(self.load.chosen(self._read(window), self.path), self.path)

    def _read(self, window: Window) -> np.ndarray:
        left, top, right, bottom = window
        return self.windows.read(slice(top, bottom), slice(left, right))

    def overview(self, factor: int) -> np.ndarray:
        # a mean of pixels might be one of values that stand for no data
        parts = [self._read(window)[::factor, ::factor] for window in _blocks(self.shape, factor)]
        return self.load.shown(np.concatenate(parts), self.path)


def _blocks(shape: Tuple[int, int], factor: int) -> Iterator[Window]:
    """Give out blocks of rows of an image whose height is a multiple of a factor, but the last."""
    height, width = shape
    rows = factor * max(1, BLOCK // (factor * width))
    for top in range(0, height, rows):
        yield Window(0, top, width, min(height, top + rows))


def _smaller(pixels: np.ndarray, factor: int) -> np.ndarray:
    if factor == 1:
        return pixels
    height, width = (-(-side // factor) for side in pixels.shape[:2])
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)


@contextmanager
def photograph(item: Input) -> Iterator[TileSource]:
    """Open an image of 8 bits, as the hosts read it.

    TIFF files of grey or of RGB that nothing turns are read by parts, all others whole.

    Raises:
        UnreadableImageError: It cannot be read.
    """
    path = str(item.file)
    if item.pixels is not None:
        yield _Photograph(Held(item.pixels), 'BGR')
        return
    with _tiff_of_photograph(path) as windows:
        if windows is not None:
            yield _Photograph(windows, 'RGB')
        else:
            windows = Held(read_image(path))
            _tell_if_large(path, windows)
            yield _Photograph(windows, 'BGR')


@contextmanager
def band_image(item: Input, load: LoadBands) -> Iterator[TileSource]:
    """Open an image for LoadBands.

    Raises:
        UnreadableImageError: It cannot be read, or is the frame of a video.
        DataError: It has other bands.
    """
    if item.pixels is not None:
        raise UnreadableImageError(NO_FRAMES)
    path = str(item.file)
    with open_windows(path, load.layout) as windows:
        _tell_if_large(path, windows)
        yield _Bands(windows, load, path)


def _tell_if_large(path: str, windows: Windows) -> None:
    height, width, _ = windows.shape
    if windows.whole and height * width > LARGE:
        print_log(f'{path}: is held in memory whole; a TIFF in strips or tiles is read by parts',
                  logger='current')


@contextmanager
def _tiff_of_photograph(path: str) -> Iterator[Optional[Windows]]:
    """Open a TIFF that is read by parts as OpenCV reads it whole; else give out None."""
    if not path.lower().endswith(TIFF):
        yield None
        return
    try:
        import tifffile
    except ImportError:
        yield None
        return
    try:
        file = tifffile.TiffFile(path)
    except Exception:  # of many kinds; OpenCV may read it, and says why not
        yield None
        return
    with file:
        windows = tiff_windows(path, file) if _is_plain(tifffile, file) else None
        yield windows if windows is not None and _is_decoded(windows) else None


def _is_decoded(windows: Windows) -> bool:
    """Tell whether the packages that are installed decode an image, as OpenCV may without them."""
    try:
        windows.read(slice(1), slice(1))
    except ConfigError:
        return False
    except UnreadableImageError:  # it is broken there, which the first tile will say
        pass
    return True


def _is_plain(tifffile, file) -> bool:
    """Tell whether a TIFF's first image has bytes of grey or of RGB, and nothing turns it."""
    try:
        page, series = file.pages.first, file.series[0]
        tag = page.tags.get(ORIENTATION)
        kinds = {tifffile.PHOTOMETRIC.MINISBLACK: 1, tifffile.PHOTOMETRIC.RGB: 3,
                 tifffile.PHOTOMETRIC.YCBCR: 3}
        return (page.dtype == np.uint8 and page.bitspersample == 8
                and series.shape == page.shape and kinds.get(page.photometric)
                == page.samplesperpixel and (tag is None or tag.value == UPRIGHT)
                and (page.photometric != tifffile.PHOTOMETRIC.YCBCR
                     or page.compression == tifffile.COMPRESSION.JPEG))
    except Exception:  # as above
        return False
