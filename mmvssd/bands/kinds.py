"""Tell photographs from images of bands, by what their files say."""
from pathlib import Path
from typing import NamedTuple, Optional

from mmvssd.bands.files import NUMPY, TIFF, read_header, tifffile_of
from mmvssd.engine.data.file_facts import header, open_image
from mmvssd.errors import ConfigError, DataError, UnreadableImageError

#: TIFF's tag of the value that stands for no data, as GDAL writes it.
GDAL_NODATA = 42113
#: What a PNG file begins with; the place of its bit depth, and of its kind of colours.
PNG, DEPTH, COLOURS = b'\x89PNG\r\n\x1a\n', 24, 25
#: Channels of a PNG's kinds of colours that may have 16 bits.
PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}


class Kind(NamedTuple):
    """What an image is.

    Attributes:
        photograph: Whether LoadImageFromFile reads all that is in it: bytes of grey or colours,
            with transparency or without.
        bands: How many bands it has.
        dtype: Name of NumPy's type of their values.
    """

    photograph: bool
    bands: int
    dtype: str


def kind_of(path: str) -> Optional[Kind]:
    """Tell what an image is; None if its header cannot be read.

    Raises:
        ConfigError: It needs a package that is not installed.
    """
    suffix = Path(path).suffix.lower()
    try:
        if suffix in NUMPY:
            return Kind(False, *read_header(path)[2:])
        if suffix in TIFF:
            return _kind_of_tiff(path)
        return _kind_of_other(path)
    except (DataError, UnreadableImageError):
        return None


def _kind_of_tiff(path: str) -> Kind:
    try:
        tifffile = tifffile_of(path)
    except ConfigError:
        kind = _kind_of_other(path)
        if kind is None:  # no photograph that is read without the package
            raise
        return kind
    *_, bands, dtype = read_header(path)
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        clear = tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA
        transparent = tuple(page.extrasamples) in tuple((one, ) for one in clear)
        cmyk = page.photometric == tifffile.PHOTOMETRIC.SEPARATED
        usual = bands - transparent in (1, 3) or (cmyk and bands == 4)
        return Kind(usual and dtype in ('uint8', 'bool'), bands, dtype)


def _kind_of_other(path: str) -> Optional[Kind]:
    try:
        with open_image(path) as image, open(path, 'rb') as file:
            mode, start = image.mode, file.read(COLOURS + 1)
            if start.startswith(PNG) and start[DEPTH] == 16:  # of colours PIL keeps 8 bits
                return Kind(False, PNG_CHANNELS.get(start[COLOURS], 1), 'uint16')
            if mode[0] in 'IF':
                return Kind(False, 1, 'float32' if mode == 'F' else 'uint16')
            return Kind(True, len(image.getbands()), 'uint8')
    except Exception:  # PIL's readers raise errors of many kinds at broken files
        return None


def any_header(path: str) -> Optional[dict]:
    """Return size, mode and orientation of a photograph or of an image of bands.

    As :func:`mmvssd.engine.data.file_facts.header`, which knows photographs only. LoadBands turns
    nothing, so images of bands are upright.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (*TIFF, *NUMPY):
        return header(path)
    try:
        kind = kind_of(path)
        if kind is not None and not kind.photograph:
            found = read_header(path)
            return dict(size=[found.width, found.height], mode=found.dtype, orientation=1)
    except ConfigError:  # PIL may know it
        pass
    return header(path)


def nodata_of(path: str) -> Optional[float]:
    """Return the value that stands for no data by a TIFF's own words; None if it names none."""
    if Path(path).suffix.lower() not in TIFF:
        return None
    with tifffile_of(path).TiffFile(path) as file:
        tag = file.pages.first.tags.get(GDAL_NODATA)
        try:
            return float(str(tag.value).strip('\0 ')) if tag is not None else None
        except ValueError:
            return None
