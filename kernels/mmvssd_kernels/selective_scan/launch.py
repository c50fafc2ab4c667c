"""Launch the kernels that ``selective_scan`` and ``selective_scan_2d`` share.

A program takes a chunk of a sequence. If there are several, each runs from zero for its last
state first. These states are carried from chunk to chunk. Backward does the same in the other
direction, with the states that forward keeps.
"""
import math
from typing import Callable, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from mmvssd_kernels import triton_support
from mmvssd_kernels.compile_ahead import ALIGNMENT
from mmvssd_kernels.numerics import sum_dtype

#: Largest state size, and rank of step sizes: sums over channels are tiles of that width.
LARGEST_STATE = 64
LARGEST_RANK = 64
#: Tokens of a tile: the fewest that tensor cores multiply.
BL = 16
#: Channels of a warp, one for each lane.
BD = 32
#: Sums over channels that a token takes up to which backward's programs are one warp. Each block of
#: channels writes sums of its own, so of more of them a program takes the channels of four warps.
SUMS = 16
#: Ranks up to which four warps' float32 factors fit 99 KiB, with any Triton.
RANKS = 32
#: The capability from which tensor cores multiply numbers of a dtype as they are, exactly.
_EXACT = {torch.float16: (7, 5), torch.bfloat16: (8, 0)}
#: Programs that keep a large GPU busy. If images and channels give fewer, the sequences of a grid
#: are shared out too, which makes parts that are added later. If that gives less than half of them,
#: and there are enough tiles, sequences are cut into chunks instead, which costs a pass more. If
#: there are more, backward takes images one after the other, or images of few tokens are joined.
PROGRAMS, BACKWARD_PROGRAMS = 768, 1536
#: Programs that a large GPU runs at a time: 8 warps, if a thread has all registers that it can, on
#: each of an H100's 132 multiprocessors.
WAVE = 1056
#: Tiles of a chunk at least.
CHUNK = 4


class Sequences(NamedTuple):
    """Sequences that run through a grid: ``count`` along each axis, and with two directions twice.

    Attributes:
        turned: Of each axis whether it runs down columns. Others run through the rows.
        count: Sequences of an axis and direction.
        directions: 2 if as many sequences run from the end, else 1. The sequence q of axis i, those
            from the end last, has number ``i + q * axes``.
    """

    turned: Tuple[bool, ...]
    count: int  # type: ignore[assignment]  # it hides that of tuples
    directions: int

    @property
    def of_axis(self) -> int:
        """Return how many sequences an axis has."""
        return self.count * self.directions

    @property
    def total(self) -> int:
        """Return how many sequences there are."""
        return self.of_axis * len(self.turned)

    @property
    def forward(self) -> int:
        """Return the number of the first that runs from the end; of all, if none does."""
        return self.total // self.directions


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


class Gradients(NamedTuple):
    """Gradients by the names of :class:`Inputs`, contiguous, in the shapes of an op's inputs."""

    u: Tensor
    dt: Tensor
    weight: Optional[Tensor]
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    bias: Tensor


class Views(NamedTuple):
    """What brings tensors of the shapes of an op's inputs to the layouts of :class:`Inputs`."""

    u: Callable[[Tensor], Tensor]
    dt: Callable[[Tensor], Tensor]
    B: Callable[[Tensor], Tensor]


class Parts(NamedTuple):
    """A tensor as partial sums.

    Attributes:
        whole: The parts (count, ...).
        view: The first, (N, G, tokens, c).
        direct: Whether the only part is the tensor itself.
    """

    whole: Tensor
    view: Tensor
    direct: bool

    @classmethod
    def of(cls, t: Tensor, count: int, dtype: torch.dtype,
           view: Callable[[Tensor], Tensor]) -> 'Parts':
        """Return the tensor itself if a kernel can write to it, else allocate parts of it.

        Args:
            t: The tensor.
            count: How many parts it has.
            dtype: Dtype of the parts.
            view: Brings such a tensor to the inputs' layout.
        """
        direct = count == 1 and t.dtype == dtype
        whole = t[None] if direct else t.new_empty(count, *t.shape, dtype=dtype)
        return cls(whole, view(whole[0]).flatten(2, 3), direct)


