"""Multi-scale deformable attention through the function that mmcv calls on a GPU."""
import pytest
import torch


def sample(dtype=torch.float64):
    """2 images, 3 queries, 2 heads of 4 channels, levels of 3 x 4 and 2 x 2, 2 points each."""
    torch.manual_seed(0)
    shapes = torch.tensor([[3, 4], [2, 2]])
    value = torch.randn(2, 16, 2, 4, dtype=dtype)
    places = torch.rand(2, 3, 2, 2, 2, 2, dtype=dtype) * 1.4 - 0.2
    weights = torch.rand(2, 3, 2, 2, 2, dtype=dtype)
    return value, shapes, torch.tensor([0, 12]), places, weights


def run(own_ops, *inputs):
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction
    return MultiScaleDeformableAttnFunction.apply(*inputs, 64)


def test_as_mmcv_on_the_cpu(own_ops):
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch
    value, shapes, starts, places, weights = sample()
    torch.testing.assert_close(
        run(own_ops, value, shapes, starts, places, weights),
        multi_scale_deformable_attn_pytorch(value, shapes, places, weights))


def test_gradients(own_ops):
    value, shapes, starts, places, weights = sample()
    torch.autograd.gradcheck(
        lambda value, places, weights: run(own_ops, value, shapes, starts, places, weights),
        [tensor.requires_grad_() for tensor in (value, places, weights)])


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_halves_are_computed_in_float32(own_ops, dtype):
    value, shapes, starts, places, weights = sample(torch.float32)
    value, places, weights = (tensor.to(dtype) for tensor in (value, places, weights))
    y = run(own_ops, value, shapes, starts, places, weights)
    exact = run(own_ops, value.float(), shapes, starts, places.float(), weights.float())
    assert torch.equal(y, exact.to(dtype))
