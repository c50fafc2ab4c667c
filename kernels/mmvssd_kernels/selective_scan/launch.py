"""Launch the kernels that ``selective_scan`` and ``selective_scan_2d`` share.

A program takes a chunk of a sequence. If there are several, each runs from zero for its last
state first. These states are carried from chunk to chunk. Backward does the same in the other
direction, with the states that forward keeps.
"""
from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from mmvssd_kernels import triton_support
from mmvssd_kernels.numerics import sum_dtype

#: Largest state size, and rank of step sizes: sums over channels are tiles of that width.
LARGEST_STATE = 64
LARGEST_RANK = 64
#: Tokens of a tile: the fewest that tensor cores multiply.
BL = 16
#: Channels of a tile, one for each thread: forward takes the narrow one, backward the wide one.
WIDE, NARROW = 64, 32
#: The capability from which tensor cores multiply numbers of a dtype as they are, exactly.
_EXACT = {torch.float16: (7, 5), torch.bfloat16: (8, 0)}
#: Programs that keep a large GPU busy. If images and channels give fewer, sequences are cut into
#: chunks, which costs a pass more; if they give more, backward takes images one after the other.
PROGRAMS, BACKWARD_PROGRAMS = 768, 1536
#: Tiles of a chunk at least.
CHUNK = 4


class Axis(NamedTuple):
    """Sequences that run along one axis of a grid, the ``count`` numbers first, first + step, ...

    With two directions as many again follow, which run from the end.
    """

    transposed: bool
    first: int
    step: int
    count: int  # type: ignore[assignment]  # it hides that of tuples
    directions: int


class Grid(NamedTuple):
    """A grid as an axis runs through it: lines of W tokens, and tiles of a line."""

    lines: int
    W: int
    per_line: int

    @property
    def tiles(self) -> int:
        """Return the number of all tiles."""
        return self.lines * self.per_line


class Inputs(NamedTuple):
    """Inputs of K sequences, as views of any strides.

    Attributes:
        u: (N, G, rows, columns, D), with G = K if each sequence has its own input, else 1.
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
        for t, total in ((dA, self.A.mT), (dD, self.D[:, 0]), (dbias, self.bias[:, 0])):
            t.unflatten(0, total.shape[:2]).copy_(total)


class Parts(NamedTuple):
    """A gradient as partial sums ``whole`` (splits, ...), and the first in the inputs' layout."""

    whole: Tensor
    view: Tensor

    def sum(self) -> Tensor:
        """Return the gradient."""
        return self.whole[0] if len(self.whole) == 1 else self.whole.sum(0)


def obstacle(S: int, R: int = 0) -> Optional[str]:
    """Say why the kernels cannot run with this state size and rank; None if they can."""
    if S > LARGEST_STATE:
        return f'the state size is {S}, and the kernels take at most {LARGEST_STATE}'
    if R > LARGEST_RANK:
        return f'step sizes have rank {R}, and the kernels take at most {LARGEST_RANK}'
    return None


def tiles(rows: int, columns: int) -> int:
    """Return the most tiles that a grid has, whichever axis sequences run along."""
    if 1 in (rows, columns):
        return _tiles_of(rows * columns)
    # a plain max would tie a traced program to the larger side
    return torch.sym_max(rows * _tiles_of(columns), columns * _tiles_of(rows))


def _tiles_of(W: int) -> int:
    return (W + BL - 1) // BL


