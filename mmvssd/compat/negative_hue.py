"""mmcv's turn of the hue backwards, under NumPy 2.

``mmcv.adjust_hue`` adds an unsigned byte to the hue and leaves it to NumPy to wrap a negative one
around. NumPy 2 raises instead, so half of the images stop a training with MMPreTrain's
``ColorJitter`` that turns hues, such as that of SimCLR and SwAV.

Fix: retire when mmcv wraps a negative turn around itself.
"""
from typing import Optional

import mmcv
import numpy as np

from mmvssd.compat.patching import wrap_once


def apply() -> None:
    """Wrap the function under each name that it is called by."""
    if not idle():
        for owner in (mmcv, mmcv.image, mmcv.image.photometric):
            wrap_once(owner, 'adjust_hue', _adjust)


def idle() -> Optional[str]:
    """Return that this NumPy wraps around, or None."""
    return None if int(np.__version__.partition('.')[0]) >= 2 else 'this NumPy wraps around'


class _Turn(float):
    """A share of the circle, which times 255 is a byte, as C converts a negative number to one."""

    def __mul__(self, steps):
        return int(float(self) * steps) % 256


def _adjust(original, img, hue_factor, *args, **kwargs):
    return original(img, _Turn(hue_factor), *args, **kwargs)
