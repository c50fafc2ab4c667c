"""Speed of backbones, side by side in one run.

A machine's clock, its neighbours and its memory change from minute to minute. So all backbones take
turns, one step each a round. The result is the median over rounds, and its spread.
"""
import os
import time
from contextlib import contextmanager, nullcontext
from typing import (
    Callable,
    ContextManager,
    Dict,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from mmvssd.analysis.busy_machine import busy as busy_machine
from mmvssd.analysis.busy_machine import check_processes
from mmvssd.analysis.named_models import Maker, backbones
from mmvssd_kernels import dispatch
from mmvssd_kernels.benchmark import profiling
from mmvssd_kernels.benchmark.memory import added_at_peak
from mmvssd_kernels.benchmark.profiling import Kernel

DTYPES = ('bfloat16', 'float16')
#: What a name may end with, after a '+': autocast to that dtype, torch.compile, or the replay of a
#: CUDA graph. The name of an implementation of the ops may stand there too.
OPTIONS = (*DTYPES, 'compile', 'cudagraph')
MODES = ('infer', 'train')


class Setting(NamedTuple):
    """A step that is timed: 'infer' (forward) or 'train' (and backward), at a batch and size."""

    mode: str
    batch: int
    size: int

    def __str__(self) -> str:
        return f'{self.mode}:{self.batch}x{self.size}'

    @classmethod
    def parse(cls, text: str) -> 'Setting':
        """Read ``mode:BATCHxSIZE``, such as ``infer:8x224``; ValueError if it is none."""
        mode, _, shape = text.partition(':')
        numbers = shape.split('x')
        if mode not in MODES or len(numbers) != 2 or not all(n.isdigit() and int(n)
                                                             for n in numbers):
            raise ValueError(f'setting: got {text!r}, expected {" or ".join(MODES)}, a colon, '
                             'BATCHxSIZE, such as infer:8x224')
        return cls(mode, *map(int, numbers))


class Variant(NamedTuple):
    """A name, taken apart.

    Attributes:
        base: Name of a maker.
        dtype: Type of autocast; None leaves float32.
        compiled: It goes through ``torch.compile``.
        implementation: What computes its ops, as ``MMVSSD_KERNEL`` has it; None leaves that
            variable as it is.
        graphed: A step is recorded once as a CUDA graph, and replayed: all its kernels start from
            one launch, so that Python's own time drops out.
    """

    base: str
    dtype: Optional[torch.dtype] = None
    compiled: bool = False
    implementation: Optional[str] = None
    graphed: bool = False

    @classmethod
    def parse(cls, name: str, known: Sequence[str]) -> 'Variant':
        """Read ``vmamba-tiny-s2l5+bfloat16+reference``.

        Args:
            name: One of ``known``, with any of :data:`OPTIONS` or an implementation after a '+'.
            known: Names of makers.

        Raises:
            ValueError: A part of it is unknown, or two of them exclude each other.
        """
        base, *options = name.split('+')
        choices = implementations()
        if base not in known or set(options) - {*OPTIONS, *choices}:
            raise ValueError(f'backbone: unknown name {name!r}; known: {", ".join(known)}, each '
                             f'with +{", +".join([*OPTIONS, *choices])} after it')
        dtypes = [option for option in options if option in DTYPES]
        chosen = [option for option in options if option not in OPTIONS]
        for excluding in (dtypes, chosen):
            if len(excluding) > 1:
                raise ValueError(f'backbone: {name!r}: +{" and +".join(excluding)} exclude each '
                                 'other; give a name with each')
        if chosen and 'compile' in options:
            # compiled code is kept for a class of modules, whatever implementation it was made of
            raise ValueError(f'backbone: {name!r}: +compile takes no implementation of one model; '
                             f'set {dispatch.ENVIRONMENT_VARIABLE}={chosen[0]} for the whole run')
        return cls(base, getattr(torch, dtypes[0]) if dtypes else None, 'compile' in options,
                   chosen[0] if chosen else None, 'cudagraph' in options)


def implementations() -> Tuple[str, ...]:
    """Return the names of the implementations of all ops."""
    return tuple(dict.fromkeys(name for op in dispatch.ops() for name in dispatch.names(op)))


class Times(NamedTuple):
    """Seconds of a step over the rounds.

    Attributes:
        seconds: The median.
        low: The lower quartile.
        high: The upper quartile.
        cpu_seconds: The median of what the step took of the cores, over all threads of the process.
    """

    seconds: float
    low: float
    high: float
    cpu_seconds: float

    @classmethod
    def of(cls, steps: Sequence[Tuple[float, float]]) -> 'Times':
        """Sum up the seconds and CPU seconds of steps."""
        seconds, cpu_seconds = zip(*steps)
        low, median, high = map(float, np.percentile(seconds, (25, 50, 75)))
        return cls(median, low, high, float(np.median(cpu_seconds)))


class Speed(NamedTuple):
    """One row: images per second and seconds a step (median), and the MB that a step takes.

    Attributes:
        model: Its name.
        setting: What was timed.
        images_per_second: Images of a step over its seconds.
        seconds: The median over rounds.
        memory: MB (1e6 bytes) at the peak of a step above what was there before it: on a GPU what
            PyTorch gave out, on a CPU what the process has in memory. It is 0 if it is not known,
            as of a CUDA graph.
        times: The same seconds with their spread, and CPU seconds; None if they are not known.
        busy: Those of a busy machine; None if they were not measured.
    """

    model: str
    setting: Setting
    images_per_second: float
    seconds: float
    memory: float
    times: Optional[Times] = None
    busy: Optional[Times] = None


Step = Callable[[], None]


def measure(names: Sequence[str], settings: Sequence[Setting], *,
            makers: Optional[Mapping[str, Maker]] = None, device: str = 'cpu', rounds: int = 7,
            warmup: int = 2, busy: int = 0,
            each: Callable[[List[Speed]], None] = lambda rows: None) -> List[Speed]:
    """Time backbones.

    Args:
        names: Names of ``makers``, each with any of :data:`OPTIONS` or the name of an
            implementation of its ops after a '+', such as ``vssd-tiny+bfloat16+compile`` or
            ``vmamba-tiny-s2l5+reference``.
        settings: What is timed.
        makers: Makers of the backbones by name; None takes those of
            :func:`~mmvssd.analysis.named_models.backbones` for the size of each setting.
        device: A device of PyTorch.
        rounds: Steps of each backbone; the median counts.
        warmup: Steps before those. Memory is measured in the last of them.
        busy: Processes that load the machine in a second step of each backbone a round; 0 leaves
            that out.
        each: Called with all rows so far after each setting, for a run that is cut short.

    Returns:
        One row for each setting and name.

    Raises:
        ValueError: A name is unknown, its implementation does not compute its ops, it asks for a
            CUDA graph on a CPU, or the number of rounds is none.
        ConfigError: The machine cannot be loaded.
    """
    if rounds < 1:
        raise ValueError(f'--rounds: got {rounds}, expected a positive number')
    if busy:
        check_processes(busy)
    variants = _variants(names, makers, device)
    rows: List[Speed] = []
    with Progress() as progress:
        turns = warmup + rounds * (2 if busy else 1)
        task = progress.add_task('timing', total=len(settings) * turns * len(variants))
        for setting in settings:
            sized = backbones(setting.size) if makers is None else makers
            steps = {name: _make_checked_step(sized[variant.base], name, variant, setting, device)
                     for name, variant in variants.items()}
            rows += _take_turns(steps, setting, device, rounds, warmup, busy,
                                lambda: progress.advance(task))
            each(rows)
    return rows


def profile(names: Sequence[str], settings: Sequence[Setting], *,
            makers: Optional[Mapping[str, Maker]] = None, device: str = 'cpu',
            calls: int = 3) -> Iterator[Tuple[str, Setting, List[Kernel]]]:
    """Yield what a step of each backbone launches, one after the other.

    CUDA graphs launch the same kernels as the steps that they were recorded of, and are left out.

    Args:
        names: As :func:`measure` has it.
        settings: What is profiled.
        makers: As :func:`measure` has it.
        device: A device of PyTorch.
        calls: Steps of which the mean is taken.

    Yields:
        Name, setting and :func:`mmvssd_kernels.benchmark.profiling.profile` of the step.

    Raises:
        ValueError: As :func:`measure`.
    """
    variants = _variants(names, makers, device)
    for setting in settings:
        sized = backbones(setting.size) if makers is None else makers
        for name, variant in variants.items():
            if not variant.graphed:
                step = _make_checked_step(sized[variant.base], name, variant, setting, device)
                yield name, setting, profiling.profile(step, torch.device(device), calls)


def _variants(names: Sequence[str], makers: Optional[Mapping[str, Maker]],
              device: str) -> Dict[str, Variant]:
    known = backbones() if makers is None else makers
    variants = {name: Variant.parse(name, tuple(known)) for name in names}
    if torch.device(device).type != 'cuda':
        for name, variant in variants.items():
            if variant.graphed:
                raise ValueError(f'backbone {name}: a CUDA graph needs a GPU, and --device is '
                                 f'{device}; leave +cudagraph out')
    return variants


def _take_turns(steps: Mapping[str, Step], setting: Setting, device: str, rounds: int, warmup: int,
                busy: int, advance: Callable[[], None]) -> List[Speed]:
    memory = dict.fromkeys(steps, 0.)
    for turn in range(warmup):
        for name, step in steps.items():
            if turn == warmup - 1:
                memory[name] = _memory(step, device)
            else:
                step()
            advance()

    def take_turn(times: Dict[str, List[Tuple[float, float]]]) -> None:
        for name, step in steps.items():
            times[name].append(_timed(step, device))
            advance()

    quiet, loaded = ({name: [] for name in steps} for _ in range(2))
    for _ in range(rounds):  # quiet and busy by turns too
        take_turn(quiet)
        if busy:
            with busy_machine(busy):
                take_turn(loaded)
    rows = []
    for name in steps:
        times = Times.of(quiet[name])
        rows.append(Speed(name, setting, setting.batch / times.seconds, times.seconds,
                          memory[name], times, Times.of(loaded[name]) if busy else None))
    return rows


def _make_checked_step(make: Maker, name: str, variant: Variant, setting: Setting,
                       device: str) -> Step:
    torch.manual_seed(0)
    model = make().to(device)
    # MMPreTrain's backbones return nothing here, so no chaining
    model.train(setting.mode == 'train')
    images = torch.randn(setting.batch, 3, setting.size, setting.size, device=device)
    if variant.compiled:
        # each setting is a size of its own; open sizes would be another, slower program
        model = torch.compile(model, dynamic=False)

    def infer() -> None:
        with torch.inference_mode(), _autocast(device, variant.dtype):
            model(images)

    def train() -> None:
        with _autocast(device, variant.dtype):
            outputs: Sequence[Tensor] = model(images)
        sum(y.float().mean() for y in outputs).backward()
        model.zero_grad(set_to_none=True)  # or it would count as the others' memory

    step = infer if setting.mode == 'infer' else train
    if variant.implementation is not None:
        step = _with_implementation(variant.implementation, step)
        _check_implementation(name, step)
    return _Replay(step, device) if variant.graphed else step


class _Replay:
    """A step as a CUDA graph, which keeps the memory that the step takes."""

    def __init__(self, step: Step, device: str) -> None:
        self.step = step  # holds the weights and images, whose places the graph knows
        self.device = torch.device(device)
        with torch.cuda.device(self.device):  # of which streams and graphs are
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # what is made on first use must not be in the graph
                for _ in range(3):
                    step()
            torch.cuda.current_stream().wait_stream(stream)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                step()

    def __call__(self) -> None:
        with torch.cuda.device(self.device):
            self.graph.replay()


def _with_implementation(implementation: str, step: Step) -> Step:

    def chosen() -> None:
        with _environment(dispatch.ENVIRONMENT_VARIABLE, implementation):
            step()

    return chosen


@contextmanager
def _environment(variable: str, value: str) -> Iterator[None]:
    before = os.environ.get(variable)
    os.environ[variable] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


def _check_implementation(name: str, step: Step) -> None:
    """Raise ValueError unless a backbone calls ops, and its implementation computes them all."""
    dispatch.forget_used()
    try:
        step()
    except (ValueError, dispatch.CannotRun) as error:
        raise ValueError(f'backbone {name}: {error}') from error
    if not dispatch.used():
        raise ValueError(f'backbone {name}: it calls none of the ops {", ".join(dispatch.ops())}, '
                         'so no implementation of them changes it; leave that out')


def _autocast(device: str, dtype: Optional[torch.dtype]) -> ContextManager:
    return torch.autocast(torch.device(device).type, dtype) if dtype else nullcontext()


def _timed(step: Step, device: str) -> Tuple[float, float]:
    """Return the seconds and the CPU seconds of one step; on a GPU until it has finished."""
    _synchronize(device)
    start, cpu_start = time.perf_counter(), time.process_time()
    step()
    _synchronize(device)
    return time.perf_counter() - start, time.process_time() - cpu_start


def _memory(step: Step, device: str) -> float:
    """Return the MB that one step takes at its peak; 0 if that is not known."""
    if torch.device(device).type != 'cuda':
        return (added_at_peak(step) or 0) / 1e6
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 1e6


def _synchronize(device: str) -> None:
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize(device)
