"""mmcv's ops give on bfloat16 on the CPU what they give in float32, gradients too."""
import pytest
import torch

import mmvssd  # noqa: F401

ops = pytest.importorskip('mmcv.ops')

BOXES = torch.tensor([[0., 0, 8, 8], [1, 1, 9, 9], [20, 20, 30, 30]])


def test_roi_align():
    torch.manual_seed(0)
    features = torch.randn(1, 4, 16, 16).bfloat16()
    rois = torch.cat([torch.zeros(3, 1), BOXES / 2], 1)
    align = ops.RoIAlign(7)
    results = []
    for dtype in (torch.bfloat16, torch.float32):
        x = features.detach().clone().to(dtype).requires_grad_()
        y = align(x, rois.to(dtype))
        assert y.dtype == dtype
        y.square().sum().backward()
        assert x.grad.dtype == dtype
        results.append((y, x.grad))
    (y, grad), (exact, exact_grad) = results
    torch.testing.assert_close(y, exact.bfloat16())
    torch.testing.assert_close(grad.float(), exact_grad, rtol=1e-2, atol=1e-2)


def test_nms():
    scores = torch.tensor([0.9, 0.8, 0.7])
    _, indices = ops.nms(BOXES.bfloat16(), scores.bfloat16(), 0.5)
    assert indices.tolist() == [0, 2]
