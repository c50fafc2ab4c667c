"""The op against sums written out token by token in float64."""
import math

import pytest
import torch

from mmvssd_kernels import nc_ssd

GRIDS = [(1, 1), (1, 2), (3, 5), (4, 4), (7, 9)]


def make_inputs(N=2, grid=(3, 5), h=4, P=6, G=1, S=8, dtype=torch.float64, seed=0):
    L = grid[0] * grid[1]
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    dt = torch.nn.functional.softplus(normal(N, L, h))
    A = -torch.rand(h, generator=random, dtype=torch.float64) * 15 - 1
    tensors = (normal(N, L, h, P), dt, A, normal(N, L, G, S), normal(N, L, G, S), normal(h))
    return tuple(tensor.to(dtype) for tensor in tensors)


def naive_plain(x, dt, A, B, C, D, mask=None):
    y = torch.zeros_like(x)
    for n in range(x.shape[0]):
        kept = [t for t in range(x.shape[1]) if mask is None or mask[n, t]]
        for j in range(x.shape[2]):
            group = j % B.shape[2]
            state = torch.zeros(B.shape[3], x.shape[3], dtype=x.dtype)
            for t in kept:
                state += torch.outer(B[n, t, group], -dt[n, t, j] * A[j] * x[n, t, j])
            for t in kept:
                y[n, t, j] = C[n, t, group] @ state + D[j] * x[n, t, j]
    return y


