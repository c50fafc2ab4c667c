"""The arithmetic that the kernels' tests give Triton's interpreter; a GPU has it by itself."""
import pytest
import torch

triton = pytest.importorskip('triton')
tl = pytest.importorskip('triton.language')


@triton.jit
def store_bfloat16(p_x, p_y, p_wide, N: tl.constexpr):
    o = tl.arange(0, N)
    b_y = tl.load(p_x + o).to(tl.bfloat16)
    tl.store(p_y + o, b_y)
    tl.store(p_wide + o, b_y.to(tl.float32))


@triton.jit
def store_powers(p_x, p_exp, p_exp2, N: tl.constexpr):
    o = tl.arange(0, N)
    b_x = tl.load(p_x + o)
    tl.store(p_exp + o, tl.exp(b_x))
    tl.store(p_exp2 + o, tl.exp2(b_x))


@triton.jit
def store_quotient(p_a, p_b, p_y, N: tl.constexpr):
    o = tl.arange(0, N)
    tl.store(p_y + o, tl.load(p_a + o) / tl.load(p_b + o))


@triton.jit
def store_bounds(p_x, p_low, p_high, p_kept, N: tl.constexpr):
    o = tl.arange(0, N)
    b_x = tl.load(p_x + o)
    tl.store(p_low + o, tl.minimum(b_x, 0))
    tl.store(p_high + o, tl.maximum(b_x, 0))
    tl.store(p_kept + o, tl.minimum(b_x, 0, propagate_nan=tl.PropagateNan.ALL))


@triton.jit
def store_product(p_a, p_b, p_y, N: tl.constexpr, PRECISION: tl.constexpr):
    o = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    b_y = tl.dot(tl.load(p_a + o), tl.load(p_b + o), tl.load(p_y + o), input_precision=PRECISION)
    tl.store(p_y + o, b_y)


@triton.jit
def store_sums(p_x, p_up, p_down, p_sum, M: tl.constexpr, N: tl.constexpr):
    o_n = tl.arange(0, N)
    o = tl.arange(0, M)[:, None] * N + o_n[None, :]
    b_x = tl.load(p_x + o)
    tl.store(p_up + o, tl.cumsum(b_x, axis=0))
    tl.store(p_down + o, tl.cumsum(b_x, axis=0, reverse=True))
    tl.store(p_sum + o_n, tl.sum(b_x, axis=0))


def errors(y, exact):
    """Errors in units of the last place of a float32 result."""
    nearest = exact.float()
    unit = torch.nextafter(nearest.abs(), torch.full_like(nearest, torch.inf)) - nearest.abs()
    return ((y.double() - exact) / unit.double()).abs()


def test_every_bfloat16_number_and_its_neighbours(triton_device):
    """Exactly between two numbers the even one is the nearest; beyond the largest is infinity."""
    high = torch.arange(2**16)
    for low in (0, 1, 0x7fff, 0x8000, 0x8001, 0xffff):
        x = (high * 2**16 + low).to(torch.int32).view(torch.float32).to(triton_device)
        y, wide = torch.empty_like(x, dtype=torch.bfloat16), torch.empty_like(x)
        store_bfloat16[(1, )](x, y, wide, N=2**16)
        up = torch.full_like(high, low > 0x8000) if low != 0x8000 else high % 2
        expected = ((high + up) * 2**16).to(torch.int32).view(torch.float32)
        number = ~x.isnan().cpu()
        bits = y.cpu().view(torch.int16).to(torch.int32) << 16
        assert torch.equal(bits[number], expected[number].view(torch.int32))
        assert torch.equal(wide.cpu().view(torch.int32)[number], bits[number])
        assert y.cpu()[~number].isnan().all()


def test_powers_err_by_up_to_two_last_digits(triton_device):
    x = torch.linspace(-80, 80, 2**14, device=triton_device)
    y, y2, again = (torch.empty_like(x) for _ in range(3))
    store_powers[(1, )](x, y, y2, N=2**14)
    error = errors(y2, x.double().exp2())
    assert error.max() <= 2
    assert error.max() > 0.5  # the nearest number would not
    # what rounding takes from an exponent grows with it
    error = errors(y, x.double().exp())
    assert (error <= 2 + 1.3 * x.abs()).all()
    assert error.max() > 2
    store_powers[(1, )](x, y, again, N=2**14)
    assert torch.equal(again, y2)


def test_powers_at_their_ends(triton_device):
    x = torch.tensor([0, -torch.inf, torch.inf, -150, 200, -126.5, 3, torch.nan],
                     device=triton_device)
    y, y2 = torch.empty_like(x), torch.empty_like(x)
    store_powers[(1, )](x, y, y2, N=8)
    assert y[:5].tolist() == [1, 0, torch.inf, 0, torch.inf]
    assert y2[:7].tolist() == [1, 0, torch.inf, 0, torch.inf, 0, 8]  # none is subnormal
    assert y[-1].isnan()
    assert y2[-1].isnan()


