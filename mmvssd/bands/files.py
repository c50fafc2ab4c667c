"""Read images of any number of bands: TIFF, NumPy's arrays, and what OpenCV decodes."""
import os
from pathlib import Path
from typing import Any, NamedTuple, Optional, Tuple

import cv2
import numpy as np
from PIL import Image

from mmvssd.errors import ConfigError, DataError, UnreadableImageError

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
            pixels = _checked(np.load(path, allow_pickle=False), path)
            return _bands_last(pixels, path, layout)
        if kind in TIFF:
            return _read_tiff(path, layout)
        return _decode(path)
    except (ConfigError, DataError, MemoryError, UnreadableImageError):
        raise
    except Exception as error:  # each decoder has errors of its own
        raise _unreadable(path, error) from error


def read_header(path: str, layout: Optional[str] = None) -> Header:
    """Read the size of an image without its pixels; arguments and errors as in read_bands."""
    kind = Path(path).suffix.lower()
    try:
        if kind in NUMPY:
            pixels = _checked(np.load(path, mmap_mode='r', allow_pickle=False), path)
            shape, dtype = _bands_last(pixels, path, layout).shape, pixels.dtype
        elif kind in TIFF:
            tifffile = _tifffile(path)
            with tifffile.TiffFile(path) as file:
                series = file.series[0]
                shape, dtype = _shape_of(series, path, layout), series.dtype
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
        raise _unreadable(path, error) from error


def _read_tiff(path: str, layout: Optional[str]) -> np.ndarray:
    tifffile = _tifffile(path)
    with tifffile.TiffFile(path) as file:
        series = file.series[0]  # overviews and masks are others
        _shape_of(series, path, layout)
        try:
            pixels = _checked(series.asarray(), path)
        except (ValueError, KeyError) as error:
            if 'imagecodecs' not in str(error):
                raise
            raise ConfigError(f'{path}: its compression needs a package: pip install imagecodecs'
                              ) from error
        return _arranged(pixels, series.axes, path, layout)


def _tifffile(path: str) -> Any:
    try:
        import tifffile
    except ImportError as error:
        raise ConfigError(f'{path}: TIFF files are read by a package that is not installed: '
                          'pip install tifffile imagecodecs') from error
    return tifffile


def _shape_of(series: Any, path: str, layout: Optional[str]) -> Tuple[int, ...]:
    """Return the shape (H, W, bands) of a TIFF's series."""
    # an array of one number that is repeated takes no memory
    empty = np.broadcast_to(np.zeros((), series.dtype), series.shape)
    return _arranged(_checked(empty, path), series.axes, path, layout).shape


def _arranged(pixels: np.ndarray, axes: str, path: str, layout: Optional[str]) -> np.ndarray:
    """Order a TIFF's pixels as (H, W, bands): samples of a pixel are bands, and so are pages."""
    if pixels.ndim == 3 and 'Q' not in axes and layout is None:
        band, = (place for place, axis in enumerate(axes) if axis not in 'YX')
        return np.moveaxis(pixels, band, 2)
    return _bands_last(pixels, path, layout)


def _bands_last(pixels: np.ndarray, path: str, layout: Optional[str]) -> np.ndarray:
    if pixels.ndim == 2:
        return pixels[..., None]
    first = layout == 'CHW' or (layout is None and pixels.shape[0] < pixels.shape[2])
    return np.moveaxis(pixels, 0, 2) if first else pixels


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
            f'{path}: cannot be read as an image ({len(content)} bytes); write the file anew, or '
            'take it out of the data')
    if pixels.ndim == 2:
        return pixels[..., None]
    return pixels[..., [2, 1, 0, *range(3, pixels.shape[2])]]  # OpenCV has BGR


def _unreadable(path: str, error: Exception) -> UnreadableImageError:
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    else:
        text = str(error).strip().splitlines()
        reason = type(error).__name__ + (f': {text[0]}' if text else '')
    size = f', {os.path.getsize(path)} bytes' if os.path.isfile(path) else ''
    return UnreadableImageError(f'{path}: cannot be read as an image ({reason}{size}); write the '
                                'file anew, or take it out of the data')
