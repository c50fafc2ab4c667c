"""One result in every form that a linear layer takes."""
import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional as F

from mmvssd.models.layers import GridLinear, SplitLinear
from mmvssd.models.layers import linear as linear_module


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('grid', [(5, 7), (1, 1), (1, 4)])
def test_as_product_and_as_convolution(monkeypatch, grid, bias):
    monkeypatch.setattr(linear_module, 'TOKENS', 0)
    torch.manual_seed(0)
    layer = GridLinear(6, 9, bias)
    x = torch.randn(2, *grid, 6, requires_grad=True)
    expected = F.linear(x, layer.weight, layer.bias)
    gradient = torch.randn_like(expected)
    expected = [expected, *torch.autograd.grad(expected, [x, *layer.parameters()], gradient)]
    for layer.convolves in (False, True):
        y = layer(x)
        found = [y, *torch.autograd.grad(y, [x, *layer.parameters()], gradient)]
        for a, b in zip(found, expected):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(('shape', 'convolves'), [
    ((1, 511, 1, 6), False), ((1, 512, 1, 6), True), ((8, 7, 9, 6), False), ((8, 8, 8, 6), True)])
def test_few_tokens_are_a_product(monkeypatch, shape, convolves):
    layer = GridLinear(6, 9)
    layer.convolves = True
    called = []
    conv2d = F.conv2d
    monkeypatch.setattr(F, 'conv2d', lambda *args: called.append(1) or conv2d(*args))
    x = torch.randn(shape)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias),
                               rtol=1e-5, atol=1e-5)
    assert bool(called) is convolves


def test_a_graph_does_not_hang_on_the_number_of_tokens():
    layer = GridLinear(6, 9).eval()
    layer.convolves = True
    backend = CompileCounterWithBackend('aot_eager')
    compiled = torch.compile(layer, fullgraph=True, backend=backend, dynamic=True)
    traced = torch.jit.trace(layer, torch.randn(2, 5, 7, 6))
    for size in (4, 9, 30):
        x = torch.randn(3, size, size + 3, 6)
        for graph in (compiled, traced):
            torch.testing.assert_close(graph(x), F.linear(x, layer.weight, layer.bias),
                                       rtol=1e-5, atol=1e-5)
    assert backend.frame_count == 1


@pytest.mark.parametrize('convolves', [False, True])
def test_parts(monkeypatch, convolves):
    monkeypatch.setattr(linear_module, 'TOKENS', 0)
    torch.manual_seed(0)
    layer = SplitLinear(6, [4, 3, 1])
    layer.convolves = convolves
    x = torch.randn(2, 5, 7, 6)
    parts = layer(x)
    assert [part.shape[-1] for part in parts] == [4, 3, 1]
    torch.testing.assert_close(torch.cat(parts, -1), F.linear(x, layer.weight))
    assert list(layer.state_dict()) == ['weight']


def test_a_model_is_the_same_in_both_forms(monkeypatch, nano):
    monkeypatch.setattr(linear_module, 'TOKENS', 0)
    torch.manual_seed(0)
    model = nano.build()
    x = torch.randn(2, 3, 50, 40)
    results = []
    for convolves in (False, True):
        for module in model.modules():
            if isinstance(module, GridLinear):
                module.convolves = convolves
        outputs = model(x)
        loss = sum(y.square().sum() for y in outputs)
        results.append([*outputs, *torch.autograd.grad(loss, list(model.parameters()))])
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(('vendor', 'convolves'), [
    ('vendor_id\t: AuthenticAMD\n', torch.backends.mkldnn.is_available()),
    ('vendor_id\t: GenuineIntel\n', False), ('', False)])
def test_the_form_follows_the_cpu(monkeypatch, vendor, convolves):
    monkeypatch.setattr(linear_module, '_cpu_vendor', lambda: vendor)
    monkeypatch.setattr(linear_module, 'convolves_faster',
                        linear_module.convolves_faster.__wrapped__)
    assert GridLinear(2, 2).convolves is convolves


def test_every_linear_layer_of_a_backbone_picks_its_form(variant):
    """A plain one would run at half the speed on some CPUs."""
    model = variant.build()
    plain = [name for name, module in model.named_modules()
             if isinstance(module, nn.Linear) and not isinstance(module, GridLinear)]
    assert plain == []