def test_quotients_err_by_up_to_two_last_digits(triton_device):
    a, b = torch.randn(2, 2**14, generator=torch.Generator().manual_seed(0)).to(triton_device)
    y = torch.empty_like(a)
    store_quotient[(1, )](a, b, y, N=2**14)
    error = errors(y, a.double() / b.double())
    assert error.max() <= 2
    assert error.max() > 0.5
    a = torch.tensor([1, -1, 0, torch.inf, 1, torch.nan, 1, 6], device=triton_device)
    b = torch.tensor([0, 0, 0, torch.inf, torch.inf, 1, 1, -2], device=triton_device)
    y = torch.empty_like(a)
    store_quotient[(1, )](a, b, y, N=8)
    assert y[[0, 1, 4, 6, 7]].tolist() == [torch.inf, -torch.inf, 0, 1, -3]
    assert y[[2, 3, 5]].isnan().all()


def test_a_bound_takes_the_place_of_nan(triton_device):
    x = torch.tensor([-2, 3, -torch.inf, torch.nan], device=triton_device)
    low, high, kept = (torch.empty_like(x) for _ in range(3))
    store_bounds[(1, )](x, low, high, kept, N=4)
    assert low.tolist() == [-2, 0, -torch.inf, 0]
    assert high.tolist() == [0, 3, 0, 0]
    assert kept.isnan().tolist() == [False, False, False, True]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_tensor_cores_cut_sums(dtype, triton_device):
    """8 products add three quarters of a last digit to a sum of 1, which rounding would see."""
    if triton_device == 'cuda' and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip('an older GPU')
    a = torch.zeros(16, 16, dtype=dtype, device=triton_device)
    a[:, :8] = 2.0**-13
    b = torch.full((16, 16), 0.75 * 2.0**-13, dtype=dtype, device=triton_device)
    for sign in (1, -1):
        y = torch.full((16, 16), float(sign), device=triton_device)
        store_product[(1, )](sign * a, b, y, N=16, PRECISION='ieee')
        assert (y == sign).all()


@pytest.mark.parametrize('precision', ['ieee', 'bf16x6', 'bf16x3', 'tf32'])
def test_products(precision, triton_device):
    """As accurate as the parts that factors are cut in."""
    if triton_device == 'cuda' and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip('an older GPU')
    a, b, y = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0)).to(triton_device)
    exact = y.double() + a.double() @ b.double()
    store_product[(1, )](a, b, y, N=64, PRECISION=precision)
    error = (y.double() - exact).norm() / exact.norm()
    least, most = {'ieee': (0, 3e-7), 'bf16x6': (0, 5e-7), 'bf16x3': (5e-7, 3e-5),
                   'tf32': (1e-5, 1e-3)}[precision]
    assert least <= error < most


def test_products_of_float32_are_fused_with_their_sum(triton_device):
    a = torch.zeros(16, 16, device=triton_device)
    a[:, 3] = 1 + 2.0**-12
    y = torch.full((16, 16), -1 - 2.0**-11, device=triton_device)
    store_product[(1, )](a, a.T.contiguous(), y, N=16, PRECISION='ieee')
    assert (y == 2.0**-24).all()


@pytest.mark.parametrize('M', [1, 2, 32])
def test_sums(M, triton_device):
    x = torch.randint(-9, 9, (M, 4), generator=torch.Generator().manual_seed(0)).float()
    x = x.to(triton_device)
    up, down, total = torch.empty_like(x), torch.empty_like(x), torch.empty_like(x[0])
    store_sums[(1, )](x, up, down, total, M=M, N=4)
    assert torch.equal(up, x.cumsum(0))
    assert torch.equal(down, x.flip(0).cumsum(0).flip(0))
    assert torch.equal(total, x.sum(0))


class TestWhereKernelsAreCompiled:

    @pytest.fixture(autouse=True)
    def arithmetic_of_a_gpu(self):
        """Nothing, before a test wants it."""

    @pytest.mark.parametrize('interpret', ['0', '1'])
    def test_nothing_changes(self, interpret, monkeypatch, request):
        interpreter = pytest.importorskip('triton.runtime.interpreter')
        monkeypatch.setenv('TRITON_INTERPRET', interpret)
        places = (interpreter, *(getattr(interpreter, name) for name in (
            'InterpreterBuilder', 'interpreter_builder', 'ScanOps', 'ReduceOps', 'GridExecutor',
            'InterpretedFunction')))
        before = [dict(vars(place)) for place in places]
        request.getfixturevalue('gpu_arithmetic')
        assert ([dict(vars(place)) for place in places] == before) == (interpret == '0')
