"""RoIPool by its definition."""
import math

import pytest
import torch


def plain(x, rois, bins, scale):
    result = torch.zeros(len(rois), x.shape[1], *bins, dtype=x.dtype)
    height, width = x.shape[2:]
    for r, (image, x1, y1, x2, y2) in enumerate(rois.tolist()):
        left, top = x1 * scale, y1 * scale
        across, down = (x2 + 1) * scale - left, (y2 + 1) * scale - top
        if across <= 0 or down <= 0:
            continue
        for by in range(bins[0]):
            for bx in range(bins[1]):
                rows = slice(*(min(max(round_(top + (by + step) * down / bins[0]), 0), height)
                               for step, round_ in ((0, math.floor), (1, math.ceil))))
                columns = slice(*(min(max(round_(left + (bx + step) * across / bins[1]), 0), width)
                                  for step, round_ in ((0, math.floor), (1, math.ceil))))
                part = x[int(image), :, rows, columns]
                if part.numel():
                    result[r, :, by, bx] = part.flatten(1).amax(1)
    return result


def sample():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 12, 15, dtype=torch.float64)
    start = torch.rand(9, 2, dtype=torch.float64) * 50 - 10
    rois = torch.cat([torch.randint(2, (9, 1)), start, start + torch.rand(9, 2) * 40], 1)
    rois[3, 3:] = rois[3, 1:3] - 9  # inverted
    rois[4, 1:] += 500  # outside
    return x, rois


def test_definition(own_ops):
    x, rois = sample()
    y = own_ops.roi_pool(x, rois, (3, 2), 0.25)
    torch.testing.assert_close(y, plain(x, rois, (3, 2), 0.25))
    assert not y[3:5].any()
    assert y[5:].all()


def test_gradient(own_ops):
    x, rois = sample()
    torch.autograd.gradcheck(lambda x: own_ops.roi_pool(x, rois, 2, 0.25),
                             x.requires_grad_(), fast_mode=True)


def test_no_boxes(own_ops):
    assert own_ops.roi_pool(torch.zeros(1, 2, 4, 4), torch.zeros(0, 5), 7).shape == (0, 2, 7, 7)


@pytest.mark.parametrize('box', [[2., 0, 0, 4, 4], [0., float('nan'), 0, 4, 4]])
def test_refuses_a_box_that_would_read_other_memory(own_ops, box):
    x, rois = sample()
    rois[2] = torch.tensor(box)
    with pytest.raises(ValueError, match='RoIPool: box 2 of 9 is'):
        own_ops.roi_pool(x, rois, 2, 0.25)
