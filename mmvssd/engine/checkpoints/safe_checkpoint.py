"""Checkpoints of which a newest good one is always there."""
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Callable, Iterator

from mmengine.dist import master_only
from mmengine.hooks import CheckpointHook

from mmvssd.compat.atomic_files import PARTIAL
from mmvssd.registry import HOOKS


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """MMEngine's CheckpointHook, removing an outdated checkpoint once the new one is written.

    MMEngine removes it before: with ``max_keep_ckpts=1`` a run that is killed while it writes has
    none left. Arguments are MMEngine's.
    """

    def before_train(self, runner) -> None:
        """Also clear away what a killed run was writing."""
        super().before_train(runner)
        self._remove_partial()

    @master_only
    def _remove_partial(self) -> None:
        for file in Path(self.out_dir).glob(f'*.pth.*{PARTIAL}'):
            file.unlink()

    def _save_checkpoint_with_step(self, runner, step, meta) -> None:
        with _removing_last(self.file_backend):
            super()._save_checkpoint_with_step(runner, step, meta)


@contextmanager
def _removing_last(backend) -> Iterator[None]:
    """Have a file backend remove what it is asked to when the block is done without an error."""
    removals = []
    originals = {name: getattr(backend, name) for name in ('remove', 'rmtree')
                 if hasattr(backend, name)}
    for name, original in originals.items():
        setattr(backend, name, partial(_note, removals, original))
    try:
        yield
    finally:
        for name in originals:
            delattr(backend, name)
    for original, path in removals:
        original(path)


def _note(removals: list, original: Callable, path: str) -> None:
    removals.append((original, path))
