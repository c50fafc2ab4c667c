"""Launches of the kernels that ``selective_scan`` and ``selective_scan_2d`` share.

A chunk of tokens for each program: chunks run from zero for their last state alone, these are
carried from chunk to chunk, and then each chunk runs for its outputs from the state before it.
Backward does the same in the other direction, with the states that forward keeps.
"""
from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from mmvssd_kernels import triton_support
from mmvssd_kernels.numerics import sum_dtype

#: Largest state size, and rank of step sizes: sums over channels are tiles of that width.
LARGEST_STATE = 64
LARGEST_RANK = 64
#: Up to this size of a state, tiles are short and wide.
SMALL_STATE = 4
#: The capability from which tensor cores multiply numbers of a dtype as they are, exactly.
_EXACT = {torch.float16: (7, 5), torch.bfloat16: (8, 0)}
#: Programs that keep a large GPU busy: more of them would only add partial sums.
PROGRAMS = 512


class Axis(NamedTuple):
    """Sequences that run along one axis of a grid, the ``count`` numbers first, first + step, ...

    With two directions as many again follow, which run from the end.
    """

    transposed: bool
    first: int
    step: int
    count: int
    directions: int


class Tiles(NamedTuple):
    """Tokens and channels of a tile, and the padded rank (0: step sizes are given)."""

    BL: int
    BD: int
    BR: int

    def warps(self, numbers: int) -> int:
        """Warps of which each thread has that many numbers of a tile."""
        return max(1, self.BL * self.BD // (32 * numbers))


class Inputs(NamedTuple):
    """Inputs of K sequences, as views of any strides.

    Attributes:
        u: (N, G, rows, columns, D), with G = K where each sequence has its own input, else 1.
        dt: Low-rank step sizes (N, K, rows, columns, R), or without ``weight`` step sizes, D wide.
        weight: (K, D, R), or None.
        A: (K*D, S).
        B: (N, K, rows, columns, S).
        C: The same.
        D: (K*D,).
        bias: (K*D,).
        mask: (N, rows, columns), or None.
    """

    u: Tensor
    dt: Tensor
    weight: Optional[Tensor]
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    bias: Tensor
    mask: Optional[Tensor]


class Sums(NamedTuple):
    """Gradients of parameters: bias (K, 1, D), D (K, 1, D), A (K, S, D), weight (K, R, D)."""

    bias: Tensor
    D: Tensor
    A: Tensor
    weight: Tensor

    def copy_to(self, dA: Tensor, dD: Tensor, dbias: Tensor) -> None:
        """Store all but the weight's as the parameters are, (K*D, S), (K*D,) and (K*D,)."""
        dA.copy_(self.A.mT.flatten(0, 1))
        dD.copy_(self.D.flatten())
        dbias.copy_(self.bias.flatten())


class Parts(NamedTuple):
    """A gradient as partial sums ``whole`` (splits, ...), and the first in the inputs' layout."""

    whole: Tensor
    view: Tensor

    def sum(self) -> Tensor:
        """The gradient."""
        return self.whole[0] if len(self.whole) == 1 else self.whole.sum(0)


def obstacle(S: int, R: int = 0) -> Optional[str]:
    """Why the kernels cannot run with this state size and rank; None if they can."""
    if S > LARGEST_STATE:
        return f'the state size is {S}, and the kernels take at most {LARGEST_STATE}'
    if R > LARGEST_RANK:
        return f'step sizes have rank {R}, and the kernels take at most {LARGEST_RANK}'
    return None


def chunk_length(L: int, S: int) -> int:
    """Tokens of a chunk."""
    if L <= 16:
        return 16
    # with a large state longer ones, so that states before chunks stay few
    return 64 if L <= 64 or S <= SMALL_STATE else 128


def chunks(L: int, S: int) -> int:
    """Chunks of a sequence."""
    BL = chunk_length(L, S)
    return (L + BL - 1) // BL


def _tiles(L: int, S: int, R: Optional[int]) -> Tiles:
    return Tiles(chunk_length(L, S), 32 if S <= SMALL_STATE else 16,
                 0 if R is None else max(16, triton_support.power_of_two(R)))


class Scan:
    """The launches for one set of inputs, none of them empty.

    Args:
        inputs: The inputs.
        axes: The axes along which sequences run.
        forward: Number of the first sequence that runs from the end; K where none does.
        softplus: Whether softplus makes the step sizes positive.
    """

    def __init__(self, inputs: Inputs, axes: Sequence[Axis], forward: int, softplus: bool) -> None:
        self.inputs, self.axes, self.forward = inputs, axes, forward
        self.N, self.G, rows, columns, self.D = inputs.u.shape
        self.L = rows * columns
        self.K, self.S = inputs.B.shape[1], inputs.A.shape[1]
        self.R = None if inputs.weight is None else inputs.weight.shape[2]
        self.dtype = sum_dtype(inputs.u.dtype)
        self.tiles = _tiles(self.L, self.S, self.R)
        self.chunks = chunks(self.L, self.S)
        self.blocks = -(-self.D // self.tiles.BD)
        self.kernels = triton_support.kernels('selective_scan')
        self._flags = dict(SOFTPLUS=softplus, MASKED=inputs.mask is not None,
                           ACC=triton_support.language(self.dtype), **self.tiles._asdict())
        programs = self.chunks * self.N * self.G
        # channels are shared out where tokens give too few programs, and images are taken one
        # after the other where they give too many
        self.splits = min(self.blocks, -(-PROGRAMS // programs))
        self.images = min(self.N, max(1, programs // PROGRAMS))

    def outputs(self, y: Tensor, states: Tensor) -> None:
        """Write the outputs to y (N, G, rows, columns, D), and states (K, N, chunks, S, D).

        The states are those before each chunk.
        """
        self._carry(self.inputs.u, self.inputs.B, states, backward=False)
        for i, axis in enumerate(self.axes):
            inputs = _turned(self.inputs, axis)
            self.kernels.outputs[self._programs()](
                *self._pointers(inputs, inputs.B, inputs.C, inputs.D),
                _pointer(inputs.mask, states),
                states, y, *self._sizes(inputs.u), *axis[1:4], *self._strides(inputs, inputs.u),
                *inputs.D.stride(), *inputs.B.stride(), *inputs.C.stride(),
                *_mask_strides(inputs.mask), *_turn(y, axis).stride(), ADD=i > 0,
                DIRECTIONS=axis.directions, **self._flags, **self._products(),
                num_warps=self.tiles.warps(16), num_stages=1)

    def parts(self, t: Tensor, view: Callable[[Tensor], Tensor]) -> Parts:
        """Memory for a gradient like t; ``view`` brings such a tensor to the layout of inputs."""
        whole = t.new_empty(self.splits, *t.shape, dtype=self.dtype)
        return Parts(whole, view(whole[0]))

    def gradients(self, dy: Tensor, states: Tensor, du: Tensor, ddt: Parts, dB: Parts,
                  dC: Parts) -> Sums:
        """Write gradients of all that has a place, and return those of parameters.

        Args:
            dy: Gradient (N, G, rows, columns, D) of the outputs.
            states: What :meth:`outputs` wrote there.
            du: Takes the gradient of u, in the layout of the inputs.
            ddt: Takes that of dt.
            dB: Takes that of B.
            dC: Takes that of C.
        """
        dstates = torch.empty_like(states)
        self._carry(dy, self.inputs.C, dstates, backward=True)
        R = self.R or 0
        slots = self.chunks * -(-self.N // self.images)
        sums = states.new_empty(slots, self.K, 2 + self.S + R, self.D)
        grid = (self.splits * slots * self.G, )
        for i, axis in enumerate(self.axes):
            inputs = _turned(self.inputs, axis)
            views = [_turn(t, axis).stride() for t in (dy, du, ddt.view, dB.view)]
            self.kernels.gradients[grid](
                *self._pointers(inputs, inputs.B, inputs.C, inputs.D),
                _pointer(inputs.mask, states),
                states, dstates, dy, du, ddt.whole, dB.whole, dC.whole, sums,
                *self._sizes(inputs.u), self.splits, self.images, *axis[1:4], int(i > 0),
                *self._strides(inputs, inputs.u), *inputs.D.stride(), *inputs.B.stride(),
                *inputs.C.stride(), *_mask_strides(inputs.mask), *views[0], *views[1], *views[2],
                ddt.whole.stride(0), *views[3], dB.whole.stride(0), DIRECTIONS=axis.directions,
                BS=triton_support.power_of_two(self.S), **self._flags,
                **self._products(gradients=True),
                num_warps=self.tiles.warps(8), num_stages=1)
        return Sums(*sums.sum(0).split_with_sizes([1, 1, self.S, R], dim=1))

    def _carry(self, u: Tensor, B: Tensor, states: Tensor, backward: bool) -> None:
        """Write states before each chunk, or gradients of those after it."""
        if self.chunks == 1:
            states.zero_()
            return
        ends, totals = torch.empty_like(states), states.new_empty(*states.shape[:3], self.D)
        for axis in self.axes:
            inputs = _turned(self.inputs, axis)
            turned = _turn(u, axis)
            pointers = self._pointers(inputs, B)
            self.kernels.chunk_ends[self._programs()](
                u, *pointers[1:], _pointer(inputs.mask, u), totals, ends, *self._sizes(turned),
                *axis[1:4], *self._strides(inputs, turned), *_turn(B, axis).stride(),
                *_mask_strides(inputs.mask), BACKWARD=backward, DIRECTIONS=axis.directions,
                **self._flags, **self._products(), num_warps=self.tiles.warps(16), num_stages=1)
        BC, BE = 16, 64
        blocks = -(-self.S * self.D // BE)
        self.kernels.carry[(blocks * self.K * self.N, )](
            totals, ends, inputs.A, states, self.D, self.S, self.N, self.chunks, blocks,
            self.forward, *inputs.A.stride(), BACKWARD=backward, BC=BC, BE=BE,
            ACC=self._flags['ACC'], num_warps=4, num_stages=1)

    def _programs(self) -> Tuple[int]:
        return (self.blocks * self.chunks * self.N * self.G, )

    def _pointers(self, inputs: Inputs, *projections: Tensor) -> List[Tensor]:
        weight = inputs.A if inputs.weight is None else inputs.weight
        return [inputs.u, inputs.dt, weight, inputs.bias, inputs.A, *projections]

    def _sizes(self, u: Tensor) -> Tuple[int, ...]:
        return (self.L, u.shape[3], self.D, self.S, self.R or 0, self.N, self.K, self.chunks,
                self.blocks)

    def _strides(self, inputs: Inputs, u: Tensor) -> Tuple[int, ...]:
        weight = (0, 0, 0) if inputs.weight is None else inputs.weight.stride()
        return (*u.stride(), *inputs.dt.stride(), *weight, *inputs.bias.stride(),
                *inputs.A.stride())

    def _products(self, gradients: bool = False) -> dict:
        """How step sizes are widened, and with ``gradients`` their gradients multiplied."""
        device, dtype = self.inputs.u.device, self.dtype
        if self.R is not None and dtype != torch.float64:
            dtype = torch.promote_types(self.inputs.dt.dtype, self.inputs.weight.dtype)
            dtype = dtype if dtype in _EXACT else torch.float32
        factors = dtype, 'ieee'
        if dtype not in _EXACT or triton_support.capability(device) < _EXACT[dtype]:
            factors = triton_support.products(dtype, device)
        found = _named('', *factors)
        if gradients:
            found.update(_named('GRAD_', *triton_support.products(dtype, device)))
        return found


def _named(prefix: str, dtype: torch.dtype, precision: str) -> dict:
    return {f'{prefix}DTYPE': triton_support.language(dtype), f'{prefix}PRECISION': precision}


def _turned(inputs: Inputs, axis: Axis) -> Inputs:
    """The inputs as the axis runs through them: all that has a place, by columns."""
    mask = inputs.mask
    if axis.transposed and mask is not None:
        mask = mask.transpose(1, 2)
    return inputs._replace(mask=mask, **{name: _turn(getattr(inputs, name), axis)
                                         for name in ('u', 'dt', 'B', 'C')})


def _turn(t: Tensor, axis: Axis) -> Tensor:
    return t.transpose(2, 3) if axis.transposed else t


def _pointer(mask: Optional[Tensor], other: Tensor) -> Tensor:
    return other if mask is None else mask


def _mask_strides(mask: Optional[Tensor]) -> Tuple[int, ...]:
    return (0, 0, 0) if mask is None else mask.stride()
