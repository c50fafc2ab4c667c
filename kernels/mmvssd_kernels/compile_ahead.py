"""Compile an op's kernels before they are launched, beside each other.

Triton compiles a kernel at its first launch, and a training's first step launches all of them, one
after the other. Here the first call of a kind goes through its launches on tensors without memory,
and threads compile what they found. A call that will be differentiated starts its gradient's
kernels too, which compile while later layers run.

What was not foreseen compiles at its launch, as ever.
"""
import functools
import importlib
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from types import ModuleType
from typing import Callable, Dict, List, NamedTuple, Optional, Set, Tuple

import torch
from torch import Tensor

#: Threads that compile at most: what a step waits for is soon the longest single kernel.
THREADS = 8
#: Triton compiles for pointers that are multiples of this.
ALIGNMENT = 16

#: What a thread records now: ``launches``, ``device`` and ``capability``; absent if nothing.
_recording = threading.local()


class Launch(NamedTuple):
    """A kernel, and what it was to be launched with."""

    kernel: object
    grid: Tuple[int, ...]
    args: tuple
    options: dict


class CompiledAhead:
    """A function that launches kernels, of which the first call of a kind compiles them ahead.

    Calls are of one kind if their tensors agree in dtype and width, which is what most kernels are
    compiled for.

    Args:
        function: Takes tensors, the first of them present, and options.
    """

    def __init__(self, function: Callable) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._ready: Set[tuple] = set()
        self._without_gradient: Set[tuple] = set()
        self._started: Dict[tuple, List[Future]] = {}

    def __call__(self, *args):
        kind = _kind(args)
        if kind not in self._ready:
            self.start(*args)
            for future in self._started.pop(kind, []):
                future.exception()  # waits; the launch itself will say what is wrong
            self._ready.add(kind)
            self._without_gradient.add(kind)
        return self._function(*args)

    def wants_gradient(self, *args) -> bool:
        """Tell whether this is the first time to ask for calls of this kind."""
        # soon there is nothing to ask for, which takes no time
        if not self._without_gradient:
            return False
        kind = _kind(args)
        new = kind in self._without_gradient
        self._without_gradient.discard(kind)
        return new

    def start(self, *args) -> None:
        """Start to compile what a call with these arguments would launch; do not wait."""
        kind = _kind(args)
        if kind in self._ready or kind in self._started:
            return
        device = args[0].device
        threads = _threads(device)
        self._started[kind] = [] if threads is None else [
            threads.submit(_compile, launch, device)
            for launch in launches(self._function, *args)]


def launches(function: Callable, *args,
             capability: Optional[Tuple[int, int]] = None) -> List[Launch]:
    """Return what ``function(*args)`` would launch; neither memory nor a kernel is touched.

    With ``capability``, what it would launch on a GPU of that compute capability.
    """
    _recording.launches, _recording.device = [], args[0].device
    _recording.capability = capability
    try:
        function(*(_without_memory(a) if isinstance(a, Tensor) else a for a in args))
        return _recording.launches
    finally:
        del _recording.launches, _recording.device, _recording.capability


def kernels(module: ModuleType):
    """Return a module of kernels, or what records their launches while this thread records."""
    found = getattr(_recording, 'launches', None)
    return module if found is None else _Recorder(module, found)


def device_of(device: torch.device) -> torch.device:
    """Return a tensor's device; of one without memory that of the tensor that it stands for."""
    return getattr(_recording, 'device', device) if device.type == 'meta' else device


def foreseen_capability() -> Optional[Tuple[int, int]]:
    """Return the compute capability that launches are recorded for; None if the device tells."""
    return getattr(_recording, 'capability', None)


class _Recorder:
    """Stands for a module of kernels."""

    def __init__(self, module: ModuleType, found: List[Launch]) -> None:
        self._module, self._found = module, found

    def __getattr__(self, name: str) -> '_RecordedKernel':
        return _RecordedKernel(getattr(self._module, name), self._found)


class _RecordedKernel:
    """Stands for a kernel: ``kernel[grid](*args, **options)`` is noted."""

    def __init__(self, kernel: object, found: List[Launch]) -> None:
        self._kernel, self._found = kernel, found

    def __getitem__(self, grid: Tuple[int, ...]) -> Callable:
        return lambda *args, **options: self._found.append(
            Launch(self._kernel, grid, args, options))


def _kind(args: tuple) -> tuple:
    return (args[0].device, *[
        (a.dtype, a.shape[-1] if a.dtype.is_floating_point else None) if isinstance(a, Tensor)
        else a if isinstance(a, (str, bool)) else a is None for a in args])


def _without_memory(t: Tensor) -> Tensor:
    """Return a tensor of the same layout, which begins as far from an aligned place."""
    begin = t.data_ptr() % ALIGNMENT // t.element_size()
    end = begin + 1 + sum((n - 1) * stride for n, stride in zip(t.shape, t.stride()) if n)
    return torch.empty(end, dtype=t.dtype, device='meta').as_strided(t.shape, t.stride(), begin)


def _compile(launch: Launch, device: torch.device) -> None:
    with torch.cuda.device(device):
        kernel = launch.kernel.warmup(*launch.args, grid=launch.grid, **launch.options)
    # before Triton 3.7 a C compiler builds what launches it, which is found again on disk. It is
    # not loaded here: while another thread records a CUDA graph, none may load a module.
    importlib.import_module('triton.runtime').driver.active.launcher_cls(kernel.src,
                                                                         kernel.metadata)


def _threads(device: torch.device) -> Optional[ThreadPoolExecutor]:
    """Return the threads that compile for a device; None if a launch may as well compile."""
    return _gpu_threads() if device.type == 'cuda' else None


@functools.cache
def _gpu_threads() -> Optional[ThreadPoolExecutor]:
    # the release that brought this compiles in threads itself
    if not hasattr(importlib.import_module('triton'), 'AsyncCompileMode'):
        return None
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    if cores < 2:
        return None
    return ThreadPoolExecutor(min(cores, THREADS), thread_name_prefix='compile-kernels')