class Scan:
    """The launches for one set of inputs, none of them empty.

    Args:
        inputs: The inputs.
        axes: The axes along which sequences run.
        forward: Number of the first sequence that runs from the end; K if none does.
        softplus: Whether softplus makes the step sizes positive.
    """

    def __init__(self, inputs: Inputs, axes: Sequence[Axis], forward: int, softplus: bool) -> None:
        mask = inputs.mask
        if mask is not None:
            mask = triton_support.load_mask(mask)
        self.inputs = inputs._replace(
            mask=mask, **{name: _one_line(getattr(inputs, name)) for name in ('u', 'dt', 'B', 'C')})
        inputs, self.axes, self.forward = self.inputs, axes, forward
        self.N, self.G, rows, columns, self.D = inputs.u.shape
        self.K, self.S = inputs.B.shape[1], inputs.A.shape[1]
        self.R = 0 if inputs.weight is None else inputs.weight.shape[2]
        self.dtype = sum_dtype(inputs.u.dtype)
        self.most_tiles = tiles(rows, columns)
        self.kernels = triton_support.kernels('selective_scan')
        self._flags = dict(
            D=self.D, S=self.S, R=self.R, SOFTPLUS=softplus, MASKED=inputs.mask is not None,
            ACC=triton_support.language(self.dtype), BL=BL,
            BR=0 if inputs.weight is None else max(16, triton_support.power_of_two(self.R)))

    def outputs(self, y: Tensor, states: Tensor) -> None:
        """Write the outputs to y (N, G, rows, columns, D), and states (K, N, tiles, S, D).

        The states are those before each tile.
        """
        images = self.N * self.G
        width = dict(BD=NARROW, num_warps=1)
        blocks = -(-self.D // NARROW)
        chunks = self._chunks(images * blocks, PROGRAMS)
        carry = self._carry(self.inputs.u, self.inputs.B, states, chunks, width, backward=False)
        for i, axis in enumerate(self.axes):
            inputs, (out, ), grid, near = _turned(self.inputs, axis, y)
            self.kernels.outputs[(blocks * chunks * images, )](
                *self._pointers(inputs, inputs.B, inputs.C, inputs.D), _pointer(inputs.mask, y),
                carry, states, y, self.N, chunks, self.most_tiles, axis.first, axis.step,
                *grid, -(-grid.tiles // chunks), *self._strides(inputs, inputs.u),
                *inputs.D.stride(), *inputs.B.stride(), *inputs.C.stride(),
                *_mask_strides(inputs.mask), *out.stride(),
                **near(U=inputs.u, T=inputs.dt, B=inputs.B, C=inputs.C, M=inputs.mask, Y=out),
                COUNT=axis.count, DIRECTIONS=axis.directions,
                ADD=int(i > 0), **self._flags, **self._products(), **width, num_stages=1)

    def parts(self, t: Tensor, view: Callable[[Tensor], Tensor]) -> Parts:
        """Allocate a gradient like t; ``view`` brings such a tensor to the layout of inputs."""
        whole = t.new_empty(-(-self.D // WIDE), *t.shape, dtype=self.dtype)
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
        dy = _one_line(dy)
        width = dict(BD=WIDE, num_warps=2)
        blocks = -(-self.D // WIDE)
        programs = self.N * self.G * blocks
        chunks = self._chunks(programs, BACKWARD_PROGRAMS)
        images = min(self.N, max(1, programs * chunks // (4 * BACKWARD_PROGRAMS)))
        carry = self._carry(dy, self.inputs.C, states, chunks, width, backward=True)
        slots = chunks * -(-self.N // images)
        sums = states.new_empty(slots, self.K, 2 + self.S + self.R, self.D)
        for i, axis in enumerate(self.axes):
            inputs, out, grid, near = _turned(self.inputs, axis, dy, du, ddt.view, dB.view)
            known = near(U=inputs.u, T=inputs.dt, B=inputs.B, C=inputs.C, M=inputs.mask,
                         Y=out[0], X=out[1], Q=out[2], P=out[3])
            self.kernels.gradients[(blocks * slots * self.G, )](
                *self._pointers(inputs, inputs.B, inputs.C, inputs.D), _pointer(inputs.mask, dy),
                states, carry, dy, du, ddt.whole, dB.whole, dC.whole, sums, self.N, self.K, chunks,
                self.most_tiles, images, axis.first, axis.step, *grid, -(-grid.tiles // chunks),
                int(i > 0), *self._strides(inputs, inputs.u), *inputs.D.stride(),
                *inputs.B.stride(), *inputs.C.stride(), *_mask_strides(inputs.mask),
                *out[0].stride(), *out[1].stride(), *out[2].stride(), ddt.whole.stride(0),
                *out[3].stride(), dB.whole.stride(0), **known, COUNT=axis.count,
                DIRECTIONS=axis.directions,
                **self._flags, **self._products(gradients=True), **width, num_stages=1)
        return Sums(*sums.sum(0).split_with_sizes([1, 1, self.S, self.R], dim=1))

    def _chunks(self, programs: int, wanted: int) -> int:
        """Return in how many chunks sequences are cut."""
        return max(1, min(-(-wanted // programs), self.most_tiles // CHUNK))

    def _carry(self, u: Tensor, B: Tensor, states: Tensor, chunks: int, width: dict,
               backward: bool) -> Tensor:
        """Return states before each chunk (K, N, chunks, S, D), or gradients of those after it."""
        shape = (self.K, self.N, chunks, self.S, self.D)
        if chunks == 1:
            return states.new_zeros(shape)
        carry, ends, totals = (states.new_empty(shape), states.new_empty(shape),
                               states.new_empty(*shape[:3], self.D))
        programs = self.N * self.G * chunks * -(-self.D // width['BD'])
        for axis in self.axes:
            inputs, (turned, projection), grid, near = _turned(self.inputs, axis, u, B)
            self.kernels.chunk_ends[(programs, )](
                turned, *self._pointers(inputs, projection)[1:], _pointer(inputs.mask, u), totals,
                ends, self.N, chunks, axis.first, axis.step, *grid,
                -(-grid.tiles // chunks), *self._strides(inputs, turned),
                *projection.stride(), *_mask_strides(inputs.mask),
                **near(U=turned, T=inputs.dt, B=projection, M=inputs.mask), COUNT=axis.count,
                DIRECTIONS=axis.directions, BACKWARD=backward, **self._flags,
                **self._products(), **width, num_stages=1)
        BC, BE = 16, 64
        blocks = -(-self.S * self.D // BE)
        self.kernels.carry[(blocks * self.K * self.N, )](
            totals, ends, self.inputs.A, carry, self.D, self.S, self.N, chunks, blocks,
            self.forward, *self.inputs.A.stride(), BACKWARD=backward, BC=BC, BE=BE,
            ACC=self._flags['ACC'], num_warps=4, num_stages=1)
        return carry

    def _pointers(self, inputs: Inputs, *projections: Tensor) -> List[Tensor]:
        weight = inputs.A if inputs.weight is None else inputs.weight
        return [inputs.u, inputs.dt, weight, inputs.bias, inputs.A, *projections]

    def _strides(self, inputs: Inputs, u: Tensor) -> Tuple[int, ...]:
        weight = (0, 0, 0) if inputs.weight is None else inputs.weight.stride()
        return (*u.stride(), *inputs.dt.stride(), *weight, *inputs.bias.stride(),
                *inputs.A.stride())

    def _products(self, gradients: bool = False) -> dict:
        """Say how step sizes are widened, and with ``gradients`` their gradients multiplied."""
        device, dtype = self.inputs.u.device, self.dtype
        if self.inputs.weight is not None and dtype != torch.float64:
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


def _turned(inputs: Inputs, axis: Axis, *others: Tensor) -> tuple:
    """Turn the inputs and other tensors of such a layout, so that sequences run along lines.

    Returns:
        The inputs, the others, their :class:`Grid`, and :func:`_near` or :func:`_far`.
    """
    rows, columns = inputs.u.shape[2:4]
    turn = axis.transposed
    if (rows if turn else columns) == 1:  # a single line, and not one for each token
        turn = not turn
    if not turn:
        return inputs, list(others), Grid(1, rows * columns, _tiles_of(rows * columns)), _near
    mask = inputs.mask
    if mask is not None:
        mask = mask.transpose(1, 2)
    names = ('u', 'dt', 'B', 'C')
    turned = [t.transpose(2, 3) for t in (*(getattr(inputs, name) for name in names), *others)]
    return (inputs._replace(mask=mask, **dict(zip(names, turned))), turned[len(names):],
            Grid(columns, rows, _tiles_of(rows)), _far)


def _one_line(t: Tensor) -> Tensor:
    """Return (N, G, rows, columns, c) with rows that lie behind each other, as if they were one.

    How a grid is cut into tiles follows from its shape only: backward may get tensors of other
    strides than forward.
    """
    return t if t.shape[2] == 1 or t.stride(2) == t.shape[3] * t.stride(3) else t.contiguous()


def _near(M: Optional[Tensor], **tensors: Tensor) -> dict:
    """Return distances of neighbouring tokens, for which kernels are compiled."""
    return dict(MK=0 if M is None else M.stride(2),
                **{f'{name}K': t.stride(3) for name, t in tensors.items()})


def _far(M: Optional[Tensor], **tensors: Tensor) -> dict:
    """Return no distances: those of a column follow the width, and would compile anew for each."""
    return dict(MK=0, **{f'{name}K': 0 for name in tensors})


def _pointer(mask: Optional[Tensor], other: Tensor) -> Tensor:
    return other if mask is None else mask


def _mask_strides(mask: Optional[Tensor]) -> Tuple[int, ...]:
    return (0, 0, 0) if mask is None else mask.stride()
