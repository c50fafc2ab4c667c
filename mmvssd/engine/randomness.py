"""Random numbers that depend on what they are for, not on what was drawn before."""
import random
from contextlib import contextmanager
from typing import Iterator, Optional

import numpy as np
import torch


def seed_cpu(*numbers: int) -> int:
    """Seed Python, NumPy and PyTorch's CPU generator from non-negative integers.

    Returns:
        The seed that they were given. The other devices' generators are left as they are: a
        data set draws nothing there, and PyTorch takes a hundred times as long to tell them.
    """
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    return seed


def seed_step(seed: int, rank: int, iteration: int) -> None:
    """Seed the random numbers that a training step draws in its process, on every device."""
    torch.manual_seed(seed_cpu(seed, rank, iteration))


class RandomState:
    """The state of every generator that a training step draws from, when this is made.

    Args:
        cpu_only: Leave out a GPU's generator, which has to be waited for.
    """

    def __init__(self, *, cpu_only: bool = False):
        self._states = (random.getstate(), np.random.get_state(), torch.get_rng_state())
        has_gpu = torch.cuda.is_initialized() and not cpu_only
        self._cuda = torch.cuda.get_rng_state() if has_gpu else None

    def restore(self) -> None:
        """Go back to it."""
        for put_back, state in zip((random.setstate, np.random.set_state, torch.set_rng_state),
                                   self._states):
            put_back(state)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda)

    @contextmanager
    def repeated(self) -> Iterator[None]:
        """Draw the same numbers once more; afterwards go on as if nothing had been drawn."""
        now = RandomState()
        self.restore()
        try:
            yield
        finally:
            now.restore()


class RandomStream:
    """Random numbers of Python, NumPy and PyTorch's CPU, apart from what all else draws.

    Args:
        seed: Non-negative integers that the numbers depend on.
    """

    def __init__(self, *seed: int):
        self._seed = seed
        self._state: Optional[RandomState] = None

    @contextmanager
    def drawn_from(self) -> Iterator[None]:
        """Draw this stream's next numbers; afterwards go on as if nothing had been drawn."""
        now = RandomState(cpu_only=True)
        if self._state is None:
            seed_cpu(*self._seed)
        else:
            self._state.restore()
        try:
            yield
        finally:
            self._state = RandomState(cpu_only=True)
            now.restore()
