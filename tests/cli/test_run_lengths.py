"""Run lengths beside those of pycocotools."""
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mmvssd.cli.run_lengths import run_lengths


@pytest.mark.parametrize('shape', [(1, 1), (1, 9), (7, 1), (64, 48), (700, 900)])
@pytest.mark.parametrize('kind', ['none', 'all', 'one', 'noise', 'shapes'])
def test_the_text_of_pycocotools(shape, kind):
    random = np.random.default_rng(0)
    rows, columns = np.indices(shape)
    mask = {'none': np.zeros(shape, bool), 'all': np.ones(shape, bool),
            'one': (rows == 0) & (columns == 0), 'noise': random.random(shape) < 0.3,
            'shapes': ((rows // 90 + columns // 70) % 2).astype(bool)}[kind]
    true = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    assert run_lengths(mask) == dict(size=list(shape), counts=true['counts'].decode())
