"""Gradients of every small backbone, against finite differences and float64.

PyTorch's batch_norm backward returns a wrong input gradient on the CPU for a batch of one image
in some memory layouts, without a word; only a check of this kind sees it, at batch 1 and 2.
"""
import pytest
import torch
from torch import nn

SIZE = (33, 40)


def make_model(variant):
    torch.manual_seed(0)
    model = variant.build(drop_path_rate=0).double().train()
    # larger than the initial values, so that no branch drowns in the others' rounding, and smaller
    # than what keeps variance, so that gradients do not explode through the depth
    for _name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.5 * parameter[0].numel()**-0.5)
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


def test_against_finite_differences(variant):
    """Of two images; the next test compares one with two."""
    model, image = make_model(variant), make_image(2)
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


def test_batch_of_one_equals_batch_of_twins(variant):
    """The mean over two equal images has the gradients of one image, by another code path."""
    model, image = make_model(variant), make_image(1)
    single = gradients(model, image)
    twins = gradients(model, image.repeat(2, 1, 1, 1))
    for name, gradient in single.items():
        torch.testing.assert_close(gradient, twins[name], rtol=1e-6, atol=1e-8, msg=name)


@pytest.mark.parametrize('batch', [1, 2])
def test_float32_against_float64(variant, batch):
    double, single = make_model(variant), make_model(variant)
    for model in (double, single):
        smoothen(model)
    single.float()
    exact = gradients(double, make_image(batch))
    rounded = gradients(single, make_image(batch, torch.float32))
    # of a few thousand terms; BatchNorm divides by the deviation of as few as four values
    relative = 2e-4 if has_batch_norm(double) else 2e-5
    scale = max(gradient.norm() for gradient in exact.values())
    for name, gradient in exact.items():
        error = (rounded[name].double() - gradient).norm()
        if gradient.norm() < 1e-12 * scale:  # a bias before a BatchNorm moves nothing
            assert error < 1e-5 * scale, name
        else:
            assert error < relative * gradient.norm(), name


def has_batch_norm(model):
    return any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def smoothen(model):
    """Put GELU in the place of ReLU, which rounding would switch here and there."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.GELU())
