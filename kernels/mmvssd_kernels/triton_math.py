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
