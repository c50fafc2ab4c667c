"""Workers of data loaders that end with their process, and only with it.

A signal to a process group, as ``timeout``, schedulers and Ctrl-C send it, kills workers too. Their
process then ends with tracebacks of killed workers, beside what it has to say itself. And a worker
whose process was killed may stay: it wants to end, but first to send a sample that nobody reads.

In the workers of loaders that MMEngine's Runner builds, a thread waits for the signals that end a
process. It ends the worker if its process sent one, or is gone.

Fix: retire when PyTorch's workers outlive signals to their group, and end with their process.
"""
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing import resource_tracker
from typing import Callable, Optional

import torch.multiprocessing
from mmengine.runner import FlexibleRunner, Runner
from torch.utils.data import DataLoader

from mmvssd.compat.patching import wrap_once

#: Signals that a group is ended by; PyTorch ends a worker by SIGTERM too.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Seconds after which a worker notices at the latest that its process is gone.
INTERVAL = 1.


def apply() -> None:
    """Wrap what builds a Runner's loaders, and what starts a loader's workers."""
    for runner in (Runner, FlexibleRunner):
        wrap_once(runner, 'build_dataloader', _build)
        runner.build_dataloader = staticmethod(runner.build_dataloader)  # as it was
    wrap_once(DataLoader, '_get_iterator', _start_workers)


def idle() -> Optional[str]:
    """Return that the system does not tell who sent a signal, or None."""
    return None if hasattr(signal, 'sigtimedwait') else 'this system has no sigtimedwait'


class WorkerStart:
    """The ``worker_init_fn`` of a worker that ends with its process.

    Args:
        then: The loader's own function.
    """

    def __init__(self, then: Optional[Callable[[int], None]]):
        self.then = then

    def __call__(self, worker_id: int) -> None:
        """Watch from now on, and do what the loader's own function does."""
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # a server may fork it that has not
        threading.Thread(target=_watch, args=(os.getppid(), ), daemon=True).start()
        sys.excepthook = _excepthook
        if self.then is not None:
            self.then(worker_id)


def _build(original, *args, **kwargs):
    loader = original(*args, **kwargs)
    if loader.num_workers and idle() is None and not isinstance(loader.worker_init_fn, WorkerStart):
        loader.worker_init_fn = WorkerStart(loader.worker_init_fn)
    return loader


def _start_workers(original, loader):
    """Start workers with signals blocked, so that those of a group find no thread to kill."""
    if not isinstance(loader.worker_init_fn, WorkerStart):
        return original(loader)
    context = loader.multiprocessing_context or torch.multiprocessing
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        if context.get_start_method() != 'fork':
            resource_tracker.ensure_running()  # itself it ignores no SIGHUP
            signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # as it started, it unblocked them
        return original(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _excepthook(kind, error, trace) -> None:
    """Pass over a process that was interrupted while it took a tensor from this worker."""
    if not isinstance(error, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)


def _watch(parent: int) -> None:
    """End this worker once its process says so, or is gone."""
    # not the parent if a server forks the workers; a forked one's siblings keep it looking alive
    process = multiprocessing.parent_process()
    own = {parent, process.pid if process is not None else parent}
    while os.getppid() == parent and (process is None or process.is_alive()):
        received = signal.sigtimedwait(ENDING, INTERVAL)
        if (received is not None and received.si_signo == signal.SIGTERM
                and received.si_pid in own):
            break
    os._exit(0)  # as PyTorch's own handler does; threads that still send would hold it up
