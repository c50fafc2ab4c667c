"""Workers of data loaders that end if their process is gone.

A worker whose process was killed may stay for ever: it wants to end, but first to send a sample
that nobody reads, through a pipe that it holds open itself. It keeps its memory and the log file.

In the workers of loaders that MMEngine's Runner builds, a thread looks for their process.

Fix: retire when PyTorch's workers end with a process that was killed.
"""
import multiprocessing
import os
import threading
import time
from typing import Callable, Optional

from mmengine.runner import FlexibleRunner, Runner

from mmvssd.compat.patching import wrap_once

#: Seconds after which a worker notices at the latest that its process is gone.
INTERVAL = 1.


def apply() -> None:
    """Wrap what builds a Runner's loaders."""
    for runner in (Runner, FlexibleRunner):
        wrap_once(runner, 'build_dataloader', _build)
        runner.build_dataloader = staticmethod(runner.build_dataloader)  # as it was


class WorkerStart:
    """The ``worker_init_fn`` of a worker that ends if its process is gone.

    Args:
        then: The loader's own function.
    """

    def __init__(self, then: Optional[Callable[[int], None]]):
        self.then = then

    def __call__(self, worker_id: int) -> None:
        """Watch from now on, and do what the loader's own function does."""
        threading.Thread(target=_watch, args=(os.getppid(), ), daemon=True).start()
        if self.then is not None:
            self.then(worker_id)


def _build(original, *args, **kwargs):
    loader = original(*args, **kwargs)
    if loader.num_workers and not isinstance(loader.worker_init_fn, WorkerStart):
        loader.worker_init_fn = WorkerStart(loader.worker_init_fn)
    return loader


def _watch(parent: int) -> None:
    """End this worker once its process is gone."""
    # not the parent if a server forks the workers; a forked one's siblings keep it looking alive
    process = multiprocessing.parent_process()
    while os.getppid() == parent and (process is None or process.is_alive()):
        time.sleep(INTERVAL)
    os._exit(0)  # threads that still send would hold up another end
