"""MMSegmentation's pictures of unusual images.

Its ``browse_dataset.py`` makes images out of tensors, whose memory is not in the order of their
axes. OpenCV refuses to draw on them: «Layout of the output array img is incompatible with cv::Mat».
Of an image of one pixel its mask is a tensor of one element, which NumPy takes for a number: «index
1 is out of bounds». Here the image is copied into the order of its axes, and the mask is an array
of NumPy's.

Fix: retire when MMSegmentation's visualizer does both.
"""
import numpy as np
from mmseg.visualization import SegLocalVisualizer

from mmvssd.compat.patching import wrap_once


def apply() -> None:
    """Wrap what draws a label map on an image."""
    wrap_once(SegLocalVisualizer, '_draw_sem_seg', _draw)


def _draw(original, self, image, sem_seg, *args, **kwargs):
    return original(self, np.ascontiguousarray(image), sem_seg.numpy(), *args, **kwargs)
