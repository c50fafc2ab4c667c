"""A step of pipelines that loads images of any number of bands."""
import math
import operator
from typing import Any, List, Optional, Sequence, Tuple, Union

import numpy as np

from mmvssd.bands.files import LAYOUTS, Header, read_bands, read_header
from mmvssd.errors import ConfigError, DataError
from mmvssd.phrases import counted, numbered
from mmvssd.registry import TRANSFORMS

#: Percentiles of a band that a picture shows as black and as white.
DARKEST, BRIGHTEST = 2, 98
#: Pixels of a band that these percentiles are taken of, about.
SAMPLED = 250_000


@TRANSFORMS.register_module()
class LoadBands:
    """Load an image of any number of bands, and normalize each band.

    It stands in the place of the hosts' LoadImageFromFile. Its float32 images need no
    normalization by the model's data preprocessor, so mean, std and changes of the channels' order
    are left out there. It reads TIFF, ``.npy`` and what OpenCV decodes: PNG of 16 bits, say. An
    EXIF orientation is not applied.

    Args:
        bands: Which bands of the file are the image, counted from 0, in this order; None takes
            all.
        mean: One number for each of these bands, subtracted from it; None subtracts nothing.
        std: One for each, by which the difference is divided.
        nodata: Values that stand for no data, a number or 'nan', or several. Such pixels get the
            band's mean. Without it NaN is an error.
        layout: 'HWC' or 'CHW', order of the axes of arrays; see
            :func:`~mmvssd.bands.files.read_bands`.
        display: Three bands of the file, or one, that pictures show as red, green and blue. None
            shows the first three of ``bands``, or the first if there are fewer.

    Raises:
        ConfigError: A setting does not fit.
    """

    #: As the hosts' step calls it: channels are those of the file, and EXIF turns nothing.
    color_type = 'unchanged'

    def __init__(self, bands: Optional[Sequence[int]] = None,
                 mean: Optional[Sequence[float]] = None, std: Optional[Sequence[float]] = None,
                 nodata: Union[float, str, Sequence[Union[float, str]], None] = None,
                 layout: Optional[str] = None, display: Optional[Sequence[int]] = None) -> None:
        self.bands = _indices('bands', bands)
        self.mean, self.std = _numbers('mean', mean), _numbers('std', std)
        self.nodata = _missing_values(nodata)
        if layout is not None and layout not in LAYOUTS:
            raise ConfigError(f'LoadBands: layout={layout!r}, expected None or one of '
                              f'{", ".join(LAYOUTS)}')
        self.layout = layout
        self.display = _indices('display', display)
        if self.display is not None and len(self.display) not in (1, 3):
            raise ConfigError(f'LoadBands: display={display} has {len(self.display)} bands, a '
                              'picture shows 3, or 1 as grey')
        self._check_lengths()

    def _check_lengths(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise ConfigError(f'LoadBands: has {"std" if self.mean is None else "mean"} only; set '
                              'mean and std, or neither')
        lengths = {name: len(value) for name, value in
                   (('bands', self.bands), ('mean', self.mean), ('std', self.std))
                   if value is not None}
        if len(set(lengths.values())) > 1:
            told = ', '.join(f'{name} has {length}' for name, length in lengths.items())
            raise ConfigError(f'LoadBands: {told} numbers, expected one for each band. '
                              'tools/dataset_tools/band_statistics.py computes mean and std')
        if self.std is not None and min(self.std) <= 0:
            place = self.std.index(min(self.std))
            raise ConfigError(f'LoadBands: std[{place}]={self.std[place]}, expected a number above '
                              '0; a band of one value throughout tells nothing: leave it out of '
                              'bands')

    @property
    def channels(self) -> Optional[int]:
        """Bands of an image, as far as the settings say."""
        return next((len(value) for value in (self.bands, self.mean) if value is not None), None)

    def __call__(self, results: dict) -> dict:
        """Load the image of ``results['img_path']``.

        Returns:
            ``results`` with ``img`` (H, W, bands) float32, ``img_shape`` and ``ori_shape`` (H, W).

        Raises:
            UnreadableImageError: It cannot be read.
            DataError: It has other bands, or values that are no numbers.
        """
        path = results['img_path']
        image = results['img'] = self.normalized(self.load(path), path)
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def normalized(self, pixels: np.ndarray, path: str) -> np.ndarray:
        """Return the chosen bands of a file, or of a part of it, as the model takes them.

        Args:
            pixels: (H, W, bands), as :meth:`chosen` returns them.
            path: The file.

        Returns:
            (H, W, bands) float32. What stands for no data is the band's mean; without ``mean`` it
            is that of these pixels.

        Raises:
            DataError: Values are no numbers.
        """
        with np.errstate(over='ignore'):  # of float64; the check names what is infinite then
            image = np.array(pixels, np.float32, order='C')
        missing = self.missing(image)
        self.check_finite(image, missing, path)
        if self.mean is not None:
            image -= np.asarray(self.mean, np.float32)
            image /= np.asarray(self.std, np.float32)
        if missing is not None:
            filling = 0 if self.mean is not None else _means(image, missing)
            image = np.where(missing, np.float32(filling), image)
        return image

    def load(self, path: str) -> np.ndarray:
        """Return the chosen bands of a file: (H, W, bands), in the file's dtype.

        Raises:
            UnreadableImageError: It cannot be read.
            DataError: It has other bands.
        """
        return self.chosen(read_bands(path, self.layout), path)

    def chosen(self, pixels: np.ndarray, path: str) -> np.ndarray:
        """Return the bands of the settings out of all bands of a file, (H, W, bands).

        Raises:
            DataError: The file has other bands.
        """
        self.check_count(pixels.shape, path)
        return pixels if self.bands is None else pixels[..., list(self.bands)]

    def header(self, path: str) -> Header:
        """Return what a file says of its pixels; raises as :meth:`load` does."""
        found = read_header(path, self.layout)
        self.check_count(found[:3], path)
        return found

    def check_count(self, shape: Tuple[int, int, int], path: str) -> None:
        """Raise DataError unless a file of (H, W, bands) has the bands that are asked for."""
        height, width, found = shape
        size = f'{path}: has {counted(found, "band")} of {width} x {height} pixels'
        if self.bands is not None:
            if max(self.bands) >= found:
                raise DataError(f'{size}, LoadBands takes band {max(self.bands)}, counted from 0'
                                f'{self._layout_advice(shape)}')
        elif self.mean is not None and found != len(self.mean):
            raise DataError(f'{size}, mean and std of LoadBands have {len(self.mean)}. Write the '
                            'file anew, or choose bands that all files have with bands=[...]'
                            f'{self._layout_advice(shape)}')

    def _layout_advice(self, shape: Tuple[int, int, int]) -> str:
        return ("; layout='HWC' or 'CHW' says which axis of an array is that of the bands"
                if self.channels in shape[:2] else '')

    def missing(self, image: np.ndarray) -> Optional[np.ndarray]:
        """Tell which values of an image stand for no data; None if the settings name no such."""
        if not self.nodata:
            return None
        found = np.zeros(image.shape, bool)
        with np.errstate(over='ignore'):
            image = image.astype(np.float32, copy=False)  # as files hold -3.4e38
            for value in self.nodata:
                found |= np.isnan(image) if math.isnan(value) else image == np.float32(value)
        return found

    def check_finite(self, image: np.ndarray, missing: Optional[np.ndarray], path: str,
                     bands: Optional[Sequence[int]] = None) -> None:
        """Raise DataError if values are not finite and do not stand for no data.

        Args:
            image: (H, W, bands).
            missing: What stands for no data, or None.
            path: Its file.
            bands: Numbers of the image's bands in the file; by default those of the settings.
        """
        if np.isfinite(image.sum(dtype=np.float64)):  # quicker than to ask each
            return
        wrong = ~np.isfinite(image)
        if missing is not None:
            wrong &= ~missing
        if not wrong.any():
            return
        numbers = bands or self.bands or range(image.shape[2])
        bands = [str(band) for band, some in zip(numbers, wrong.any((0, 1))) if some]
        advice = ("If they stand for no data, name 'nan' in nodata; else write the file anew"
                  if np.isnan(image[wrong]).all() else 'Write the file anew')
        values = numbered('{} value[s] [is|are] not finite', int(wrong.sum()))
        raise DataError(f'{path}: {values}, in band {", ".join(bands)}. {advice}')

    def picture(self, path: str) -> np.ndarray:
        """Return an image to look at: (H, W, 3) uint8, RGB.

        Each band is stretched from its 2nd to its 98th percentile; bytes stay as they are.

        Raises:
            UnreadableImageError: It cannot be read.
            DataError: It has not the bands that are to be seen.
        """
        return self.shown(read_bands(path, self.layout), path)

    def shown(self, pixels: np.ndarray, path: str) -> np.ndarray:
        """Return an image to look at of all bands of a file, (H, W, bands); as :meth:`picture`."""
        chosen = _three(self.display or self.bands or range(pixels.shape[2]))
        if max(chosen) >= pixels.shape[2]:
            raise DataError(f'{path}: has {counted(pixels.shape[2], "band")}, pictures are to '
                            f'show band {max(chosen)}, counted from 0; set display of LoadBands')
        shown = pixels[..., chosen]
        if shown.dtype == np.uint8:
            return np.ascontiguousarray(shown)
        return np.dstack([_stretched(band, self.missing(band))
                          for band in np.moveaxis(shown, 2, 0)])

    def picture_of_sample(self, image: np.ndarray) -> np.ndarray:
        """Return what a pipeline made of an image, to look at; as :meth:`picture`.

        Args:
            image: (H, W, bands) float. If not all bands of ``display`` are among these, the first
                are shown.
        """
        numbers = list(self.bands or range(image.shape[2]))
        wanted = self.display if set(self.display or ()) <= set(numbers) else None
        places = [numbers.index(number) for number in _three(wanted or numbers)]
        return np.dstack([_stretched(image[..., place], None) for place in places])

    def __repr__(self) -> str:
        return (f'LoadBands(bands={self.bands}, mean={self.mean}, std={self.std}, '
                f'nodata={self.nodata}, layout={self.layout!r}, display={self.display})')


def _three(bands: Sequence[int]) -> List[int]:
    return list(bands[:3]) if len(bands) >= 3 else [bands[0]] * 3


def _stretched(band: np.ndarray, missing: Optional[np.ndarray]) -> np.ndarray:
    """Return a band (H, W) as bytes; what is missing or not finite is black."""
    band = band.astype(np.float64)
    known = np.isfinite(band) if missing is None else np.isfinite(band) & ~missing
    values = band[known]
    if not values.size:
        return np.zeros(band.shape, np.uint8)
    low, high = np.percentile(values[::max(1, values.size // SAMPLED)], (DARKEST, BRIGHTEST))
    if low == high:
        low, high = values.min(), values.max()
    shades = (np.where(known, band, low) - low) * (255 / max(high - low, 1e-30))
    return np.rint(shades.clip(0, 255)).astype(np.uint8)


def _means(image: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Return the mean of each band's values that are there; 0 if there are none."""
    counts = np.maximum((~missing).sum((0, 1)), 1)
    return np.where(missing, 0, image).sum((0, 1), dtype=np.float64) / counts


def _indices(name: str, given: Optional[Sequence[int]]) -> Optional[Tuple[int, ...]]:
    if given is None:
        return None
    try:
        found = tuple(operator.index(index) for index in given)
    except TypeError:
        found = ()
    if not found or min(found) < 0:
        raise ConfigError(f'LoadBands: {name}={given!r}, expected a list of whole numbers from 0 '
                          'on, or None')
    return found


def _numbers(name: str, given: Optional[Sequence[float]]) -> Optional[Tuple[float, ...]]:
    if given is None:
        return None
    try:
        found = tuple(float(number) for number in given)
    except (TypeError, ValueError):
        found = ()
    if not found or not all(map(math.isfinite, found)):
        raise ConfigError(f'LoadBands: {name}={given!r}, expected a list of finite numbers, one '
                          'for each band, or None')
    return found


def _missing_values(given: Any) -> Tuple[float, ...]:
    if given is None:
        return ()
    try:
        return tuple(float(value) for value in
                     (given if isinstance(given, (list, tuple)) else [given]))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"LoadBands: nodata={given!r}, expected a number, 'nan', a list of "
                          'these, or None') from error
