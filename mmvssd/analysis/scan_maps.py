r"""Maps of ops that scan tokens one after the other: the selective scan, and causal SSD.

A route is one sequence over the grid. At its positions :math:`s \le t`, for a channel d and an
entry n of the state, with :math:`E_{ts} = \exp(A_{dn} \sum_{r=s+1}^{t} \delta_{rd})`, its maps are

.. math::
    operator_{ts} &= mean_d \sum_n C_{tn} B_{sn} E_{ts} \delta_{sd} \\
    decayed_{ts} &= mean_d \sum_n C_{tn} B_{sn} E_{ts} \\
    attention_{ts} &= \sum_n C_{tn} B_{sn} \\
    decay_{ts} &= mean_d \sum_n E_{ts}

and 0 for :math:`s > t` (VMamba, arXiv 2401.10166, Sec. 4.4 and its appendix; it writes Q for C, K
for B). The operator without the mean is the scan itself: applied to a channel's tokens it gives the
op's output, up to the skip D.

Every product here is of factors of at most 1. Products of decays from the first token on, which
one would divide, underflow after a few hundred tokens.
"""
from typing import Callable, Iterator, List, NamedTuple, Sequence, Tuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mmvssd.analysis.op_maps import OpMaps, part_of, picked, silent
from mmvssd.ops import selective_scan
from mmvssd_kernels.cross_scan import ORDERS
from mmvssd_kernels.cross_scan.orders import Order

#: Bytes that no tensor between inputs and result should pass.
LIMIT = 256 * 2**20
#: Target tokens of a block of a full map.
BLOCK = 32


