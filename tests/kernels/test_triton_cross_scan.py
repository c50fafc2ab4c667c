"""The Triton kernels of cross scan and cross merge against the reference."""
import pytest
import torch

from mmvssd_kernels import cross_merge, cross_scan, dispatch
from mmvssd_kernels.cross_scan import PATTERNS
from mmvssd_kernels.parity import Case, failures, results

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
GRIDS = [(1, 1), (1, 2), (15, 1), (3, 5), (4, 4), (1, 17), (9, 7), (17, 33)]
patterns = pytest.mark.parametrize('pattern', PATTERNS)


def normal(*shape, dtype=torch.float32, device='cpu'):
    random = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=random, dtype=torch.float64).to(device, dtype)


def scan_case(pattern='cross', N=2, C=3, grid=(3, 5)):
    return Case('cross_scan', dict(x=normal(N, C, *grid, dtype=torch.float64)),
                dict(pattern=pattern))


def merge_case(pattern='cross', N=2, C=3, grid=(3, 5)):
    return Case('cross_merge', dict(y=normal(N, 4, C, grid[0] * grid[1], dtype=torch.float64)),
                dict(pattern=pattern, grid=grid))


# the last: strides of 1, which Triton takes for constants
COMPILED = [
    *(make(pattern) for pattern in PATTERNS for make in (scan_case, merge_case)),
    scan_case(N=1, C=1, grid=(1, 1)), merge_case(N=1, C=1, grid=(1, 1)),
]
COMPILED_HALVES = COMPILED[:2]


def differing(case, dtype, device):
    """Names of results that are not, bit for bit, those of the reference."""
    own, expected = (results(case, case.cast(dtype, device), impl)
                     for impl in ('triton', 'reference'))
    return [name for name in expected if not torch.equal(own[name], expected[name])]


@pytest.mark.parametrize('dtype', DTYPES)
@patterns
@pytest.mark.parametrize('grid', GRIDS)
def test_is_the_reference(grid, pattern, dtype, triton_device):
    for make in (scan_case, merge_case):
        assert failures(make(pattern, grid=grid), dtype, triton_device) == ()


@patterns
def test_float64(pattern, triton_device):
    if triton_device == 'cuda':
        pytest.skip('on a GPU float64 is for the reference')
    assert differing(merge_case(pattern), torch.float64, triton_device) == []


@pytest.mark.parametrize('shape', [(3, 1, 3, 5), (1, 16, 3, 5), (1, 17, 3, 5), (1, 40, 5, 4)])
def test_channels(shape, triton_device):
    N, C, *grid = shape
    for make in (scan_case, merge_case):
        case = make(N=N, C=C, grid=tuple(grid))
        assert differing(case, torch.float32, triton_device) == []


@pytest.mark.parametrize('dtype', DTYPES)
def test_four_equal_sequences_are_a_view_whose_gradient_is_added_in_float32(dtype, triton_device):
    x = normal(2, 3, 2, 3, dtype=dtype, device=triton_device).requires_grad_()
    y = cross_scan(x, 'unidirectional', impl='triton')
    assert (y.data_ptr(), y.stride(1)) == (x.data_ptr(), 0)
    weights = normal(2, 4, 3, 6, dtype=dtype, device=triton_device)
    dx, = torch.autograd.grad(y, x, weights)
    exact = weights.double().sum(1).view(x.shape)
    torch.testing.assert_close(dx.double(), exact, rtol=torch.finfo(dtype).eps,
                               atol=1e-6 * exact.abs().max().item())


@patterns
def test_three_small_summands_are_not_lost_beside_a_large_one(pattern, triton_device):
    """In float16 2048 + 1 is 2048, again and again; their sum, 2051, is rounded to 2052."""
    y = torch.ones(1, 4, 1, 6, dtype=torch.float16, device=triton_device)
    y[:, 0] = 2048
    assert (cross_merge(y, (2, 3), pattern, impl='triton') == 2052).all()
    x = torch.zeros(1, 1, 2, 3, dtype=torch.float16, device=triton_device, requires_grad=True)
    cross_scan(x, pattern, impl='triton').backward(y)
    assert (x.grad == 2052).all()


@patterns
def test_strides_do_not_matter(pattern, triton_device):
    x = normal(2, 20, 4, 5, device=triton_device)
    y = normal(2, 4, 20, 20, device=triton_device)
    wide = torch.zeros(2, 20, 8, 10, device=triton_device)
    wide[..., ::2, 1::2] = x
    for strided in (x.to(memory_format=torch.channels_last), x.mT.contiguous().mT,
                    wide[..., ::2, 1::2]):
        assert torch.equal(cross_scan(strided, pattern, impl='triton'), cross_scan(x, pattern))
    merged = cross_merge(y, (4, 5), pattern)
    for strided in (y.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
                    torch.stack([y, y], -1)[..., 1]):
        assert torch.equal(cross_merge(strided, (4, 5), pattern, impl='triton'), merged)
    expanded = y[:1, :1, :1, :1].expand(2, 4, 20, 20)
    assert torch.equal(cross_merge(expanded, (4, 5), pattern, impl='triton'),
                       cross_merge(expanded.contiguous(), (4, 5), pattern))


@patterns
def test_every_number_is_written(pattern, poisoned_memory, triton_device):
    for case in (scan_case(pattern, grid=(5, 18)), merge_case(pattern, grid=(5, 18))):
        values = results(case, case.cast(torch.float32, triton_device), 'triton')
        assert all(t.isfinite().all() for t in values.values())


