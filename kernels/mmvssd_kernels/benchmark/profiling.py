"""Time of each kernel of a step, by PyTorch's profiler.

On a GPU it is the time of the kernels there, without Python. A CPU has no kernels: there it is the
time of each operator, without the operators that it calls.
"""
import contextlib
from typing import Callable, Dict, Iterable, List, NamedTuple, Tuple

import torch
from torch.profiler import ProfilerActivity

#: Calls of a step that count, and calls before those: they compile, and choose algorithms.
CALLS, WARMUP = 5, 2
#: What this package's operators are called.
OURS = 'mmvssd_kernels::'


class Kernel(NamedTuple):
    """What launches of a kernel took in a call of a step; on a CPU, what an operator took.

    Attributes:
        name: The kernel's name; on a CPU the operator's.
        operator: The operator that launched it; empty if none did.
        seconds: Of all launches in a call, the mean of the calls.
        launches: In a call, the mean of the calls.
    """

    name: str
    operator: str
    seconds: float
    launches: float


def unit(device: torch.device) -> str:
    """Say what the seconds of :func:`profile` are on a device."""
    return ('GPU time of kernels' if device.type == 'cuda'
            else 'CPU time of operators, without those that they call')


def profile(step: Callable[[], object], device: torch.device, calls: int = CALLS,
            warmup: int = WARMUP) -> List[Kernel]:
    """Return the kernels that a step launches, the longest first.

    Args:
        step: What is looked at.
        device: Where it runs.
        calls: Calls of it that count.
        warmup: Calls before those.
    """
    on_gpu = device.type == 'cuda'
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with torch.cuda.device(device) if on_gpu else contextlib.nullcontext():
        for _ in range(warmup):
            step()
        _synchronize(on_gpu)
        with torch.profiler.profile(activities=activities) as profiler:
            for _ in range(calls):
                step()
            _synchronize(on_gpu)
    return (kernels if on_gpu else operators)(profiler.events(), calls)


def kernels(events: Iterable, calls: int) -> List[Kernel]:
    """Add up the kernels that ran on a GPU, by name and by the operator that launched them.

    Args:
        events: Events of PyTorch's profiler. Only such attributes are read as all its versions
            from 2.4 on have.
        calls: Calls of the step that they are of.
    """
    ran: Dict[str, List[float]] = {}
    launched: Dict[Tuple[str, str], List[float]] = {}
    for event in events:
        if event.device_type == torch.autograd.DeviceType.CPU:
            for kernel in event.kernels:
                launched.setdefault((kernel.name, event.name), []).append(kernel.duration)
        elif not getattr(event, 'is_user_annotation', False):  # a range of time, with a name
            ran.setdefault(event.name, []).append(event.time_range.elapsed_us())
    # what no operator launched: a CUDA graph's kernels, say
    for name, times in ran.items():
        known = [times for (other, _), times in launched.items() if other == name]
        rest = len(times) - sum(map(len, known))
        if rest > 0:
            seconds = max(sum(times) - sum(map(sum, known)), 0)
            launched[name, ''] = [seconds / rest] * rest
    return _sorted(launched, calls)


def operators(events: Iterable, calls: int) -> List[Kernel]:
    """Add up the operators that ran on a CPU.

    Args:
        events: Events of PyTorch's profiler.
        calls: Calls of the step that they are of.
    """
    ran: Dict[Tuple[str, str], List[float]] = {}
    for event in events:
        if not event.is_async and event.time_range.elapsed_us() > 0:
            ran.setdefault((event.name, event.name), []).append(event.self_cpu_time_total)
    return _sorted(ran, calls)


def total(kernels: Iterable[Kernel]) -> float:
    """Return the seconds of kernels."""
    return sum(kernel.seconds for kernel in kernels)


def named(kernels: Iterable[Kernel]) -> List[Kernel]:
    """Return kernels by name, the longest first; PyTorch's own are one, ``PyTorch``.

    What no operator launched has its name.
    """
    found: Dict[str, List[Kernel]] = {}
    for kernel in kernels:
        ours = kernel.operator.startswith(OURS) or not kernel.operator
        name = kernel.name.removeprefix(OURS) if ours else 'PyTorch'
        found.setdefault(name, []).append(kernel)
    return sorted((Kernel(name, '', total(ones), sum(one.launches for one in ones))
                   for name, ones in found.items()), key=lambda one: -one.seconds)


def _sorted(found: Dict[Tuple[str, str], List[float]], calls: int) -> List[Kernel]:
    """Return kernels from the microseconds of their launches."""
    return sorted((Kernel(name, operator, sum(times) / calls / 1e6, len(times) / calls)
                   for (name, operator), times in found.items()), key=lambda one: -one.seconds)


def _synchronize(on_gpu: bool) -> None:
    if on_gpu:
        torch.cuda.synchronize()
