"""Colors of classes, from a palette of whatever kind."""
import numpy as np
import pytest

from mmvssd.cli.drawing import draw_instances
from mmvssd.palettes import is_palette, palette_of

PALETTE = [(1, 2, 3), (4, 5, 6), (255, 0, 9)]


def test_a_palette():
    assert palette_of(PALETTE, 3) == PALETTE
    assert palette_of([list(color) for color in PALETTE], 2) == PALETTE
    assert is_palette(tuple(PALETTE), 1)


@pytest.mark.parametrize('palette', [
    None, [], PALETTE[:2], 'random', 'coco', 'red', (1, 2, 3), [1, 2, 3], [(1, 2)] * 3,
    [(1, 2, 300)] * 3, [(0.1, 0.2, 0.3)] * 3, dict(a=1), 7, ['red', 'green', 'blue']], ids=str)
def test_what_is_no_palette(palette):
    """Colors are drawn, always the same, and pictures come out."""
    colors = palette_of(palette, 3)
    assert colors == palette_of(None, 3)
    assert is_palette(colors, 3)
    image = np.zeros((40, 50, 3), np.uint8)
    drawn = draw_instances(image, np.array([2]), np.array([0.5]), np.array([[5., 5., 30., 30.]]),
                           None, 'abc', colors)
    assert drawn.any()
