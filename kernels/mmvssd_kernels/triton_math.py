"""Arithmetic of the kernels, and jit functions that several ops share.

Names tell the kind, as in all kernels here: ``p_`` pointer, ``b_`` block, ``o_`` offset, ``m_``
mask. ``ACC`` is the dtype of sums and states: float32, or float64 for float64 inputs.
"""
import triton
import triton.language as tl

from mmvssd_kernels.triton_support import interpreted

# the interpreter multiplies the bits of bfloat16 numbers as if they were integers
_WIDEN = tl.constexpr(interpreted())
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def dot(b_a, b_b, DTYPE: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr, b_sum=None):
    """Matrix product of blocks, rounded to DTYPE before it, summed in ACC, on top of ``b_sum``."""
    b_a = b_a.to(DTYPE)
    b_b = b_b.to(DTYPE)
    if _WIDEN and tl.bfloat16 == DTYPE:
        b_a = b_a.to(tl.float32)
        b_b = b_b.to(tl.float32)
    if b_sum is None:  # Triton before 3.4 takes no None for it
        b_product = tl.dot(b_a, b_b, input_precision=PRECISION, out_dtype=ACC)
    else:
        b_product = tl.dot(b_a, b_b, b_sum, input_precision=PRECISION, out_dtype=ACC)
    return b_product


