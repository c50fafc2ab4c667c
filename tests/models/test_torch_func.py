"""Backbones within the transforms of torch.func: gradients, each sample's own, ensembles."""
import pytest
import torch
from torch.func import functional_call, grad, jvp, vmap

from mmvssd.models import VMamba

pytestmark = pytest.mark.filterwarnings('ignore:There is a performance drop')


@pytest.fixture
def model(variant):
    torch.manual_seed(0)
    return variant.build(out_indices=(1, 3)).eval()


def images():
    return torch.randn(3, 3, 48, 40, generator=torch.Generator().manual_seed(0))


def parameters_of(model):
    return {name: p.detach() for name, p in model.named_parameters()}


def loss_of(model, parameters, x):
    return sum(y.square().mean() for y in functional_call(model, parameters, (x, )))


def gradients_of(model, x):
    names, parameters = zip(*model.named_parameters())
    loss = sum(y.square().mean() for y in model(x))
    return dict(zip(names, torch.autograd.grad(loss, parameters)))


def assert_same(given, expected):
    assert given.keys() == expected.keys()
    for name, value in given.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5, msg=name)


def test_gradients(model):
    x = images()
    assert_same(grad(lambda p: loss_of(model, p, x))(parameters_of(model)), gradients_of(model, x))


def test_gradients_of_each_sample(model):
    x = images()
    own = vmap(grad(lambda p, image: loss_of(model, p, image[None])),
               in_dims=(None, 0))(parameters_of(model), x)
    for i in range(len(x)):
        assert_same({name: value[i] for name, value in own.items()},
                    gradients_of(model, x[i:i + 1]))


def test_an_ensemble(model):
    """Weights that are stacked, one image for all."""
    x, weights = images(), parameters_of(model)
    several = {name: torch.stack([value, 1.1 * value]) for name, value in weights.items()}
    with torch.no_grad():
        outputs = vmap(lambda p: functional_call(model, p, (x, )))(several)
        for i in range(2):
            expected = functional_call(model, {name: value[i] for name, value in several.items()},
                                       (x, ))
            for y, other in zip(outputs, expected):
                torch.testing.assert_close(y[i], other, rtol=1e-3, atol=1e-4)


def test_dropped_paths_differ(nano):
    torch.manual_seed(0)
    model = nano.build(drop_path_rate=0.9, norm_eval=True, out_indices=(3, )).train()
    x = images()[:1].expand(6, 3, 48, 40)
    outputs, = vmap(lambda image: model(image[None]), randomness='different')(x)
    assert any(not torch.equal(outputs[0], y) for y in outputs[1:])


def test_forward_mode_is_refused():
    """The scans have none; PyTorch would leave out what passes through them."""
    model, x = VMamba(dict(embed_dims=16, depths=(1, 1)), out_indices=1).eval(), images()
    with pytest.raises(NotImplementedError, match=r'no derivative in forward mode.*vjp or jacrev'):
        jvp(model, (x, ), (x, ))
