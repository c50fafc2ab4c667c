"""Padding of images of more than four channels.

mmcv's Pad hands OpenCV one value for each channel, and OpenCV takes at most four: «Scalar value for
argument 'value' is longer than 4». Here an image of more is padded four channels at a time.

Fix: retire when mmcv pads images of any number of channels.
"""
import numpy as np

from mmvssd.compat.patching import when_imported, wrap_once

#: Channels that OpenCV fills at a time.
MOST = 4


def apply() -> None:
    """Wrap mmcv's step, of which the hosts' ones are subclasses."""
    when_imported('mmcv.transforms.processing', lambda module: wrap_once(
        module.Pad, '_pad_img', _pad))


def _pad(original, self, results: dict) -> None:
    image = results['img']
    # a list has a value for each channel, which is not divided
    if image.ndim < 3 or image.shape[2] <= MOST or not np.isscalar(self.pad_val.get('img', 0)):
        original(self, results)
        return
    padded = []
    for first in range(0, image.shape[2], MOST):
        results['img'] = image[..., first:first + MOST]
        original(self, results)
        padded.append(results['img'])
    results['img'] = np.dstack(padded)  # OpenCV leaves out the axis of a single channel
    results['pad_shape'] = results['img'].shape
