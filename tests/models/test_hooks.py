"""What watches modules sees all of them, and all that they compute, in evaluation too."""
import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import prune

from mmvssd.models.layers import ConvNormAct
from mmvssd.models.layers.conv import ReLU, is_watched


def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def parts(model):
    """Modules that run; a list of modules does not."""
    return {name: module for name, module in model.named_modules()
            if name and not isinstance(module, nn.ModuleList)}


def tensors(output):
    return output if isinstance(output, tuple) else (output, )


@pytest.fixture(params=['evaluation', 'training'])
def model(request, variant):
    """A small backbone whose BatchNorms are not the identity, in either mode."""
    torch.manual_seed(0)
    model = variant.build(drop_path_rate=0.)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
    return model.train(request.param == 'training')


@pytest.mark.parametrize('gradients', [False, True])
def test_forward_hooks_keep_what_each_module_gave(model, gradients):
    given, copies = {}, {}
    with torch.set_grad_enabled(gradients):
        expected = model(images())
        for name, module in parts(model).items():
            module.register_forward_hook(lambda module, inputs, output, name=name: (
                given.update({name: tensors(output)}),
                copies.update({name: [t.clone() for t in tensors(output)]}), None)[-1])
        outputs = model(images())
    assert given.keys() == parts(model).keys()
    for name, kept in given.items():
        for t, copy in zip(kept, copies[name]):
            assert torch.equal(t, copy), name
    for y, other in zip(outputs, expected):
        torch.testing.assert_close(y, other, rtol=1e-4, atol=1e-4)


def test_backward_hooks_of_all_and_of_each(model):
    def run():
        model.zero_grad()
        sum(y.square().mean() for y in model(images().requires_grad_())).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    expected = run()
    fired = set()
    handles = [module.register_full_backward_hook(lambda *a, name=name: fired.add(name))
               for name, module in parts(model).items()]
    for name, gradient in run().items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5, msg=name)
    assert fired == parts(model).keys()
    for handle in handles:
        handle.remove()
    # before a ReLU or SiLU that would overwrite, and the ReLU itself: one at a time
    for name, module in parts(model).items():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d, nn.ReLU)):
            fired.clear()
            handle = module.register_full_backward_hook(lambda *a, name=name: fired.add(name))
            run()
            handle.remove()
            assert fired == {name}


def unit(**options):
    torch.manual_seed(0)
    made = ConvNormAct(3, 8, 3, act=ReLU, **options).eval()
    nn.init.uniform_(made.norm.running_mean, -1, 1)
    nn.init.uniform_(made.norm.running_var, 0.5, 2)
    return made


def calls_of_norm(made, monkeypatch):
    """Run a unit; returns its output and how often its norm was called."""
    calls = []
    own = nn.BatchNorm2d.forward
    monkeypatch.setattr(nn.BatchNorm2d, 'forward',
                        lambda self, x: (calls.append(1), own(self, x))[1])
    y = made(images())
    monkeypatch.undo()
    return y, len(calls)


WATCHES = {
    'forward hook': lambda made: made.conv.register_forward_hook(lambda *a: None),
    'forward pre-hook': lambda made: made.norm.register_forward_pre_hook(lambda *a: None),
    'with keywords': lambda made: made.norm.register_forward_hook(lambda *a: None,
                                                                  with_kwargs=True),
    'backward hook': lambda made: made.norm.register_full_backward_hook(lambda *a: None),
    'backward pre-hook': lambda made: made.conv.register_full_backward_pre_hook(lambda *a: None),
    'every module': lambda made: register_module_forward_hook(lambda *a: None),
}


@pytest.mark.parametrize('watch', WATCHES)
def test_a_norm_is_folded_until_somebody_watches(watch, monkeypatch):
    made = unit()
    folded, calls = calls_of_norm(made, monkeypatch)
    assert calls == 0
    handle = WATCHES[watch](made)
    assert is_watched(made.conv, made.norm)
    y, calls = calls_of_norm(made, monkeypatch)
    assert calls == 1
    torch.testing.assert_close(y, folded, rtol=1e-5, atol=1e-5)
    handle.remove()
    assert calls_of_norm(made, monkeypatch)[1] == 0


def test_a_layer_in_place_of_another_runs():
    """A wrapper that adds to a convolution, a forward that was exchanged, another norm."""
    x = images()
    made = unit()
    y = made.norm(made.conv(x))

    class Doubled(nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    made.conv.__class__ = Doubled
    torch.testing.assert_close(made(x), made.norm(made.conv(x)).relu())
    made = unit()
    own = made.conv.forward
    made.conv.forward = lambda x: 2 * own(x)
    torch.testing.assert_close(made(x), made.norm(made.conv(x)).relu())
    assert not torch.allclose(made(x), y.relu())
    made = unit()
    torch.func.replace_all_batch_norm_modules_(made)  # norms without statistics
    torch.testing.assert_close(made(x), made.norm(made.conv(x)).relu())
    made.norm = nn.Identity()
    torch.testing.assert_close(made(x), made.conv(x).relu())


def test_pruned_weights_follow_their_mask():
    """PyTorch's pruning makes the weight in a hook before each forward.

    It flattens weights as a view, which those that are kept channels-last do not allow.
    """
    made, x = unit().to(memory_format=torch.contiguous_format), images()
    prune.l1_unstructured(made.conv, 'weight', amount=0.5)
    with torch.no_grad():
        made.conv.weight_orig.mul_(3)
    expected = made.conv.weight_orig * made.conv.weight_mask
    y = nn.functional.conv2d(x, expected, made.conv.bias, padding=1)
    torch.testing.assert_close(made(x), made.norm(y).relu(), rtol=1e-5, atol=1e-5)


def test_tools_that_flatten_weights(nano):
    """They take views, which weights in the order of contiguous memory have."""
    torch.manual_seed(0)
    model = nano.build(drop_path_rate=0.).to(memory_format=torch.contiguous_format)
    flat = nn.utils.parameters_to_vector(model.parameters())
    assert len(flat) == sum(p.numel() for p in model.parameters())
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)

    def loss():
        optimizer.zero_grad()
        value = sum(y.square().mean() for y in model(images()))
        value.backward()
        return value

    assert optimizer.step(loss).isfinite()
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            prune.l1_unstructured(module, 'weight', amount=0.3)
    assert all(y.isfinite().all() for y in model.eval()(images()))
