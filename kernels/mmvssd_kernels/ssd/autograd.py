"""SSD through Triton: launches, and the gradient.

Forward sums what each chunk adds to the state, carries the state over the chunks, and computes
the outputs of each chunk. Backward makes the states again, carries their gradients the other way,
and computes all gradients of a chunk and a group in one program. Every sum over programs has a
fixed order, so that results are the same, bit for bit, in every run.
"""
from typing import NamedTuple, Optional, Tuple

from torch import Tensor

from mmvssd_kernels import triton_support
from mmvssd_kernels.compile_ahead import compiled_ahead
from mmvssd_kernels.library import call, operator, register_backward
from mmvssd_kernels.numerics import common_dtype, drop_padding, sum_dtype
from mmvssd_kernels.triton_support import power_of_two, vector_stride

#: Largest state size and head width.
LARGEST = 128
#: Elements of a state that one program carries over the chunks.
CARRIED = 256


class Tiles(NamedTuple):
    """Tokens of a chunk, states and channels of a tile, and warps that work on it."""

    T: int
    BS: int
    BP: int
    num_warps: int


def _tiles(S: int, P: int) -> Tiles:
    BS, BP = (max(16, power_of_two(size)) for size in (S, P))
    # what a program of the gradients holds in shared memory, factors of nine products in float32,
    # shall fit 64 KiB; twice the tokens did not
    return Tiles(32, BS, min(BP, 32), 4) if BS <= 64 else Tiles(16, BS, min(BP, 16), 4)


def obstacle(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, *args, **kwargs) -> Optional[str]:
    """Return why the kernels cannot run on these arguments of ``ssd``; None if they can."""
    reason = triton_support.obstacle(x)
    if reason:
        return reason
    S, P = B.shape[3], x.shape[3]
    if max(S, P) > LARGEST:
        return (f'heads of width {P} and a state of {S}, of which the kernels take at most '
                f'{LARGEST} each')
    return triton_support.grid_obstacle(x, _tiles(S, P).T)


@triton_support.register('ssd', obstacle)
def ssd_triton(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Optional[Tensor], *,
               chunk_size: int, reverse: bool, mask: Optional[Tensor]) -> Tensor:
    """Compute :func:`mmvssd_kernels.ssd`, whose docstring has shapes and dtypes."""
    x, dt, B, C = drop_padding(mask, x, dt, B, C)
    y, = drop_padding(mask, call('ssd_triton', x, dt, A, B, C, D, reverse))
    return y


def _widths(x, dt, A, B, *others):
    return (x.shape[2:], B.shape[2:])


def _fake_forward(x, dt, A, B, C, D, reverse):
    return x.new_empty(x.shape)


@operator('ssd_triton(Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, bool reverse) '
          '-> Tensor', _fake_forward)
@compiled_ahead(_widths)
def _forward(x, dt, A, B, C, D, reverse):
    """y (N, L, h, P)."""
    y = _fake_forward(x, dt, A, B, C, D, reverse)
    if y.numel() == 0:
        return y
    launch = _Launch(x, B, reverse)
    x, dt, B, C, y_ = (launch.in_order(t) for t in (x, dt, B, C, y))
    states = launch.states(x, dt, A, B, False)
    launch.kernels.outputs[launch.programs](
        x.first, dt.first, A, B.first, C.first, A if D is None else D, states, y_.first,
        *launch.sizes, *x.strides, *dt.strides, *A.stride(), *B.strides, *C.strides,
        *vector_stride(D), *y_.strides[:2], SKIP=D is not None, **launch.products, **launch.options)
    return y


def _fake_backward(dy, x, dt, A, B, C, D, reverse):
    return triton_support.gradients_like(x, dt, A, B, C, D)


@operator('ssd_triton_backward(Tensor dy, Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, '
          'Tensor? D, bool reverse) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)',
          _fake_backward)
