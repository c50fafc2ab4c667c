"""MMEngine's training loops, for runs that may be stopped anywhere and go on as if they had not.

Each step draws its random numbers (drop path, mixup) from (seed, rank, iteration). The data are
those of :mod:`mmvssd.engine.data.training_data`. So a checkpoint keeps no random state, and each
process of a resumed run has its own.
"""
import logging
from pathlib import Path
from typing import Any, Callable, Union

from mmengine.dist import all_gather_object, get_rank, is_main_process
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop as HostEpochBasedTrainLoop
from mmengine.runner import IterBasedTrainLoop as HostIterBasedTrainLoop
from torch.utils.data import DataLoader

from mmvssd.engine.data.training_data import (
    ResumableBatchSampler,
    resumable,
    unreadable_images_of,
)
from mmvssd.engine.randomness import seed_step
from mmvssd.errors import CheckpointError, ConfigError
from mmvssd.host_internals import endless_batches, is_resuming
from mmvssd.registry import HOOKS, LOOPS


def _prepared(runner, dataloader: Union[DataLoader, dict]) -> Union[DataLoader, dict]:
    if isinstance(dataloader, dict):
        unreadable = unreadable_images_of(runner.work_dir)
        if is_main_process() and not is_resuming(runner):
            Path(unreadable).unlink(missing_ok=True)  # of an earlier run
        return resumable(dataloader, _common_seed(runner), unreadable)
    print_log('The training data loader was built beforehand: its data depend on where a run is '
              'resumed, and on the number of workers', logger='current', level=logging.WARNING)
    return dataloader


def _common_seed(runner) -> int:
    """Return the first process's seed: with ``randomness.diff_rank_seed`` each has another."""
    return all_gather_object(runner.seed)[0]


class _ResumableLoop:
    """What both loops share."""

    unit: str
    # MMEngine's
    runner: Any
    dataloader: Any
    dataloader_iterator: Any
    epoch: int
    iter: int
    val_begin: int
    val_interval: int
    _decide_current_val_interval: Callable[[], None]

    def run_iter(self, *args) -> None:
        """Train on one batch, with random numbers that depend only on the iteration."""
        seed_step(self.runner.seed, get_rank(), self.iter)
        super().run_iter(*args)  # type: ignore[misc]

    def _take_up(self) -> None:
        """See that all processes begin at one place, with the seed of the run that is resumed.

        Also warn of a Runner without guards.

        Raises:
            CheckpointError: They do not: they found different checkpoints.
        """
        # MMEngine learns of a checkpoint's seed after the data were built; MMPreTrain's
        # vis_scheduler.py trains on a list in place of a data loader
        if isinstance(getattr(self.dataloader, 'batch_sampler', None), ResumableBatchSampler):
            self.dataloader.batch_sampler.sampler.set_seed(_common_seed(self.runner))
        guarded = HOOKS.get('GuardsHook')
        if not any(isinstance(hook, guarded) for hook in self.runner.hooks):
            print_log('This Runner was built without the guards of mmvssd. The config setting '
                      "runner_type='mmvssd.GuardedRunner' adds them where a Runner is built by "
                      'RUNNERS.build(cfg), as the train.py of each host does', logger='current',
                      level=logging.WARNING)
        self._require_rest()
        places = all_gather_object((self.epoch, self.iter))
        if len(set(places)) > 1:
            found = ', '.join(f'{rank}: epoch {epoch}, iteration {iteration}'
                              for rank, (epoch, iteration) in enumerate(places))
            raise CheckpointError(f'the processes go on from different checkpoints ({found}); they '
                                  'need one work dir that all of them see, or one --resume FILE')

    def _require_rest(self) -> None:
        """Raise ConfigError if a checkpoint is of a longer training than this one."""
        if not is_resuming(self.runner):
            return
        done, last = getattr(self, self.unit), getattr(self, f'max_{self.unit}s')
        if done > last:
            raise ConfigError(
                f'train_cfg.max_{self.unit}s: got {last}, and the checkpoint that is resumed has '
                f'been trained for {done}. Set more, or begin anew in another work dir')
        if done == last:
            print_log(f'The checkpoint that is resumed has been trained for all {last} '
                      f'{self.unit}s: it is evaluated, and nothing is left to train',
                      logger='current', level=logging.WARNING)

    def _validate(self, step: int, last: int, *, again: bool = False) -> None:
        """Validate if it is time to, after ``step`` of ``last`` epochs or iterations.

        Args:
            step: The epoch or the iteration that has ended.
            last: That of the training's end.
            again: The run that is resumed may have validated it; the log says so.
        """
        self._decide_current_val_interval()
        if (self.runner.val_loop is not None and step >= self.val_begin
                and (step % self.val_interval == 0 or step == last)):
            if again and is_resuming(self.runner):
                name = 'epoch' if self.unit == 'epoch' else 'iteration'
                print_log(f'{name} {step} is validated again: its checkpoint was written before '
                          'its scores', logger='current')
            self.runner.val_loop.run()


