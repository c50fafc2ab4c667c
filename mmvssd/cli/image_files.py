"""Images to predict on: which files these are, and why one of them is left out.

All is decided by a file's kind and its header, before anything is decoded.
"""
import glob
import os
import stat
from collections import Counter
from pathlib import Path
from typing import Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from mmengine.logging import print_log

from mmvssd.bands.kinds import any_header
from mmvssd.engine.data.listings.folders import (
    IMAGE_ENDINGS,
    image_names,
    is_hidden,
    unread_advice,
)
from mmvssd.errors import DataError
from mmvssd.foreign_files import LFS_POINTER, kind_of
from mmvssd.phrases import counted, emptiness


class Limits(NamedTuple):
    """Largest sizes that are predicted on, in pixels.

    Attributes:
        image: Of a file. Decoding one and drawing on it takes about 20 bytes a pixel, a label map
            or a mask as much again.
        step: Of what a recipe's resizing makes of it.
        model: Of what the model is given; each pixel of it takes kilobytes.
    """

    image: int
    step: int
    model: int

    @classmethod
    def of(cls, pixels: int) -> 'Limits':
        """Return the limits that go with the largest file."""
        return cls(pixels, pixels, pixels // 4)


def each_path(paths: Iterable[str]) -> Iterator[str]:
    """Yield paths, and in place of a pattern that the shell left as it is, the files that fit it.

    A shell leaves a pattern in quotes, and one behind ``=``. A path that is there is no pattern.

    Raises:
        DataError: No file fits a pattern.
    """
    for path in paths:
        home = os.path.expanduser(path)
        if os.path.lexists(path) or not (glob.has_magic(path) or home != path):
            yield path
        elif not glob.has_magic(path):
            yield home
        else:
            found = sorted(glob.glob(home, recursive=True))
            if not found:
                raise DataError(f'{path}: no file fits this pattern (seen from {Path.cwd()})')
            yield from found


def find_images(path: str, for_folders: str = '') -> List[Path]:
    """List an image file, or the images of a folder by name, whatever these are.

    What a folder holds besides is counted in the log.

    Args:
        path: The file or the folder.
        for_folders: What the error advises if the folder holds no image, but folders.

    Raises:
        DataError: There is no such file or folder, or no image in it.
    """
    if emptiness(path):
        raise DataError(f'images: {emptiness(path)}')
    root = Path(path)
    if not _is_folder(root):
        if not os.path.lexists(root):
            raise DataError(f'{path}: no such image or folder (seen from {Path.cwd()})')
        return [root]
    try:
        files = sorted(root.iterdir())
    except OSError as error:
        raise DataError(f'{path}: cannot be listed ({error.strerror})') from error
    names = image_names(file.name for file in files)
    images = [file for file in files if file.name in names]
    others = counted_by_ending([file for file in files if file.name not in names])
    if not images:
        raise DataError(f'{path}: holds no image ({", ".join(IMAGE_ENDINGS)})'
                        + f'; it holds {others}' * bool(others)
                        + unread_advice(file.name for file in files)
                        + f'. {for_folders}' * (for_folders != '' and any(
                            file.is_dir() for file in files)))
    if others:
        print_log(f'{path}: not looked at: {others}', logger='current')
    return images


def _is_folder(path):
    try:
        return path.is_dir()
    except OSError as error:  # such as a name that is too long
        raise DataError(f'{path}: cannot be looked at ({error.strerror})') from error


def counted_by_ending(files: Sequence[Path]) -> str:
    """Count files by their ending, folders and what is hidden; empty if there are none."""
    kinds = Counter('hidden' if is_hidden(file.name) else 'folder' if file.is_dir()
                    else file.suffix or 'without ending' for file in files)
    return ', '.join(counted(count, kind) if kind == 'folder' else f'{count} {kind}'
                     for kind, count in sorted(kinds.items()))


def obstacle(file: Path, steps: Sequence, limits: Limits) -> Optional[str]:
    """Say why an image cannot be predicted on, by its kind and its header; None if it may be.

    Args:
        file: The image.
        steps: The transforms of the recipe's pipeline.
        limits: The largest sizes.
    """
    reason = unreadable(file)
    if reason:
        return reason
    size = image_size(file)
    if size is None:  # the decoder of the recipe may know more
        return None
    return size_obstacle(size, steps, limits)


def size_obstacle(size: Tuple[int, int], steps: Sequence, limits: Limits) -> Optional[str]:
    """Say why an image of a size (width, height) cannot be predicted on, as :func:`obstacle`."""
    return _too_large(*size, limits) or _ill_shaped(size, steps, limits)


def unreadable(file: Path) -> Optional[str]:
    """Say why a file is no image, by its kind; None if it may be one."""
    try:
        status = os.stat(file)
    except OSError as error:
        if file.is_symlink():
            return f'is a link to {os.readlink(file)}, which leads to no file ({error.strerror})'
        return error.strerror
    if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for its writer
        return 'is a folder' if stat.S_ISDIR(status.st_mode) else 'is a pipe or a device, no file'
    if status.st_size == 0:
        return 'is empty: 0 bytes'
    try:
        return f'is {LFS_POINTER}' if kind_of(file) == LFS_POINTER else None
    except OSError as error:
        return error.strerror


def image_size(file: Path) -> Optional[Tuple[int, int]]:
    """Return (width, height) by an image's header; None if that is of no known kind."""
    found = any_header(str(file))
    return tuple(found['size']) if found is not None else None


def _too_large(width: int, height: int, limits: Limits) -> Optional[str]:
    if width * height <= limits.image:
        return None
    return (f'has {width} x {height} = {width * height:,} pixels, more than the {limits.image:,} '
            'that are predicted on; cut it into tiles with --tile, make it smaller, or raise '
            '--max-pixels')


def _ill_shaped(size: Tuple[int, int], steps: Sequence, limits: Limits) -> Optional[str]:
    width, height = size
    shape = f'has {width} x {height} pixels'
    for step in steps:
        width, height = resized(step, width, height)
        name = type(step).__name__
        if min(width, height) < 1:
            return (f"{shape}, of which the recipe's {name} makes {width} x {height}: too narrow, "
                    'crop or pad it')
        if width * height > limits.step:
            return (f"{shape}, of which the recipe's {name} makes {width} x {height} = "
                    f'{width * height:,}, more than {limits.step:,}: crop or pad it')
        width, height = cropped(step, width, height)
    if width * height > limits.model:
        return (f'has {width} x {height} = {width * height:,} pixels as the recipe hands them to '
                f'the model, more than the {limits.model:,} that are predicted on; cut it into '
                'tiles with --tile, make it smaller, or raise --max-pixels')
    return None


def resized(step, width: int, height: int) -> Tuple[int, int]:
    """Return what a transform's resizing makes of a size; the size itself if it does not resize.

    Args:
        step: A transform. Known are ``Resize`` of mmcv and of this package, with what derives
            from it, and MMPreTrain's ``ResizeEdge``.
        width: Of the image that it gets.
        height: The same.
    """
    # by name: mmcv may not be installed
    if any(kind.__name__ == 'Resize' and kind.__module__.partition('.')[0] in ('mmcv', 'mmvssd')
           for kind in type(step).__mro__):
        scale = step.scale
        if not scale:
            factors = step.scale_factor
            across, down = factors if isinstance(factors, (tuple, list)) else (factors, factors)
            scale = int(width * across + 0.5), int(height * down + 0.5)
        return _within(scale, width, height) if step.keep_ratio else scale
    if type(step).__name__ == 'ResizeEdge':
        edge = {'short': min(width, height), 'long': max(width, height), 'width': width,
                'height': height}[step.edge]
        return int(width * step.scale / edge), int(height * step.scale / edge)
    return width, height


def _within(scale: Tuple[int, int], width: int, height: int) -> Tuple[int, int]:
    """Return the largest size of the same shape whose longer and shorter edge fit in a scale."""
    factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
    return int(width * factor + 0.5), int(height * factor + 0.5)


def cropped(step, width: int, height: int) -> Tuple[int, int]:
    """Return what a crop around the centre leaves of a size; the size itself if it is none."""
    if type(step).__name__ != 'CenterCrop':
        return width, height
    size = step.crop_size
    across, down = size if isinstance(size, (tuple, list)) else (size, size)
    return min(width, across), min(height, down)