@compiled_ahead(lambda dy, *others: _widths(*others))
def _backward(dy, x, dt, A, B, C, D, reverse):
    """Return the gradients of x, dt, A, B, C and D, contiguous."""
    results = _fake_backward(dy, x, dt, A, B, C, D, reverse)
    if x.numel() == 0:
        return tuple(t.zero_() for t in results)
    launch = _Launch(x, B, reverse)
    G = B.shape[2]
    dx, ddt, dA, dB, dC, dD = results
    dy, x, dt, B, C, dx, ddt, dB, dC = (
        launch.in_order(t) for t in (dy, x, dt, B, C, dx, ddt, dB, dC))
    states = launch.states(x, dt, A, B, False)
    dstates = launch.states(dy, dt, A, C, True)
    N, h, chunks = states.shape[:3]
    dA_parts, dD_parts = states.new_empty(2, N, chunks, h)
    launch.kernels.gradients[G, chunks, N](
        x.first, dt.first, A, B.first, C.first, A if D is None else D, states, dstates, dy.first,
        dx.first, ddt.first, dA_parts, dB.first, dC.first, dD_parts, *launch.sizes, *x.strides,
        *dt.strides, *A.stride(), *B.strides, *C.strides, *vector_stride(D), *dy.strides,
        *dx.strides[:2], *ddt.strides[:2], *dB.strides[:2], SKIP=D is not None,
        # narrower, for nine products to leave some registers
        **launch.products, **{**launch.options, 'BP': 16})
    dA.copy_(dA_parts.sum((0, 1)))
    if D is not None:
        dD.copy_(dD_parts.sum((0, 1)))
    return results


register_backward('ssd_triton', tensors=6)


class _InOrder(NamedTuple):
    """A tensor (N, L, ...) from the token where the state starts, and its strides from there."""

    first: Tensor
    strides: Tuple[int, ...]


class _Launch:
    """What the launches of one call share."""

    def __init__(self, x: Tensor, B: Tensor, reverse: bool) -> None:
        N, L, h, P = x.shape
        G, S = B.shape[2:]
        self.reverse = reverse
        self.kernels = triton_support.kernels('ssd')
        tiles = _tiles(S, P)
        self.chunks = -(-L // tiles.T)
        self.programs = (h * -(-P // tiles.BP), self.chunks, N)
        self.sizes = (L, h, P, S, h // G)
        self.dtype = sum_dtype(x.dtype)
        product, precision = triton_support.products(common_dtype(x, B), x.device)
        _, exact = triton_support.products(self.dtype, x.device)
        self.options = dict(tiles._asdict(), num_stages=1, EXACT=exact,
                            ACC=triton_support.language(self.dtype))
        self.products = dict(DTYPE=triton_support.language(product), PRECISION=precision)

    def in_order(self, t: Tensor) -> _InOrder:
        """Return where the tokens of a tensor start, and how they go on."""
        if not self.reverse:
            return _InOrder(t, t.stride())
        n, token, *others = t.stride()
        return _InOrder(t[:, -1:], (n, -token, *others))

    def states(self, x: _InOrder, dt: _InOrder, A: Tensor, B: _InOrder,
               backward: bool) -> Tensor:
        """Return the state before each chunk, (N, h, chunks, S, P).

        Backward, with dy for x and C for B: the gradient of the state after each chunk.
        """
        _, h, P, S, _ = self.sizes
        N = self.programs[2]
        states = A.new_empty(N, h, self.chunks, S, P, dtype=self.dtype)
        decays = A.new_empty(N, h, self.chunks, dtype=self.dtype)
        self.kernels.chunk_states[self.programs](
            x.first, dt.first, A, B.first, states, decays, *self.sizes, *x.strides, *dt.strides,
            *A.stride(), *B.strides, BACKWARD=backward, **self.options)
        self.kernels.carry[N * h, -(-S * P // CARRIED)](
            states, decays, self.chunks, S * P, BACKWARD=backward, BE=CARRIED,
            ACC=self.options['ACC'], num_warps=4)
        return states
