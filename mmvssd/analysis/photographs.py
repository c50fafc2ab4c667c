"""Photographs that models are looked into with: listed, picked, resized, normalized."""
import importlib.resources
import importlib.util
import os
import sys
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mmvssd.analysis.named_models import Normalization
from mmvssd.cli.image_files import Limits, each_path, find_images, obstacle
from mmvssd.engine.data.listings.folders import image_names, walk_user_folders
from mmvssd.errors import ConfigError, DataError
from mmvssd.phrases import emptiness, left_out

#: Packages whose own pictures an option may name, and the files of these; nothing is downloaded.
BUNDLED = {'sklearn': ('sklearn.datasets.images', ('china.jpg', 'flower.jpg')),
           'skimage': ('skimage.data', ('astronaut.png', 'chelsea.png', 'coffee.png',
                                        'rocket.jpg'))}
DISTRIBUTIONS = {'sklearn': 'scikit-learn', 'skimage': 'scikit-image'}
RESIZES = ('crop', 'squash')
SMALLEST = 32  # pixels of a side that every backbone makes a feature of
#: Any picture: what is resized here takes little memory, however large the file.
UNLIMITED = Limits(sys.maxsize, sys.maxsize, sys.maxsize)
#: Pixels that resizing may make before the crop; a strip of paper would take all memory.
MOST_PIXELS = 2**26


class Picture(NamedTuple):
    """A resized picture: (size, size, 3) uint8 in RGB, and whether it had to be enlarged."""

    image: np.ndarray
    enlarged: bool


def choose_photographs(sources: Sequence[str], most: int, seed: int = 0) -> List[Path]:
    """List photographs, sorted by path.

    Args:
        sources: Files, patterns such as ``photos/*.jpg``, folders with all below them, or the
            words ``sklearn`` and ``skimage`` for the pictures that these packages bundle.
        most: Of more than that, the first of a permutation are taken.
        seed: Of the permutation.

    Raises:
        ConfigError: The number is not positive, or a package is not installed.
        DataError: There is no such file or folder, or no image in it.
    """
    if most < 1:
        raise ConfigError(f'--num-images: got {most}, expected a positive number')
    files = sorted({file for source in each_path(sources) for file in _files_of(source)})
    if not files:
        raise ConfigError(f'--images: got {list(sources)}, expected files, folders or sklearn')
    if len(files) > most:
        order = np.random.default_rng(seed).permutation(len(files))
        files = sorted(files[i] for i in order[:most])
    return files


def _files_of(source: str) -> List[Path]:
    if emptiness(source):
        raise ConfigError(f'--images: {emptiness(source)}')
    if source not in BUNDLED:
        inside = [folder / name  # as ImageNet's classes are
                  for folder, names, _ in walk_user_folders(Path(source))
                  for name in image_names(names)] if os.path.isdir(source) else []
        return inside or find_images(source)
    if importlib.util.find_spec(source) is None:
        raise ConfigError(f'--images: {source} is not installed: pip install '
                          f'{DISTRIBUTIONS[source]}, or name pictures of your own with --images')
    package, names = BUNDLED[source]
    folder = Path(str(importlib.resources.files(package)))
    files = [folder / name for name in names if (folder / name).is_file()]
    if not files:
        raise ConfigError(f'--images: the installed {DISTRIBUTIONS[source]} bundles none of '
                          f'{", ".join(names)}; name pictures of your own with --images')
    return files


def check_size(size: int, resize: str = 'crop') -> None:
    """Raise ConfigError unless photographs can be resized so."""
    if not isinstance(size, int) or isinstance(size, bool) or size < SMALLEST:
        raise ConfigError(f'--size: got {size}, expected a whole number of pixels, {SMALLEST} or '
                          'more')
    if resize not in RESIZES:
        raise ConfigError(f'--resize: got {resize!r}, expected {" or ".join(RESIZES)}')


def open_picture(file: Path, size: int, resize: str = 'crop') -> Picture:
    """Read a photograph and make it square.

    Args:
        file: Its path. Grey becomes three equal channels, an alpha channel is dropped, the
            camera's orientation is applied.
        size: Side of the result in pixels.
        resize: 'crop' takes the shorter side to ``size`` and crops the centre; 'squash' takes both
            sides to it. Both are bicubic.

    Raises:
        DataError: It cannot be read, or is too narrow to be cropped; the message gives the reason
            without the path.
    """
    reason = obstacle(file, (), UNLIMITED)
    if reason:
        raise DataError(reason)
    try:
        with Image.open(file) as opened:
            image = _in_rgb(ImageOps.exif_transpose(opened))
    except DataError:
        raise
    except Exception as error:  # each format's reader has errors of its own
        first = (str(error).strip() or 'no message').splitlines()[0]
        raise DataError(f'cannot be decoded ({type(error).__name__}: {first})') from error
    enlarged = min(image.size) < size
    if resize == 'squash':
        return Picture(np.asarray(image.resize((size, size), Image.BICUBIC)), enlarged)
    width, height = (int(size * side / min(image.size)) for side in image.size)
    if width * height > MOST_PIXELS:
        raise DataError(f'has {image.width} x {image.height} pixels: too narrow to crop a square '
                        'of it, crop it or use --resize squash')
    image = image.resize((width, height), Image.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return Picture(np.asarray(image.crop((left, top, left + size, top + size))), enlarged)


def _in_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith('I;16'):  # Pillow would cut all above 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ('F', 'I'):
        raise DataError('has pixels of 32 bits, whose range is not known; save it with 8 or 16')
    return image.convert('RGB')


def each_picture(files: Sequence[Path], size: int, resize: str,
                 failures: Dict[Path, str]) -> Iterator[Tuple[Path, Picture]]:
    """Read photographs one after the other; what cannot be read is noted with the reason.

    Args:
        files: The photographs.
        size: Side of the results in pixels.
        resize: One of :data:`RESIZES`.
        failures: Gets an entry for each that cannot be read.
    """
    for file in files:
        try:
            picture = open_picture(file, size, resize)
        except DataError as error:
            failures[file] = str(error)
        else:
            yield file, picture


def report_failures(failures: Dict[Path, str], total: int) -> None:
    """Raise DataError that names each photograph that was left out; nothing if none was."""
    if failures:
        raise DataError('\n'.join([left_out(len(failures), total),
                                   *(f'  {file}: {why}' for file, why in failures.items())]))


def normalized(image: np.ndarray, normalization: Normalization) -> Tensor:
    """Return what a model takes of a picture.

    Args:
        image: (H, W, 3) uint8, RGB.
        normalization: The model's.

    Returns:
        (1, 3, H, W) float32.
    """
    channels = image if normalization.rgb else image[..., ::-1]
    mean, std = (torch.tensor(values) for values in (normalization.mean, normalization.std))
    pixels = torch.from_numpy(np.array(channels)).float()
    return ((pixels - mean) / std).permute(2, 0, 1)[None].contiguous()
