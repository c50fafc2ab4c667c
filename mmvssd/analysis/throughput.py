"""Speed of backbones, side by side in one run.

A machine's clock, its neighbours and its memory change from minute to minute; so all backbones
take turns, one step each a round, and what is reported is the median over rounds.
"""
import statistics
import time
from contextlib import nullcontext
from typing import Callable, ContextManager, List, Mapping, NamedTuple, Optional, Sequence

import torch
from rich.progress import Progress
from torch import Tensor

from mmvssd.analysis.named_models import Maker, backbones

#: What a name may end with, after a '+': autocast to that dtype, or torch.compile.
OPTIONS = ('bfloat16', 'float16', 'compile')
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


class Speed(NamedTuple):
    """One row: images per second and seconds a step (median), and the MB that a step takes.

    Memory is the peak above what was there before the step; on a CPU it is not known, and 0.
    """

    model: str
    setting: Setting
    images_per_second: float
    seconds: float
    memory: float


def measure(names: Sequence[str], settings: Sequence[Setting], *,
            makers: Optional[Mapping[str, Maker]] = None, device: str = 'cpu', rounds: int = 7,
            warmup: int = 2) -> List[Speed]:
    """Time backbones.

    Args:
        names: Names of ``makers``, each with any of :data:`OPTIONS` after a '+', such as
            ``vssd-tiny+bfloat16+compile``.
        settings: What is timed.
        makers: Makers of the backbones by name; None takes those of :func:`backbones`.
        device: A device of PyTorch.
        rounds: Steps of each backbone; the median counts.
        warmup: Steps before those.

    Returns:
        One row for each setting and name.

    Raises:
        ValueError: A name is unknown, or the number of rounds is none.
    """
    if rounds < 1:
        raise ValueError(f'--rounds: got {rounds}, expected a positive number')
    makers = backbones() if makers is None else makers
    for name in names:
        base, *options = name.split('+')
        if base not in makers or set(options) - set(OPTIONS):
            raise ValueError(f'backbone: unknown name {name!r}; known: {", ".join(makers)}, each '
                             f'with +{", +".join(OPTIONS)} after it')
    rows = []
    with Progress() as progress:
        task = progress.add_task('timing', total=len(settings) * (warmup + rounds) * len(names))
        for setting in settings:
            steps = {name: _make_step(makers, name, setting, device) for name in names}
            seconds = {name: [] for name in names}
            memory = dict.fromkeys(names, 0.)
            for turn in range(warmup + rounds):
                for name, step in steps.items():
                    elapsed, peak = _timed(step, device)
                    if turn >= warmup:
                        seconds[name].append(elapsed)
                        memory[name] = max(memory[name], peak)
                    progress.advance(task)
            for name in names:
                median = statistics.median(seconds[name])
                rows.append(Speed(name, setting, setting.batch / median, median, memory[name]))
    return rows


def _make_step(makers: Mapping[str, Maker], name: str, setting: Setting,
               device: str) -> Callable[[], None]:
    base, *options = name.split('+')
    torch.manual_seed(0)
    model = makers[base]().to(device)
    # MMPreTrain's backbones return nothing here, so no chaining
    model.train(setting.mode == 'train')
    images = torch.randn(setting.batch, 3, setting.size, setting.size, device=device)
    if 'compile' in options:
        # each setting is a size of its own; open sizes would be another, slower program
        model = torch.compile(model, dynamic=False)
    dtype = next((getattr(torch, option) for option in options if option != 'compile'), None)

    def infer() -> None:
        with torch.inference_mode(), _autocast(device, dtype):
            model(images)

    def train() -> None:
        with _autocast(device, dtype):
            outputs: Sequence[Tensor] = model(images)
        sum(y.float().mean() for y in outputs).backward()
        model.zero_grad(set_to_none=True)  # or it would count as the others' memory

    return infer if setting.mode == 'infer' else train


def _autocast(device: str, dtype) -> ContextManager:
    return torch.autocast(torch.device(device).type, dtype) if dtype else nullcontext()


def _timed(step: Callable[[], None], device: str) -> tuple:
    """Seconds and MB of one step; on a GPU until it has finished."""
    on_gpu = torch.device(device).type == 'cuda'
    before = 0
    if on_gpu:
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    step()
    if on_gpu:
        torch.cuda.synchronize(device)
    elapsed = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated(device) if on_gpu else 0
    return elapsed, (peak - before) / 1e6
