"""Maps of VSSD's ops and of attention against what they return, and hand-made cases."""
import math

import pytest
import torch
from torch.nn import functional as F

from mmvssd.analysis.op_maps import KINDS, self_check
from mmvssd.analysis.ssd_maps import AttentionMaps, NCSSDMaps, NormalizedNCSSDMaps, SSDMaps
from mmvssd_kernels import nc_ssd, ssd

MATRIX_KINDS = ('attention', 'operator')


def arguments(L=12, h=4, P=3, G=1, S=8, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return dict(x=draw(1, L, h, P), dt=draw(1, L, h).exp(), A=-draw(h).exp(), B=draw(1, L, G, S),
                C=draw(1, L, G, S), D=draw(h))


def nc_ssd_maps(given, normalize=False, grid=(3, 4)):
    maps = NormalizedNCSSDMaps if normalize else NCSSDMaps
    return maps(grid, **given, result=nc_ssd(**given, normalize=normalize, grid=grid))


def ssd_maps(*givens, reverse=(False, ), grid=(3, 4)):
    calls = [dict(given, reverse=way) for given, way in zip(givens, reverse)]
    return SSDMaps(grid, calls, [ssd(**call) for call in calls])


def attention_maps(extra=0, grid=(3, 4), heads=3, P=5):
    L = extra + grid[0] * grid[1]
    qkv = torch.randn(1, L, 3 * heads * P, dtype=torch.float64)
    q, k, v = qkv.unflatten(-1, (3, heads, P)).permute(2, 0, 3, 1, 4)
    result = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return AttentionMaps(grid, qkv, heads, result=result, extra=extra)


MAPS = {
    'plain': lambda: nc_ssd_maps(arguments()),
    'groups': lambda: nc_ssd_maps(arguments(G=2)),
    'negative decay': lambda: nc_ssd_maps(dict(arguments(G=2), A=-arguments()['A'])),
    'no skip': lambda: nc_ssd_maps(dict(arguments(), D=None)),
    'normalized': lambda: nc_ssd_maps(arguments(), normalize=True),
    'normalized, one row': lambda: nc_ssd_maps(arguments(), normalize=True, grid=(1, 12)),
    'ssd': lambda: ssd_maps(arguments()),
    'ssd groups': lambda: ssd_maps(dict(arguments(G=2), D=None)),
    'ssd reverse': lambda: ssd_maps(arguments(G=2), reverse=[True]),
    'bi_ssd': lambda: ssd_maps(arguments(), arguments(seed=1), reverse=[False, True]),
    'attention': attention_maps,
    'attention, class token': lambda: attention_maps(extra=1),
}


@pytest.mark.parametrize('name', MAPS)
def test_rows_add_up_to_what_the_op_returned(name):
    maps = MAPS[name]()
    assert self_check(maps, tuple(range(12))) <= 1e-12


@pytest.mark.parametrize('name', MAPS)
def test_full_map_rows_and_diagonal_agree(name):
    maps = MAPS[name]()
    for kind in maps.kinds:
        full = maps.full(kind)
        rows = maps.rows(kind, tuple(range(maps.length)))
        torch.testing.assert_close(full, rows, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(full.diagonal(), maps.diagonal(kind), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(('name', 'kinds'), [
    ('plain', MATRIX_KINDS), ('normalized', MATRIX_KINDS), ('attention', MATRIX_KINDS),
    ('ssd', KINDS), ('bi_ssd', KINDS)])
def test_kinds(name, kinds):
    assert MAPS[name]().kinds == kinds


@pytest.mark.parametrize('normalize', [False, True])
@pytest.mark.parametrize('G', [1, 2])
def test_the_operator_is_the_mean_of_the_heads(G, normalize):
    """Each head's operator is what the op makes of unit tokens, without the skip."""
    if normalize and G > 1:
        return
    given = dict(arguments(G=G), D=None, x=None)
    units = torch.eye(12, dtype=torch.float64)[None, :, None].expand(-1, -1, 4, -1)
    matrices = nc_ssd(**dict(given, x=units), normalize=normalize, grid=(3, 4))[0]  # (i, h, s)
    # the scale c holds the width of the heads; it is lost in all but the 1e-6
    maps = nc_ssd_maps(dict(given, x=units), normalize)
    torch.testing.assert_close(maps.full('operator'), matrices.mean(1), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize('reverse', [False, True])
def test_the_operator_of_ssd_is_the_mean_of_the_heads(reverse):
    given = dict(arguments(G=2), D=None)
    given['x'] = torch.eye(12, dtype=torch.float64)[None, :, None].expand(-1, -1, 4, -1)
    full = ssd_maps(given, reverse=[reverse]).full('operator')
    torch.testing.assert_close(full, ssd(**given, reverse=reverse)[0].mean(1), rtol=1e-12,
                               atol=1e-14)
    assert (full.tril(-1) == 0).all() if reverse else (full.triu(1) == 0).all()


def test_directions_share_the_heads():
    both = ssd_maps(arguments(), arguments(seed=1), reverse=[False, True])
    one, other = (ssd_maps(arguments(seed=seed), reverse=[bool(seed)]) for seed in (0, 1))
    expected = (one.full('decayed') + other.full('decayed')) / 2
    torch.testing.assert_close(both.full('decayed'), expected)
    assert ssd_maps(arguments()).diagonal('decay').tolist() == [1.] * 12  # one decay a head


def test_nc_ssd_of_ones():
    given = arguments(S=8)
    given.update(B=torch.ones_like(given['B']), C=torch.ones_like(given['C']),
                 dt=torch.ones_like(given['dt']), A=-torch.ones_like(given['A']))
    maps = nc_ssd_maps(given)
    for kind in MATRIX_KINDS:
        assert torch.equal(maps.full(kind), torch.full((12, 12), 8., dtype=torch.float64))
    assert torch.equal(maps.weights, torch.ones(12, 4, dtype=torch.float64))


def test_normalized_of_two_tokens():
    given = arguments(L=2, S=4)
    for name, value in dict(B=0, C=0, dt=1, A=-1).items():
        given[name] = torch.full_like(given[name], value)
    full = nc_ssd_maps(given, normalize=True, grid=(1, 2)).full('operator')
    beside = (1 + math.cos(1)) / 4
    expected = torch.tensor([[0.5, beside], [beside, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(full, expected, rtol=1e-5, atol=0)


def test_token_weights_of_the_normalized_form_have_the_mean_one():
    weights = nc_ssd_maps(arguments(), normalize=True).weights
    torch.testing.assert_close(weights.mean(0), torch.ones(4, dtype=torch.float64))
    assert weights.shape == (12, 4)


def test_the_rotary_turn_depends_on_the_displacement():
    given = arguments()
    given.update(B=torch.ones_like(given['B']), C=torch.ones_like(given['C']))
    full = nc_ssd_maps(given, normalize=True).full('attention').view(3, 4, 3, 4)
    torch.testing.assert_close(full[0, 0, 1, 2], full[1, 1, 2, 3])
    assert full[0, 0, 0, 0] == 32  # 8 products of (elu(1) + 1)^2
    assert full[0, 0, 0, 1] < full[0, 0, 0, 0]


def test_attention_rows_add_up_to_one_less_the_class_token():
    maps = attention_maps()
    torch.testing.assert_close(maps.full('attention').sum(1), torch.ones(12, dtype=torch.float64))
    with_class = attention_maps(extra=1)
    qkv = torch.stack([with_class.q, with_class.k], 1).movedim(2, 0)  # (h, 1 + L, 2, P)
    q, k = qkv.unbind(2)
    expected = (q @ k.mT / 5**0.5).softmax(-1).mean(0)[1:, 1:]
    torch.testing.assert_close(with_class.full('attention'), expected, rtol=1e-12, atol=1e-14)