class Kernel(NamedTuple):
    """A kind of map of a route: ``mean over g, c of sum_n C_t B_s exp(A sum step) gain_s``.

    There are G groups of c channels (or heads). B and C are a group's, steps a channel's.

    Attributes:
        step: Step sizes in the decay, (L, G, c).
        gain: Weight of a source token, (L, G, c).
        A: Decay, (G, c, S), or (G, c, 1) if the state's entries share it.
        B: (L, G, S).
        C: (L, G, S).
    """

    step: Tensor
    gain: Tensor
    A: Tensor
    B: Tensor
    C: Tensor

    def channels(self, part: slice) -> 'Kernel':
        """Take some channels of each group."""
        return self._replace(step=self.step[..., part], gain=self.gain[..., part],
                             A=self.A[:, part])

    def parts(self, rows: int) -> Iterator['Kernel']:
        """Cut the channels so that ``rows`` of them and their states stay below LIMIT."""
        _, G, c = self.step.shape
        each = rows * G * self.B.shape[-1] * self.B.element_size()
        count = max(1, min(c, LIMIT // max(each, 1)))
        for start in range(0, c, count):
            yield self.channels(slice(start, start + count))


class Route(NamedTuple):
    """One sequence: its tokens in the order in which the scan reads them.

    Attributes:
        tokens: Row-major token at each position, (L,).
        delta: Step sizes, (L, G, c).
        A: (G, c, S) or (G, c, 1), as in :class:`Kernel`.
        B: (L, G, S).
        C: (L, G, S).
        x: Inputs, (L, G, c, P).
        D: Skip weight, (G, c).
    """

    tokens: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    x: Tensor
    D: Tensor

    def kernel(self, kind: str) -> Kernel:
        """Put together a kind of map of :data:`~mmvssd.analysis.op_maps.KINDS`."""
        ones = self.delta.new_ones(1, 1, 1).expand_as(self.delta)
        if kind == 'operator':
            return Kernel(self.delta, self.delta, self.A, self.B, self.C)
        if kind == 'decayed':
            return Kernel(self.delta, ones, self.A, self.B, self.C)
        if kind == 'decay':
            plain = ones[..., :1].expand(-1, -1, self.A.shape[-1])
            return Kernel(self.delta, ones, self.A, plain, plain)
        # 'attention' has neither channels nor decay: one channel that forgets nothing
        one = ones[..., :1]
        return Kernel(torch.zeros_like(one), one, torch.zeros_like(self.A[:, :1]), self.B, self.C)

    def position(self, token: int) -> int:
        """Find the position at which the route reads a token."""
        return int((self.tokens == token).nonzero())

    def place(self, values: Tensor) -> Tensor:
        """Bring values of the first positions, (t,), to the row-major tokens, (L,), 0 elsewhere."""
        placed = values.new_zeros(len(self.tokens))
        placed[self.tokens[:len(values)]] = values
        return placed


def route_tokens(grid: Tuple[int, int], order: Order) -> Tensor:
    """List the row-major token at each position of a route, (L,)."""
    H, W = grid
    tokens = torch.arange(H * W).view(H, W)
    tokens = (tokens.mT if order.transposed else tokens).flatten()
    return tokens.flip(0) if order.reverse else tokens


def place_map(values: Tensor, tokens: Tensor) -> Tensor:
    """Bring a map of a route's positions to row-major tokens: ``F[pi[t], pi[s]] = M[t, s]``.

    Args:
        values: M, (L, L).
        tokens: pi, the token at each position, (L,).
    """
    order = tokens.argsort()
    return values[order[:, None], order]


def channel_rows(kernel: Kernel, position: int) -> Iterator[Tuple[Kernel, Tensor]]:
    """Compute one row of the map of each channel.

    Yields:
        Some channels of the kernel and their rows, (t + 1, G, c): what the position t reads of
        positions 0 to t.
    """
    t = position
    for part in kernel.parts(t + 1):
        # sums from the query backwards: no difference of large sums
        later = part.step[1:t + 1].flip(0).cumsum(0).flip(0)
        later = torch.cat([later, torch.zeros_like(part.step[:1])])
        products = (part.B[:t + 1] * part.C[t])[:, :, None]  # (t + 1, G, 1, S)
        decays = (part.A * later[..., None]).exp_()
        yield part, (decays * products).sum(-1) * part.gain[:t + 1]


def map_row(kernel: Kernel, position: int) -> Tensor:
    """Compute one row of a map, (t + 1,): what position t reads of positions 0 to t."""
    return sum(rows.sum((1, 2)) for _, rows in channel_rows(kernel, position)) / _count(kernel)


def map_diagonal(kernel: Kernel) -> Tensor:
    """Compute what each position reads of itself, (L,)."""
    return ((kernel.C * kernel.B).sum(-1) * kernel.gain.mean(-1)).mean(-1)


def full_map(kernel: Kernel, block: int = BLOCK,
             tick: Callable[[float], None] = silent) -> Tensor:
    """Compute a map (L, L) block by block; row t is what position t reads.

    Args:
        kernel: The kind of map of a route.
        block: Target positions of a block; it changes rounding, memory and time only.
        tick: Called with the share of the map that is done.
    """
    L = len(kernel.step)
    result = kernel.step.new_zeros(L, L)
    parts = list(kernel.parts(max(L, min(block, L)**2)))
    for i, part in enumerate(parts):
        _, G, c = part.step.shape
        # what an earlier position hands on, decayed up to the block's start
        sources = part.B.new_empty(L, G, c, part.B.shape[-1])
        for a in range(0, L, block):
            own = slice(a, min(a + block, L))
            step, gain, B, C = part.step[own], part.gain[own], part.B[own], part.C[own]
            since_start = (part.A * step.cumsum(0)[..., None]).exp_()
            readers = since_start * C[:, :, None]
            result[own, :a] += readers.flatten(1) @ sources[:a].flatten(1).mT
            decays = _decays(step)
            result[own, own] += _within(part.A, decays, gain, B, C)
            sources[:a] *= since_start[-1]
            sources[own] = (part.A * decays[-1][..., None]).exp_() * (gain[..., None]
                                                                     * B[:, :, None])
            tick((i + own.stop / L) / len(parts))
    return result / _count(kernel)


def _decays(step: Tensor) -> Tensor:
    """Sum the steps behind s up to t at [t, s], 0 for s >= t: (T, G, c) -> (T, T, G, c).

    Each column is a sum of its own. A difference of sums would lose small steps behind a large one.
    """
    T = len(step)
    later = torch.ones(T, T, dtype=torch.bool, device=step.device).tril(-1)[..., None, None]
    return step[:, None].masked_fill(~later, 0).cumsum(0)


def _within(A: Tensor, sums: Tensor, gain: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Sum the map of a block's own tokens over channels, (T, T)."""
    T = len(gain)
    future = torch.ones(T, T, dtype=torch.bool, device=gain.device).triu(1)
    result = gain.new_zeros(T, T)
    for n in range(B.shape[-1]):
        decays = (A[..., min(n, A.shape[-1] - 1)] * sums).exp_()  # (T, T, G, c)
        weights = torch.einsum('tsgc,sgc->tsg', decays, gain)
        result += (weights * C[:, None, :, n] * B[:, :, n]).sum(-1)
    return result.masked_fill_(future, 0)


def _count(kernel: Kernel) -> int:
    """Count the channels of all groups, over which a map is a mean."""
    return kernel.step.shape[1] * kernel.step.shape[2]


def route_output(route: Route, position: int) -> Tensor:
    """Compute a route's output at a position from the rows of its channels, (G, c, P)."""
    parts = []
    x = route.x[:position + 1]
    start = 0
    for part, rows in channel_rows(route.kernel('operator'), position):
        stop = start + part.step.shape[-1]
        parts.append(torch.einsum('sgc,sgcp->gcp', rows, x[:, :, start:stop]))
        start = stop
    return torch.cat(parts, 1) + route.D[..., None] * route.x[position]


class RouteMaps(OpMaps):
    """Maps of an op that scans along routes; :meth:`route` is the subclass's.

    A map of the op is the sum of its routes' maps, each brought to row-major tokens and weighted
    with :attr:`share`.

    Args:
        grid: (H, W) of the tokens.
        orders: Order of each route; the first reads row by row.
        share: Weight of a route's map in that of the op: 1 if the op adds routes up, the routes'
            share of the heads if each has heads of its own.
    """

    def __init__(self, grid: Tuple[int, int], orders: Sequence[Order], share: float) -> None:
        super().__init__(grid)
        self.orders = tuple(orders)
        self.share = share

    def route(self, k: int) -> Route:
        """Make a route's tensors. Not all are kept at once: they are an image's largest."""
        raise NotImplementedError

    def route_outputs(self) -> Iterator[Tensor]:
        """Compute the output of each route at the row-major tokens, (L, channels)."""
        raise NotImplementedError

    def route_rows(self, kind: str, tokens: Sequence[int]) -> List[Tensor]:
        """Compute some tokens' rows of each route's map, at row-major tokens, (tokens, L) each."""
        found = []
        for k in range(len(self.orders)):
            route = self.route(k)
            kernel = route.kernel(kind)
            found.append(torch.stack([route.place(map_row(kernel, route.position(token)))
                                      for token in tokens]))
        return found

    def rows(self, kind: str, tokens: Sequence[int]) -> Tensor:
        """Compute what some tokens read of each token, (tokens, L)."""
        return self.share * sum(self.route_rows(kind, tokens))

    def outputs_of_routes(self, tokens: Sequence[int]) -> Iterator[Tensor]:
        """Compute each route's outputs at some tokens from the rows of its channels."""
        for k in range(len(self.orders)):
            route = self.route(k)
            yield torch.stack([route_output(route, route.position(token)).flatten()
                               for token in tokens])

    def route_diagonals(self, kind: str) -> List[Tensor]:
        """Compute the diagonal of each route's map, at row-major tokens, (L,) each."""
        routes = map(self.route, range(len(self.orders)))
        return [route.place(map_diagonal(route.kernel(kind))) for route in routes]

    def diagonal(self, kind: str) -> Tensor:
        """Compute what each token reads of itself, (L,)."""
        return self.share * sum(self.route_diagonals(kind))

    def route_map(self, kind: str, k: int, tick: Callable[[float], None] = silent) -> Tensor:
        """Compute a route's map over its own positions, (L, L)."""
        return full_map(self.route(k).kernel(kind), tick=tick)

    def full(self, kind: str, tick: Callable[[float], None] = silent) -> Tensor:
        """Compute the whole map (L, L)."""
        total, count = 0, len(self.orders)
        for k in range(count):
            values = self.route_map(kind, k, part_of(tick, k, count))
            total = total + self.share * place_map(values, self.route(k).tokens)
        return total


class SelectiveScanMaps(RouteMaps):
    """Maps of :func:`mmvssd_kernels.selective_scan_2d`.

    Args:
        x: Tokens (1, H, W, D).
        dt: (1, H, W, 4, R).
        dt_weight: (4, D, R).
        A: (4*D, S).
        B: (1, H, W, 4, S).
        C: (1, H, W, 4, S).
        D: (4*D,) or None.
        dt_bias: (4*D,) or None.
        pattern: Orders of the routes, as the op takes it.
        result: What the op returned, (1, H, W, D).
    """

    def __init__(self, x: Tensor, dt: Tensor, dt_weight: Tensor, A: Tensor, B: Tensor, C: Tensor,
                 D: Tensor, dt_bias: Tensor, *, pattern: str, result: Tensor) -> None:
        super().__init__(x.shape[1:3], ORDERS[pattern], share=1)
        nothing = A.new_zeros(len(A))
        self._tokens = [t[0].flatten(0, 1) for t in (x, dt, B, C)]
        self._weights = dt_weight, *(t.unflatten(0, (4, -1)) for t in (
            A, nothing if D is None else D, nothing if dt_bias is None else dt_bias))
        self._result = result[0].flatten(0, 1)

    def route(self, k: int) -> Route:
        """Make a route's tensors: one group of D channels of width 1."""
        x, dt, B, C = self._tokens
        weight, A, D, bias = (t[k].double() for t in self._weights)
        tokens = route_tokens(self.grid, self.orders[k]).to(x.device)
        x, dt, B, C = (t[tokens].double() for t in (x, dt[:, k], B[:, k], C[:, k]))
        delta = F.softplus(dt @ weight.mT + bias)
        return Route(tokens, delta[:, None], A[None], B[:, None], C[:, None], x[:, None, :, None],
                     D[None])

    def route_outputs(self) -> Iterator[Tensor]:
        """Compute the output of each route at the row-major tokens, (L, D)."""
        for k in range(len(self.orders)):
            route = self.route(k)
            B, C = (t.permute(1, 2, 0)[None] for t in (route.B, route.C))
            y = selective_scan(route.x[:, 0, :, 0].mT[None], route.delta[:, 0].mT[None],
                               route.A[0], B, C, route.D[0], delta_softplus=False)
            yield y[0].mT[route.tokens.argsort()]

    def outputs(self, tokens: Sequence[int]) -> Tensor:
        """Compute the op's outputs at some tokens from the rows of each channel, (tokens, D)."""
        return sum(self.outputs_of_routes(tokens))

    def returned(self, tokens: Sequence[int]) -> Tensor:
        """Return the outputs that the op gave at some tokens, (tokens, D)."""
        return picked(self._result, tokens)
