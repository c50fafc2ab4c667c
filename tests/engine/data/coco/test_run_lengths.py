"""Run lengths of masks, as lists and as COCO's compressed texts."""
import numpy as np
import pytest

from mmvssd.engine.data.coco.run_lengths import rle_problem, run_lengths

#: A mask of 4 x 5 pixels (height x width), of which the first column is set, as counts and text.
COUNTS, TEXT = [0, 4, 16], '04`0'


def problem(mask, size):
    return rle_problem(mask, run_lengths(mask), size)


def test_compressed_masks_are_read_as_pycocotools_writes_them():
    mask = pytest.importorskip('pycocotools.mask')
    draw = np.random.RandomState(0)
    for _ in range(50):
        height, width = draw.randint(1, 90, 2)
        pixels = np.asfortranarray(draw.rand(height, width) < draw.rand(), dtype=np.uint8)
        written = mask.encode(pixels)
        rle = dict(size=[int(side) for side in written['size']],
                   counts=written['counts'].decode())
        assert problem(rle, (int(width), int(height))) is None
        cut = dict(rle, counts=rle['counts'][:-1])
        assert problem(cut, None) is not None
    assert problem(dict(size=[4, 5], counts=TEXT), (5, 4)) is None
    assert problem(dict(size=[4, 5], counts=COUNTS), (5, 4)) is None