def turn(vector, row, column):
    """Rotate the channel pairs of one token, one complex number each."""
    S = len(vector)
    K = S // 4
    out = vector.clone()
    for pair in range(S // 2):
        theta = 10000 ** (-(pair % K) / K)
        angle = (row if pair < K else column) * theta
        a, b = vector[2 * pair], vector[2 * pair + 1]
        out[2 * pair] = a * math.cos(angle) - b * math.sin(angle)
        out[2 * pair + 1] = a * math.sin(angle) + b * math.cos(angle)
    return out


def naive_normalized(x, dt, A, B, C, D, grid, mask=None):
    N, L, h, P = x.shape
    y = torch.zeros_like(x)
    s = 1 / (h * P)
    feature = lambda v: torch.where(v > 0, v + 1, v.exp())  # noqa: E731  (elu + 1)
    for n in range(N):
        kept = [t for t in range(L) if mask is None or mask[n, t]]
        for j in range(h):
            m = torch.stack([-dt[n, t, j] * A[j] for t in kept]) if kept else None
            state = torch.zeros(B.shape[3], P, dtype=x.dtype)
            keys = torch.zeros(B.shape[3], dtype=x.dtype)
            for i, t in enumerate(kept):
                w = len(kept) * (m[i] - m.logsumexp(0)).exp()
                k = feature(B[n, t, 0])
                state += torch.outer(turn(k, *divmod(t, grid[1])), w * x[n, t, j]) / len(kept)
                keys += k * w / len(kept)
            for t in kept:
                q = feature(C[n, t, 0])
                numerator = s * turn(q, *divmod(t, grid[1])) @ state
                y[n, t, j] = numerator / (s * q @ keys + 1e-6) + D[j] * x[n, t, j]
    return y


def make_mask(N, L):
    """Images of different valid lengths; the last one is all padding."""
    kept = torch.linspace(L, 0, N).round()[:, None]
    return torch.arange(L)[None] < kept


@pytest.mark.parametrize('grid', GRIDS)
@pytest.mark.parametrize('G', [1, 2, 4])
def test_plain_matches_the_written_out_sum(grid, G):
    inputs = make_inputs(grid=grid, G=G)
    torch.testing.assert_close(nc_ssd(*inputs), naive_plain(*inputs))


@pytest.mark.parametrize('grid', GRIDS)
@pytest.mark.parametrize('S', [4, 12, 16])
def test_normalized_matches_the_written_out_sum(grid, S):
    inputs = make_inputs(grid=grid, S=S)
    y = nc_ssd(*inputs, normalize=True, grid=grid)
    torch.testing.assert_close(y, naive_normalized(*inputs, grid))


@pytest.mark.parametrize('sign', [1, -1])  # -1: padding would weigh more than any token
@pytest.mark.parametrize('normalize', [False, True])
def test_mask_leaves_padding_out(normalize, sign):
    grid = (3, 5)
    inputs = list(make_inputs(N=4, grid=grid))
    inputs[2] = sign * inputs[2]
    mask = make_mask(4, 15)
    naive = naive_normalized(*inputs, grid, mask) if normalize else naive_plain(*inputs, mask)
    x, dt, A, B, C, D = (tensor.clone() for tensor in inputs)
    for tensor, poison in ((x, math.nan), (B, math.inf), (C, -math.inf), (dt, math.nan)):
        tensor[~mask] = poison
    y = nc_ssd(x, dt, A, B, C, D, normalize=normalize, grid=grid, mask=mask)
    torch.testing.assert_close(y, naive)
    assert (y[~mask] == 0).all()


def test_padding_gets_no_gradient():
    inputs = [tensor.requires_grad_() for tensor in make_inputs(N=4)]
    mask = make_mask(4, 15)
    nc_ssd(*inputs, normalize=True, grid=(3, 5), mask=mask).square().sum().backward()
    for tensor in (inputs[0], inputs[1], inputs[3], inputs[4]):
        assert (tensor.grad[~mask] == 0).all()
        assert tensor.grad.isfinite().all()


@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('options', [
    dict(), dict(G=2), dict(normalize=True), dict(D=False), dict(negative_decay=True)
], ids=str)
def test_gradcheck(options, masked):
    normalize = options.get('normalize', False)
    x, dt, A, B, C, D = make_inputs(grid=(2, 3), h=4, P=3, S=4, G=options.get('G', 1))
    A = A / 16 * (-1 if options.get('negative_decay') else 1)
    mask = make_mask(2, 6) if masked else None
    tensors = [x, dt, A, B, C] + ([D] if options.get('D', True) else [])
    tensors = [tensor.requires_grad_() for tensor in tensors]

    def run(*args):
        return nc_ssd(*args, normalize=normalize, grid=(2, 3), mask=mask)

    assert torch.autograd.gradcheck(run, tensors)


@pytest.mark.parametrize('normalize', [False, True])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_rounds_inputs_and_result_alone(dtype, normalize):
    """Sums and state in float32: the error is the result's own rounding."""
    grid = (49, 49)
    inputs = make_inputs(grid=grid, dtype=dtype)
    y = nc_ssd(*inputs, normalize=normalize, grid=grid)
    exact = nc_ssd(*(t.double() for t in inputs), normalize=normalize, grid=grid)
    assert y.dtype == dtype
    rounding = exact.to(dtype).double().sub(exact).abs().max()
    tolerance = rounding + 2e-6 * exact.abs().max()  # float32 sums over 2,401 tokens
    assert (y.double() - exact).abs().max() <= tolerance


@pytest.mark.parametrize('normalize', [False, True])
def test_autocast_does_not_touch_sums(normalize):
    inputs = make_inputs(grid=(16, 16), dtype=torch.float32)
    plain = nc_ssd(*inputs, normalize=normalize, grid=(16, 16))
    with torch.autocast('cpu', torch.bfloat16):
        cast = nc_ssd(*inputs, normalize=normalize, grid=(16, 16))
    assert torch.equal(plain, cast)


def test_float16_sum_does_not_overflow():
    """66,800 tokens, an 800x1333 image at stride 4: a float16 sum would be infinite."""
    L = 66_800
    x = torch.ones(1, L, 1, 1, dtype=torch.float16)
    dt = torch.ones(1, L, 1, dtype=torch.float16)
    B = torch.full((1, L, 1, 1), 4.0, dtype=torch.float16)
    C = torch.full((1, L, 1, 1), 0.125, dtype=torch.float16)
    y = nc_ssd(x, dt, -torch.ones(1), B, C)
    torch.testing.assert_close(y.float(), torch.full_like(y, 33400.0).float(), rtol=2e-3, atol=0)


@pytest.mark.parametrize('normalize', [False, True])
def test_extreme_steps_stay_finite(normalize):
    x, dt, A, B, C, D = make_inputs(grid=(8, 8), dtype=torch.float32)
    for scale in (1e-6, 1e3):
        y = nc_ssd(x, dt * scale, A, B, C, D, normalize=normalize, grid=(8, 8))
        assert y.isfinite().all()


@pytest.mark.parametrize('normalize', [False, True])
def test_strides_do_not_matter(normalize):
    inputs = make_inputs()
    x, dt, A, B, C, D = inputs
    packed = torch.cat([x.flatten(2), B.flatten(2), C.flatten(2)], -1)
    parts = packed.split([x[0, 0].numel(), B[0, 0].numel(), C[0, 0].numel()], -1)
    views = [part.unflatten(-1, like.shape[2:]) for part, like in zip(parts, (x, B, C))]
    assert not views[0].is_contiguous()
    y = nc_ssd(views[0], dt, A, views[1], views[2], D, normalize=normalize, grid=(3, 5))
    torch.testing.assert_close(y, nc_ssd(*inputs, normalize=normalize, grid=(3, 5)))


@pytest.mark.parametrize('normalize', [False, True])
def test_shapes_on_the_meta_device(normalize):
    inputs = [tensor.to('meta') for tensor in make_inputs()]
    y = nc_ssd(*inputs, normalize=normalize, grid=(3, 5))
    assert y.shape == inputs[0].shape
    assert y.is_meta


@pytest.mark.parametrize('normalize', [False, True])
@pytest.mark.parametrize(('N', 'grid'), [(0, (3, 5)), (2, (0, 5))])
def test_nothing_in_nothing_out(N, grid, normalize):
    inputs = make_inputs(N=N, grid=grid)
    y = nc_ssd(*inputs, normalize=normalize, grid=grid)
    assert y.shape == inputs[0].shape


@pytest.mark.parametrize(('change', 'message'), [
    (dict(x=torch.zeros(2, 15, 4)), r'x: got shape \(2, 15, 4\), expected \(N, L, h, P\)'),
    (dict(x=torch.zeros(2, 15, 4, 6, dtype=torch.int64)), 'x: got dtype torch.int64'),
    (dict(x=None), 'x: got NoneType, expected a tensor'),
    (dict(dt=torch.zeros(2, 14, 4)), r'dt: got shape \(2, 14, 4\), expected \(2, 15, 4\)'),
    (dict(A=torch.zeros(3)), r'A: got shape \(3,\), expected \(4,\)'),
    (dict(A=torch.zeros(4, device='meta')), 'A: got device meta, expected cpu'),
    (dict(B=torch.zeros(2, 15, 8)), r'B: got shape .* expected \(2, 15, G, S\)'),
    (dict(C=torch.zeros(2, 15, 1, 4)), r'C: got shape .* expected \(2, 15, 1, 8\)'),
    (dict(B=torch.zeros(2, 15, 3, 8), C=torch.zeros(2, 15, 3, 8)), 'B: got 3 groups'),
    (dict(D=torch.zeros(1)), r'D: got shape \(1,\), expected \(4,\)'),
    (dict(mask=torch.ones(2, 15)), 'mask: got dtype torch.float32, expected one of torch.bool'),
    (dict(mask=torch.ones(2, 5, dtype=torch.bool)), r'mask: got shape .* expected \(2, 15\)'),
    (dict(normalize=True), 'grid: got None'),
    (dict(normalize=True, grid=15), r'grid: got 15, expected \(H, W\)'),
    (dict(normalize=True, grid=(-3, -5)), r'grid: got \(-3, -5\)'),
    (dict(normalize=True, grid=(4, 4)), r'grid: got \(4, 4\), expected .* H \* W = 15'),
    (dict(normalize=True, grid=(3, 5), B=torch.zeros(2, 15, 1, 6), C=torch.zeros(2, 15, 1, 6)),
     'B: got a state of size 6, expected a multiple of 4'),
    (dict(normalize=True, grid=(3, 5), B=torch.zeros(2, 15, 2, 8), C=torch.zeros(2, 15, 2, 8)),
     'B: got 2 groups, expected 1'),
])
def test_bad_input_names_the_argument(change, message):
    arguments = dict(zip(['x', 'dt', 'A', 'B', 'C', 'D'], make_inputs(dtype=torch.float32)))
    with pytest.raises(ValueError, match=message):
        nc_ssd(**{**arguments, **change})
