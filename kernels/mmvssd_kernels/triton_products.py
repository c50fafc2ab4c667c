"""Matrix products of float32 blocks on tensor cores, in parts of bfloat16.

Triton's ``bf16x6`` cuts a factor in the layout in which a product takes it, so each warp cuts what
all of them read, and holds all parts at a time. Here a block is cut as it was loaded, once for all
products that it enters. Shared memory hands its parts on.
"""
import triton
import triton.language as tl

from mmvssd_kernels.triton_math import dot, dot_of_parts

# a number times this, cut off, is nearly what it is rounded to: a last bit is 2**-8 to 2**-7 of it
_UPWARD = tl.constexpr(1 + 1.5 * 2**-9)
# the least finite number of float32
_LEAST = tl.constexpr(-3.4028234663852886e38)


@triton.jit
def cut_mask(number):
    """Return -65536, the bits of a float32 number that bfloat16 has, for a ``number`` from 0 on.

    A compiler that does not know it leaves a block's layout alone before :func:`cut`.
    """
    return -65536 + (number >> 31)


@triton.jit
def cut(b_t, mask, STRICT: tl.constexpr = False):
    """Cut a block in three of bfloat16, whose sum has an error of 2**-25 of each number.

    The first is cut off by bits, the second rounded by bits: a conversion would be slow. Rounded,
    the third has either sign, so what products leave out does not add up. If STRICT, the first is
    nearly rounded too, which takes a product more: six products then err by a third as much.
    """
    b_t = b_t.to(tl.float32)
    b_near = b_t
    if STRICT:
        b_near = b_t * _UPWARD
    b_bits = b_near.to(tl.int32, bitcast=True) & mask
    b_high = (b_bits >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
    b_rest = b_t - b_bits.to(tl.float32, bitcast=True)
    b_bits = (b_rest.to(tl.int32, bitcast=True) + 0x8000) & -65536
    b_middle = (b_bits >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
    b_low = (b_rest - b_bits.to(tl.float32, bitcast=True)).to(tl.bfloat16)
    return b_high, b_middle, b_low


@triton.jit
def dot_of_cut(b_a, b_a_middle, b_a_low, b_b, b_b_middle, b_b_low, ACC: tl.constexpr,
               STRICT: tl.constexpr = False):
    """Multiply blocks that :func:`cut` has cut, the largest parts last.

    The second factor's parts enter one after the other: registers hold one at a time. Lower parts
    of infinity are NaN. If STRICT, this is dropped, and infinity stays what it is.
    """
    b_sum = dot(b_a, b_b_low, tl.bfloat16, 'ieee', ACC)
    b_sum = dot(b_a_middle, b_b_middle, tl.bfloat16, 'ieee', ACC, b_sum)
    b_sum = dot(b_a, b_b_middle, tl.bfloat16, 'ieee', ACC, b_sum)
    b_sum = dot(b_a_low, b_b, tl.bfloat16, 'ieee', ACC, b_sum)
    b_sum = dot(b_a_middle, b_b, tl.bfloat16, 'ieee', ACC, b_sum)
    if STRICT:
        # a bound takes the place of NaN; beside the first parts' product, not finite, it is nothing
        b_sum = tl.maximum(b_sum, _LEAST)
    return dot(b_a, b_b, tl.bfloat16, 'ieee', ACC, b_sum)


@triton.jit
def product(b_a, b_b, mask, DTYPE: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
            CUT: tl.constexpr, b_sum=None, TURN: tl.constexpr = False,
            STRICT: tl.constexpr = False):
    """Compute :func:`dot_of_parts`, or with CUT, for float32 blocks, :func:`dot_of_cut`.

    TURN: the second factor is the transpose of ``b_b``. STRICT: see there. A block that enters
    several products is cut once, as a compiler does once what is the same.
    """
    if CUT:
        b_a_high, b_a_middle, b_a_low = cut(b_a, mask, STRICT)
        b_high, b_middle, b_low = cut(b_b, mask, STRICT)
        if TURN:
            b_high, b_middle, b_low = tl.trans(b_high), tl.trans(b_middle), tl.trans(b_low)
        b_product = dot_of_cut(b_a_high, b_a_middle, b_a_low, b_high, b_middle, b_low, ACC, STRICT)
        if b_sum is not None:
            b_product += b_sum
    else:
        if TURN:
            b_b = tl.trans(b_b)
        b_product = dot_of_parts(b_a, b_b, DTYPE, PRECISION, ACC, b_sum)
    return b_product
