"""Non-maximum suppression: hard, soft, matching."""
import numpy as np
import pytest
import torch

from mmvssd.compat.mmcv_ops import extension, served_by
from mmvssd.compat.mmcv_ops import nms as module


def sample(number, seed=0, dtype=torch.float32):
    """Boxes of which many overlap, and scores that all differ."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand(number, 2, generator=generator, dtype=dtype) * 60
    size = torch.rand(number, 2, generator=generator, dtype=dtype) * 30
    scores = torch.randperm(number, generator=generator).to(dtype) / number
    return torch.cat([start, start + size], 1), scores


def iou(a, b, offset):
    width = max(min(a[2], b[2]) - max(a[0], b[0]) + offset, 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]) + offset, 0)
    both = width * height
    areas = [(x[2] - x[0] + offset) * (x[3] - x[1] + offset) for x in (a, b)]
    return both / (sum(areas) - both)


def plain_nms(boxes, scores, threshold, offset):
    kept = []
    for box in scores.argsort(descending=True, stable=True).tolist():
        if all(iou(boxes[box].tolist(), boxes[other].tolist(), offset) <= threshold
               for other in kept):
            kept.append(box)
    return kept


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0., 0.3, 0.7, 1.])
@pytest.mark.parametrize('block', [module.BLOCK, 7])
def test_definition(own_ops, monkeypatch, offset, threshold, block):
    monkeypatch.setattr(module, 'BLOCK', block)
    boxes, scores = sample(150, dtype=torch.float64)
    dets, kept = own_ops.nms(boxes, scores, threshold, offset)
    assert kept.tolist() == plain_nms(boxes, scores, threshold, offset)
    assert torch.equal(dets, torch.cat([boxes, scores[:, None]], 1)[kept])


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('number', [1, 50, 700])
@pytest.mark.parametrize('threshold', [-0.5, 0., 0.3, 0.5, 0.7])
def test_equals_the_compiled_op(own_ops, compiled, offset, number, threshold):
    boxes, scores = sample(number)
    boxes = boxes.round()  # so that thresholds are met exactly, and boxes are equal or empty
    results = []
    for implementation in (extension(), compiled):
        with served_by(implementation):
            results.append(own_ops.nms(boxes, scores, threshold, offset)[1])
    assert torch.equal(*results)


def test_the_threshold_is_a_float32(own_ops):
    """An IoU of float32(0.3) is above 0.3 in float64, yet mmcv keeps the box."""
    for dtype, width in ((torch.float32, 3), (torch.float64, 3.00000005)):
        boxes = torch.tensor([[0., 0, 10, 1], [0, 0, width, 1]], dtype=dtype)
        assert own_ops.nms(boxes, torch.tensor([.9, .8]), 0.3)[1].tolist() == [0, 1]


def test_of_equal_scores_the_first_is_kept(own_ops):
    boxes = torch.tensor([[0., 0, 4, 4]]).repeat(300, 1)
    boxes[100:] += 50
    dets, kept = own_ops.nms(boxes, torch.ones(300), 0.5)
    assert kept.tolist() == [0, 100]


def test_boxes_that_are_not(own_ops):
    """NaN neither suppresses nor is suppressed; a NaN score comes first, as PyTorch sorts it."""
    nan = float('nan')
    boxes = torch.tensor([[0., 0, 4, 4], [nan, 0, 4, 4], [0, 0, 4, 4], [4, 4, 0, 0], [4, 4, 4, 4]])
    scores = torch.tensor([.9, .8, .7, .6, .5])
    assert own_ops.nms(boxes, scores, 0.5)[1].tolist() == [0, 1, 3, 4]
    scores[2] = nan
    assert own_ops.nms(boxes, scores, 0.5)[1].tolist() == [2, 1, 3, 4]


@pytest.mark.parametrize('offset', [0, 1])
def test_no_boxes(own_ops, offset):
    dets, kept = own_ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5, offset)
    assert dets.shape == (0, 5)
    assert kept.dtype == torch.int64
    assert own_ops.soft_nms(torch.zeros(0, 4), torch.zeros(0))[0].shape == (0, 5)
    assert own_ops.nms_match(torch.zeros(0, 5), 0.5) == []


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_halves_are_compared_in_float32(dtype):
    boxes, scores = (tensor.to(dtype) for tensor in sample(100))
    settings = dict(iou_threshold=0.5, offset=0)
    kept = extension().nms(boxes, scores, **settings)
    assert torch.equal(kept, extension().nms(boxes.float(), scores.float(), **settings))


def test_layouts_and_numpy(own_ops):
    boxes, scores = sample(60)
    kept = own_ops.nms(boxes, scores, 0.3)[1]
    strided = torch.stack([boxes, boxes], -1).flip(0)[..., 0].flip(0)
    assert torch.equal(own_ops.nms(strided, scores.expand(2, -1).T[:, 0], 0.3)[1], kept)
    assert own_ops.nms(boxes.numpy(), scores.numpy(), 0.3)[1].tolist() == kept.tolist()
    assert own_ops.nms(boxes, scores, 0.3, score_threshold=0.5, max_num=3)[1].tolist() \
        == kept[:3].tolist()


def plain_soft_nms(boxes, scores, threshold, sigma, min_score, method, offset):
    """The loop that mmcv's kernel is, on lists: boxes change places as there."""
    left = [[*box, score, index] for index, (box, score) in enumerate(zip(boxes, scores))]
    taken = 0
    while taken < len(left):
        best = max(range(taken, len(left)), key=lambda i: (left[i][4], -i))
        left[taken], left[best] = left[best], left[taken]
        place = taken + 1
        while place < len(left):
            overlap = iou(left[taken], left[place], offset)
            if method == 'gaussian':
                left[place][4] *= np.exp(-overlap**2 / sigma)
            elif overlap >= threshold:
                left[place][4] *= 1 - overlap if method == 'linear' else 0
            if left[place][4] < min_score:
                last = left.pop()
                if place < len(left):
                    left[place] = last
            else:
                place += 1
        taken += 1
    return left