@patterns
@pytest.mark.parametrize('grid', [(3, 2), (1, 3)])
def test_gradients_of_any_order(grid, pattern, triton_device):
    if triton_device == 'cuda':
        pytest.skip('float64 runs in the interpreter only')
    x = normal(1, 2, *grid, dtype=torch.float64).requires_grad_()
    y = normal(1, 4, 2, grid[0] * grid[1], dtype=torch.float64).requires_grad_()
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        # fast: along random directions, not each number by itself
        assert check(lambda t: cross_scan(t, pattern, impl='triton'), (x, ), fast_mode=True)
        assert check(lambda t: cross_merge(t, grid, pattern, impl='triton'), (y, ),
                     fast_mode=True)


@pytest.mark.parametrize('dtype', DTYPES)
@patterns
def test_operators(pattern, dtype, triton_device):
    operators = torch.ops.mmvssd_kernels
    x = normal(2, 3, 4, 5, dtype=dtype, device=triton_device).requires_grad_()
    y = normal(2, 4, 3, 20, dtype=dtype, device=triton_device).requires_grad_()
    torch.library.opcheck(operators.cross_scan_triton.default, (x, pattern))
    torch.library.opcheck(operators.cross_merge_triton.default, (y, 4, 5, pattern))


@patterns
def test_compiles_as_one_graph_for_any_size(pattern, triton_device):
    def there_and_back(x):
        y = cross_scan(x, pattern, impl='triton').square()
        return cross_merge(y, x.shape[2:], pattern, impl='triton')

    torch._dynamo.reset()
    compiled = torch.compile(there_and_back, fullgraph=True, backend='aot_eager', dynamic=True)
    for grid in ((3, 5), (4, 4), (7, 2)):
        found = []
        for run in (there_and_back, compiled):
            x = normal(2, 3, *grid, device=triton_device).requires_grad_()
            y = run(x)
            y.backward(y.detach().cos())
            found.append((y.detach(), x.grad))
        torch.testing.assert_close(*found)


@patterns
def test_autocast_changes_nothing(pattern, triton_device):
    x, y = normal(1, 2, 3, 4, device=triton_device), normal(1, 4, 2, 12, device=triton_device)
    with torch.autocast(triton_device, torch.bfloat16):
        assert torch.equal(cross_scan(x, pattern, impl='triton'), cross_scan(x, pattern))
        assert torch.equal(cross_merge(y, (3, 4), pattern, impl='triton'),
                           cross_merge(y, (3, 4), pattern))


@patterns
@pytest.mark.parametrize('shape', [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)])
def test_nothing_in_nothing_out(shape, pattern, triton_device):
    x = normal(*shape, device=triton_device).requires_grad_()
    y = cross_scan(x, pattern, impl='triton')
    assert y.shape == (shape[0], 4, shape[1], shape[2] * shape[3])
    merged = cross_merge(y, shape[2:], pattern, impl='triton')
    assert merged.shape == shape
    merged.sum().backward()
    assert x.grad.shape == shape


def test_offsets_beyond_two_to_the_31(triton_device):
    """A row whose columns lie 2**30 elements apart; memory that nobody touches takes no room."""
    stride = 2**30
    if triton_device == 'cuda' and torch.cuda.mem_get_info()[0] < 2 * 6 * stride:
        pytest.skip('too little free GPU memory')
    memory = torch.empty(3 * stride + 1, dtype=torch.bfloat16, device=triton_device)
    memory[::stride] = torch.arange(4, device=triton_device)
    x = memory.as_strided((1, 1, 1, 4), (0, 0, 0, stride))
    y = cross_scan(x, impl='triton')
    assert y.flatten().tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 3, 2, 1, 0, 3, 2, 1, 0]
    y = memory.as_strided((1, 4, 1, 4), (0, 0, 0, stride))
    assert cross_merge(y, (1, 4), impl='triton').flatten().tolist() == [6, 6, 6, 6]


@pytest.mark.gpu
def test_results_of_more_than_two_to_the_31_elements():
    if not torch.cuda.is_available():
        pytest.skip('no GPU')
    if torch.cuda.mem_get_info()[0] < 12 * 2**30:
        pytest.skip('needs 12 GiB of a GPU')
    x = torch.zeros(1, 2**15 + 1, 128, 128, dtype=torch.bfloat16, device='cuda')
    x[0, -1, -1, -1] = 1
    y = cross_scan(x, impl='triton')
    assert y.numel() > 2**31
    last = y[0, :, -1]
    assert last.sum().item() == 4
    assert last[:2, -1].tolist() == [1, 1]
    assert cross_merge(y, (128, 128), impl='triton')[0, -1, -1, -1].item() == 4


@pytest.mark.parametrize(('op', 'arguments'), [
    (cross_scan, (torch.zeros(1, 2, 3, 5), )),
    (cross_merge, (torch.zeros(1, 4, 2, 15), (3, 5))),
])
def test_auto_does_not_take_the_interpreter(op, arguments, monkeypatch):
    monkeypatch.setenv('TRITON_INTERPRET', '1')
    monkeypatch.delenv(dispatch.ENVIRONMENT_VARIABLE, raising=False)
    chosen = []
    monkeypatch.setitem(dispatch._implementations[op.__name__], 'reference',
                        dispatch.Implementation(lambda *args: chosen.append('reference')))
    op(*arguments)
    assert chosen == ['reference']
