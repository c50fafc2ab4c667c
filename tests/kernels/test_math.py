"""Arithmetic of the Triton kernels beside float64."""
import math

import pytest
import torch

from mmvssd_kernels import triton_support

triton = pytest.importorskip('triton')
tl = pytest.importorskip('triton.language')
triton_math = pytest.importorskip('mmvssd_kernels.triton_math')
exp, softplus = triton_math.exp, triton_math.softplus
dot_of_parts = triton_math.dot_of_parts
triton_products = pytest.importorskip('mmvssd_kernels.triton_products')
cut, product = triton_products.cut, triton_products.product
cos_sin = pytest.importorskip('mmvssd_kernels.nc_ssd.triton_features').cos_sin


@triton.jit
def store_exp(p_x, p_y, N: tl.constexpr):
    o = tl.arange(0, N)
    tl.store(p_y + o, exp(tl.load(p_x + o)))


@triton.jit
def store_softplus(p_x, p_y, p_slope, N: tl.constexpr, ACC: tl.constexpr):
    o = tl.arange(0, N)
    b_y, b_slope = softplus(tl.load(p_x + o), ACC)
    tl.store(p_y + o, b_y)
    tl.store(p_slope + o, b_slope)


@triton.jit
def store_product(p_a, p_b, p_y, N: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr):
    o = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(p_y + o, dot_of_parts(tl.load(p_a + o), tl.load(p_b + o), ACC, PRECISION, ACC))


@triton.jit
def store_cut(p_x, p_high, p_middle, p_low, N: tl.constexpr, STRICT: tl.constexpr):
    o = tl.arange(0, N)
    b_high, b_middle, b_low = cut(tl.load(p_x + o), -65536, STRICT)
    tl.store(p_high + o, b_high.to(tl.float32))
    tl.store(p_middle + o, b_middle.to(tl.float32))
    tl.store(p_low + o, b_low.to(tl.float32))


@triton.jit
def store_strict_product(p_a, p_b, p_y, N: tl.constexpr):
    o = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    b_y = product(tl.load(p_a + o), tl.load(p_b + o), -65536, tl.float32, 'bf16x6', tl.float32,
                  CUT=True, STRICT=True)
    tl.store(p_y + o, b_y)


@triton.jit
def store_cos_sin(p_angle, p_cos, p_sin, N: tl.constexpr):
    o = tl.arange(0, N)
    b_cos, b_sin = cos_sin(tl.load(p_angle + o))
    tl.store(p_cos + o, b_cos)
    tl.store(p_sin + o, b_sin)


def error(y, truth):
    """The largest error as a share of the truth."""
    return ((y.double() - truth) / truth).abs().max()


def test_exp(triton_device):
    last_digit = torch.finfo(torch.float32).eps
    x = torch.cat([torch.linspace(-87, 88, 3 * 2**14), -torch.logspace(-30, 1.9, 2**14)])
    x = x.to(triton_device)
    y = torch.empty_like(x)
    store_exp[(1, )](x, y, N=2**16)
    assert error(y, x.double().exp()) < 0.85 * last_digit


def test_exp_at_its_ends(triton_device):
    x = torch.tensor([0, -torch.inf, torch.inf, -1e30, 1e30, -104, 89, torch.nan])
    x = x.to(triton_device)
    y = torch.empty_like(x)
    store_exp[(1, )](x, y, N=8)
    assert y[:-1].tolist() == [1, 0, torch.inf, 0, torch.inf, 0, torch.inf]
    assert y[-1].isnan()


@pytest.mark.parametrize(('dtype', 'language', 'digits'), [
    (torch.float32, tl.float32, 2), (torch.float64, tl.float64, 4)], ids=str)
def test_softplus(dtype, language, digits, triton_device):
    x = torch.linspace(-80, 80, 2**13, dtype=dtype, device=triton_device)
    y, slope = torch.empty_like(x), torch.empty_like(x)
    store_softplus[(1, )](x, y, slope, N=2**13, ACC=language)
    exact = x.double()
    bar = digits * torch.finfo(dtype).eps
    assert error(y, torch.nn.functional.softplus(exact, threshold=1e3)) < bar
    assert error(slope, exact.sigmoid()) < bar


@pytest.mark.parametrize(('precision', 'most'), [('bf16x3', 1e-5), ('bf16x6', 2e-7)])
@pytest.mark.parametrize('half', ['a', 'b', 'both'])
def test_products_of_half_blocks(half, precision, most, triton_device):
    """As accurate as if both were float32."""
    if precision not in triton_support._precisions():
        pytest.skip('an older Triton, which has no bfloat16 parts')
    if triton_device == 'cuda' and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip('an older GPU')
    a, b, y = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0)).to(triton_device)
    a, b = (a if half == 'b' else a.bfloat16()), (b if half == 'a' else b.bfloat16())
    store_product[(1, )](a, b, y, N=32, PRECISION=precision, ACC=tl.float32)
    exact = a.double() @ b.double()
    assert (y.double() - exact).norm() < most * exact.norm()


@pytest.mark.parametrize(('strict', 'most'), [(False, 2.5e-8), (True, 8e-9)])
def test_six_products_of_parts(strict, most, triton_device):
    """What the three left out would add."""
    a, b = torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(0)).to(triton_device)
    cuts = []
    for x in (a, b):
        parts = torch.empty(3, 64, 64, device=triton_device)
        store_cut[(1, )](x, *parts, N=64**2, STRICT=strict)
        assert torch.equal(parts.bfloat16().float(), parts)
        parts = parts.double()
        assert ((parts.sum(0) - x).abs() <= 2**-25 * x.abs()).all()
        cuts.append(parts)
    y = sum(cuts[0][i] @ cuts[1][j] for i in range(3) for j in range(3 - i))
    exact = a.double() @ b.double()
    assert (y - exact).norm() < most * exact.norm()


def test_a_strict_product_keeps_infinity_and_nan(triton_device):
    if triton_device == 'cuda' and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip('an older GPU')
    a, b, y = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0)).to(triton_device)
    a[1, 2], a[3, 4], a[5, 6] = torch.inf, -torch.inf, torch.nan
    store_strict_product[(1, )](a, b, y, N=16)
    assert torch.equal(y[1], torch.inf * b[2].sign())
    assert torch.equal(y[3], -torch.inf * b[4].sign())
    assert y[5].isnan().all()
    assert y[[0, 2, 4, *range(6, 16)]].isfinite().all()


def test_cos_sin(triton_device):
    """As exact as float64, of small angles and of the largest, and where a sine is nearly zero."""
    whole = torch.arange(2**12, dtype=torch.float64, device=triton_device)
    angles = torch.cat([whole / 2**10, whole, 2**21 - whole, whole * (math.pi / 4)])
    cos, sin = torch.empty_like(angles), torch.empty_like(angles)
    store_cos_sin[(1, )](angles, cos, sin, N=2**14)
    torch.testing.assert_close(cos, angles.cos(), rtol=0, atol=3e-16)
    torch.testing.assert_close(sin, angles.sin(), rtol=0, atol=3e-16)
