"""Seconds and memory of steps that take turns, and a device's bandwidth."""
import contextlib
import gc
import statistics
import time
from typing import Callable, Dict, List, NamedTuple, Optional, TypeVar, Union

import torch

Step = Callable[[], object]
T = TypeVar('T')
#: Turns of each step after its first.
ROUNDS = 3
#: Seconds: from the first on, a step runs once a turn, and what is in a cache before it is a small
#: part of it; from the second on it has one turn.
LONG, VERY_LONG = 0.05, 1.0
#: Bytes that are copied to measure the bandwidth; on a GPU of small memory less.
COPIED, COPIED_ON_CPU = 2**30, 2**26


class Timing(NamedTuple):
    """How long a step takes, and how much memory.

    Attributes:
        seconds: The median of its turns, each the median of its runs.
        memory: Bytes at the peak beyond those before the step; None on a CPU, where it is not
            known.
        quickest: Seconds of the quickest turn; what differs by less than turns do is noise.
        slowest: Seconds of the slowest turn.
    """

    seconds: float
    memory: Optional[int]
    quickest: float
    slowest: float


class Failure(NamedTuple):
    """Why there is no timing: a word or two for a table's cell, and the reason."""

    cell: str
    reason: str = ''


Result = Union[Timing, Failure]


def attempt(function: Callable[[], T]) -> Union[T, Failure]:
    """What a function returns, or why it failed: one row shall not hide the next."""
    try:
        return function()
    except torch.cuda.OutOfMemoryError:
        failure = Failure('out of memory')
    except Exception as error:  # whatever it is, it is reported
        lines = str(error).strip().splitlines() or ['']
        failure = Failure('failed', f'{type(error).__name__}: {lines[0][:300]}')
    # only here the error and the tensors of its frames are gone
    gc.collect()
    _free_memory()
    return failure


def _free_memory() -> None:
    if not torch.cuda.is_initialized():
        return
    try:
        torch.cuda.empty_cache()
    except RuntimeError:
        return  # a kernel broke the context: what comes next fails, and says so


def measure(steps: Dict[str, Step], device: torch.device, seconds: float) -> Dict[str, Result]:
    """Time steps that do the same thing in turns, so that a machine's drift meets them alike.

    On a GPU by CUDA events: ``triton.testing.do_bench`` overwrites a buffer larger than the cache
    before each run, so that inputs come from memory. On a CPU by the wall clock, caches warm.

    Args:
        steps: What is timed, by name.
        device: Where they run.
        seconds: How long the runs of each step may take together; each runs at least once.
    """
    timers = {name: _Timer(step, device) for name, step in steps.items()}
    with torch.cuda.device(device) if device.type == 'cuda' else contextlib.nullcontext():
        for _ in range(1 + ROUNDS):
            for timer in timers.values():
                timer.take_turn(seconds / ROUNDS)
    return {name: timer.result() for name, timer in timers.items()}


class _Timer:
    """The turns of a step so far."""

    def __init__(self, step: Step, device: torch.device) -> None:
        self.step = step
        self.on_gpu = device.type == 'cuda'
        self.first: Optional[float] = None
        self.turns: List[float] = []
        self.memory: Optional[int] = None
        self.failure: Optional[Failure] = None

    def take_turn(self, seconds: float) -> None:
        """Run the step; the first turn is for its memory, and tells how often it may run."""
        if self.failure is None:
            self.failure = attempt(lambda: self._turn(seconds))

    def result(self) -> Result:
        if self.failure is not None:
            return self.failure
        turns = self.turns or ([] if self.first is None else [self.first])
        return Timing(statistics.median(turns), self.memory, min(turns), max(turns))

    def _turn(self, seconds: float) -> None:
        if self.first is None:
            self.first = self._take_first()
        elif self.first < VERY_LONG:
            self.turns.append(self._once() if self.first >= LONG else self._median(seconds))

    def _take_first(self) -> float:
        self.step()  # compiles
        if not self.on_gpu:
            return self._once()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        seconds = self._once()
        self.memory = torch.cuda.max_memory_allocated() - before
        return seconds

    def _median(self, seconds: float) -> float:
        if self.on_gpu:
            from triton.testing import do_bench  # only where there is a GPU is Triton needed
            return do_bench(self.step, warmup=250 * seconds, rep=1000 * seconds,
                            return_mode='median') / 1000
        runs = [self._once()]
        while sum(runs) < seconds:
            runs.append(self._once())
        return statistics.median(runs)

    def _once(self) -> float:
        if not self.on_gpu:
            start = time.perf_counter()
            self.step()
            return time.perf_counter() - start
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        self.step()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000


def copy_bandwidth(device: torch.device, seconds: float) -> float:
    """Return the bytes a second, read and written, of a copy from the device's memory to itself."""
    size = COPIED_ON_CPU
    if device.type == 'cuda':
        size = min(COPIED, torch.cuda.get_device_properties(device).total_memory // 8)
    source = torch.rand(size // 4, device=device)
    target = torch.empty_like(source)
    timing = measure({'copy': lambda: target.copy_(source)}, device, seconds)['copy']
    if isinstance(timing, Failure):
        raise RuntimeError(f'copying {source.nbytes} bytes on {device}: {timing.reason}')
    return 2 * source.nbytes / timing.seconds
