"""Read images of any number of bands: TIFF, NumPy's arrays, and what OpenCV decodes."""
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np
from PIL import Image

from mmvssd.errors import ConfigError, DataError, UnreadableImageError
from mmvssd.phrases import counted

#: Endings of files that are no photographs, by what reads them.
TIFF, NUMPY = ('.tif', '.tiff'), ('.npy', )
#: Orders of an array's axes.
LAYOUTS = ('HWC', 'CHW')
#: Modes of PIL of which OpenCV decodes as many channels, unless there is a transparent colour.
PLAIN_MODES = ('1', 'L', 'I', 'I;16', 'RGB', 'RGBA')


class Header(NamedTuple):
    """What a file says of its pixels.

    Attributes:
        height, width: In pixels.
        bands: How many.
        dtype: Name of NumPy's type, or PIL's mode.
    """

    height: int
    width: int
    bands: int
    dtype: str


def read_bands(path: str, layout: Optional[str] = None) -> np.ndarray:
    """Read all bands of an image, in the file's order; of colours that is RGB.

    Args:
        path: A TIFF, an ``.npy`` array, or another format that OpenCV decodes.
        layout: Order of the axes of an array, and of a TIFF that was written as one: 'HWC' or
            'CHW'. None takes the shorter of the first and the last axis for that of the bands.

    Returns:
        (H, W, bands), in the file's dtype.

    Raises:
        UnreadableImageError: The file is missing, or is no such image.
        DataError: Its pixels are no numbers, or not those of one image.
        ConfigError: A package that its compression needs is not installed.
    """
    kind = Path(path).suffix.lower()
    try:
        if kind in NUMPY:
            return load_array(path, layout)
        if kind in TIFF:
            return _read_tiff(path, layout)
        return _decode(path)
    except (ConfigError, DataError, MemoryError, UnreadableImageError):
        raise
    except Exception as error:  # each decoder has errors of its own
        raise unreadable(path, error) from error


def read_header(path: str, layout: Optional[str] = None) -> Header:
    """Read the size of an image without its pixels; arguments and errors as in read_bands."""
    kind = Path(path).suffix.lower()
    try:
        if kind in NUMPY:
            pixels = load_array(path, layout, mmap_mode='r')
            shape, dtype = pixels.shape, pixels.dtype
        elif kind in TIFF:
            with tifffile_of(path).TiffFile(path) as file:
                series = file.series[0]
                shape, dtype = shape_of(series, path, layout), series.dtype
        else:
            with Image.open(path) as image:
                shape, dtype = (image.height, image.width, len(image.getbands())), image.mode
                plain = image.mode in PLAIN_MODES and 'transparency' not in image.info
            if not plain:
                shape = _decode(path).shape
        height, width, bands = shape
        return Header(height, width, bands, str(dtype))
    except (ConfigError, DataError, MemoryError, UnreadableImageError):
        raise
    except Exception as error:  # as above
        raise unreadable(path, error) from error


def _read_tiff(path: str, layout: Optional[str]) -> np.ndarray:
    with tifffile_of(path).TiffFile(path) as file:
        series = file.series[0]  # overviews and masks are others
        shape_of(series, path, layout)
        with naming_a_lacking_package(path):
            pixels = _checked(series.asarray(), path)
        return bands_last(pixels, band_axis(pixels.shape, series.axes, layout))


@contextmanager
def naming_a_lacking_package(path: str) -> Iterator[None]:
    """Raise ConfigError if a TIFF's compression needs a package that is not installed."""
    try:
        yield
    except (ValueError, KeyError) as error:
        if 'imagecodecs' not in str(error):
            raise
        raise ConfigError(f'{path}: its compression needs a package: pip install imagecodecs'
                          ) from error


def tifffile_of(path: str) -> Any:
    """Return the package that reads a TIFF.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import tifffile
    except ImportError as error:
        raise ConfigError(f'{path}: TIFF files are read by a package that is not installed: '
                          'pip install tifffile imagecodecs') from error
    return tifffile


def shape_of(series: Any, path: str, layout: Optional[str]) -> Tuple[int, ...]:
    """Return the shape (H, W, bands) of a TIFF's series.

    Raises:
        DataError: It is not that of one image, or its pixels are no numbers.
    """
    # an array of one number that is repeated takes no memory
    empty = _checked(np.broadcast_to(np.zeros((), series.dtype), series.shape), path)
    return bands_last(empty, band_axis(empty.shape, series.axes, layout)).shape


def load_array(path: str, layout: Optional[str], mmap_mode: Optional[str] = None) -> np.ndarray:
    """Load an ``.npy`` file, or map it into memory, as (H, W, bands)."""
    pixels = _checked(np.load(path, mmap_mode=mmap_mode, allow_pickle=False), path)
    return bands_last(pixels, _shorter_axis(pixels.shape, layout))


def band_axis(shape: Sequence[int], axes: str, layout: Optional[str]) -> Optional[int]:
    """Return which axis of a TIFF's series is that of the bands; None if it has no such axis.

    Samples of a pixel are bands, and so are pages.
    """
    if len(shape) == 3 and 'Q' not in axes and layout is None:
        band, = (place for place, axis in enumerate(axes) if axis not in 'YX')
        return band
    return _shorter_axis(shape, layout)


def _shorter_axis(shape: Sequence[int], layout: Optional[str]) -> Optional[int]:
    """Return which axis of an array is that of the bands, as :func:`band_axis`."""
    if len(shape) == 2:
        return None
    return 0 if layout == 'CHW' or (layout is None and shape[0] < shape[2]) else 2


def bands_last(pixels: np.ndarray, axis: Optional[int]) -> np.ndarray:
    """Order pixels as (H, W, bands), without a copy."""
    return pixels[..., None] if axis is None else np.moveaxis(pixels, axis, 2)


def _checked(pixels: np.ndarray, path: str) -> np.ndarray:
    """Raise DataError unless an array may be an image."""
    if pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise DataError(f'{path}: has the shape {" x ".join(map(str, pixels.shape)) or "()"}, '
                        'expected height x width, with bands or without')
    if pixels.dtype.kind not in 'buif':
        raise DataError(f'{path}: has values of dtype {pixels.dtype}, expected real numbers')
    return pixels


def _decode(path: str) -> np.ndarray:
    content = np.fromfile(path, np.uint8)
    pixels = cv2.imdecode(content, cv2.IMREAD_UNCHANGED) if len(content) else None
    if pixels is None:
        raise UnreadableImageError(
            f'{path}: cannot be read as an image ({counted(len(content), "byte")}); write '
            'the file anew, or take it out of the data')
    if pixels.ndim == 2:
        return pixels[..., None]
    return pixels[..., [2, 1, 0, *range(3, pixels.shape[2])]]  # OpenCV has BGR


def unreadable(path: str, error: Exception) -> UnreadableImageError:
    """Return the error that says what a decoder raised at a file."""
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    else:
        text = str(error).strip().splitlines()
        reason = type(error).__name__ + (f': {text[0]}' if text else '')
    size = f', {counted(os.path.getsize(path), "byte")}' if os.path.isfile(path) else ''
    return UnreadableImageError(f'{path}: cannot be read as an image ({reason}{size}); write the '
                                'file anew, or take it out of the data')