@triton.jit
def halves(b_t):
    """Split a float32 block in two of bfloat16, whose sum has an error of 2**-16 of each number.

    The first is cut off, not rounded, by bits: that takes no conversion, which GPUs are slow at.
    """
    b_bits = b_t.to(tl.int32, bitcast=True)
    b_high = (b_bits >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
    b_rest = b_t - (b_bits & -65536).to(tl.float32, bitcast=True)
    return b_high, b_rest.to(tl.bfloat16)


@triton.jit
def parts(b_t, HALVES: tl.constexpr):
    """Return :func:`halves` of a block, or without HALVES twice the block itself."""
    b_high, b_low = b_t, b_t
    if HALVES:
        b_high, b_low = halves(b_t)
    return b_high, b_low


@triton.jit
def load_state(p_state, o_state, low, m_state, HALVES: tl.constexpr):
    """Both parts of a state; ``low`` is how far the second lies behind the first."""
    b_high = tl.load(p_state + o_state, mask=m_state, other=0)
    b_low = b_high
    if HALVES:
        b_low = tl.load(p_state + low + o_state, mask=m_state, other=0)
    return b_high, b_low


@triton.jit
def store_state(p_state, o_state, low, b_state, m_state, HALVES: tl.constexpr):
    """Reverse of :func:`load_state`; return what that would load."""
    b_high, b_low = parts(b_state, HALVES)
    if HALVES:
        tl.store(p_state + low + o_state, b_low, mask=m_state)
    tl.store(p_state + o_state, b_high, mask=m_state)
    return b_high, b_low


@triton.jit
def add_dot(b_sum, b_a, b_high, b_low, DTYPE: tl.constexpr, PRECISION: tl.constexpr,
            ACC: tl.constexpr, HALVES: tl.constexpr):
    """Add a matrix product: of ``b_a`` and ``b_high + b_low`` if HALVES, or else ``b_high``.

    With HALVES a bfloat16 ``b_a`` enters as it is; what a bfloat16 number leaves of one of float16
    takes one product more. Such parts never overflow where float32 does not; float16's would.
    """
    if HALVES:
        if b_a.dtype == tl.bfloat16:
            b_sum = dot(b_a, b_low, tl.bfloat16, 'ieee', ACC, b_sum)
            b_sum = dot(b_a, b_high, tl.bfloat16, 'ieee', ACC, b_sum)
        else:
            b_a_high, b_a_low = halves(b_a.to(tl.float32))
            b_sum = dot(b_a_low, b_high, tl.bfloat16, 'ieee', ACC, b_sum)
            b_sum = dot(b_a_high, b_low, tl.bfloat16, 'ieee', ACC, b_sum)
            b_sum = dot(b_a_high, b_high, tl.bfloat16, 'ieee', ACC, b_sum)
    else:
        b_sum = dot(b_a, b_high, DTYPE, PRECISION, ACC, b_sum)
    return b_sum


@triton.jit
def last(left, right):
    """Make a scan that changes no number, only how threads share them."""
    return right


@triton.jit
def third(b_t, b_high, b_low):
    """Return what :func:`halves` leave of a float32 block, in bfloat16: nearly nothing is lost."""
    return (b_t - b_high.to(tl.float32) - b_low.to(tl.float32)).to(tl.bfloat16)


@triton.jit
def dot_of_parts(b_a, b_b, DTYPE: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
                 b_sum=None, TURN: tl.constexpr = False):
    """Compute :func:`dot`, but no product with a part that is zero.

    ``bf16x3`` and ``bf16x6`` cut float32 factors in two and three parts. A bfloat16 block has one.
    Two float16 blocks enter as they are: no product of theirs overflows float32. TURN: b_a is the
    transpose of the factor. Its parts are cut first, and shared memory turns them as it hands them
    on, so that it holds them once if they enter another product too.
    """
    # before Triton 3.6 tl.dot knows only tf32x3
    THREE: tl.constexpr = PRECISION == 'bf16x6' or PRECISION == 'tf32x3'
    PARTS: tl.constexpr = 2 if PRECISION == 'bf16x3' else 3 if THREE else 0
    # pairs of conditions, a constant first: Triton 3.3 joins no others
    BOTH_HALF: tl.constexpr = ((PARTS > 0 and b_a.dtype == tl.float16)
                               and b_b.dtype == tl.float16)
    A_IS_ONE: tl.constexpr = PARTS > 0 and b_a.dtype == tl.bfloat16
    B_IS_ONE: tl.constexpr = PARTS > 0 and b_b.dtype == tl.bfloat16
    if TURN and (A_IS_ONE or not B_IS_ONE):
        b_a = tl.trans(b_a)
    if A_IS_ONE and B_IS_ONE:
        b_sum = dot(b_a, b_b, tl.bfloat16, 'ieee', ACC, b_sum)
    elif BOTH_HALF:
        b_sum = dot(b_a, b_b, tl.float16, 'ieee', ACC, b_sum)
    elif A_IS_ONE:
        b_b = b_b.to(ACC)  # float16 too: its parts are those of a float32 number
        b_high, b_low = halves(b_b)
        if PARTS == 3:
            b_sum = dot(b_a, third(b_b, b_high, b_low), tl.bfloat16, 'ieee', ACC, b_sum)
        b_sum = dot(b_a, b_low, tl.bfloat16, 'ieee', ACC, b_sum)
        b_sum = dot(b_a, b_high, tl.bfloat16, 'ieee', ACC, b_sum)
    elif B_IS_ONE:
        b_a = b_a.to(ACC)
        b_high, b_low = halves(b_a)
        if PARTS == 3:
            b_third = third(b_a, b_high, b_low)
            if TURN:
                b_third = tl.trans(b_third)
            b_sum = dot(b_third, b_b, tl.bfloat16, 'ieee', ACC, b_sum)
        if TURN:
            b_low = tl.trans(b_low)
            b_high = tl.trans(b_high)
        b_sum = dot(b_low, b_b, tl.bfloat16, 'ieee', ACC, b_sum)
        b_sum = dot(b_high, b_b, tl.bfloat16, 'ieee', ACC, b_sum)
    else:
        b_sum = dot(b_a, b_b, DTYPE, PRECISION, ACC, b_sum)
    return b_sum


@triton.jit
def exp(b_x, LOW: tl.constexpr = True, HIGH: tl.constexpr = True):
    """Compute exp(x) to a last digit, exp(0) exactly; a GPU's own errs by up to two.

    2**n times a fitted polynomial of what is left, at most log(2) / 2. Below exp(-87) it loses
    digits and becomes 0, above exp(88) it is infinite. Without LOW x is known to be at least -88.1,
    without HIGH at most 89.
    """
    if b_x.dtype == tl.float64:
        b_e = tl.exp(b_x)
    else:
        if LOW:
            b_x = tl.maximum(b_x, -88.1, propagate_nan=tl.PropagateNan.ALL)
        if HIGH:
            b_x = tl.minimum(b_x, 89, propagate_nan=tl.PropagateNan.ALL)
        # at this size a float32 number has no digits behind the point, and n in its last bits
        b_t = b_x * LOG2_E + 12582912.0
        b_n = b_t - 12582912.0
        b_r = tl.fma(b_n, -1.4286068202862268e-06, tl.fma(b_n, -0.693145751953125, b_x))
        b_p = b_r * 0.0013950808206573129 + 0.008369073271751404
        b_p = b_p * b_r + 0.04166620224714279
        b_p = b_p * b_r + 0.16666516661643982
        b_p = b_p * b_r + 0.5
        b_p = b_p * b_r + 1
        b_p = b_p * b_r + 1
        # the bits of 2**n: 0 for n = -127, infinity for 128
        b_scale = (b_t.to(tl.int32, bitcast=True) << 23) + 0x3F800000
        b_e = b_p * b_scale.to(tl.float32, bitcast=True)
    return b_e


@triton.jit
def inverse(b_x):
    """Compute 1 / x of positive numbers to a last digit; a GPU's own errs by up to two."""
    b_y = 1 / b_x
    return tl.fma(tl.fma(-b_y, b_x, 1.0), b_y, b_y)


@triton.jit
def log1p(b_e):
    """Compute log(1 + e) for 0 <= e <= 1 by a fitted polynomial, to the last digits of any e."""
    b_p = b_e * 0.005253458 - 0.029588507
    b_p = b_p * b_e + 0.07836167
    b_p = b_p * b_e - 0.1367477
    b_p = b_p * b_e + 0.1911143
    b_p = b_p * b_e - 0.2484437
    b_p = b_p * b_e + 0.3331927
    b_p = b_p * b_e - 0.49999502
    return b_e * b_e * b_p + b_e


@triton.jit
def softplus(b_z, ACC: tl.constexpr):
    """Compute log(1 + exp(z)) and its derivative; small ones keep their digits too."""
    if tl.float64 == ACC:
        b_e = tl.exp(-tl.abs(b_z))
        b_w = 1 + b_e
        # log(1 + e) = log(w) + (what rounding took from w) / w
        b_log = tl.log(b_w) + (b_e - (b_w - 1)) / b_w
    else:
        b_e = exp(-tl.abs(b_z), HIGH=False)
        b_w = 1 + b_e
        b_log = log1p(b_e)
    b_share = tl.where(b_z > 0, 1, b_e)
    if tl.float64 == ACC:
        b_slope = b_share / b_w
    else:
        # 1 / w to a hundredth, then to its square, 1e-4, which the correction squares once more. A
        # division would first look for what w, from 1 to 2, cannot be.
        b_inverse = tl.fma(tl.fma(b_w, 32 / 99, -144 / 99), b_w, 210 / 99)
        b_inverse = tl.fma(tl.fma(-b_w, b_inverse, 1.0), b_inverse, b_inverse)
        b_slope = b_share * b_inverse
        # rounding took some of w
        b_rest = tl.fma(-b_slope, b_w, b_share) - b_slope * (b_e - (b_w - 1))
        b_slope += b_rest * b_inverse
    return tl.maximum(b_z, 0) + b_log, b_slope
