"""Class names that a config gives a data set of MMSegmentation.

MMSegmentation's ``confusion_matrix.py`` and one of its two ``browse_dataset.py`` read the names
from the data set's class. They stop at a data set whose names are in the config's ``metainfo``.
Here such a data set has the attribute that they read.

Fix: retire when these tools read the data set's ``metainfo``.
"""
from mmseg.datasets import BaseSegDataset

from mmvssd.compat.patching import wrap_once


def apply() -> None:
    """Wrap the constructor of MMSegmentation's data sets."""
    wrap_once(BaseSegDataset, '__init__', _init)


def _init(original, self, *args, **kwargs):
    original(self, *args, **kwargs)
    if 'classes' not in self.METAINFO:
        self.METAINFO = self.metainfo
