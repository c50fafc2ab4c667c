"""Maps of the selective scan against the op, against hand-made cases, and their memory."""
import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmvssd.analysis import scan_maps
from mmvssd.analysis.op_maps import KINDS, scaled, self_check, spread, token_at
from mmvssd.analysis.scan_maps import (
    Kernel,
    Route,
    SelectiveScanMaps,
    channel_rows,
    full_map,
    map_diagonal,
    map_row,
    place_map,
    route_output,
    route_tokens,
)
from mmvssd.errors import NumericalFault
from mmvssd_kernels import selective_scan_2d
from mmvssd_kernels.cross_scan import ORDERS

PATTERNS = list(ORDERS)
ONE = math.log(math.e - 1)  # softplus makes 1 of it


def arguments(grid, S=4, width=3, rank=2, seed=0):
    """Arguments of an op in float64."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return dict(x=draw(1, *grid, width), dt=draw(1, *grid, 4, rank), dt_weight=draw(4, width, rank),
                A=-draw(4 * width, S).exp(), B=draw(1, *grid, 4, S), C=draw(1, *grid, 4, S),
                D=draw(4 * width), dt_bias=draw(4 * width))


def maps_of(given, pattern='cross'):
    return SelectiveScanMaps(**given, pattern=pattern,
                             result=selective_scan_2d(**given, pattern=pattern))


def hand_made(L, *, A=0., delta=1., width=2, S=1):
    """A route of ones: B = C = 1, and one decay and step size."""
    ones = torch.ones(L, 1, S, dtype=torch.float64)
    step = torch.full((L, 1, width), delta, dtype=torch.float64)
    return Route(torch.arange(L), step, torch.full((1, width, S), A, dtype=torch.float64), ones,
                 ones, step[..., None], torch.zeros(1, width, dtype=torch.float64))


def lower(L) -> Tensor:
    return torch.ones(L, L, dtype=torch.float64).tril()


@pytest.mark.parametrize('pattern', PATTERNS)
@pytest.mark.parametrize('S', [1, 4, 16])
@pytest.mark.parametrize('grid', [(3, 5), (1, 7), (6, 1)])
def test_rows_add_up_to_what_the_op_returned(grid, S, pattern):
    maps = maps_of(arguments(grid, S), pattern)
    tokens = range(maps.length)
    expected = maps.returned(tokens)
    found = maps.outputs(tokens)
    assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()
    assert self_check(maps, tokens) <= 1e-12
    # the routes' own outputs as well
    total = sum(maps.route_outputs())
    assert (total - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_without_skip_and_bias():
    given = dict(arguments((2, 3)), D=None, dt_bias=None)
    assert self_check(maps_of(given), range(6)) <= 1e-12


def test_a_map_of_another_op_is_refused():
    maps = maps_of(arguments((3, 4)))
    maps._result = maps._result * (1 + 3e-4)
    with pytest.raises(RuntimeError, match='the maps do not describe this op: .* 3.0e-04'):
        self_check(maps, range(12))
    maps._result = maps._result * math.nan
    with pytest.raises(NumericalFault, match="the op's outputs are not finite"):
        self_check(maps, range(12))
    maps = maps_of(arguments((3, 4)))
    maps.outputs = lambda tokens: maps.returned(tokens) * math.nan
    with pytest.raises(RuntimeError, match='do not describe'):
        self_check(maps, range(12))


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('pattern', PATTERNS)
@pytest.mark.parametrize('grid', [(3, 5), (1, 7), (6, 1)])
def test_full_map_rows_and_diagonal_agree(grid, pattern, kind):
    maps = maps_of(arguments(grid), pattern)
    full = maps.full(kind)
    rows = maps.rows(kind, tuple(range(maps.length)))
    torch.testing.assert_close(full, rows, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(full.diagonal(), maps.diagonal(kind), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('block', [1, 4, 5, 30])
def test_blocks_and_parts_change_nothing(block, kind, monkeypatch):
    route = maps_of(arguments((5, 6), width=5)).route(1)
    kernel = route.kernel(kind)
    expected = naive(route, kind)
    torch.testing.assert_close(full_map(kernel, block), expected, rtol=1e-12, atol=1e-12)
    monkeypatch.setattr(scan_maps, 'LIMIT', 1)  # a channel at a time
    torch.testing.assert_close(full_map(kernel, block), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(map_row(kernel, 17), expected[17, :18], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(route_output(route, 17).flatten(), naive_output(route)[17],
                               rtol=1e-12, atol=1e-12)


def naive(route, kind):
    """The formulas, entry by entry."""
    L, _, width = route.delta.shape
    result = torch.zeros(L, L, dtype=torch.float64)
    for t in range(L):
        for s in range(t + 1):
            decay = (route.A[0] * route.delta[s + 1:t + 1, 0].sum(0)[:, None]).exp()
            product = route.C[t, 0] * route.B[s, 0]
            result[t, s] = {
                'operator': ((decay * product).sum(1) * route.delta[s, 0]).mean(),
                'decayed': (decay * product).sum(1).mean(),
                'attention': product.sum(),
                'decay': decay.sum(1).mean(),
            }[kind]
    return result


def naive_output(route):
    """The recurrence, token by token."""
    state, outputs = 0, []
    for t in range(len(route.delta)):
        delta, x = route.delta[t, 0], route.x[t, 0, :, 0]
        state = (state * (route.A[0] * delta[:, None]).exp()
                 + (delta * x)[:, None] * route.B[t, 0])
        outputs.append((state * route.C[t, 0]).sum(1) + route.D[0] * x)
    return torch.stack(outputs)


@pytest.mark.parametrize('kind', KINDS)
def test_no_decay_gives_a_triangle_of_ones(kind):
    kernel = hand_made(40).kernel(kind)
    assert torch.equal(full_map(kernel), lower(40))
    assert torch.equal(map_row(kernel, 11), torch.ones(12, dtype=torch.float64))


def test_no_decay_through_the_arguments_of_the_op():
    given = arguments((3, 4), S=1)
    for name, value in dict(dt_weight=0, A=0, B=1, C=1, dt_bias=ONE).items():
        given[name] = torch.full_like(given[name], value)
    maps = maps_of(given)
    torch.testing.assert_close(maps.route_map('operator', 0), lower(12), rtol=1e-15, atol=0)
    # every route: a token reads those before it in its own order, and itself four times
    assert torch.equal(maps.diagonal('attention'), torch.full((12, ), 4., dtype=torch.float64))


def test_halving_decay():
    L = 70
    kernel = hand_made(L, A=-1., delta=math.log(2)).kernel('operator')
    distance = torch.arange(L)[:, None] - torch.arange(L)
    expected = (math.log(2) * 0.5**distance.double()).tril()
    torch.testing.assert_close(full_map(kernel), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(map_row(kernel, 69), expected[69], rtol=1e-12, atol=0)


def test_no_memory_gives_the_identity():
    kernel = hand_made(40, A=-1e9).kernel('operator')
    assert torch.equal(full_map(kernel), torch.eye(40, dtype=torch.float64))


def test_neighbours_far_from_the_start_keep_their_decay():
    kernel = hand_made(1024, A=-1., delta=0.1).kernel('decay')
    full = full_map(kernel)
    torch.testing.assert_close(full[1023, 1022].item(), math.exp(-0.1), rtol=1e-12, atol=0)
    torch.testing.assert_close(full[1023], map_row(kernel, 1023), rtol=1e-10, atol=0)


@pytest.mark.parametrize('kind', KINDS)
def test_huge_steps_stay_finite(kind):
    kernel = hand_made(4096, A=-1., delta=1e4).kernel(kind)
    assert map_row(kernel, 4095).isfinite().all()
    assert full_map(Kernel(*(t[:600] for t in kernel[:2]), kernel.A,
                           *(t[:600] for t in kernel[3:]))).isfinite().all()
    assert map_diagonal(kernel).isfinite().all()


def test_a_small_step_behind_a_large_one_is_not_lost():
    route = hand_made(8, A=-1., delta=1e-6)
    route.delta[3] = 1e15
    full = full_map(route.kernel('decay'), block=8)
    torch.testing.assert_close(full[6, 4].item(), math.exp(-2e-6), rtol=1e-15, atol=0)
    assert torch.equal(full[6, :3], torch.zeros(3, dtype=torch.float64))


def test_orders():
    rows, columns, rows_back, columns_back = (route_tokens((2, 3), order)
                                              for order in ORDERS['cross'])
    assert rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert columns.tolist() == [0, 3, 1, 4, 2, 5]
    assert rows_back.tolist() == [5, 4, 3, 2, 1, 0]
    assert columns_back.tolist() == [5, 2, 4, 1, 3, 0]
    route = hand_made(6)._replace(tokens=columns)
    assert route.position(4) == 3
    placed = place_map(lower(6), columns)
    # a token reads those above it in its column, and all columns to its left
    assert placed[4].tolist() == [1, 1, 0, 1, 1, 0]
    assert route.place(torch.arange(1., 5)).tolist() == [1, 3, 0, 2, 4, 0]


class Sizes(TorchDispatchMode):
    """Keeps the bytes of the largest tensor that an operation makes."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for t in tree_leaves(result):
            if torch.is_tensor(t):
                self.largest = max(self.largest, t.untyped_storage().nbytes())
        return result


