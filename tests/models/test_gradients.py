"""Gradients of every arch at batch 1 and 2, against finite differences.

PyTorch's batch_norm backward returns a wrong input gradient on the CPU for a batch of one image
in some memory layouts, without a word; only a check of this kind sees it.
"""
import pytest
import torch

from mmvssd.models import VSSD
from mmvssd.models.backbones.vssd import ARCHS

UNIQUE = [arch for arch in ARCHS if arch != 'base-iccv2025']
SIZE = (33, 40)


def make_model(arch, dtype=torch.float64, **options):
    torch.manual_seed(0)
    model = VSSD(arch, drop_path_rate=0, **options).to(dtype).train()
    # larger than the initial values, so that no branch drowns in the others' rounding, and smaller
    # than what keeps variance, so that gradients do not explode through the depth
    for _name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.5 * parameter[0].numel()**-0.5)
    return model


def make_image(batch, dtype=torch.float64):
    torch.manual_seed(1)
    return torch.randn(batch, 3, *SIZE, dtype=torch.float64).to(dtype)


def loss_of(model, image):
    outputs = model(image)
    torch.manual_seed(2)
    weights = [torch.randn(y.shape[1:], dtype=torch.float64) for y in outputs]
    return sum((y * w.to(y.dtype)).mean(0).sum() for y, w in zip(outputs, weights))


def gradients(model, image):
    model.zero_grad()
    loss_of(model, image).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def part_of(name):
    """Stem, downsample, or stage: the unit in which a directional derivative is taken."""
    return '.'.join(name.split('.')[:1 if name.startswith(('stem', 'norm')) else 2])


@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize('arch', UNIQUE)
def test_against_finite_differences(arch, batch):
    model, image = make_model(arch), make_image(batch)
    analytic = gradients(model, image)
    parameters = dict(model.named_parameters())
    for part in sorted({part_of(name) for name in parameters}):
        torch.manual_seed(3)
        step = {name: torch.randn_like(p) * p.detach().abs().mean().clamp(min=1e-2)
                for name, p in parameters.items() if part_of(name) == part}
        expected = sum((analytic[name] * step[name]).sum() for name in step).item()
        eps, losses = 1e-8, []  # so small that hardly a ReLU changes sides on the way
        with torch.no_grad():
            for sign in (1, -2, 1):  # forth, back past the start, and home again
                for name in step:
                    parameters[name].add_(step[name], alpha=sign * eps)
                losses.append(loss_of(model, image).item())
        numeric = (losses[0] - losses[1]) / (2 * eps)
        assert numeric == pytest.approx(expected, rel=2e-4, abs=1e-3), part


@pytest.mark.parametrize('arch', UNIQUE)
def test_batch_of_one_equals_batch_of_twins(arch):
    """The mean over two equal images has the gradients of one image, by another code path."""
    model, image = make_model(arch), make_image(1)
    single = gradients(model, image)
    twins = gradients(model, image.repeat(2, 1, 1, 1))
    for name, gradient in single.items():
        torch.testing.assert_close(gradient, twins[name], rtol=1e-6, atol=1e-8, msg=name)


@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize('arch', UNIQUE)
def test_float32_against_float64(arch, batch):
    double = make_model(arch)
    single = make_model(arch)
    single.load_state_dict(double.state_dict())
    single.float()
    exact = gradients(double, make_image(batch))
    rounded = gradients(single, make_image(batch, torch.float32))
    scale = max(gradient.abs().max() for gradient in exact.values())
    for name, gradient in exact.items():
        error = (rounded[name].double() - gradient).norm()
        # rounding moves some ReLUs of the stem to the other side: a percent; a wrong gradient is
        # wrong by its own size
        assert error < 2e-2 * gradient.norm() + 1e-6 * scale, name
