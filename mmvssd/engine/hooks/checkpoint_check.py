"""Stops a run whose checkpoint is another model's."""
import logging

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper

from mmvssd.checkpoint import CheckpointError, Mismatch, compare, describe, state_dict_of
from mmvssd.registry import HOOKS


@HOOKS.register_module()
class CheckpointCheckHook(Hook):
    """Compare a checkpoint with the model before MMEngine loads it.

    MMEngine leaves out what does not fit and goes on with untrained weights. Here testing and
    resuming need every name and shape to fit. A training run that starts from ``load_from`` may
    bring another head (another number of classes); its backbone must fit.
    """

    # before hooks that change the checkpoint, such as the moving average's
    priority = 'VERY_HIGH'

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Raise CheckpointError where the weights are not the model's."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        mismatch = compare(state_dict_of(checkpoint), model.state_dict())
        if not any(mismatch):
            return
        fine_tuning = runner._train_loop is not None and not runner._resume
        wrong = _of_backbone(mismatch) if fine_tuning else mismatch
        if any(wrong):
            raise CheckpointError(
                f'{runner._load_from}: not the weights of this model\n  {describe(wrong)}\n'
                'Check that the config is the one that the checkpoint was trained with.')
        print_log(f'{runner._load_from}: not loaded, left as drawn:\n  {describe(mismatch)}',
                  logger='current', level=logging.WARNING)


def _of_backbone(mismatch: Mismatch) -> Mismatch:
    return Mismatch(*([entry for entry in entries
                       if (entry if isinstance(entry, str) else entry[0]).startswith('backbone.')]
                      for entries in mismatch))
