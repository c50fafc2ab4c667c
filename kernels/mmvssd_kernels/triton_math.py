"""Jit functions that the kernels of several ops share.

Names tell the kind, as in all kernels here: ``p_`` pointer, ``b_`` block, ``o_`` offset, ``m_``
mask. ``ACC`` is the dtype of sums and states: float32, or float64 for float64 inputs.
"""
import triton
import triton.language as tl

from mmvssd_kernels.triton_support import interpreted

# the interpreter multiplies the bits of bfloat16 numbers as if they were integers
_WIDEN = tl.constexpr(interpreted())


@triton.jit
def dot(b_a, b_b, DTYPE: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr):
    """Matrix product of blocks, rounded to DTYPE before it, summed in ACC."""
    b_a = b_a.to(DTYPE)
    b_b = b_b.to(DTYPE)
    if _WIDEN and tl.bfloat16 == DTYPE:
        b_a = b_a.to(tl.float32)
        b_b = b_b.to(tl.float32)
    return tl.dot(b_a, b_b, input_precision=PRECISION, out_dtype=ACC)


@triton.jit
def halves(b_t):
    """Split a float32 block in two of bfloat16, whose sum has an error of 2**-17 of each number."""
    b_high = b_t.to(tl.bfloat16)
    return b_high, (b_t - b_high.to(tl.float32)).to(tl.bfloat16)


@triton.jit
def add_dot(b_sum, b_a, b_high, b_low, DTYPE: tl.constexpr, PRECISION: tl.constexpr,
            ACC: tl.constexpr, HALVES: tl.constexpr):
    """Add a matrix product: of ``b_a`` and ``b_high + b_low`` if HALVES, or else ``b_high``.

    With HALVES a bfloat16 ``b_a`` enters as it is; what a bfloat16 number leaves of one of float16
    takes one product more. Such parts never overflow where float32 does not; float16's would.
    """
    if HALVES:
        if b_a.dtype == tl.bfloat16:
            b_sum += dot(b_a, b_low, tl.bfloat16, 'ieee', ACC)
            b_sum += dot(b_a, b_high, tl.bfloat16, 'ieee', ACC)
        else:
            b_a_high, b_a_low = halves(b_a.to(tl.float32))
            b_sum += dot(b_a_low, b_high, tl.bfloat16, 'ieee', ACC)
            b_sum += dot(b_a_high, b_low, tl.bfloat16, 'ieee', ACC)
            b_sum += dot(b_a_high, b_high, tl.bfloat16, 'ieee', ACC)
    else:
        b_sum += dot(b_a, b_high, DTYPE, PRECISION, ACC)
    return b_sum
