"""Predictions of many images: read ahead in threads, run in batches, given out as they are done."""
import os
import queue
from collections import deque
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import (
    Any,
    Callable,
    Deque,
    Generator,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Tuple,
)

import torch

from mmvssd.cli.inputs import Input

#: Threads that are used if nothing else is asked for, at most; each holds an image and its maps.
MOST_WORKERS = 4
#: Pixels of a batch up to which models run side by side, for the memory of their features.
SIDE_BY_SIDE = 2**22


class Outcome(NamedTuple):
    """What became of an image: a prediction, or the error in its place."""

    item: Input
    sample: Any
    error: Optional[Exception] = None


def default_workers() -> int:
    """Return how many threads are used if nothing else is asked for: one a core, at most 4."""
    return min(MOST_WORKERS, len(os.sched_getaffinity(0)))


class _Inline(Executor):
    """Runs a task as it is submitted, in the same thread."""

    def submit(self, task: Callable, /, *arguments, **options) -> Future:
        future: Future = Future()
        try:
            future.set_result(task(*arguments, **options))
        except Exception as error:
            future.set_exception(error)
        return future


def outcomes(inferencer, inputs: Iterable[Input], check: Callable[[Input], None], *,
             batch_size: int = 1, workers: int = 0) -> Generator[Outcome, None, None]:
    """Predict on images; all that one of them raises is its own outcome.

    Threads read and prepare images ahead: one each, beside the next batch or two. The oldest image
    runs with those that have its shape when prepared. If a batch fails, its images run one by one.
    On a CPU several batches run side by side, each with its share of PyTorch's threads: small
    models use cores better so. Outcomes come in the order of the batches, so with one image a batch
    in that of the inputs.

    Args:
        inferencer: An ``Inferencer`` or a ``FileInferencer``.
        inputs: The images.
        check: Raises what is wrong with an image before it is read; it runs in this thread.
        batch_size: Images that run together, at most.
        workers: Threads that read, and that predict on a CPU; with 0 nothing is done before it is
            asked for.
    """
    source, running = iter(inputs), deque()
    window = workers + (batch_size if batch_size == 1 else 2 * batch_size)
    ahead: Deque[Tuple[Input, Future]] = deque()
    with _threads(inferencer, workers) as threads:
        while True:
            while len(ahead) < window and (item := next(source, None)) is not None:
                ahead.append((item, threads.prepare(item, check)))
            if ahead and len(running) < threads.models:
                batch, prepared, failed = _batch(ahead, inferencer.shape, batch_size)
                if failed:
                    running.append(_done([failed]))
                elif threads.models == 1 or _pixels(prepared, inferencer.shape) <= SIDE_BY_SIDE:
                    running.append(threads.forward(batch, prepared))
                else:
                    while running:
                        yield from running.popleft().result()
                    yield from threads.alone(batch, prepared)
            elif running:
                yield from running.popleft().result()
            else:
                return


def _batch(ahead: Deque[Tuple[Input, Future]], shape: Callable, batch_size: int
           ) -> Tuple[List[Input], list, Optional[Outcome]]:
    """Take the oldest image and those of its shape; or its outcome if it cannot be prepared."""
    item, future = ahead.popleft()
    error = future.exception()
    if isinstance(error, Exception):
        return [], [], Outcome(item, None, error)
    batch, prepared = [item], [future.result()]
    wanted = shape(prepared[0])
    for other in list(ahead) if wanted is not None and batch_size > 1 else ():
        if len(batch) == batch_size:
            break
        if other[1].exception() is None and shape(other[1].result()) == wanted:
            ahead.remove(other)
            batch.append(other[0])
            prepared.append(other[1].result())
    return batch, prepared, None


def _pixels(prepared: list, shape: Callable) -> int:
    height, width = (shape(prepared[0]) or (1, 1))[-2:]
    return len(prepared) * height * width


def _done(result: List[Outcome]) -> Future:
    future = Future()
    future.set_result(result)
    return future


def _forward(inferencer, batch: List[Input], prepared: list) -> List[Outcome]:
    try:
        samples = inferencer.forward(prepared)
        return [Outcome(*pair) for pair in zip(batch, samples, strict=True)]
    except Exception as error:
        if len(batch) == 1:
            return [Outcome(batch[0], None, error)]
    return [_forward(inferencer, [item], [one])[0] for item, one in zip(batch, prepared)]


class _Threads(NamedTuple):
    """Those that prepare images, and those that run models.

    Attributes:
        inferencer: That of this thread.
        free: The inferencers that no thread is using.
        models: How many of them there are.
        cores: PyTorch's threads, which the models share.
    """

    inferencer: Any
    readers: Executor
    runners: Executor
    free: queue.SimpleQueue
    models: int
    cores: int

    def prepare(self, item: Input, check: Callable[[Input], None]) -> Future:
        """Check an image here, and read it in a thread."""
        try:
            check(item)
        except Exception as error:
            future = Future()
            future.set_exception(error)
            return future
        return self.readers.submit(self.inferencer.prepare, item.image)

    def forward(self, batch: List[Input], prepared: list) -> Future:
        """Run a model in a thread."""
        return self.runners.submit(self._run, batch, prepared)

    def _run(self, batch: List[Input], prepared: list) -> List[Outcome]:
        inferencer = self.free.get()
        try:
            return _forward(inferencer, batch, prepared)
        finally:
            self.free.put(inferencer)

    def alone(self, batch: List[Input], prepared: list) -> List[Outcome]:
        """Run a model here, while no other runs, with all of PyTorch's threads."""
        torch.set_num_threads(self.cores)
        try:
            return _forward(self.inferencer, batch, prepared)
        finally:
            torch.set_num_threads(max(1, self.cores // self.models))


@contextmanager
def _threads(inferencer, workers: int) -> Iterator[_Threads]:
    cores, free = torch.get_num_threads(), queue.SimpleQueue()
    models = max(1, min(workers, cores)) if inferencer.side_by_side else 1
    for _ in range(models):
        free.put(inferencer.beside() if models > 1 else inferencer)
    if workers == 0:
        yield _Threads(inferencer, _Inline(), _Inline(), free, models, cores)
        return
    readers = ThreadPoolExecutor(workers, 'reading')
    runners = ThreadPoolExecutor(models, 'predicting', torch.set_num_threads,
                                 (max(1, cores // models), ))
    try:
        yield _Threads(inferencer, readers, runners, free, models, cores)
    finally:
        for pool in (readers, runners):
            pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)
