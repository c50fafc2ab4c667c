"""The bar that implementations are held to: it lets rounding pass, and nothing else."""
import pytest
import torch

from mmvssd_kernels import dispatch, parity, triton_support

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
dtypes = pytest.mark.parametrize('dtype', DTYPES, ids=str)


def make_case(seed=0, h=8):
    random = torch.Generator().manual_seed(seed)
    kind = dict(generator=random, dtype=torch.float64)
    return parity.Case('nc_ssd', dict(
        x=torch.randn(2, 30, h, 8, **kind), dt=torch.rand(2, 30, h, **kind),
        A=-torch.rand(h, **kind), B=torch.randn(2, 30, 1, 8, **kind),
        C=torch.randn(2, 30, 1, 8, **kind), D=None))


@pytest.fixture
def implementation(monkeypatch):
    """Puts a change of the reference's output in the kernels' place."""

    def put(change):
        reference = dispatch._implementations['nc_ssd']['reference'].run
        registered = dict(dispatch._implementations['nc_ssd'], triton=dispatch.Implementation(
            lambda *args, **options: change(reference(*args, **options))))
        monkeypatch.setitem(dispatch._implementations, 'nc_ssd', registered)

    return put


@dtypes
def test_the_reference_passes(implementation, dtype):
    implementation(lambda y: y)
    assert parity.failures([make_case(0), make_case(1)], dtype) == ()


@dtypes
@pytest.mark.parametrize('error', [1e-6, 0.02])
def test_errors_above_rounding_are_seen(implementation, dtype, error):
    implementation(lambda y: (y.float() * (1 + error)).to(y.dtype))
    seen = [line.split(':')[0] for line in parity.failures(make_case(), dtype)]
    if error == 0.02 or dtype == torch.float32:
        assert {'y', 'x', 'B', 'C'} <= set(seen)
    else:
        assert not seen  # far below what bfloat16 and float16 can tell


def test_a_single_wrong_number_is_seen(implementation):
    def change(y):
        change = torch.zeros_like(y)
        change[0, 0, 0, 0] = y.detach().abs().max() * 1e-5
        return y + change

    implementation(change)
    line, = parity.failures(make_case(), torch.float32)
    assert line.startswith('y: error')


@pytest.mark.parametrize('change', [
    lambda y: y * torch.nan,
    lambda y: torch.where(torch.arange(8) == 3, torch.nan, y),
    lambda y: y.double(),
], ids=['all NaN', 'one NaN', 'dtype'])
def test_what_is_not_the_right_kind_is_seen(implementation, change):
    implementation(change)
    for cases in (make_case(), [make_case(0), make_case(1)]):
        assert any(line.startswith('y: ') for line in parity.failures(cases, torch.float32))


def test_nan_in_the_truth_is_seen(implementation):
    implementation(lambda y: y)
    case = make_case()
    case.tensors['x'][0, 0] = torch.nan
    assert parity.failures([make_case(1), case], torch.float32)


def test_products_are_those_of_float32(implementation):
    """A user's wish for TF32 does not lower the bar, and outlives the check."""
    seen = []
    implementation(lambda y: seen.append(triton_support.tf32_allowed()) or y)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision('high')
    try:
        parity.failures(make_case(), torch.float32)
        assert seen == [False]
        assert triton_support.tf32_allowed()
    finally:
        torch.set_float32_matmul_precision(before)
