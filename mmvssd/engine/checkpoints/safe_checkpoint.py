"""Checkpoints of which a newest good one is always there."""
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Callable, Iterator

from mmengine.dist import master_only
from mmengine.hooks import CheckpointHook

from mmvssd.files import PARTIAL
from mmvssd.registry import HOOKS


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """MMEngine's CheckpointHook, removing an outdated checkpoint once the new one is written.

    MMEngine removes it before, the best one too: with ``max_keep_ckpts=1`` a run that is killed
    while it writes has none left. Arguments are MMEngine's.
    """

    def before_train(self, runner) -> None:
        """Also clear away what a killed run was writing."""
        super().before_train(runner)
        self._remove_partial()

    @master_only
    def _remove_partial(self) -> None:
        for file in Path(self.out_dir).glob(f'*.pth.*{PARTIAL}'):
            file.unlink()

    def after_train_epoch(self, runner) -> None:
        """Save a checkpoint if it is time to."""
        with self._removing_last():
            super().after_train_epoch(runner)

    def after_train_iter(self, runner, *args, **kwargs) -> None:
        """Save a checkpoint if it is time to."""
        if not self.by_epoch:
            with self._removing_last():
                super().after_train_iter(runner, *args, **kwargs)

    def after_val_epoch(self, runner, metrics: dict) -> None:
        """Save the best checkpoint if this is the one."""
        with self._removing_last():
            super().after_val_epoch(runner, metrics)

    @contextmanager
    def _removing_last(self) -> Iterator[None]:
        """Have the file backend remove what it is asked to when the block is done without error."""
        backend, removals = self.file_backend, []
        originals = {name: getattr(backend, name) for name in ('remove', 'rmtree')
                     if hasattr(backend, name)}
        for name, original in originals.items():
            setattr(backend, name, partial(_note, removals, original))
        try:
            yield
        finally:
            for name in originals:
                delattr(backend, name)
        best = getattr(self, 'best_ckpt_path_dict', {})  # these two are there with `save_best`
        written = {self.last_ckpt, getattr(self, 'best_ckpt_path', None), *best.values()}
        for original, path in removals:
            if path not in written:  # the new one may have the old one's name
                original(path)


def _note(removals: list, original: Callable, path: str) -> None:
    removals.append((original, path))
