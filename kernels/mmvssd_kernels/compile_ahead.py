"""Compile an op's kernels before they are launched, beside each other.

Triton compiles a kernel at its first launch, and a training's first step launches all of them, one
after the other. Here the first call of a kind goes through its launches on tensors without memory,
and threads compile what they found. A call that will be differentiated starts its gradient's
kernels too, which compile while later layers run.

What was not foreseen compiles at its launch, as ever.

Once tensors of one layout came often, calls with such tensors are replays: see
:mod:`mmvssd_kernels.replay`.
"""
import atexit
import functools
import importlib
import inspect
import itertools
import logging
import os
import queue
import threading
from concurrent.futures import Future
from types import ModuleType
from typing import Any, Callable, Dict, List, Literal, NamedTuple, Optional, Set, Tuple, Union

import torch
from torch import Tensor

from mmvssd_kernels.numerics import tf32_allowed
from mmvssd_kernels.replay import Record, Replay

#: Threads that compile at most: what a step waits for is soon the longest single kernel.
THREADS = 8
#: Variables in which launchers say how many processes of a training share the machine's cores.
LOCAL_PROCESSES = ('LOCAL_WORLD_SIZE', 'SLURM_NTASKS_PER_NODE', 'OMPI_COMM_WORLD_LOCAL_SIZE')
#: Triton compiles for pointers that are multiples of this.
ALIGNMENT = 16
#: Variable that, set to ``off``, has every call find out anew what to launch.
REPLAY_VARIABLE = 'MMVSSD_REPLAY'
#: Calls with one layout before it is recorded. That takes as long as ten calls, which images of
#: ever new sizes would never get back.
CALLS = 16
#: Layouts of a function's tensors that are remembered at most.
LAYOUTS = 1024
#: What is compiled first: what a call waits for, before what it will need later.
NOW, LATER = 0, 1

logger = logging.getLogger('mmvssd')
#: What notes the launches of a thread, their ``device`` and its ``capability``; absent if they run.
_recording = threading.local()


class Launch(NamedTuple):
    """A kernel, and what it was to be launched with."""

    kernel: Any
    grid: Tuple[int, ...]
    args: tuple
    options: dict


class CompiledAhead:
    """A function that launches kernels, of which the first call of a kind compiles them ahead.

    Calls are of one kind if they agree in their options, in their tensors' dtypes, and in
    ``widths``: kernels are compiled for these, and for no other size. After :data:`CALLS` calls
    with tensors of one layout, more of them are replays.

    Args:
        function: Takes tensors, the first of them present, and options; gives new tensors.
        widths: Takes the same, returns sizes.
    """

    def __init__(self, function: Callable, widths: Callable[..., tuple]) -> None:
        functools.update_wrapper(self, function)
        self._function, self._widths = function, widths
        self._ready: Set[tuple] = set()
        self._without_gradient: Set[tuple] = set()
        self._started: Dict[tuple, List[Future]] = {}
        # by layout: how often it came, and then a replay, or False if none can do the same
        self._calls: Dict[tuple, int] = {}
        self._replays: Dict[tuple, Union[Replay, Literal[False]]] = {}

    def __call__(self, *args):
        layout = _layout(args)
        replay = self._replays.get(layout) or self._replay(layout, args)
        if replay:
            results = replay([a for a in args if isinstance(a, Tensor)])
            return results if len(results) > 1 else results[0]
        kind = self._kind(args)
        if kind not in self._ready:
            self._start(kind, args, NOW)
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
        kind = self._kind(args)
        new = kind in self._without_gradient
        self._without_gradient.discard(kind)
        return new

    def start(self, *args) -> None:
        """Start to compile what a call with these arguments would launch; do not wait."""
        self._start(self._kind(args), args, LATER)

    def _replay(self, layout: tuple, args: tuple) -> Optional[Replay]:
        """Return a replay for tensors of a layout that came often enough; None if not yet."""
        if layout in self._replays or not _may_replay(args[0].device):
            return None
        calls = self._calls.get(layout, 0)
        if calls < CALLS:
            _remember(self._calls, layout, calls + 1)
            return None
        self._calls.pop(layout, None)
        replay = _recorded(self._function, args)
        _remember(self._replays, layout, replay or False)
        return replay

    def _kind(self, args: tuple) -> tuple:
        return (args[0].device, self._widths(*args), *[
            a.dtype if isinstance(a, Tensor) else a if isinstance(a, (str, bool)) else a is None
            for a in args])

    def _start(self, kind: tuple, args: tuple, when: int) -> None:
        if kind in self._ready or kind in self._started:
            return
        self._started[kind] = []
        device = args[0].device
        threads = _threads(device)
        if threads is None:
            return
        try:
            found = launches(self._function, *args)
        except Exception:  # a call goes on without; whatever is wrong with it, it will say itself
            logger.warning('%s: its kernels compile one after the other, for its launches could '
                           'not be foreseen', self._function.__name__, exc_info=True)
            return
        self._started[kind] = [threads.submit(when, _compile, launch, device) for launch in found]


