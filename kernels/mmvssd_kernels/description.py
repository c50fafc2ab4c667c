"""What the ops take and give: one description of each, in the op's own folder.

The benchmark, the comparison with the truth (:mod:`mmvssd_kernels.parity`), ``mmvssd.doctor`` and
the tests draw an op's arguments from it. Axes are letters: N images, H W the grid, L = H W tokens,
h heads of width P, G groups, S the state, K sequences of D channels, R the rank of step sizes.
"""
from typing import Callable, Dict, NamedTuple, Optional, Tuple

import torch
from torch import Tensor


class Input(NamedTuple):
    """A tensor that an op takes.

    Attributes:
        axes: Its axes.
        limits: What its numbers are drawn between, evenly; without limits they are normal.
        widened: Whether models compute it in float32 from half tokens, as softplus does.
    """

    axes: str
    limits: Optional[Tuple[float, float]] = None
    widened: bool = False

    def draw(self, sizes: Dict[str, int], random: torch.Generator, dtype: torch.dtype) -> Tensor:
        """Draw such a tensor on the generator's device."""
        t = torch.empty(shape(self.axes, sizes), dtype=dtype, device=random.device)
        if self.limits is None:
            return t.normal_(generator=random)
        return t.uniform_(*self.limits, generator=random)

    @property
    def is_wide(self) -> bool:
        """Whether it is float32 beside half tokens: a parameter, or widened."""
        return self.widened or len(self.axes.split()) <= 2


class Description(NamedTuple):
    """An op's arguments and result.

    Attributes:
        op: The op's name.
        inputs: Its float tensors by name, in the order of its arguments.
        output: Axes of its result.
        sizes: Sizes of a small example; those that follow from others are left out.
        mask: Axes of the argument ``mask``; None if the op takes none.
        widens: Whether the result is float32 if inputs are narrower.
        linear: Whether the gradient reads none of the inputs.
        options: Gives the arguments without a default that are no tensors, from the sizes.
    """

    op: str
    inputs: Dict[str, Input]
    output: str
    sizes: Dict[str, int]
    mask: Optional[str] = None
    widens: bool = False
    linear: bool = False
    options: Callable[[Dict[str, int]], dict] = lambda sizes: {}

    def tensors(self, seed: int = 0, **sizes: int) -> Dict[str, Tensor]:
        """Draw the inputs of an example in float64; ``sizes`` replace some of the example's."""
        random = torch.Generator().manual_seed(seed)
        whole = self.whole_sizes(**sizes)
        return {name: one.draw(whole, random, torch.float64) for name, one in self.inputs.items()}

    def whole_sizes(self, **sizes: int) -> Dict[str, int]:
        """Return the example's sizes, with ``sizes`` in the place of some, and what follows."""
        sizes = {**self.sizes, **sizes}
        if 'H' in sizes:
            sizes['L'] = sizes['H'] * sizes['W']
        if 'K' in sizes:
            sizes['KD'] = sizes['K'] * sizes['D']
        return sizes


_descriptions: Dict[str, Description] = {}


def describe(description: Description) -> Description:
    """File a description under its op's name, which makes the op known; return it."""
    _descriptions[description.op] = description
    return description


def description_of(op: str) -> Description:
    """Return the description of an op of :func:`ops`."""
    return _descriptions[op]


def ops() -> Tuple[str, ...]:
    """Return the names of all ops."""
    return tuple(_descriptions)


def shape(axes: str, sizes: Dict[str, int]) -> Tuple[int, ...]:
    """Return the sizes of axes that are given by their letters."""
    return tuple(sizes[axis] for axis in axes.split())
