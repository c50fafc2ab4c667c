"""The sample data that the package makes itself: handwritten digits in three hosts' formats."""
from mmvssd.datasets.sample_data import CLASSES, PALETTE, SEG_CLASSES, make_sample_data

__all__ = ['CLASSES', 'PALETTE', 'SEG_CLASSES', 'make_sample_data']
