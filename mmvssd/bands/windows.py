"""Read parts of large images, without holding the rest in memory."""
from abc import ABC, abstractmethod
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional, Tuple

import numpy as np

from mmvssd.bands.files import (
    NUMPY,
    TIFF,
    band_axis,
    bands_last,
    load_array,
    naming_a_lacking_package,
    read_bands,
    shape_of,
    tifffile_of,
    unreadable,
)
from mmvssd.errors import ConfigError, DataError, UnreadableImageError

#: Bytes of decoded segments of a TIFF that are kept for the next windows; more, if one needs more.
KEPT = 2**28


class Windows(ABC):
    """An image of which parts are read.

    Attributes:
        shape: (H, W, bands).
        whole: Whether all of it is held in memory.
    """

    shape: Tuple[int, int, int]
    whole = False

    @abstractmethod
    def read(self, rows: slice, columns: slice) -> np.ndarray:
        """Return a part of the image, (h, w, bands), in memory of its own.

        Raises:
            UnreadableImageError: It cannot be decoded.
            ConfigError: Its compression needs a package that is not installed.
        """


class Held(Windows):
    """An image in memory.

    Args:
        pixels: (H, W, bands).
    """

    whole = True

    def __init__(self, pixels: np.ndarray):
        self.pixels, self.shape = pixels, pixels.shape

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        return self.pixels[rows, columns].copy()


class _Mapped(Windows):
    """An image whose bytes lie in its file as in memory.

    The file is mapped anew for each part: what was read of a map counts as the process's memory.
    """

    def __init__(self, open_map: Callable[[], np.ndarray]):
        self.open_map = open_map
        self.shape = open_map().shape

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        part = self.open_map()[rows, columns]
        return np.array(part, part.dtype.newbyteorder('='))


