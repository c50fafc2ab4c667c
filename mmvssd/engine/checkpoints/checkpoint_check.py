"""Stops a run whose checkpoint is another model's."""
import logging
from typing import Optional

from mmengine.hooks import Hook
from mmengine.logging import print_log

from mmvssd.checkpoint import (
    Mismatch,
    advice_on_channels,
    dataset_meta,
    describe,
    is_output_norm,
    mismatch_with,
    place_of_weights,
    require_fit,
    require_progress,
    unwrapped,
)
from mmvssd.engine.checkpoints import class_order
from mmvssd.engine.data.checks import data_of, data_sets_in
from mmvssd.engine.data.heads import has_own_classes
from mmvssd.engine.data.names import classes_of
from mmvssd.errors import CheckpointError
from mmvssd.host_internals import built_loop, is_resuming, source_of
from mmvssd.phrases import counted, some
from mmvssd.registry import HOOKS

LEAVE_OUT = "To load what fits all the same, leave this check out: unguarded=['checkpoint_check']"
MEND_CLASSES = ("Give the data set's metainfo.classes the names and the order that the model was "
                'trained with, or take the checkpoint of a model of these classes.')


@HOOKS.register_module()
class CheckpointCheckHook(Hook):
    """Compare a checkpoint with the model before MMEngine loads it.

    MMEngine leaves out what does not fit and goes on with untrained weights. Here testing and
    resuming need every name and shape to fit. Testing also needs the data's classes, in number and
    order, if both have names. A training run that starts from ``load_from`` may bring another head
    (another number of classes) and no output norms; its backbone must fit.
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
            if not built_loop(runner, 'train'):
                _check_classes(source, checkpoint, runner)
            return
        mismatch = mismatch_with(checkpoint, runner.model)
        wrong = _of_backbone(mismatch)
        if any(wrong):
            raise CheckpointError(
                f"{source}: not the weights of this model's backbone\n  {describe(wrong)}\n"
                f'{place_of_weights(checkpoint, runner.model) or advice_on_channels(wrong)} '
                f'{LEAVE_OUT}')
        if any(mismatch):
            print_log(f'{source}: not loaded, these keep their random weights:\n'
                      f'  {describe(mismatch)}',
                      logger='current', level=logging.WARNING)


def _check_classes(source: str, checkpoint: dict, runner) -> None:
    """Compare the names of a checkpoint's classes with those of the data that it is tested on.

    Raises:
        CheckpointError: Their number or their order is another.
    """
    if not has_own_classes(unwrapped(runner.model)):
        return
    try:
        trained = dataset_meta(source, checkpoint).get('classes')
    except CheckpointError as error:
        raise CheckpointError(f'{error}. {LEAVE_OUT}') from None
    for phase in ('test', 'val'):
        named = _classes_in(data_of(built_loop(runner, phase)))
        if trained and named:
            _compare_classes(source, list(trained), named, f'{phase}_dataloader')


def _compare_classes(source: str, trained: list, named: list, loader: str) -> None:
    if len(trained) != len(named):
        raise CheckpointError(
            f'{source}: its model was trained on {counted(len(trained), "class")} '
            f'({some(trained)}), the data of {loader} have {len(named)} '
            f'({some(named)}). {MEND_CLASSES} {LEAVE_OUT}')
    if class_order.are_reordered(trained, named):
        raise CheckpointError(
            f'{source}: its model was trained on the classes {some(trained)}, the data of '
            f'{loader} have them in another order, {some(named)}: '
            f'{class_order.first_difference(trained, named)}. {MEND_CLASSES} {LEAVE_OUT}')
    if list(map(str, trained)) != list(map(str, named)):
        print_log(f'{source}: classes have other names in the data of {loader}: '
                  f'{class_order.first_difference(trained, named)}. If they are not the same '
                  'classes, the scores mean nothing', logger='current', level=logging.WARNING)


def _classes_in(dataset) -> Optional[list]:
    """Return the names of a data set's classes, or of the first inside it that has any."""
    if dataset is None:
        return None
    inside = (classes_of(one) for one in data_sets_in(dataset))
    return classes_of(dataset) or next((named for named in inside if named), None)


def _of_backbone(mismatch: Mismatch) -> Mismatch:
    prefix = 'backbone.'
    return Mismatch(
        missing=[name for name in mismatch.missing
                 if name.startswith(prefix) and not is_output_norm(name[len(prefix):])],
        unexpected=[name for name in mismatch.unexpected if name.startswith(prefix)],
        shapes=[entry for entry in mismatch.shapes if entry[0].startswith(prefix)],
        unusable=mismatch.unusable)  # of a head as well: MMEngine would load them
