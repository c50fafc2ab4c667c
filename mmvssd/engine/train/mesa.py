"""Switches on the loss between a classifier and its moving average."""
from typing import Optional

from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log

from mmvssd.checkpoint import unwrapped
from mmvssd.errors import ConfigError
from mmvssd.registry import HOOKS


@HOOKS.register_module()
class MESAHook(Hook):
    """Have the run's moving average teach its model, from a share of the run's length on.

    The model is a ``mmvssd.MESAClassifier``; the average is that of the run's EMAHook.

    Args:
        begin: Share of the run's iterations without the loss, from 0 to less than 1. It is
            counted from the run's first iteration, for a resumed run too.
    """

    def __init__(self, begin: float = 0.25):
        if not 0 <= begin < 1:
            raise ConfigError(f'MESAHook, begin: got {begin}, expected a share of the run, from 0 '
                              'to less than 1')
        self.begin = begin

    def before_train(self, runner) -> None:
        """Find model and average.

        Raises:
            ConfigError: The run has no EMAHook, or a model that is no MESAClassifier.
        """
        averages = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
        if not averages:
            raise ConfigError("MESAHook: the run has no EMAHook, whose average is MESA's teacher; "
                              "add dict(type='EMAHook', momentum=1e-4) to custom_hooks")
        self._student = unwrapped(runner.model)
        if not hasattr(self._student, 'set_teacher'):
            raise ConfigError(f'MESAHook: the model is a {type(self._student).__name__}; set '
                              "model.type='mmvssd.MESAClassifier', and model.mesa_weight")
        self._teacher = averages[0].ema_model.module  # EMAHook makes it in before_run
        self._started = False

    def before_train_iter(self, runner, batch_idx: int,
                          data_batch: Optional[dict] = None) -> None:
        """Begin when the share is reached."""
        if self._started or runner.iter / runner.max_iters < self.begin:
            return
        self._student.set_teacher(self._teacher)
        self._started = True
        print_log(f'MESA: from iteration {runner.iter + 1} of {runner.max_iters} on the moving '
                  'average teaches the model', logger='current')

    def after_train(self, runner) -> None:
        """Leave the model without teacher."""
        self._student.set_teacher(None)
