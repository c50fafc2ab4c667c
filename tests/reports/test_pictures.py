"""Pictures show what is in an image, whatever its size and the annotations' values are."""
import base64
import io

import numpy as np
import pytest
from PIL import Image

from mmvssd.reports.pictures import LARGEST, SMALLEST, Objects, draw, palette


def pixels(picture):
    kind, _, content = picture.uri.partition(',')
    assert kind == 'data:image/jpeg;base64'
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def grey(height=100, width=200):
    return np.full((height, width, 3), 128, np.uint8)


@pytest.mark.parametrize(('size', 'shown'), [
    ((100, 200), (100, 200)), ((10, 20), (80, 160)), ((960, 480), (480, 240)),
    ((1, 5000), (1, 480)), ((1, 1), (SMALLEST, SMALLEST))])
def test_sizes(size, shown):
    assert pixels(draw(grey(*size), Objects(), [], '')).shape[:2] == shown
    assert max(shown) <= LARGEST


@pytest.mark.parametrize('scale', [1, 2, 0.5])
def test_boxes_are_where_they_are_annotated(scale):
    """In an image as it is, one that is enlarged, and one that is made smaller."""
    height, width = (int(240 / scale), int(480 / scale)) if scale < 1 else (100 // scale,
                                                                           200 // scale)
    box = np.array([20, 10, 120, 60]) / scale
    picture = draw(grey(height, width), Objects([0], box[None]), ['cat'], 'name', [(255, 0, 0)])
    found = pixels(picture).astype(int)
    redness = found[..., 0] - found[..., 2]
    rows, columns = np.nonzero(redness > 60)
    ends = [rows.min(), rows.max(), columns.min(), columns.max()]
    assert np.abs(np.array(ends) - [10, 60, 20, 120]).max() <= 2
    assert abs(redness[35, 70]) < 20  # inside
    assert [(name.text, name.color) for name in picture.names] == [('cat', 'rgb(255, 0, 0)')]


@pytest.mark.parametrize('box', [
    [-1e12, -5, 1e12, 1e15], [np.nan, 0, 5, 5], [50, 50, 20, 20], [np.inf, 0, np.inf, 9],
    [300, 300, 400, 400]])
def test_boxes_of_any_numbers(box):
    assert pixels(draw(grey(), Objects([0], np.array([box])), ['a'], '')).shape == (100, 200, 3)


def test_masks_and_label_maps_cover_what_they_are_of():
    colors = [(255, 0, 0), (0, 0, 255)]
    masks = np.zeros((1, 100, 200), bool)
    masks[0, 20:50, 20:50] = True
    found = pixels(draw(grey(), Objects([1], masks=masks), 'ab', '', colors)).astype(int)
    assert found[35, 35, 2] - found[35, 35, 0] > 60
    assert abs(found[80, 80] - 128).max() < 12
    label_map = np.full((100, 200), 255)
    label_map[:, :100] = 0
    picture = draw(grey(), Objects(label_map=label_map), 'ab', '', colors)
    found = pixels(picture).astype(int)
    assert found[50, 50, 0] - found[50, 50, 2] > 60
    assert abs(found[50, 150] - 128).max() < 12  # ignored
    assert [name.text for name in picture.names] == ['a']


def test_a_label_map_of_another_size_is_named():
    picture = draw(grey(), Objects(label_map=np.zeros((5, 7, 3))), 'ab', '')
    assert picture.notes == ['not drawn: a label map of shape 5 x 7 x 3 over an image of 100 x 200']


def test_labels_that_no_class_has_and_many_classes():
    picture = draw(grey(), Objects(range(12)), ['a', 'b'], '')
    assert len(picture.names) == 9
    assert picture.names[-1].text == 'and 4 more'
    assert picture.names[2].text == 'class 2'
    assert draw(grey(), Objects([3, 3]), 'abcd', '').names[0].text == 'd × 2'


def test_colours_differ():
    assert len(set(palette(80))) == 80


@pytest.mark.parametrize('other', [-1, -100, 255])
def test_labels_that_are_no_class_are_left_as_they_are(other):
    image = np.full((20, 20, 3), 100, np.uint8)
    label_map = np.full((20, 20), other, np.int64)
    label_map[:, 10:] = 1
    picture = draw(image, Objects(label_map=label_map), ['a', 'b'], 'title')
    assert [name.text for name in picture.names] == ['b']
    change = abs(pixels(picture).astype(int) - 100)
    assert change[:, :40].max() < 12
    assert change[:, -40:].max() > 40