class _Segments(Windows):
    """The strips or tiles of a TIFF, each of which is decoded by itself.

    Args:
        path: The file.
        pages: Its pages, of one shape; their bands follow one another.
    """

    def __init__(self, path: str, pages: List):
        self.path, self.pages = path, pages
        self.page = pages[0].keyframe
        planes, _, height, width, samples = self.page.shaped
        self.shape = height, width, len(pages) * planes * samples
        tiled = self.page.is_tiled
        self.height = self.page.tilelength if tiled else min(self.page.rowsperstrip, height)
        self.width = self.page.tilewidth if tiled else width
        self.decoded: OrderedDict[Tuple[int, int], np.ndarray] = OrderedDict()
        self.room = 0

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        (top, bottom, _), (left, right, _) = (
            part.indices(side) for part, side in zip((rows, columns), self.shape))
        planes, _, _, _, samples = self.page.shaped
        result = np.empty((bottom - top, right - left, self.shape[2]), self.page.dtype)
        downwards = range(top // self.height, -(-bottom // self.height))
        sideways = range(left // self.width, -(-right // self.width))
        self._make_room(len(downwards) * len(sideways) * len(self.pages) * planes)
        for row in downwards:
            for column in sideways:
                y, x = row * self.height, column * self.width
                down = slice(max(top, y), min(bottom, y + self.height))
                across = slice(max(left, x), min(right, x + self.width))
                target = result[down.start - top:down.stop - top,
                                across.start - left:across.stop - left]
                for number in range(len(self.pages) * planes):
                    segment = self._segment(number, row, column)
                    target[..., number * samples:(number + 1) * samples] = segment[
                        down.start - y:down.stop - y, across.start - x:across.stop - x]
        return result

    def _segment(self, number: int, row: int, column: int) -> np.ndarray:
        """Return a decoded strip or tile (h, w, samples) of a plane, counted through all pages."""
        planes, _, height, width, _ = self.page.shaped
        page, plane = divmod(number, planes)
        down, across = -(-height // self.height), -(-width // self.width)
        index = (plane * down + row) * across + column
        if (page, index) not in self.decoded:
            try:
                with naming_a_lacking_package(self.path):
                    segment = self._decode(self.pages[page], index)
            except (ConfigError, MemoryError):
                raise
            except Exception as error:  # each compression's decoder has errors of its own
                raise unreadable(self.path, error) from error
            if len(self.decoded) == self.room:
                self.decoded.popitem(last=False)
            self.decoded[page, index] = segment
        self.decoded.move_to_end((page, index))
        return self.decoded[page, index]

    def _make_room(self, needed: int) -> None:
        """Leave out what was not used for the longest time.

        What a window needs is kept for the next one beside it: a strip belongs to both.
        """
        size = self.height * self.width * self.page.shaped[4] * self.page.dtype.itemsize
        self.room = max(needed, KEPT // size)
        while len(self.decoded) > self.room:
            self.decoded.popitem(last=False)

    def _decode(self, page: Any, index: int) -> np.ndarray:
        offset, count = page.dataoffsets[index], page.databytecounts[index]
        file = page.parent.filehandle
        if offset + count > file.size:
            raise ValueError(f'its strip or tile {index} is cut off')
        tables = (dict(jpegtables=page.jpegtables, jpegheader=self.page.jpegheader)
                  if page.jpegtables is not None or self.page.jpegheader is not None else {})
        file.seek(offset)
        content = file.read(count) if count else None
        segment, _, shape = self.page.decode(content, index, **tables)
        if segment is None:  # a sparse file leaves out what holds nothing
            return np.full(shape[1:], self.page.nodata, self.page.dtype)
        return segment[0]


@contextmanager
def open_windows(path: str, layout: Optional[str] = None) -> Iterator[Windows]:
    """Open an image of any number of bands to read parts of it, as ``read_bands`` reads it whole.

    ``.npy`` arrays and TIFF files are read by parts. A TIFF is held whole if its pages are slices
    of an array along another axis than that of the bands, and so is any other format.

    Args:
        path: The file.
        layout: As :func:`~mmvssd.bands.files.read_bands` takes it.

    Raises:
        UnreadableImageError: The file is missing, or is no such image.
        DataError: Its pixels are no numbers, or not those of one image.
        ConfigError: A package is not installed.
    """
    kind = Path(path).suffix.lower()
    if kind in TIFF:
        with _open_tiff(path) as file:
            yield tiff_windows(path, file, layout) or Held(read_bands(path, layout))
    elif kind in NUMPY:
        with _naming(path):
            windows = _Mapped(lambda: load_array(path, layout, mmap_mode='r'))
        yield windows
    else:
        yield Held(read_bands(path, layout))


@contextmanager
def _open_tiff(path: str) -> Iterator:
    with _naming(path):
        file = tifffile_of(path).TiffFile(path)
    with file:
        yield file


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Raise what a decoder raises as an error that names the file."""
    try:
        yield
    except (ConfigError, DataError, MemoryError, UnreadableImageError):
        raise
    except Exception as error:  # each decoder has errors of its own
        raise unreadable(path, error) from error


def tiff_windows(path: str, file: Any, layout: Optional[str] = None) -> Optional[Windows]:
    """Return the windows of an open TIFF; None if it has to be read whole.

    Raises:
        UnreadableImageError: The file is cut off or broken.
        DataError: Its pixels are no numbers, or not those of one image.
    """
    with _naming(path):
        series = file.series[0]
        shape = shape_of(series, path, layout)
        axis = band_axis(series.shape, series.axes, layout)
        if series.dataoffset is not None:
            dtype = np.dtype(file.byteorder + series.dtype.char)
            return _Mapped(lambda: bands_last(
                np.memmap(path, dtype, 'r', series.dataoffset, series.shape), axis))
        pages = list(series.pages)
        if any(page is None for page in pages) or not _bands_follow(series, pages, axis):
            return None
        windows = _Segments(path, pages)
        return windows if windows.shape == shape and _complete(windows) else None


def _bands_follow(series: Any, pages: List, axis: Optional[int]) -> bool:
    """Tell whether the samples of pages, page by page, are the bands."""
    page = series.keyframe
    if page.shaped[1] != 1:  # a volume
        return False
    if len(pages) > 1:
        return axis == 0 and len(page.shape) == 2
    return axis is None or page.axes[axis] == 'S'


def _complete(windows: _Segments) -> bool:
    """Tell whether each page has as many strips or tiles as its size asks for."""
    planes, _, height, width, _ = windows.page.shaped
    count = planes * -(-height // windows.height) * -(-width // windows.width)
    return all(len(page.dataoffsets) == len(page.databytecounts) == count
               for page in windows.pages)
