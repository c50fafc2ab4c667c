"""Cross scan and cross merge against their orders, written out token by token."""
import pytest
import torch

from mmvssd_kernels import cross_merge, cross_scan, dispatch
from mmvssd_kernels.cross_scan import PATTERNS

GRIDS = [(1, 1), (1, 4), (5, 1), (3, 5), (4, 4), (6, 2)]
patterns = pytest.mark.parametrize('pattern', PATTERNS)
grids = pytest.mark.parametrize('grid', GRIDS)


def places(grid, pattern):
    """Rows and columns of the tokens of the four sequences."""
    H, W = grid
    rows = [(i, j) for i in range(H) for j in range(W)]
    columns = [(i, j) for j in range(W) for i in range(H)]
    return {
        'cross': (rows, columns, rows[::-1], columns[::-1]),
        'unidirectional': (rows, rows, rows, rows),
        'bidirectional': (rows, rows, rows[::-1], rows[::-1]),
    }[pattern]


def naive_scan(x, pattern):
    return torch.stack([torch.stack([x[:, :, i, j] for i, j in sequence], -1)
                        for sequence in places(x.shape[2:], pattern)], 1)


def naive_merge(y, grid, pattern):
    x = y.new_zeros(len(y), y.shape[2], *grid)
    for k, sequence in enumerate(places(grid, pattern)):
        for t, (i, j) in enumerate(sequence):
            x[:, :, i, j] += y[:, k, :, t]
    return x


def normal(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0),
                       dtype=torch.float64).to(dtype)


def test_patterns():
    assert PATTERNS == ('cross', 'unidirectional', 'bidirectional')


@patterns
@grids
def test_sequences_are_in_their_orders(grid, pattern):
    x = normal(2, 3, *grid)
    assert torch.equal(cross_scan(x, pattern), naive_scan(x, pattern))


@patterns
@grids
def test_merge_adds_what_comes_from_one_place(grid, pattern):
    y = normal(2, 4, 3, grid[0] * grid[1])
    torch.testing.assert_close(cross_merge(y, grid, pattern), naive_merge(y, grid, pattern))


def test_cross_is_the_default():
    x, y = normal(1, 2, 3, 5), normal(1, 4, 2, 15)
    assert torch.equal(cross_scan(x), cross_scan(x, 'cross'))
    assert torch.equal(cross_merge(y, (3, 5)), cross_merge(y, (3, 5), 'cross'))


@patterns
@grids
def test_merge_is_the_transpose_of_scan(grid, pattern):
    x, y = normal(2, 3, *grid), normal(2, 4, 3, grid[0] * grid[1])
    torch.testing.assert_close((cross_scan(x, pattern) * y).sum(),
                               (x * cross_merge(y, grid, pattern)).sum())


@patterns
@pytest.mark.parametrize('grid', [(3, 2), (1, 3), (3, 1)])
def test_gradients(grid, pattern):
    x = normal(1, 2, *grid).requires_grad_()
    y = normal(1, 4, 2, grid[0] * grid[1]).requires_grad_()
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda t: cross_scan(t, pattern), (x, ))
        assert check(lambda t: cross_merge(t, grid, pattern), (y, ))


@patterns
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_stays_and_half_is_added_in_float32(dtype, pattern):
    x, y = normal(2, 3, 4, 5, dtype=dtype), normal(2, 4, 3, 20, dtype=dtype)
    assert torch.equal(cross_scan(x, pattern), naive_scan(x, pattern))
    assert cross_scan(x, pattern).dtype == dtype
    merged = cross_merge(y, (4, 5), pattern)
    assert merged.dtype == dtype
    assert torch.equal(merged, cross_merge(y.float(), (4, 5), pattern).to(dtype))


@patterns
def test_three_small_summands_are_not_lost_beside_a_large_one(pattern):
    """In bfloat16 256 + 1 is 256, again and again; their sum, 259, is rounded to 260."""
    y = torch.ones(1, 4, 1, 6, dtype=torch.bfloat16)
    y[:, 0] = 256
    assert (cross_merge(y, (2, 3), pattern) == 260).all()
    x = torch.zeros(1, 1, 2, 3, dtype=torch.bfloat16, requires_grad=True)
    cross_scan(x, pattern).backward(y)
    assert (x.grad == 260).all()


@patterns
def test_strides_do_not_matter(pattern):
    x, y = normal(2, 3, 4, 5), normal(2, 4, 3, 20)
    channels_last = x.to(memory_format=torch.channels_last)
    assert torch.equal(cross_scan(channels_last, pattern), cross_scan(x, pattern))
    for strided in (y.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0), y.flip(3).flip(3)):
        assert torch.equal(cross_merge(strided, (4, 5), pattern), cross_merge(y, (4, 5), pattern))
    expanded = y[:1, :1, :1, :1].expand(2, 4, 3, 20)
    assert torch.equal(cross_merge(expanded, (4, 5), pattern),
                       cross_merge(expanded.contiguous(), (4, 5), pattern))