@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
@pytest.mark.parametrize('offset', [0, 1])
def test_soft_nms(own_ops, method, offset):
    boxes, scores = sample(80, dtype=torch.float64)
    scores[1:] = scores[1:].round(decimals=1)  # many are equal
    dets, kept = own_ops.soft_nms(boxes, scores, 0.3, 0.5, 0.05, method, offset)
    expected = plain_soft_nms(boxes.tolist(), scores.tolist(), 0.3, 0.5, 0.05, method, offset)
    assert 1 < len(expected) < 80
    assert kept.tolist() == [row[5] for row in expected]
    torch.testing.assert_close(dets, torch.tensor(expected, dtype=torch.float64)[:, :5],
                               rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
@pytest.mark.parametrize('offset', [0, 1])
def test_soft_nms_equals_the_compiled_op(own_ops, compiled, method, offset):
    boxes, scores = sample(200)
    boxes, scores = boxes.round(), scores.round(decimals=1)
    boxes[7] = float('nan')
    results = []
    for implementation in (extension(), compiled):
        with served_by(implementation):
            results.append(own_ops.soft_nms(boxes, scores, 0.3, 0.5, 0.05, method, offset))
    assert torch.equal(results[0][1], results[1][1])
    torch.testing.assert_close(results[0][0], results[1][0], equal_nan=True)


def test_nms_match(own_ops):
    boxes, scores = sample(100)
    groups = own_ops.nms_match(torch.cat([boxes, scores[:, None]], 1), 0.3)
    assert [int(group[0]) for group in groups] == plain_nms(boxes, scores, 0.3, 0)
    assert sorted(int(box) for group in groups for box in group) == list(range(100))
    for group in groups:
        assert all(iou(boxes[group[0]].tolist(), boxes[box].tolist(), 0) >= 0.3
                   for box in group[1:])


def test_nms_match_equals_the_compiled_op(own_ops, compiled):
    boxes, scores = sample(300)
    dets = torch.cat([boxes.round(), scores[:, None]], 1)
    results = []
    for implementation in (extension(), compiled):
        with served_by(implementation):
            results.append([group.tolist() for group in own_ops.nms_match(dets, 0.5)])
    assert results[0] == results[1]
