"""Speed and memory of classifiers by the procedure of VMamba's published numbers.

It is that of the code behind Tables 1 and 4 of arXiv 2401.10166. One batch lies on the device and
is used again and again. After steps to warm up comes the wall time of a number of steps, until the
device has finished. Images per second are all images over that time. A step of inference is a
forward pass in float32. A step of training is forward, cross-entropy and backward, under autocast
if asked for; there is no optimizer, and gradients add up.
:func:`mmvssd.analysis.throughput.measure` compares backbones in turns instead.
"""
import gc
import time
from contextlib import contextmanager, nullcontext
from typing import Callable, ContextManager, Iterator, NamedTuple, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmvssd.analysis.throughput import MODES

AMP = ('float16', 'bfloat16')
MIB = 2**20


class Speed(NamedTuple):
    """What a number of steps took.

    Attributes:
        images_per_second: All images over the wall time.
        peak_mib: Most memory that PyTorch had given out during the steps, weights included, in MiB;
            None on a CPU.
        batch: Images of a step.
    """

    images_per_second: float
    peak_mib: Optional[float]
    batch: int


def random_batch(batch: int, shape: Tuple[int, int], classes: int, seed: int,
                 device: str) -> Tuple[Tensor, Tensor]:
    """Draw images and labels; what images show costs nothing.

    Args:
        batch: Number of images, N.
        shape: Their height and width, H and W.
        classes: Number of classes.
        seed: Of both.
        device: A device of PyTorch.

    Returns:
        Normal noise (N, 3, H, W) float32, and uniform labels (N,) int64.
    """
    generator = torch.Generator(device).manual_seed(seed)
    images = torch.randn(batch, 3, *shape, generator=generator, device=device)
    return images, torch.randint(classes, (batch, ), generator=generator, device=device)


def measure(model: nn.Module, images: Tensor, labels: Tensor, mode: str, warmup: int = 50,
            steps: int = 30, amp: Optional[str] = None) -> Speed:
    """Time a classifier by the published procedure.

    Args:
        model: (N, 3, H, W) -> (N, classes); it keeps the mode that it was timed in, and in
            training the gradients.
        images: (N, 3, H, W) float32, on the model's device.
        labels: (N,) int64.
        mode: 'infer' or 'train'.
        warmup: Steps before those that count.
        steps: Steps that count.
        amp: Type of autocast in training, one of :data:`AMP`; None trains in float32. Inference
            is always in float32.

    Raises:
        ValueError: The mode, the type or a number is none of these.
    """
    if mode not in MODES or amp not in (None, *AMP) or warmup < 0 or steps < 1:
        raise ValueError(f'got mode {mode!r}, amp {amp!r}, warmup {warmup}, steps {steps}; '
                         f'expected {" or ".join(MODES)}, {" or ".join(AMP)} or None, not '
                         'negative, positive')
    step = (_inference if mode == 'infer' else _training)(model, images, labels, amp)
    device = images.device
    model.train(mode == 'train')
    with _published_cudnn():
        for _ in range(warmup):
            step()
        _synchronize(device)
        _reset_peak(device)
        start = time.perf_counter()
        for _ in range(steps):
            step()
        _synchronize(device)
        seconds = time.perf_counter() - start
    peak = _peak(device)
    return Speed(steps * len(images) / seconds, None if peak is None else peak / MIB, len(images))


def measure_or_halve(model: nn.Module, draw: Callable[[int], Tuple[Tensor, Tensor]], batch: int,
                     mode: str, *, halve: bool = False, **settings) -> Optional[Speed]:
    """Time a classifier, and give the device's memory free again.

    Args:
        model: As :func:`measure` has it.
        draw: From a number of images to images and labels.
        batch: Number of images to begin with.
        mode: As :func:`measure` has it.
        halve: Take half the images, and half of these, if memory does not suffice.
        settings: Of :func:`measure`.

    Returns:
        None if memory does not suffice.
    """
    while batch:
        try:
            return measure(model, *draw(batch), mode, **settings)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        finally:
            release(model)
        batch = batch // 2 if halve else 0
    return None


def out_of_memory(error: Exception) -> bool:
    """Tell if an error is about memory that a device or the machine does not have."""
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or any(
        text in str(error) for text in ('out of memory', "can't allocate memory",
                                        'CUDNN_STATUS_ALLOC_FAILED', 'CUBLAS_STATUS_ALLOC_FAILED'))


def release(model: nn.Module) -> None:
    """Drop a model's gradients, and give free what nothing refers to."""
    model.zero_grad(set_to_none=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _inference(model: nn.Module, images: Tensor, labels: Tensor,
               amp: Optional[str]) -> Callable[[], None]:

    def step() -> None:
        with torch.no_grad():
            model(images)

    return step


def _training(model: nn.Module, images: Tensor, labels: Tensor,
              amp: Optional[str]) -> Callable[[], None]:

    def step() -> None:
        with _autocast(images.device, amp):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()

    return step


def _autocast(device: torch.device, amp: Optional[str]) -> ContextManager:
    return torch.autocast(device.type, getattr(torch, amp)) if amp else nullcontext()


@contextmanager
def _published_cudnn() -> Iterator[None]:
    """Let cuDNN choose among its deterministic algorithms by their speed, as published."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    cudnn.benchmark = cudnn.deterministic = True
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before


def _synchronize(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> Optional[int]:
    """Return the most bytes that were given out; None if that is not known."""
    return torch.cuda.max_memory_allocated(device) if device.type == 'cuda' else None
