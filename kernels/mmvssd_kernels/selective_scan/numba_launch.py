"""Run the kernels for a CPU that ``selective_scan`` and ``selective_scan_2d`` share.

Code that needs NumPy is here. What a process without NumPy imports is in
:mod:`~mmvssd_kernels.selective_scan.numba_plan`.
"""
import functools
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from mmvssd_kernels import numba_support
from mmvssd_kernels.selective_scan.launch import Inputs
from mmvssd_kernels.selective_scan.numba_plan import (
    BLOCK,
    BYTES,
    MODULE,
    PARTS,
    TILE,
    UNITS,
    Order,
    lanes,
    segment,
    whole,
)
from mmvssd_kernels.selective_scan.numba_table import (
    ARGUMENTS,
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    SCRATCH,
)

_CODES = {torch.float32: FLOAT32, torch.float64: FLOAT64, torch.bfloat16: BFLOAT16,
          torch.float16: FLOAT16, torch.bool: 0}


class Sums(NamedTuple):
    """Gradients of parameters: weight (K, D, R) or None, A (K*D, S), D and bias (K*D,)."""

    weight: Optional[Tensor]
    A: Tensor
    D: Tensor
    bias: Tensor


class Scan:
    """Scans of K sequences over a grid, forward or backward.

    Args:
        inputs: What is scanned.
        orders: How each sequence runs.
        softplus: Whether softplus makes the step sizes.
        dtype: The dtype of sums.
    """

    def __init__(self, inputs: Inputs, orders: Sequence[Order], *, softplus: bool,
                 dtype: torch.dtype) -> None:
        self.inputs, self.dtype = inputs, dtype
        self.numpy = {4: np.float32, 8: np.float64}[dtype.itemsize]
        self.orders = orders
        self.groups = max(order.group for order in orders) + 1
        self.softplus = softplus
        self.N, _, self.H, self.W, self.D = inputs.u.shape
        self.K, self.S = len(orders), inputs.A.shape[1]
        self.R = 0 if inputs.weight is None else inputs.weight.shape[2]
        self.images = -(-self.N // PARTS)
        self.parts = -(-self.N // self.images)
        self.width, self.ranks = whole(self.D, dtype), whole(self.R, dtype)

    def outputs(self, y: Tensor, states: Tensor) -> None:
        """Compute outputs (N, groups, H, W, D), and states of :func:`states_shape`."""
        call = _Call(self, self._forward_blocks(torch.get_num_threads()))
        call.add_rows('y', y)
        call.run('forward', states)

    def gradients(self, dy: Tensor, states: Tensor, dx: Tensor, ddt: Optional[Tensor]
                  ) -> Tuple[Optional[Tensor], Tensor, Tensor, Sums]:
        """Compute gradients.

        Args:
            dy: Gradient of the outputs (N, groups, H, W, D).
            states: What :meth:`outputs` gave.
            dx: Takes the gradient of x (N, groups, H, W, D).
            ddt: Takes the gradient of step sizes that are given whole (N, K, H, W, D).

        Returns:
            Gradients (N, K, H, W, R or S) of low-rank step sizes, or None, of B and of C, and of
            the parameters.
        """
        N, H, W, K, S, R = self.N, self.H, self.W, self.K, self.S, self.R
        blocks = self._backward_blocks()
        call = _Call(self, blocks)
        call.add_rows('dy', dy)
        call.add_rows('dx', dx)
        new = functools.partial(dx.new_empty, dtype=self.dtype)
        parts = {}
        for name, size in dict(ddt=R, dB=S, dC=S).items():
            if size:
                # tokens first, as layers have them
                parts[name] = new((blocks, N, H, W, K, size)).movedim(4, 2)
                call.add_rows(name, parts[name][0], parts[name])
        if not R:
            call.add_rows('ddt', ddt)
        sums = {name: np.empty(shape, self.numpy) for name, shape in dict(
            dweight=(self.parts, K, R, self.width), dA=(self.parts, K, S, self.width),
            dskip=(self.parts, K, self.width), dbias=(self.parts, K, self.width)).items()}
        for name, t in sums.items():
            call.add(name, t)
        call.run('backward', states)
        weight, A, D, bias = (torch.from_numpy(t.sum(0)[..., :self.D]) for t in sums.values())
        first = {name: t[0] for name, t in parts.items()}
        return first.get('ddt'), first['dB'], first['dC'], Sums(
            weight.mT.contiguous() if R else None, A.mT.flatten(0, 1).contiguous(), D.flatten(),
            bias.flatten())

    def _forward_blocks(self, threads: int) -> int:
        """Return the fewest blocks that give all threads as much to do, or nearly.

        Channels do not meet: how they are cut does not change a result.
        """
        units, vectors = self.parts * self.groups, self.width // lanes(self.dtype)
        blocks = 1
        while blocks < vectors and units * blocks % threads and units * blocks < 4 * threads:
            blocks += 1
        return blocks

    def _backward_blocks(self) -> int:
        """Return blocks by the shape only: in backward channels are added up over them."""
        vectors = self.width // lanes(self.dtype)
        return min(-(-vectors // BLOCK), -(-UNITS // (self.parts * self.groups)))


class _Call:
    """One call of a kernel: its table of arguments, and all that the table points to."""

    def __init__(self, scan: Scan, blocks: int) -> None:
        self.scan = scan
        block = -(-scan.width // lanes(scan.dtype) // blocks)
        blocks = -(-scan.width // lanes(scan.dtype) // block)
        self.table = np.zeros((), ARGUMENTS)
        self.kept: List = []
        inputs, K, D = scan.inputs, scan.K, scan.D
        self.units = scan.parts * scan.groups * blocks
        self.sizes = dict(
            N=scan.N, images=scan.images, H=scan.H, W=scan.W, K=K, S=scan.S, R=scan.R, channels=D,
            width=scan.width, ranks=scan.ranks, tile=TILE, segment=segment(scan.S), block=block,
            blocks=blocks, groups=scan.groups, softplus=scan.softplus, units=self.units)
        for name, size in self.sizes.items():
            self.table[name] = size
        for name, t in dict(x=inputs.u, dt=inputs.dt, B=inputs.B, C=inputs.C).items():
            self.add_rows(name, t)
        if inputs.mask is not None:
            self.add_rows('mask', inputs.mask[:, None, :, :, None])
        self.add('A', self._padded(inputs.A.view(K, D, scan.S).mT, scan.S, scan.width))
        self.add('skip', self._padded(inputs.D.view(K, D), K, scan.width))
        self.add('bias', self._padded(inputs.bias.view(K, D), K, scan.width))
        if inputs.weight is not None:
            self.add('weight', self._padded(inputs.weight.mT, scan.R, scan.width))
            self.add('weight_back', self._padded(inputs.weight, scan.width, scan.ranks))
        self._add_integers()

    def add(self, name: str, array: np.ndarray) -> None:
        """Add a contiguous array."""
        self.kept.append(array)
        self.table[name] = array.ctypes.data

    def add_rows(self, name: str, t: Tensor, blocks: Optional[Tensor] = None) -> None:
        """Add a tensor with rows (N, K or groups or 1, H, W, c); ``blocks`` has one more axis."""
        self.kept.append(t)
        size = t.element_size()
        image, sequence, row, column, channel = (stride * size for stride in t.stride())
        if t.shape[1] == 1:
            sequence = 0
        block = 0 if blocks is None else blocks.stride(0) * size
        self.table[name] = (t.data_ptr(), _CODES[t.dtype], image, row, column, sequence, channel,
                            block)

    def run(self, name: str, states: Tensor) -> None:
        """Run a kernel, on as many threads as PyTorch uses."""
        self.add('states', states.numpy())
        threads = numba_support.threads(self.units)
        places, size = self._layout()
        self.table['scratch'] = places
        memory = np.empty(threads * size + BYTES, np.uint8)
        self.kept.append(memory)
        self.table['memory'] = -(-memory.ctypes.data // BYTES) * BYTES
        self.table['memory_size'] = size
        kernel = numba_support.Kernel(MODULE, name, self.scan.dtype)
        numba_support.run(kernel, self.table.ctypes.data, threads, [self.table, *self.kept])

    def _add_integers(self) -> None:
        """Add the orders of sequences, and the counters."""
        scan = self.scan
        counts = dict(next_thread=1, next_unit=1, finished=scan.parts * scan.groups)
        orders = np.array(scan.orders, dtype='i8')
        counters = np.zeros(sum(counts.values()), 'i8')
        self.kept += [orders, counters]
        self.table['sequences'] = orders.ctypes.data
        place = counters.ctypes.data
        for name, count in counts.items():
            self.table[name] = place
            place += 8 * count

    def _padded(self, t: Tensor, rows: int, columns: int) -> np.ndarray:
        """Copy (..., r, c) to whole vectors, the new numbers 0."""
        # NumPy: to wake PyTorch's threads takes longer than to copy parameters
        t = t.detach().to(self.scan.dtype).numpy()
        out = np.zeros((*t.shape[:-2], rows, columns), t.dtype)
        out[..., :t.shape[-2], :t.shape[-1]] = t
        return out

    def _layout(self) -> Tuple[tuple, int]:
        """Return the offset of each part of a thread's own memory, and its size."""
        scan, block = self.scan, self.sizes['block']
        size, S, R = scan.dtype.itemsize, scan.S, scan.R
        row, states = block * BYTES, block * S * BYTES
        tokens = (TILE + 4) * BYTES  # four at a time
        sums = whole(TILE * S, scan.dtype) * size
        beyond = BYTES * lanes(scan.dtype)  # whole squares of vectors are added up
        sizes: Dict[str, int] = dict(
            zeros=max(row, R * size, S * size), x_rows=TILE * row, dy_rows=TILE * row,
            dt_rows=TILE * (R * size if R else row), B_rows=TILE * S * size,
            C_rows=TILE * S * size, y_rows=TILE * row, ddt_rows=0 if R else TILE * row,
            delta=tokens, slope=tokens, dz=tokens,
            h=(TILE + 1) * S * BYTES + beyond, decay=TILE * S * BYTES + beyond,
            state=states, dstate=states, local=S * BYTES, carried=S * BYTES,
            starts=segment(S) * states, dA_tile=S * BYTES,
            dt_sums=(TILE + 4) * scan.ranks * size, B_sums=sums, C_sums=sums,
            totals=block * (S + R + 2) * 2 * BYTES)
        places, end = [], 0
        for name in SCRATCH:
            places.append(end)
            # what is left are addresses of rows
            end += -(-sizes.get(name, (TILE + 4) * 8) // BYTES) * BYTES
        return tuple(places), end
