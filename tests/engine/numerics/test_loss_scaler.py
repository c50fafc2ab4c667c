"""Numbers that are not finite under a loss scaler, whose business overflows are."""
import math

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper
from toy_training import Watch, WatchAfter, build, same, toy, weights_of

from mmvssd.engine import FiniteCheckHook
from mmvssd.engine.numerics.finite_check import SCALER_PATIENCE
from mmvssd.errors import NumericalFault


def half_precision(tmp_path, model, *hooks, optimizer=None, **options):
    """A training with a loss scaler, as float16 has it on a GPU."""
    optim_wrapper = dict(type='AmpOptimWrapper', optimizer=optimizer or dict(type='SGD', lr=0.01))
    runner = build(tmp_path, model, *hooks, optim_wrapper=optim_wrapper, **options)

    class WithScaler(Hook):
        priority = 'HIGHEST'

        def before_train(self, runner):
            runner.optim_wrapper.loss_scaler = torch.amp.GradScaler('cpu', init_scale=2.0**16)

    runner.register_hook(WithScaler())
    return runner


@pytest.mark.skipif(torch.cuda.is_available(), reason='the scaler is that of the CPU')
class TestLossScaler:
    @pytest.mark.parametrize('fused', [False, True])
    def test_overflows_are_its_business(self, fused, tmp_path, said):
        """A fused optimizer is called all the same, and leaves the step out itself."""
        runner = half_precision(tmp_path, toy('backward'), FiniteCheckHook(), epochs=2,
                                optimizer=dict(type='AdamW', lr=0.01, fused=fused))
        runner.train()
        assert isinstance(runner.optim_wrapper, AmpOptimWrapper)
        assert runner.optim_wrapper.loss_scaler.get_scale() == 2.0**14
        assert not said
        assert all(map(math.isfinite, weights_of(runner)))

    def test_but_not_at_every_step(self, tmp_path):
        runner = half_precision(tmp_path, toy('backward', always=True), FiniteCheckHook(),
                                epochs=10)
        with pytest.raises(NumericalFault, match=rf'(?s)Iteration {SCALER_PATIENCE + 1} of 40 .*'
                           r': gradients not finite; .* in the backward pass, breaking'):
            runner.train()

    @pytest.mark.parametrize('way', ['forward', 'loss'])
    def test_a_loss_is_a_fault(self, way, tmp_path):
        with pytest.raises(NumericalFault, match=r'Iteration 3 of 4 .* loss'):
            half_precision(tmp_path, toy(way), FiniteCheckHook()).train()

    @pytest.mark.parametrize('way', ['forward', 'loss'])
    def test_a_loss_is_skipped(self, way, tmp_path, said):
        watch, after = Watch(), WatchAfter()
        runner = half_precision(tmp_path, toy(way), FiniteCheckHook('skip'), watch, after)
        runner.train()
        assert same(watch.before[2][0], after.after[2][0][0])
        assert said[-1].startswith('FiniteCheckHook: 1 of 4 steps was skipped')