@patterns
def test_gradients_of_any_strides(pattern):
    x = normal(2, 3, 4, 5).requires_grad_()
    (dx, ) = torch.autograd.grad(cross_scan(x, pattern).sum(), [x])
    torch.testing.assert_close(dx, torch.full_like(dx, 4))
    y = normal(2, 4, 3, 20).requires_grad_()
    merged = cross_merge(y, (4, 5), pattern)
    weights = normal(2, 3, 4, 5)
    dense, = torch.autograd.grad(merged, [y], weights, retain_graph=True)
    last, = torch.autograd.grad(merged, [y], weights.to(memory_format=torch.channels_last))
    assert torch.equal(dense, last)
    assert torch.equal(dense, naive_scan(weights, pattern))


def test_equal_sequences_share_memory():
    x = normal(2, 3, 4, 5)
    y = cross_scan(x, 'unidirectional')
    assert y.data_ptr() == x.data_ptr()
    assert y.stride(1) == 0


@patterns
@pytest.mark.parametrize('shape', [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)])
def test_nothing_in_nothing_out(shape, pattern):
    x = normal(*shape).requires_grad_()
    y = cross_scan(x, pattern)
    assert y.shape == (shape[0], 4, shape[1], shape[2] * shape[3])
    merged = cross_merge(y, shape[2:], pattern)
    assert merged.shape == shape
    merged.sum().backward()
    assert x.grad.shape == shape


@patterns
def test_shapes_on_the_meta_device(pattern):
    x = torch.zeros(2, 3, 4, 5, device='meta', requires_grad=True)
    y = cross_scan(x, pattern)
    assert y.shape == (2, 4, 3, 20)
    merged = cross_merge(y, (4, 5), pattern)
    assert (merged.shape, merged.device.type) == (x.shape, 'meta')
    merged.sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.slow
@patterns
def test_compiles_as_one_graph_for_any_size(pattern):
    def there_and_back(x):
        return cross_merge(cross_scan(x, pattern).square(), x.shape[2:], pattern)

    torch._dynamo.reset()
    compiled = torch.compile(there_and_back, fullgraph=True, backend='aot_eager', dynamic=True)
    for grid in ((3, 5), (4, 4), (7, 2)):
        results = []
        for run in (there_and_back, compiled):
            x = normal(2, 3, *grid).requires_grad_()
            y = run(x)
            y.backward(y.detach().cos())
            results.append((y.detach(), x.grad))
        torch.testing.assert_close(*results)


@pytest.mark.parametrize(('op', 'arguments'), [
    (cross_scan, (torch.zeros(1, 2, 3, 5), )),
    (cross_merge, (torch.zeros(1, 4, 2, 15), (3, 5))),
])
def test_every_kind_of_choice(monkeypatch, op, arguments):
    monkeypatch.delenv(dispatch.ENVIRONMENT_VARIABLE, raising=False)
    # where it is set, Triton's kernels run on a CPU
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    assert torch.equal(op(*arguments), op(*arguments, impl='reference'))
    pytest.importorskip('triton')
    message = "='triton' cannot run: Triton needs a CUDA GPU, and x is on cpu"
    with pytest.raises(RuntimeError, match='impl' + message):
        op(*arguments, impl='triton')
    monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, 'triton')
    with pytest.raises(RuntimeError, match='MMVSSD_KERNEL' + message):
        op(*arguments)


@pytest.mark.parametrize(('change', 'message'), [
    (dict(x=None), r'x: got NoneType, expected a tensor \(N, C, H, W\)'),
    (dict(x=torch.zeros(2, 3, 15)), r'x: got shape \(2, 3, 15\), expected \(N, C, H, W\)'),
    (dict(x=torch.zeros(2, 3, 3, 5, dtype=torch.int64)), 'x: got dtype torch.int64'),
    (dict(pattern='diagonal'), "pattern: unknown name 'diagonal'; known: cross, unidirectional, "
                               'bidirectional'),
])
def test_bad_input_to_scan_names_the_argument(change, message):
    with pytest.raises(ValueError, match=message):
        cross_scan(**{**dict(x=torch.zeros(2, 3, 3, 5)), **change})


@pytest.mark.parametrize(('change', 'message'), [
    (dict(y=[1]), r'y: got list, expected a tensor \(N, 4, C, L\)'),
    (dict(y=torch.zeros(2, 3, 6, 15)), r'y: got shape .* expected \(N, 4, C, L\)'),
    (dict(y=torch.zeros(2, 4, 6, 3, 5)), r'y: got shape .* expected \(N, 4, C, L\)'),
    (dict(y=torch.zeros(2, 4, 6, 15, dtype=torch.bool)), 'y: got dtype torch.bool'),
    (dict(grid=15), r'grid: got 15, expected \(H, W\) with H \* W = 15'),
    (dict(grid=(15, )), r'grid: got \(15,\), expected \(H, W\)'),
    (dict(grid=(4, 4)), r'grid: got \(4, 4\), .* the number of tokens in y'),
    (dict(grid=(-3, -5)), r'grid: got \(-3, -5\)'),
    (dict(pattern=None), 'pattern: unknown name None'),
])
def test_bad_input_to_merge_names_the_argument(change, message):
    arguments = dict(y=torch.zeros(2, 4, 6, 15), grid=(3, 5))
    with pytest.raises(ValueError, match=message):
        cross_merge(**{**arguments, **change})