def compiled_ahead(widths: Callable[..., tuple]) -> Callable[[Callable], CompiledAhead]:
    """Return a decorator that makes a function one of :class:`CompiledAhead`."""
    return functools.partial(CompiledAhead, widths=widths)


def launches(function: Callable, *args,
             capability: Optional[Tuple[int, int]] = None) -> List[Launch]:
    """Return what ``function(*args)`` would launch; neither memory nor a kernel is touched.

    With ``capability``, what it would launch on a GPU of that compute capability.
    """
    found: List[Launch] = []
    _foresee(found.append, args[0].device, capability, function, *map(_without_memory, args))
    return found


def _foresee(note: Callable[[Launch], None], device: torch.device,
             capability: Optional[Tuple[int, int]], function: Callable, *args):
    """Call a function on tensors without memory, and have what it launches noted instead."""
    _recording.note, _recording.device, _recording.capability = note, device, capability
    try:
        return function(*args)
    finally:
        del _recording.note, _recording.device, _recording.capability


def _remember(found: dict, layout: tuple, value: object) -> None:
    """Keep a value by its layout, and of all others not too many."""
    if layout not in found and len(found) >= LAYOUTS:
        found.clear()
    found[layout] = value


def _recorded(function: Callable, args: tuple) -> Optional[Replay]:
    """Return a replay of ``function(*args)``; None if it does more than one can repeat."""
    device = args[0].device
    args = [_without_memory(a) for a in args]
    record = Record([a for a in args if isinstance(a, Tensor)], device)

    def note(launch: Launch) -> None:
        bound = inspect.signature(launch.kernel.fn).bind(*launch.args, **{
            name: value for name, value in launch.options.items()
            if name in launch.kernel.arg_names})
        bound.apply_defaults()
        record.launch(_prepared(launch), bound.args)

    try:
        with record:
            results = _foresee(note, device, None, function, *args)
        return record.replay((results, ) if isinstance(results, Tensor) else results)
    except Exception as error:  # a call goes on without
        _report(function.__module__, repr(error))
        return None


@functools.cache
def _report(module: str, error: str) -> None:
    """Log once for each reason: the cache swallows repetitions."""
    logger.warning('%s: calls take longer in Python, for they cannot be replayed: %s', module,
                   error)


def _layout(args: tuple) -> tuple:
    """Return what decides what a function allocates and launches."""
    return (args[0].device, tf32_allowed(), *[
        (a.dtype, a.shape, a.stride(), a.data_ptr() % ALIGNMENT) if isinstance(a, Tensor)
        else tuple(a) if isinstance(a, list) else a for a in args])


def _may_replay(device: torch.device) -> bool:
    """Tell whether calls on a device may become replays now."""
    # while a CUDA graph is recorded, no kernel may be loaded
    return device.type != 'meta' and _launches_compiled() and not (
        device.type == 'cuda' and torch.cuda.is_current_stream_capturing())


@functools.cache
def _launches_compiled() -> bool:
    """Tell whether kernels are compiled, and launched as replays do it."""
    # releases before that one launch a compiled kernel without its constants
    return (os.environ.get(REPLAY_VARIABLE) != 'off' and os.environ.get('TRITON_INTERPRET') != '1'
            and hasattr(importlib.import_module('triton'), 'AsyncCompileMode'))


