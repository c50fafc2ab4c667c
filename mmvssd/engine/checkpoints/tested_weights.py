"""Tests the moving average of a checkpoint's weights, or the weights themselves."""
from mmengine.hooks import Hook

from mmvssd.checkpoint import choose_weights
from mmvssd.errors import ConfigError
from mmvssd.host_internals import source_of
from mmvssd.registry import HOOKS

#: Kinds of weights that a checkpoint of a training with EMAHook holds.
KINDS = ('ema', 'raw')


@HOOKS.register_module()
class TestedWeightsHook(Hook):
    """Have a model get one kind of the weights that a checkpoint holds.

    It takes the place of the run's EMAHook, which would swap them.

    Args:
        kind: 'ema', the moving average, or 'raw'.
    """

    # before the hook that compares a checkpoint with the model
    priority = 'HIGHEST'

    def __init__(self, kind: str):
        if kind not in KINDS:
            raise ConfigError(f'TestedWeightsHook, kind: got {kind}, expected ema or raw')
        self.kind = kind

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Put the kind where MMEngine loads weights from."""
        checkpoint['state_dict'] = choose_weights(str(source_of(runner)), checkpoint, self.kind)