def obstacle(S: int, R: int = 0) -> Optional[str]:
    """Say why the kernels cannot run with this state size and rank; None if they can."""
    if S > LARGEST_STATE:
        return f'the state size is {S}, and the kernels take at most {LARGEST_STATE}'
    if R > LARGEST_RANK:
        return f'step sizes have rank {R}, and the kernels take at most {LARGEST_RANK}'
    return None


def tiles(tokens: int) -> int:
    """Return how many tiles a sequence has."""
    return (tokens + BL - 1) // BL


class Scan:
    """The launches for one set of inputs, none of them empty.

    Args:
        inputs: The inputs.
        sequences: How sequences run. With groups there is one for each group.
        softplus: Whether softplus makes the step sizes positive.
    """

    def __init__(self, inputs: Inputs, sequences: Sequences, softplus: bool) -> None:
        mask = inputs.mask
        if mask is not None:
            mask = triton_support.load_mask(mask).flatten(1)
        # a load takes both
        projections = torch.promote_types(inputs.B.dtype, inputs.C.dtype)
        inputs = inputs._replace(B=inputs.B.to(projections), C=inputs.C.to(projections))
        self.N, self.G, rows, columns, self.D = inputs.u.shape
        self.blocks = -(-self.D // BD)
        self.rows, self.columns, self.tiles = rows, columns, tiles(rows * columns)
        self.joined = 1
        if sequences.total > 1 and self.N * self.blocks >= max(PROGRAMS, BACKWARD_PROGRAMS):
            self.joined = _joined(self.N, self.blocks, rows * columns)
        lines = {name: self._line(getattr(inputs, name)) for name in ('u', 'dt', 'B', 'C')}
        self.inputs = inputs._replace(mask=mask, **lines)
        inputs, self.sequences = self.inputs, sequences
        self.K, self.S = inputs.B.shape[1], inputs.A.shape[1]
        self.R = 0 if inputs.weight is None else inputs.weight.shape[2]
        self.dtype = sum_dtype(inputs.u.dtype)
        self.kernels = triton_support.kernels('selective_scan')
        # through a single row or column rows and columns run alike
        turned = [turn and 1 not in (rows, columns) for turn in sequences.turned]
        self._known_distances = columns > 1 or rows == 1
        self._flags = dict(
            D=self.D, S=self.S, R=self.R, AXES=len(turned), COUNT=sequences.count,
            DIRECTIONS=sequences.directions,
            TURNED=sum(turned[way // sequences.directions] << way
                       for way in range(len(turned) * sequences.directions)), SOFTPLUS=softplus,
            MASKED=inputs.mask is not None, ACC=triton_support.language(self.dtype), BL=BL, BD=BD,
            BR=0 if inputs.weight is None else max(16, triton_support.power_of_two(self.R)))

    def outputs(self, y: Tensor, view: Callable[[Tensor], Tensor], states: Tensor) -> None:
        """Write the outputs, and the states before each tile.

        Args:
            y: Takes the outputs.
            view: Brings such a tensor to (N, G, rows, columns, D).
            states: Takes the states (K, N, tiles, S, D).
        """
        each, chunks = self._shares(PROGRAMS)
        carry = self._carry(self.inputs.u, self.inputs.B, states, chunks, backward=False)
        parts = self._parts(y, self.sequences.total // each, view)
        inputs, out, lines = self.inputs, parts.view, -(-self.N // self.joined)
        for axis, base, each_here in self._launches(each):
            programs = self.blocks * chunks * lines * self.G * len(parts.whole)
            self.kernels.outputs[(programs, )](
                *self._pointers(inputs.B, inputs.C, inputs.D), _pointer(inputs.mask, y), carry,
                states, parts.whole, self.N, chunks, self.tiles, self.joined, base, each_here,
                self.rows, self.columns, *self._strides(inputs.u), *inputs.D.stride(),
                *inputs.B.stride(), *inputs.C.stride(), *_mask_strides(inputs.mask),
                parts.whole.stride(0), *out.stride(),
                **self._distances(U=inputs.u, T=inputs.dt, B=inputs.B, C=inputs.C, Y=out),
                TA=_alignment(inputs.dt), ONLY=axis, JOINED=self.joined > 1, **self._flags,
                **self._products(), num_warps=1, num_stages=1)
        self._add(parts, y)

    def gradients(self, dy: Tensor, states: Tensor, results: Gradients, by_input: Views) -> None:
        """Write the gradients of all inputs.

        Args:
            dy: Gradient (N, G, rows, columns, D) of the outputs.
            states: What :meth:`outputs` wrote there.
            results: Take the gradients.
            by_input: Bring gradients of u, dt, and B and C to the layouts of these in the inputs.
        """
        dy = self._line(dy)
        inputs, images, warps = self.inputs, self.joined, self._warps()
        blocks = -(-self.D // (warps * BD))
        each, chunks = self._shares(BACKWARD_PROGRAMS)
        parts = self.sequences.total // each
        if images == 1:
            programs = self.N * self.G * self.blocks * parts * chunks
            images = min(self.N, max(1, programs // (4 * BACKWARD_PROGRAMS)))
        carry = self._carry(dy, inputs.C, states, chunks, backward=True)
        slots = chunks * -(-self.N // images)
        sums = states.new_empty(slots, self.K, 2 + self.S + self.R, self.D)
        du = self._parts(results.u, parts, by_input.u, once=each == 1)
        # the second of two launches ends with sums that are complete: it rounds and stores them
        rounded = parts == 1 and self.sequences.count == 1 and len(self.sequences.turned) > 1
        # step sizes that are given have all channels
        ddt = self._parts(results.dt, 1 if inputs.weight is None else blocks, by_input.dt)
        dB, dC = (self._parts(t, blocks, by_input.B) for t in (results.B, results.C))
        known = self._distances(U=inputs.u, T=inputs.dt, B=inputs.B, C=inputs.C, Y=dy, X=du.view,
                                Q=ddt.view, P=dB.view)
        known.update(TA=_alignment(inputs.dt, self.R), QA=_alignment(ddt.view, ddt.whole.stride(0)))
        for axis, base, each_here in self._launches(each):
            self.kernels.gradients[(blocks * slots * self.G * parts, )](
                *self._pointers(inputs.B, inputs.C, inputs.D), _pointer(inputs.mask, dy),
                states, carry, dy, du.whole, results.u if rounded else du.whole, ddt.whole,
                dB.whole, dC.whole, sums, self.N, self.K, chunks, self.tiles, images, base,
                each_here, self.rows, self.columns,
                *self._strides(inputs.u), *inputs.D.stride(), *inputs.B.stride(),
                *inputs.C.stride(), *_mask_strides(inputs.mask), *dy.stride(),
                du.whole.stride(0), *du.view.stride(), *ddt.view.stride(), ddt.whole.stride(0),
                *dB.view.stride(), dB.whole.stride(0), **known, ONLY=axis,
                JOINED=self.joined > 1,
                FAR=_far(warps * BD, inputs.u, inputs.dt, dy, du.view, ddt.view),
                **{**self._flags, 'BD': warps * BD}, **self._products(gradients=True),
                num_warps=warps, num_stages=1)
        if not rounded:
            self._add(du, results.u)
        for part, t in zip((ddt, dB, dC), (results.dt, results.B, results.C)):
            self._add(part, t)
        weight = results.A if results.weight is None else results.weight
        BC = 64
        self.kernels.add_slots[(-(-self.D // BC) * self.K * (2 + self.S + self.R), )](
            sums, results.bias, results.D, results.A, weight, slots, self.K, D=self.D, S=self.S,
            R=self.R, BT=16, BD=BC, ACC=self._flags['ACC'], num_warps=4, num_stages=1)

    def _shares(self, wanted: int) -> Tuple[int, int]:
        """Return how many sequences a program takes, and in how many chunks they are cut."""
        programs, each = self.N * self.G * self.blocks, self.sequences.total
        chunks = min(-(-wanted // programs), self.tiles // CHUNK)
        if 2 * programs * each < wanted and chunks > each:
            return each, chunks
        while programs < wanted and each > 1:
            programs, each = 2 * programs, each // 2
        return each, 1

    def _warps(self) -> int:
        """Return how many warps a program of backward has, such that none lacks channels.

        A tile of all channels would be one stretch of memory, of which a lane takes no column.
        Turing lacks shared memory for the factors, and other GPUs than those of data centres for
        those of four warps in float32, if there are many.
        """
        capability = triton_support.capability(self.inputs.u.device)
        if self.R + 2 * self.S <= SUMS or self.blocks <= 4 or capability < (8, 0):
            return 1
        fits = self.R <= RANKS or self._factor_dtype() in _EXACT or _of_data_centre(capability)
        return math.gcd(4 if fits else 2, self.blocks)

    def _launches(self, each: int) -> List[Tuple[int, int, int]]:
        """Return of each launch its only axis or -1, its first sequence, and those of a program.

        If programs take all sequences, axes have a launch each: a kernel without columns in it
        leaves registers to more programs.
        """
        of_axis, total = self.sequences.of_axis, self.sequences.total
        if each == total > of_axis:
            return [(axis, axis * of_axis, of_axis) for axis in range(len(self.sequences.turned))]
        return [(-1, 0, each)]

    def _carry(self, u: Tensor, B: Tensor, states: Tensor, chunks: int,
               backward: bool) -> Tensor:
        """Return states before each chunk (K, N, chunks, S, D), or gradients of those after it.

        A single chunk begins from zero, and this is only its memory for the state.
        """
        shape = (self.K, self.N, chunks, self.S, self.D)
        carry = states.new_empty(shape)
        if chunks == 1:
            return carry
        ends, totals = states.new_empty(shape), states.new_empty(*shape[:3], self.D)
        programs = self.N * self.G * self.sequences.of_axis * chunks * self.blocks
        inputs = self.inputs
        for axis, base, _ in self._launches(self.sequences.total):
            self.kernels.chunk_ends[(programs, )](
                u, *self._pointers(B)[1:], _pointer(inputs.mask, u), totals, ends, self.N, chunks,
                base, self.rows, self.columns, *self._strides(u), *B.stride(),
                *_mask_strides(inputs.mask), **self._distances(U=u, T=inputs.dt, B=B),
                TA=_alignment(inputs.dt), ONLY=axis, BACKWARD=backward, **self._flags,
                **self._products(), num_warps=1, num_stages=1)
        BC, BE = 16, 64
        blocks = -(-self.S * self.D // BE)
        self.kernels.carry[(blocks * self.K * self.N, )](
            totals, ends, inputs.A, carry, self.D, self.S, self.N, chunks, blocks,
            self.sequences.forward * self.G, *inputs.A.stride(), BACKWARD=backward, BC=BC, BE=BE,
            ACC=self._flags['ACC'], num_warps=4, num_stages=1)
        return carry

    def _parts(self, t: Tensor, count: int, view: Callable[[Tensor], Tensor],
               once: bool = True) -> Parts:
        """Return parts of a tensor; what is written ``once`` may be rounded as it is written."""
        return Parts.of(t, count, t.dtype if once and count == 1 else self.dtype, view)

    def _add(self, parts: Parts, t: Tensor) -> None:
        """Add parts that were not written to a tensor directly."""
        if not parts.direct:
            BE = 1024
            self.kernels.add_parts[(-(-t.numel() // BE), )](
                parts.whole, t, t.numel(), PARTS=len(parts.whole), BE=BE, num_warps=4,
                num_stages=1)

    def _line(self, t: Tensor) -> Tensor:
        """Return (N, G, rows, columns, c) as (N, G, tokens, c), a copy if rows lie apart.

        How far tokens lie from each other then follows from their places on the grid only: backward
        may get tensors of other strides than forward. If images are joined, they too lie behind
        each other.
        """
        t = t.flatten(2, 3)
        if self.joined > 1 and t.stride(0) != t.shape[2] * t.stride(2):
            t = t.transpose(1, 2).contiguous().transpose(1, 2)
        return t

    def _distances(self, **tensors: Tensor) -> dict:
        """Return distances of neighbouring tokens, for which kernels are compiled.

        Those of a column follow the width, and would compile anew for each.
        """
        mask = self.inputs.mask
        known = dict(MK=0 if mask is None else mask.stride(1),
                     **{f'{name}K': t.stride(2) for name, t in tensors.items()})
        return known if self._known_distances else dict.fromkeys(known, 0)

    def _pointers(self, *projections: Tensor) -> List[Tensor]:
        inputs = self.inputs
        weight = inputs.A if inputs.weight is None else inputs.weight
        return [inputs.u, inputs.dt, weight, inputs.bias, inputs.A, *projections]

    def _strides(self, u: Tensor) -> Tuple[int, ...]:
        inputs = self.inputs
        weight = (0, 0, 0) if inputs.weight is None else inputs.weight.stride()
        return (*u.stride(), *inputs.dt.stride(), *weight, *inputs.bias.stride(),
                *inputs.A.stride())

    def _factor_dtype(self) -> torch.dtype:
        """Return the dtype of what widens step sizes."""
        if self.inputs.weight is None or self.dtype == torch.float64:
            return self.dtype
        dtype = torch.promote_types(self.inputs.dt.dtype, self.inputs.weight.dtype)
        return dtype if dtype in _EXACT else torch.float32

    def _products(self, gradients: bool = False) -> dict:
        """Say how step sizes are widened, and with ``gradients`` their gradients multiplied."""
        device, dtype = self.inputs.u.device, self._factor_dtype()
        factors = dtype, 'ieee'
        if not _exact(dtype, triton_support.capability(device)):
            factors = triton_support.products(dtype, device)
        found = _named('', *factors)
        if gradients:
            found.update(_named('GRAD_', *triton_support.products(dtype, device)))
        return found


def _named(prefix: str, dtype: torch.dtype, precision: str) -> dict:
    return {f'{prefix}DTYPE': triton_support.language(dtype), f'{prefix}PRECISION': precision}


def _exact(dtype: torch.dtype, capability: Tuple[int, int]) -> bool:
    """Tell whether products take numbers of a dtype as they are."""
    if dtype not in _EXACT or capability < _EXACT[dtype]:
        return False
    # Triton 3.3's compiler stops at such a product on Turing
    return capability >= (8, 0) or triton_support.release() >= (3, 4)


def _of_data_centre(capability: Tuple[int, int]) -> bool:
    """Tell whether a block may use 160 KiB of shared memory and more; other GPUs have 99."""
    return capability == (8, 0) or 9 <= capability[0] <= 11


def _alignment(t: Tensor, *strides: int) -> int:
    """Return of how many bytes all tokens' places are multiples, as far as a lane loads at once.

    Args:
        t: (N, G, tokens, c).
        strides: Further distances of what is taken of it.
    """
    size = t.element_size()
    if t.data_ptr() % ALIGNMENT:  # what is compiled is kept for all such tensors
        return size
    return math.gcd(ALIGNMENT, *[size * stride for stride in (*t.stride()[:3], *strides)])


def _far(channels: int, *tensors: Tensor) -> bool:
    """Tell whether 32 bits do not hold offsets of a tile's channels, and of tokens side by side."""
    return any((channels - 1) * t.stride(3) + BL > 2**31 for t in tensors)


def _joined(N: int, blocks: int, tokens: int) -> int:
    """Return how many images programs take as one line.

    The last tile of each image may be nearly empty. So one after the other they take more tiles
    than as one line. More than a wave of programs must remain: another GPU's wave is shorter.
    """
    if tokens < BL:  # kernels expect one image at most to begin within a tile
        return 1

    def waves(images: int) -> int:
        return -(-blocks * -(-N // images) // WAVE)

    def cost(images: int) -> int:
        return waves(images) * tiles(images * tokens)

    choices = [images for images in range(1, N * blocks // WAVE + 1) if waves(images) > 1]
    best = min(choices, key=cost, default=1)
    # a joined line takes up to a fifteenth more instructions a tile
    return best if 10 * cost(best) < 9 * cost(1) else 1


def _pointer(mask: Optional[Tensor], other: Tensor) -> Tensor:
    return other if mask is None else mask


def _mask_strides(mask: Optional[Tensor]) -> Tuple[int, ...]:
    return (0, 0) if mask is None else mask.stride()
