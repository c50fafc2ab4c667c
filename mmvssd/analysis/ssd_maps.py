r"""Maps of VSSD's ops: NC-SSD in both forms, causal SSD, attention.

NC-SSD has no order and no decay. With :math:`m = -dt\,A`, head j and its group g,

.. math::
    plain:\quad M_{is} &= (C_i^g \cdot B_s^g)\, m_s^j \\
    normalized:\quad M_{is} &= \frac{c\,(R_i q_i \cdot R_s k_s)\, w_s^j}
                                    {c\, q_i \cdot \sum_r k_r w_r^j + 10^{-6}}

with the features q and k, the softmax w, the rotary turn R and the scale c of
:mod:`mmvssd_kernels.nc_ssd.reference`. Maps are means over heads. ``M`` is the operator: applied to
a head's tokens it gives the op's output, up to the skip D.
"""
from typing import Callable, Iterator, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor
from torch.nn import functional as F

from mmvssd.analysis.op_maps import OpMaps, picked, silent
from mmvssd.analysis.scan_maps import BLOCK, Route, RouteMaps, route_tokens
from mmvssd_kernels.cross_scan.orders import ROWS, ROWS_REVERSED
from mmvssd_kernels.nc_ssd.reference import rotary_table, rotate

#: What :mod:`mmvssd_kernels.nc_ssd.reference` adds to the denominator of the normalized form.
EPSILON = 1e-6


class _MatrixMaps(OpMaps):
    """Maps of an op without an order: a matrix is a product of what targets and sources have."""

    kinds = ('attention', 'operator')

    def rows(self, kind: str, tokens: Union[Sequence[int], slice]) -> Tensor:
        """Compute what some tokens read of each token, (tokens, L)."""
        raise NotImplementedError

    def full(self, kind: str, tick: Callable[[float], None] = silent) -> Tensor:
        """Compute the whole map (L, L)."""
        result = self.rows(kind, slice(None))
        tick(1)
        return result