def _prepared(launch: Launch) -> Callable:
    """Return what launches a compiled kernel with all arguments of its function, in order."""
    kernel = launch.kernel.warmup(*launch.args, grid=launch.grid, **launch.options)
    return kernel[(*launch.grid, 1, 1)[:3]]


def kernels(module: ModuleType):
    """Return a module of kernels, or what records their launches while this thread records."""
    note = getattr(_recording, 'note', None)
    return module if note is None else _Recorder(module, note)


def device_of(device: torch.device) -> torch.device:
    """Return a tensor's device; of one without memory that of the tensor that it stands for."""
    return getattr(_recording, 'device', device) if device.type == 'meta' else device


def foreseen_capability() -> Optional[Tuple[int, int]]:
    """Return the compute capability that launches are recorded for; None if the device tells."""
    return getattr(_recording, 'capability', None)


class _Recorder:
    """Stands for a module of kernels."""

    def __init__(self, module: ModuleType, note: Callable[[Launch], None]) -> None:
        self._module, self._note = module, note

    def __getattr__(self, name: str) -> '_RecordedKernel':
        return _RecordedKernel(getattr(self._module, name), self._note)


class _RecordedKernel:
    """Stands for a kernel: ``kernel[grid](*args, **options)`` is noted."""

    def __init__(self, kernel: Any, note: Callable[[Launch], None]) -> None:
        self._kernel, self._note = kernel, note

    def __getitem__(self, grid: Tuple[int, ...]) -> Callable:
        return lambda *args, **options: self._note(Launch(self._kernel, grid, args, options))


def _without_memory(t):
    """Return a tensor of the same layout, which begins as far from an aligned place.

    What is no tensor stays as it is.
    """
    if not isinstance(t, Tensor):
        return t
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


class _Threads:
    """Threads that run what waits, and end with the interpreter.

    Those of ``concurrent.futures`` would first compile all that waits, after a Ctrl-C too.
    """

    def __init__(self, count: int) -> None:
        self._waiting: queue.PriorityQueue = queue.PriorityQueue()
        self._numbers, self._process, self._ended = itertools.count(), os.getpid(), False
        self._all = [threading.Thread(target=self._work, name=f'compile-kernels-{i}', daemon=True)
                     for i in range(count)]
        for thread in self._all:
            thread.start()
        atexit.register(self._end)

    def submit(self, when: int, function: Callable, *args) -> Future:
        """Have a function called: the lowest ``when`` first, of equal ones the first submitted."""
        future: Future = Future()
        if self._ended:
            future.cancel()
        else:
            self._waiting.put((when, next(self._numbers), future, function, args))
        return future

    def _work(self) -> None:
        while True:
            *_, future, function, args = self._waiting.get()
            if self._ended:
                future.cancel()
            elif future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(*args))
                except BaseException as error:  # waits for whoever asks
                    future.set_exception(error)
            if function is None:
                return

    def _end(self) -> None:
        if self._process != os.getpid():  # a fork has none of the threads
            return
        self._ended = True
        for _ in self._all:
            self._waiting.put((LATER, next(self._numbers), Future(), None, ()))
        # a thread within a compiler must not meet an interpreter that is gone
        for thread in self._all:
            thread.join()


def _threads(device: torch.device) -> Optional[_Threads]:
    """Return the threads that compile for a device; None if a launch may as well compile."""
    return _gpu_threads() if device.type == 'cuda' else None


@functools.cache
def _gpu_threads() -> Optional[_Threads]:
    # the release that brought this compiles in threads itself
    if not hasattr(importlib.import_module('triton'), 'AsyncCompileMode'):
        return None
    count = min(THREADS, len(os.sched_getaffinity(0)) // _local_processes())
    return _Threads(count) if count > 1 else None


def _local_processes() -> int:
    for name in LOCAL_PROCESSES:
        # Slurm may say 8(x2): eight on each of two nodes
        number = os.environ.get(name, '').partition('(')[0]
        if number.isdecimal() and int(number):
            return int(number)
    return 1
