"""The steps of a recipe's test pipeline without the hosts: what a file's metadata list is run."""
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple, Union

import cv2
import numpy as np
from PIL import Image

from mmvssd.cli.image_files import cropped, resized
from mmvssd.errors import ConfigError, UnreadableImageError

OPENCV = {'nearest': cv2.INTER_NEAREST, 'bilinear': cv2.INTER_LINEAR, 'bicubic': cv2.INTER_CUBIC,
          'area': cv2.INTER_AREA, 'lanczos': cv2.INTER_LANCZOS4}
PILLOW = {name: Image.Resampling[name.upper()]
          for name in ('nearest', 'bilinear', 'bicubic', 'box', 'lanczos', 'hamming')}


@dataclass
class Resize:
    """mmcv's step of that name; hosts' own ones do the same to an image."""

    scale: Union[int, Sequence[int], None] = None
    scale_factor: Union[float, Sequence[float], None] = None
    keep_ratio: bool = False
    interpolation: str = 'bilinear'
    backend: str = 'cv2'
    clip_object_border: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.scale, int):
            self.scale = self.scale, self.scale
        self.scale = tuple(self.scale) if self.scale else None


@dataclass
class ResizeEdge:
    """MMPreTrain's step: one edge gets the length, the other goes with it."""

    scale: int
    edge: str = 'short'
    interpolation: str = 'bilinear'
    backend: str = 'cv2'


@dataclass
class CenterCrop:
    """mmcv's step of that name, without padding."""

    crop_size: Union[int, Sequence[int]]
    auto_pad: bool = False
    pad_cfg: Optional[dict] = None
    clip_object_border: bool = True

    def __post_init__(self) -> None:
        if self.auto_pad:
            raise ConfigError(f'{self}: a file is run without auto_pad')


@dataclass
class LoadImageFromFile:
    """The decoding of a file to (H, W, 3) in BGR; here for its options only."""

    to_float32: bool = False
    color_type: str = 'color'
    imdecode_backend: str = 'cv2'
    backend_args: Optional[dict] = None
    file_client_args: Optional[dict] = None
    ignore_empty: bool = False

    def __post_init__(self) -> None:
        if (self.color_type, self.imdecode_backend) != ('color', 'cv2'):
            raise ConfigError(f'{self}: a file is run on images that cv2 reads in color')


STEPS = {step.__name__: step for step in (Resize, ResizeEdge, CenterCrop, LoadImageFromFile)}


def steps_of(pipeline: Sequence[Dict]) -> List:
    """Return the steps of a recipe's pipeline that change an image.

    Raises:
        ConfigError: There is a step, or an option of one, that is not known here.
    """
    steps = []
    for settings in pipeline:
        try:
            options = dict(settings)
            name = str(options.pop('type')).rpartition('.')[2]
            options.pop('_scope_', None)  # MMEngine notes a registry there
            if name != 'LoadAnnotations' and not name.startswith('Pack'):
                steps.append(STEPS[name](**options))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f'{settings}: a file is run with the steps {", ".join(STEPS)} of a '
                              'test pipeline; predict with the recipe and the checkpoint instead'
                              ) from error
    return [step for step in steps if not isinstance(step, LoadImageFromFile)]


def read_image(file: str) -> np.ndarray:
    """Read an image file as (H, W, 3) uint8 in BGR, turned as its camera says.

    Raises:
        UnreadableImageError: It is no image that OpenCV reads.
    """
    content = np.fromfile(file, np.uint8)
    try:
        image = cv2.imdecode(content, cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise UnreadableImageError(f'{file}: cannot be read as an image ({error.err})') from error
    if image is None:
        raise UnreadableImageError(f'{file}: cannot be read as an image')
    return image


def apply_steps(image: np.ndarray, steps: Sequence) -> np.ndarray:
    """Resize and crop an image (H, W, 3)."""
    for step in steps:
        height, width = image.shape[:2]
        size = resized(step, width, height)
        if size != (width, height):
            image = _resize(image, size, step)
        width, height = cropped(step, *size)
        top, left = (max(0, round((whole - part) / 2))
                     for whole, part in zip(image.shape[:2], (height, width)))
        image = image[top:top + height, left:left + width]
    return image


def _resize(image: np.ndarray, size: Tuple[int, int], step) -> np.ndarray:
    if step.backend == 'pillow':
        return np.array(Image.fromarray(image).resize(size, PILLOW[step.interpolation]))
    return cv2.resize(image, size, interpolation=OPENCV[step.interpolation])
