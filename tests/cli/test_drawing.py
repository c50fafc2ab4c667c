"""Names in pictures that are drawn without the hosts."""
import numpy as np
import pytest

from mmvssd.cli.drawing import draw_class, draw_instances, draw_segments


def ink(picture):
    """The columns and rows that have white letters in them."""
    return [np.flatnonzero((picture > 200).all(-1).any(axis)) for axis in (0, 1)]


@pytest.mark.parametrize(('name', 'left', 'top'), [
    ('car', 215, 5), ('a traffic light', 195, 110), ('a price of $5 to $x_', 200, 60),
    ('a name that is longer than the picture', 60, 0)])
def test_no_edge_cuts_a_name(name, left, top):
    """A name at an edge is moved, a long one is made smaller: it has as much ink as elsewhere."""
    image = np.zeros((120, 220, 3), np.uint8)
    labels = np.zeros((120, 220), np.int64)
    labels[top:top + 10, left:] = 1
    black = [(0, 0, 0), (0, 0, 0)]
    pictures = [draw_segments(image, labels, ['', name], black),
                draw_segments(image, labels == 1, ['', name], black),
                draw_instances(image, np.array([1]), np.array([0.5]),
                               np.array([[left, top, 219., top + 9]]), None, ['', name],
                               [(0, 0, 0), (9, 9, 9)]),
                draw_class(image, 1, 0.5, name, 120)]
    for picture in pictures:
        columns, rows = ink(picture)
        assert 0 < columns[0] <= columns[-1] < 219
        assert 0 < rows[0] <= rows[-1] < 119
    assert (pictures[0] == pictures[1]).all()


def test_a_picture_of_one_pixel():
    picture = draw_segments(np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.int64), ['name'],
                            [(0, 0, 0)])
    assert picture.shape == (1, 1, 3)
