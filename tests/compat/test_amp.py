"""AmpOptimWrapper on the CPU: bfloat16, no loss scaling, and anything else says what fits."""
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import AmpOptimWrapper, build_optim_wrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from torch import nn

from mmvssd.compat import amp

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason='MMEngine would take the GPU')


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


@pytest.mark.parametrize('dtype', [None, 'bfloat16', torch.bfloat16])
def test_a_step_in_bfloat16(dtype):
    torch.manual_seed(0)
    model, x = nn.Linear(4, 2), torch.randn(3, 4)
    expected = torch.autograd.grad(model(x).square().mean(), model.weight)[0]
    before = model.weight.detach().clone()
    wrapper = AmpOptimWrapper(loss_scale=512.0, dtype=dtype, optimizer=sgd(model))
    with wrapper.optim_context(model):
        y = model(x)
        loss = y.float().square().mean()
    assert y.dtype == torch.bfloat16
    wrapper.update_params(loss)
    # A step of float32's size: the loss scale is left out.
    torch.testing.assert_close(before - model.weight, 0.1 * expected, rtol=0.05, atol=1e-3)


@pytest.mark.parametrize('dtype', ['float16', torch.float16, 'float64'])
def test_other_dtypes_raise(dtype):
    with pytest.raises(ValueError, match="dtype='bfloat16'"):
        AmpOptimWrapper(dtype=dtype, optimizer=sgd(nn.Linear(1, 1)))


def test_stock_where_there_is_a_gpu(monkeypatch):
    monkeypatch.setattr(amp, 'get_device', lambda: 'cuda')
    with pytest.raises(AssertionError, match='only available'):
        AmpOptimWrapper(optimizer=sgd(nn.Linear(1, 1)))


def test_mmengines_check_is_put_back():
    check = amp_optimizer_wrapper.is_cuda_available
    with pytest.raises(TypeError):
        AmpOptimWrapper(optimizer='none', misspelt=1)
    assert amp_optimizer_wrapper.is_cuda_available is check


def test_applied_once():
    constructor = AmpOptimWrapper.__init__
    amp.apply()
    assert AmpOptimWrapper.__init__ is constructor


class Toy(BaseModel):
    """What a Runner calls of a model in training."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 1)

    def forward(self, inputs, mode='tensor'):
        y = self.linear(inputs)
        assert y.dtype == torch.bfloat16
        return dict(loss=y.float().square().mean())


def test_trains_as_the_runner_does():
    """A recipe's ``type='AmpOptimWrapper'`` as it is, with clipping, step after step."""
    torch.manual_seed(0)
    model = Toy()
    wrapper = build_optim_wrapper(model, dict(
        type='AmpOptimWrapper', loss_scale='dynamic', clip_grad=dict(max_norm=1.0),
        optimizer=dict(type='SGD', lr=0.1)))
    data = dict(inputs=torch.randn(4, 2))
    losses = [model.train_step(data, wrapper)['loss'].item() for _ in range(10)]
    assert losses[-1] < 0.5 * losses[0]
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