def test_many_tokens_take_no_square():
    """Rows and a diagonal of 25,600 tokens in the memory of their inputs."""
    L, width = 160 * 160, 8
    given = arguments((160, 160), S=1, width=width)
    given['A'] *= 1e-6
    maps = SelectiveScanMaps(**given, pattern='cross', result=torch.zeros(1, 160, 160, width))
    with Sizes() as sizes:
        row, diagonal = maps.rows('operator', [L // 2]), maps.diagonal('operator')
    assert row.count_nonzero() == diagonal.count_nonzero() == L
    assert L * width * 8 <= sizes.largest <= 4 * L * width * 8


def test_channels_are_cut_to_the_limit(monkeypatch):
    monkeypatch.setattr(scan_maps, 'LIMIT', 2**20)
    maps = maps_of(arguments((8, 16), S=8, width=40))
    kernel = maps.route(0).kernel('operator')
    parts = list(kernel.parts(32**2))
    assert len(parts) == 3  # 16 channels at most: 32 * 32 * 16 * 8 numbers of 8 bytes
    assert torch.equal(torch.cat([part.step for part in parts], -1), kernel.step)
    with Sizes() as sizes:
        full_map(kernel)
        list(channel_rows(kernel, 127))
    assert sizes.largest <= 2**20


def test_scaling():
    values = torch.tensor([[-2., 0.], [1., 2.]])
    assert scaled(values, 'minmax').tolist() == [[0, 0.5], [0.75, 1]]
    assert scaled(values, 'absmax').tolist() == [[1, 0], [0.5, 1]]
    assert scaled(values, 'none') is values
    for constant in (0., 3.):
        assert scaled(torch.full((2, 2), constant), 'minmax').tolist() == [[0, 0], [0, 0]]
    assert scaled(torch.zeros(2), 'absmax').tolist() == [0, 0]


def test_places():
    assert token_at(0, 0, (2, 3)) == 0
    assert token_at(0.5, 0.5, (2, 3)) == 4
    assert token_at(0.999, 0.34, (2, 3)) == 2
    assert token_at(1, 1, (2, 3)) == 5
    assert spread(5) == [0, 1, 2, 3, 4]
    assert spread(1) == [0]
    assert len(spread(1024)) == 16
    assert spread(1024)[0] == 0
    assert spread(1024)[-1] == 1023