@LOOPS.register_module()
class EpochBasedTrainLoop(_ResumableLoop, HostEpochBasedTrainLoop):
    """MMEngine's loop over epochs, resumed exactly: from an epoch's end or from within one.

    A run that is resumed at the end of an epoch validates first, for the one before may have been
    stopped while it did. Arguments are MMEngine's.
    """

    unit = 'epoch'

    def __init__(self, runner, dataloader: Union[DataLoader, dict], **settings):
        super().__init__(runner, _prepared(runner, dataloader), **settings)

    def run(self):
        """Train, and validate in between; returns the model."""
        self._take_up()
        self._done = self._batches_done()
        self.runner.call_hook('before_train')
        if self.epoch and not self._done:
            self._validate(self.epoch, self.max_epochs, again=True)
        while self.epoch < self.max_epochs and not self.stop_training:
            self.run_epoch()
            self._validate(self.epoch, self.max_epochs)
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_epoch(self) -> None:
        """Train on an epoch, or on what a resumed run has left of it."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        done, self._done = self._done, 0
        if done:
            self.dataloader.batch_sampler.start = done
        for index, data_batch in enumerate(self.dataloader, done):
            self.run_iter(index, data_batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _batches_done(self) -> int:
        """Return batches of the current epoch that a checkpoint from within it was trained on.

        0 where an epoch had another number of them, for other processes or images: it is begun
        anew.
        """
        if not self.iter or not isinstance(self.dataloader.batch_sampler, ResumableBatchSampler):
            return 0
        # of the run that is resumed, until before_train
        before = self.runner.message_hub.runtime_info
        batches = len(self.dataloader)
        if before.get('max_iters') != before.get('max_epochs', 0) * batches:
            print_log('An epoch has another number of batches than in the run that is resumed: '
                      'data and steps are not those that it would have seen', logger='current',
                      level=logging.WARNING)
            return 0
        return self.iter - self.epoch * batches


@LOOPS.register_module()
class IterBasedTrainLoop(_ResumableLoop, HostIterBasedTrainLoop):
    """MMEngine's loop over iterations, resumed exactly and at once.

    MMEngine reads all batches again that a resumed run was trained on; this loop counts them off.
    It validates first if the iteration asks for it, as the loop over epochs does. Arguments are
    MMEngine's.
    """

    unit = 'iter'

    def __init__(self, runner, dataloader: Union[DataLoader, dict], **settings):
        super().__init__(runner, _prepared(runner, dataloader), **settings)

    def run(self):
        """Train, and validate in between; returns the model."""
        self._take_up()
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        if self.iter:
            self._skip_batches()
            self._validate(self.iter, self.max_iters, again=True)
        while self.iter < self.max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            self._validate(self.iter, self.max_iters)
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def _skip_batches(self) -> None:
        """Have the next batch be the one after those that a resumed run was trained on."""
        batches = self.dataloader.batch_sampler
        if not isinstance(batches, ResumableBatchSampler):
            for _ in range(self.iter):
                next(self.dataloader_iterator)
            return
        epoch = batches.go_to(self.iter)
        # workers that began at the first batch are set to this one
        self.dataloader_iterator = endless_batches(self.dataloader, epoch)
