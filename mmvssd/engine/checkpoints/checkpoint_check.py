"""Stops a run whose checkpoint is another model's."""
import logging

from mmengine.hooks import Hook
from mmengine.logging import print_log

from mmvssd.checkpoint import (
    Mismatch,
    describe,
    is_output_norm,
    mismatch_with,
    require_fit,
    require_progress,
)
from mmvssd.errors import CheckpointError
from mmvssd.host_internals import built_loop, is_resuming, source_of
from mmvssd.registry import HOOKS

LEAVE_OUT = "To load what fits all the same, leave this check out: unguarded=['checkpoint_check']"


@HOOKS.register_module()
class CheckpointCheckHook(Hook):
    """Compare a checkpoint with the model before MMEngine loads it.

    MMEngine leaves out what does not fit and goes on with untrained weights. Here testing and
    resuming need every name and shape to fit. A training run that starts from ``load_from`` may
    bring another head (another number of classes) and no output norms; its backbone must fit.
    """

    # before hooks that change the checkpoint, such as the moving average's
    priority = 'VERY_HIGH'

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Raise CheckpointError unless the weights are the model's."""
        source = source_of(runner) or f'the newest checkpoint in {runner.work_dir}'
        if built_loop(runner, 'train') and is_resuming(runner):
            require_progress(source, checkpoint)
        fine_tuning = built_loop(runner, 'train') and not is_resuming(runner)
        if not fine_tuning:
            try:
                require_fit(source, checkpoint, runner.model)
            except CheckpointError as error:
                raise CheckpointError(f'{error} {LEAVE_OUT}') from None
            return
        mismatch = mismatch_with(checkpoint, runner.model)
        wrong = _of_backbone(mismatch)
        if any(wrong):
            raise CheckpointError(
                f"{source}: not the weights of this model's backbone\n  {describe(wrong)}\n"
                f'{LEAVE_OUT}')
        if any(mismatch):
            print_log(f'{source}: not loaded, left as drawn:\n  {describe(mismatch)}',
                      logger='current', level=logging.WARNING)


def _of_backbone(mismatch: Mismatch) -> Mismatch:
    prefix = 'backbone.'
    return Mismatch(
        missing=[name for name in mismatch.missing
                 if name.startswith(prefix) and not is_output_norm(name[len(prefix):])],
        unexpected=[name for name in mismatch.unexpected if name.startswith(prefix)],
        shapes=[entry for entry in mismatch.shapes if entry[0].startswith(prefix)],
        unusable=mismatch.unusable)  # of a head as well: MMEngine would load them
