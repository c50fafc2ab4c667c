"""The moving average of the ImageNet recipes is that of the whole state, as it was published."""
import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmvssd.cli.launch import load_config

RECIPES = ('classification/vssd-tiny_8xb128_in1k.py', 'samples/vssd-nano_mesa_1xb64_digits.py')


class Toy(nn.Module):
    """A model whose BatchNorm sees other numbers in each step."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def forward(self, x):
        return self.layers(x)

    def train_step(self, data, optim_wrapper):
        x = torch.stack([data.float().sin(), data.float(), data.float() ** 2], 1)
        loss = self(x).square().mean()
        optim_wrapper.update_params(loss)
        return dict(loss=loss)


class ByHand(Hook):
    """Averages every entry of the state after each step, as timm's ModelEma does."""

    priority = 'VERY_LOW'

    def __init__(self, keep):
        self.keep, self.state, self.steps = keep, None, 0

    def after_train_iter(self, runner, *args, **kwargs):
        now = copy.deepcopy(runner.model.state_dict())
        self.steps += 1
        if self.state is None:  # MMEngine's begins with the first step's weights
            self.state = now
        for name, value in now.items():
            if value.is_floating_point():
                self.state[name] = self.keep * self.state[name] + (1 - self.keep) * value


@pytest.mark.parametrize('recipe', RECIPES)
def test_the_average_is_that_kept_by_hand(recipe, tmp_path):
    settings, = load_config(recipe).custom_hooks
    hand = ByHand(0.75)
    torch.manual_seed(0)
    runner = Runner(
        Toy(), str(tmp_path), train_cfg=dict(by_epoch=True, max_epochs=2), train_dataloader=dict(
            batch_size=4, dataset=list(range(16)), collate_fn=dict(type='default_collate'),
            sampler=dict(type='DefaultSampler', shuffle=True)),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-3)), randomness=dict(seed=3),
        default_scope='mmpretrain', custom_hooks=[dict(settings, momentum=0.25), hand],
        experiment_name=tmp_path.name, cfg=Config({}))
    runner.train()
    assert hand.steps == 8
    checkpoint = torch.load(tmp_path / 'epoch_2.pth')
    average, raw = checkpoint['state_dict'], runner.model.state_dict()
    for name in ('layers.0.weight', 'layers.1.running_mean', 'layers.1.running_var'):
        torch.testing.assert_close(average[name], hand.state[name])
        assert not torch.allclose(average[name], raw[name], rtol=1e-4), name
        torch.testing.assert_close(checkpoint['ema_state_dict'][f'module.{name}'], raw[name])