class NCSSDMaps(_MatrixMaps):
    """Maps of the plain form of :func:`mmvssd_kernels.nc_ssd`.

    Args:
        grid: (H, W) of the tokens.
        x: Tokens (1, L, h, P).
        dt: (1, L, h).
        A: (h,).
        B: (1, L, G, S).
        C: (1, L, G, S).
        D: (h,) or None.
        result: What the op returned, (1, L, h, P).

    Attributes:
        weights: What a head's sum weighs a token with, (L, h).
    """

    def __init__(self, grid: Tuple[int, int], x: Tensor, dt: Tensor, A: Tensor, B: Tensor,
                 C: Tensor, D: Optional[Tensor], *, result: Tensor) -> None:
        super().__init__(grid)
        self.x, dt, self.B, self.C = (t[0].double() for t in (x, dt, B, C))
        self.m = -dt * A.double()
        self.D = self.m.new_zeros(len(A)) if D is None else D.double()
        self._result = result[0]

    @property
    def weights(self) -> Tensor:
        """Return the token weights m, (L, h)."""
        return self.m

    @property
    def _gains(self) -> Tensor:
        """Sum the token weights over the heads of a group, (L, G): head j reads group j % G."""
        return self.m.unflatten(1, (-1, self.B.shape[1])).sum(1)

    def rows(self, kind: str, tokens: Union[Sequence[int], slice]) -> Tensor:
        """Compute what some tokens read of each token, (tokens, L)."""
        groups = self.B.shape[1]
        products = (picked(self.C[:, g], tokens) @ self.B[:, g].mT for g in range(groups))
        if kind == 'attention':
            return sum(products) / groups
        gains = self._gains
        return sum(product * gains[:, g] for g, product in enumerate(products)) / self.m.shape[1]

    def diagonal(self, kind: str) -> Tensor:
        """Compute what each token reads of itself, (L,)."""
        products = (self.C * self.B).sum(-1)  # (L, G)
        if kind == 'attention':
            return products.mean(1)
        return (products * self._gains).sum(1) / self.m.shape[1]

    def _head_rows(self, token: int) -> Tensor:
        """Compute a token's row of each head's operator, (L, h)."""
        products = torch.einsum('gn,sgn->sg', self.C[token], self.B)
        return products.repeat(1, self.m.shape[1] // self.B.shape[1]) * self.m

    def outputs(self, tokens: Sequence[int]) -> Tensor:
        """Compute the op's outputs at some tokens from the rows of each head, (tokens, h * P)."""
        read = [torch.einsum('sh,shp->hp', self._head_rows(token), self.x) for token in tokens]
        return (torch.stack(read) + self.D[:, None] * picked(self.x, tokens)).flatten(1)

    def returned(self, tokens: Sequence[int]) -> Tensor:
        """Return the outputs that the op gave at some tokens, (tokens, h * P)."""
        return picked(self._result, tokens).flatten(1)


class NormalizedNCSSDMaps(NCSSDMaps):
    """Maps of the normalized form; arguments and attributes are those of :class:`NCSSDMaps`.

    Token weights are ``L`` times the softmax over tokens: 1 is the mean.
    """

    def __init__(self, grid: Tuple[int, int], x: Tensor, dt: Tensor, A: Tensor, B: Tensor,
                 C: Tensor, D: Optional[Tensor], *, result: Tensor) -> None:
        super().__init__(grid, x, dt, A, B, C, D, result=result)
        q, k = (F.elu(t[:, 0]) + 1 for t in (self.C, self.B))  # (L, S), one group
        self.softmax = self.m.softmax(0)  # (L, h)
        scale = 1 / self.x[0].numel()
        denominator = scale * (q @ (k.mT @ self.softmax)) + EPSILON
        self.factor = scale / denominator  # of a target and a head, (L, h)
        table = rotary_table(grid, q.shape[-1], q.device, q.dtype)
        self.q, self.k = (rotate(t[None], *table)[0] for t in (q, k))

    @property
    def weights(self) -> Tensor:
        """Return the token weights L w, (L, h)."""
        return self.length * self.softmax

    def rows(self, kind: str, tokens: Union[Sequence[int], slice]) -> Tensor:
        """Compute what some tokens read of each token, (tokens, L)."""
        products = picked(self.q, tokens) @ self.k.mT
        if kind == 'attention':
            return products
        return products * (picked(self.factor, tokens) @ self.softmax.mT) / self.m.shape[1]

    def diagonal(self, kind: str) -> Tensor:
        """Compute what each token reads of itself, (L,)."""
        products = (self.q * self.k).sum(-1)
        return products if kind == 'attention' else products * (self.factor * self.softmax).mean(1)

    def _head_rows(self, token: int) -> Tensor:
        """Compute a token's row of each head's operator, (L, h)."""
        return (self.k @ self.q[token])[:, None] * self.softmax * self.factor[token]


class SSDMaps(RouteMaps):
    """Maps of the calls of :func:`mmvssd_kernels.ssd` in one mixer: one, or one a direction.

    Args:
        grid: (H, W) of the tokens.
        calls: Arguments of each call by name: x (1, L, h, P), dt (1, L, h), A (h,), B and C
            (1, L, G, S), D (h,) or None, reverse.
        results: What each call returned, (1, L, h, P).
    """

    def __init__(self, grid: Tuple[int, int], calls: Sequence[dict],
                 results: Sequence[Tensor]) -> None:
        orders = [ROWS_REVERSED if call['reverse'] else ROWS for call in calls]
        super().__init__(grid, orders, share=1 / len(calls))
        self._calls = calls
        self._results = [result[0] for result in results]

    def route(self, k: int) -> Route:
        """Make the tensors of a call: G groups of h / G heads of width P."""
        call = self._calls[k]
        x, dt, B, C = (call[name][0] for name in ('x', 'dt', 'B', 'C'))
        A = call['A'].double()
        D = torch.zeros_like(A) if call['D'] is None else call['D'].double()
        tokens = route_tokens(self.grid, self.orders[k]).to(x.device)
        x, dt, B, C = (t[tokens].double() for t in (x, dt, B, C))
        heads = B.shape[1], -1  # head j reads group j // (h / G)
        return Route(tokens, dt.unflatten(1, heads), A.unflatten(0, heads)[..., None], B, C,
                     x.unflatten(1, heads), D.unflatten(0, heads))

    def route_outputs(self) -> Iterator[Tensor]:
        """Return the output of each call at the row-major tokens, (L, h * P)."""
        return (result.double().flatten(1) for result in self._results)

    def outputs(self, tokens: Sequence[int]) -> Tensor:
        """Compute the calls' outputs at some tokens from the rows of each head, (tokens, h * P)."""
        return torch.cat(list(self.outputs_of_routes(tokens)), 1)

    def returned(self, tokens: Sequence[int]) -> Tensor:
        """Return the calls' outputs at some tokens, (tokens, h * P)."""
        return torch.cat([picked(result, tokens).flatten(1) for result in self._results], 1)


class AttentionMaps(_MatrixMaps):
    """Maps of softmax attention, ``softmax(q k^T / sqrt(P))``; 'attention' is the operator itself.

    Args:
        grid: (H, W) of the tokens.
        qkv: Queries, keys and values, (1, extra + H * W, 3 * h * P).
        num_heads: Heads h.
        result: What attention returned, heads side by side, (1, extra + H * W, h * P).
        extra: Tokens before those of the grid, such as a class token. They are read, and are left
            out of the maps.
    """

    def __init__(self, grid: Tuple[int, int], qkv: Tensor, num_heads: int, *, result: Tensor,
                 extra: int = 0) -> None:
        super().__init__(grid)
        self.extra = extra
        self.q, self.k, self.v = qkv[0].double().unflatten(-1, (3, num_heads, -1)).unbind(1)
        self._result = result[0]

    def _heads(self, tokens: Union[Sequence[int], slice]) -> Iterator[Tensor]:
        """Compute each head's rows of some tokens of the grid, (tokens, extra + L)."""
        q = picked(self.q[self.extra:], tokens)
        for head in range(q.shape[1]):
            scores = q[:, head] @ self.k[:, head].mT
            yield (scores / q.shape[-1]**0.5).softmax(-1)

    def rows(self, kind: str, tokens: Union[Sequence[int], slice]) -> Tensor:
        """Compute what some tokens read of each token, (tokens, L)."""
        return sum(self._heads(tokens))[:, self.extra:] / self.q.shape[1]

    def diagonal(self, kind: str) -> Tensor:
        """Compute what each token reads of itself, (L,)."""
        blocks = (slice(a, a + BLOCK) for a in range(0, self.length, BLOCK))
        return torch.cat([self.rows(kind, block).diagonal(block.start) for block in blocks])

    def outputs(self, tokens: Sequence[int]) -> Tensor:
        """Compute attention's outputs at some tokens from the rows of each head."""
        return torch.cat([rows @ self.v[:, head]
                          for head, rows in enumerate(self._heads(tokens))], 1)

    def returned(self, tokens: Sequence[int]) -> Tensor:
        """Return attention's outputs at some tokens, (tokens, h * P)."""
        return picked(self._result[self.extra:], tokens)
