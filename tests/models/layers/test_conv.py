"""Convolution units: what evaluation folds, what is written in place, and what is not copied."""
import copy

import pytest
import torch
from torch import nn

from mmvssd.models.layers import ConvNormAct, GridConv2d, Padding, PositionConv


def make_unit(**options):
    torch.manual_seed(0)
    unit = ConvNormAct(4, 6, 3, **options)
    for value in (unit.norm.running_mean, unit.norm.weight.data, unit.norm.bias.data):
        value.normal_()
    unit.norm.running_var.uniform_(0.5, 2)
    return unit


@pytest.fixture
def called(monkeypatch):
    """A list that grows with each call of a norm; a hook would change what runs."""
    calls, own = [], nn.BatchNorm2d.forward
    monkeypatch.setattr(nn.BatchNorm2d, 'forward',
                        lambda self, x: (calls.append(1), own(self, x))[1])
    return calls


@pytest.mark.parametrize('bias', [True, False])
def test_a_folded_norm_is_the_norm(bias, called):
    unit = make_unit(bias=bias, act=nn.GELU).eval()
    x = torch.randn(2, 4, 9, 8)
    expected = unit.act(unit.norm(unit.conv(x)))
    called.clear()
    y = unit(x)
    assert not called
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    parameters = list(unit.parameters())
    for a, b in zip(torch.autograd.grad(y.square().sum(), parameters),
                    torch.autograd.grad(expected.square().sum(), parameters)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_training_and_traces_keep_the_norm(called):
    unit = make_unit()
    x = torch.randn(2, 4, 9, 8)
    before = unit.norm.running_mean.clone()
    unit.train()(x)
    assert called
    assert not torch.equal(unit.norm.running_mean, before)
    called.clear()
    torch.jit.trace(unit.eval(), x, check_trace=False)
    assert called


def test_a_norm_that_was_fused_away_stays_so():
    fuse_conv_bn = pytest.importorskip('mmcv.cnn').fuse_conv_bn
    unit = make_unit().eval()
    x = torch.randn(2, 4, 9, 8)
    expected = unit(x)
    fused = fuse_conv_bn(unit).eval()
    assert isinstance(fused.norm, nn.Identity)
    torch.testing.assert_close(fused(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_position_is_added_and_the_input_stays(dtype):
    torch.manual_seed(0)
    layer = PositionConv(4)
    x = torch.randn(2, 5, 6, 4)
    kept = x.clone()
    with torch.autocast('cpu', dtype, enabled=dtype != torch.float32):
        y = layer(x)
    assert torch.equal(x, kept)
    assert y.dtype == torch.float32  # a residual stream is not narrowed by autocast
    plain = nn.Conv2d.forward(layer, x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(y, x + plain, rtol=1e-2, atol=2e-2)


def test_padding_after_strides():
    padding = Padding(torch.tensor([[5, 8], [1, 7]]), (9, 8)).strided(2)
    assert padding.sizes.tolist() == [[3, 4], [1, 4]]
    assert padding.grid == (5, 4)
    assert padding.mask.sum((1, 2)).tolist() == [12, 4]
    assert padding.strided(1) is padding


def weight_copies(run):
    """How often a tensor of the shape of the weight is copied."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU],
                                record_shapes=True) as profile:
        run()
    return [event.input_shapes[0] for event in profile.events()
            if event.name == 'aten::copy_'].count([16, 8, 3, 3])


@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize('make', [
    lambda: GridConv2d(8, 16, 3, stride=2, padding=1), lambda: ConvNormAct(8, 16, 3)])
def test_a_call_copies_no_weight(make, train):
    layer = make().train(train)
    x = torch.randn(2, 8, 8, 8).contiguous(memory_format=torch.channels_last)
    if isinstance(layer, GridConv2d):
        x = x.permute(0, 2, 3, 1)
    assert weight_copies(lambda: layer(x)) == 0
    loss = layer(x).square().mean()
    assert weight_copies(loss.backward) <= 1  # the gradient, into the weight's order


def test_a_weight_keeps_its_order_where_models_are_loaded_and_moved():
    layer = GridConv2d(8, 16, 3)
    layer.load_state_dict({name: t.clone().contiguous() for name, t in layer.state_dict().items()})
    for moved in (layer, layer.double(), layer.half(), copy.deepcopy(layer)):
        assert moved.weight.is_contiguous(memory_format=torch.channels_last)
    # what flattens parameters refuses another order
    layer = GridConv2d(8, 16, 3).to(memory_format=torch.contiguous_format)
    assert layer.weight.is_contiguous()
    assert nn.utils.parameters_to_vector(layer.parameters()).numel() == 16 * 8 * 9 + 16


@pytest.mark.parametrize('narrow', [False, True])
@pytest.mark.parametrize('make', [
    lambda: PositionConv(8), lambda: GridConv2d(8, 16, 3, stride=2, padding=1),
    lambda: GridConv2d(1, 8, 3), lambda: ConvNormAct(8, 8, 3, groups=8),
    lambda: ConvNormAct(8, 16, 1)])
def test_a_gradient_has_the_strides_of_its_weight(make, narrow):
    """DistributedDataParallel warns of others, once for each process."""
    layer = make()
    x = torch.randn(2, 1 if getattr(layer, 'in_channels', 8) == 1 else 8, 8, 8)
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.autocast('cpu', torch.bfloat16, enabled=narrow):
        layer(x if isinstance(layer, ConvNormAct) else x.permute(0, 2, 3, 1)).sum().backward()
    weight = next(layer.parameters())
    assert weight.dim() == 4
    assert weight.grad.stride() == weight.stride()
    assert copy.deepcopy(weight).stride() == weight.stride()


def test_a_depthwise_weight_lies_in_memory_as_ever():
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 8, 3, groups=8)
    torch.manual_seed(0)
    layer = GridConv2d(8, 8, 3, groups=8)
    assert layer.weight.is_contiguous()
    assert torch.equal(layer.weight, plain.weight)
    assert torch.equal(layer.weight.detach().as_strided((72, ), (1, )), plain.weight.flatten())
