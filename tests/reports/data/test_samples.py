"""Samples look as their images do, whatever a pipeline made of them."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement

from mmvssd.reports.data.samples import objects_in, visible


class Normalize:
    """A step as the hosts', after which values are deviations."""

    def __init__(self, mean, std, to_rgb):
        self.mean, self.std, self.to_rgb = np.array(mean), np.array(std), to_rgb


def image():
    """An image (3, 4, 5), BGR: blue grows to the right."""
    pixels = torch.zeros(3, 4, 5, dtype=torch.uint8)
    pixels[0] = torch.arange(0, 250, 50)
    pixels[2] = 7
    return pixels


def expected():
    return image().numpy().transpose(1, 2, 0)[..., ::-1]


def test_bytes_are_shown_as_rgb():
    assert np.array_equal(visible(image(), []), expected())
    kept = visible(image(), [], SimpleNamespace(rgb_to_bgr=True))
    assert np.array_equal(kept, expected()[..., ::-1])


@pytest.mark.parametrize('to_rgb', [False, True])
def test_a_normalization_is_undone(to_rgb):
    mean, std = np.array([100., 110, 120]), np.array([50., 60, 70])
    source = image().numpy().astype(float).transpose(1, 2, 0)
    source = source[..., ::-1] if to_rgb else source
    values = torch.from_numpy(((source - mean) / std).transpose(2, 0, 1).copy())
    found = visible(values, [Normalize(mean, std, to_rgb)])
    assert abs(found.astype(int) - expected()).max() <= 1


@pytest.mark.parametrize('channels', [1, 2, 4, 13])
def test_other_numbers_of_channels(channels):
    values = torch.rand(channels, 4, 5) * 60000
    found = visible(values, [])
    assert found.shape == (4, 5, 3)
    assert (found.min(), found.max()) == (0, 255)


def test_values_that_are_not_finite():
    values = torch.full((3, 2, 2), float('nan'))
    assert visible(values, []).shape == (2, 2, 3)


class Resize:
    """A step that is known by its name."""


class LoadAnnotations:
    """Another one."""


@pytest.mark.parametrize(('steps', 'factor'), [
    ([Resize(), LoadAnnotations()], 2), ([LoadAnnotations(), Resize()], 1), ([], 1)])
def test_boxes_that_are_loaded_after_a_resize_are_the_files(steps, factor):
    element = BaseDataElement(metainfo=dict(scale_factor=(2.0, 2.0)))
    element.gt_instances = BaseDataElement(
        bboxes=torch.tensor([[1., 2, 3, 4]]), labels=torch.tensor([5]))
    dataset = SimpleNamespace(pipeline=SimpleNamespace(transforms=steps))
    found = objects_in(element, dataset)
    assert found.boxes.tolist() == [[1 * factor, 2 * factor, 3 * factor, 4 * factor]]
    assert list(found.labels) == [5]


@pytest.mark.parametrize('factor', [1.0, 2.0])
def test_masks_are_resized_with_their_boxes(factor):
    structures = pytest.importorskip('mmdet.structures.mask')
    stored = np.zeros((1, 10, 20), np.uint8)
    stored[0, 2:6, 4:12] = 1
    element = BaseDataElement(metainfo=dict(
        scale_factor=(factor, factor), img_shape=(int(10 * factor), int(20 * factor))))
    element.gt_instances = BaseDataElement(
        bboxes=torch.tensor([[4., 2, 12, 6]]), labels=torch.tensor([0]),
        masks=structures.BitmapMasks(stored, 10, 20))
    steps = [Resize(), LoadAnnotations()]
    dataset = SimpleNamespace(pipeline=SimpleNamespace(transforms=steps))
    found = objects_in(element, dataset)
    rows, columns = np.nonzero(found.masks[0])
    assert found.masks.shape == (1, 10 * factor, 20 * factor)
    ends = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert ends == found.boxes[0].tolist()


def test_labels_and_none():
    element = BaseDataElement()
    assert objects_in(element).notes == ['no annotations']
    assert objects_in(None).notes == ()
    element.gt_label = torch.tensor([3, 4])
    assert objects_in(element).labels == [3, 4]
    other = BaseDataElement(gt_score=torch.tensor([0., 1, 0, 1]))
    assert objects_in(other).labels == [1, 3]
