"""MMSegmentation's pictures of images whose memory is not in the order of their axes.

MMSegmentation's ``browse_dataset.py`` makes such images out of tensors, and OpenCV refuses to draw
on them: «Layout of the output array img is incompatible with cv::Mat».

Fix: retire when MMSegmentation's visualizer copies an image into the order of its axes.
"""
import numpy as np
from mmseg.visualization import SegLocalVisualizer

from mmvssd.compat.patching import wrap_once


def apply() -> None:
    """Wrap what draws a label map on an image."""
    wrap_once(SegLocalVisualizer, '_draw_sem_seg', _draw)


def _draw(original, self, image, *args, **kwargs):
    return original(self, np.ascontiguousarray(image), *args, **kwargs)
