"""What kernels of the normalized ``nc_ssd`` compute of tokens: features, and numbers of heads.

Blocks are of BL tokens and of BS channels of a state, or of H heads; symbols as in
:mod:`mmvssd_kernels.nc_ssd.triton_normalized`.
"""
import triton
import triton.language as tl

from mmvssd_kernels.triton_math import add_dot, exp, last


@triton.jit
def settled(b_t, BL: tl.constexpr, BS: tl.constexpr):
    """Return numbers as they are, (BL, BS), as sums over an axis of length one.

    A compiler hands a sum's result to the lanes that need it. What is no sum or product, each of
    them computes anew. And a factor that follows from a join has its parts in an order that takes
    moves before each product.
    """
    return tl.sum(tl.reshape(b_t, (BL, BS, 1)), axis=2)


@triton.jit
def handed_out(b_t):
    """Return few numbers as they are, (BL, H), as a scan over heads that changes none.

    Of numbers of fewer lanes than there are, lanes compute sums like those of :func:`settled` anew,
    but no scan.
    """
    return tl.associative_scan(b_t, 1, last)


@triton.jit
def cos_sin(b_angle):
    """Compute cosine and sine of float64 angles from 0 to 2**21, to an error of 2e-16.

    A GPU's own are right for any angle, of which large ones take an array of the stack.
    """
    # quarter turns leave at most pi / 4. Pi / 2 has three parts, and their multiples no rounding.
    b_turns = tl.floor(b_angle * tl.full((), 2 / 3.141592653589793, dtype=tl.float64)
                       + tl.full((), 0.5, dtype=tl.float64))
    b_rest = b_angle - b_turns * tl.full((), 0x3243F6A8 / 2**29, dtype=tl.float64)
    b_rest -= b_turns * tl.full((), 0x22168C23 / 2**59, dtype=tl.float64)
    b_rest -= b_turns * tl.full((), 0x1313198A / 2**89, dtype=tl.float64)
    b_square = b_rest * b_rest
    b_cos = tl.full((), 1, dtype=tl.float64)
    b_sin = tl.full((), 1, dtype=tl.float64)
    for k in tl.static_range(9, 0, -1):
        b_cos = 1 - b_square * (b_cos * tl.full((), 1 / (2 * k * (2 * k - 1)), dtype=tl.float64))
        b_sin = 1 - b_square * (b_sin * tl.full((), 1 / (2 * k * (2 * k + 1)), dtype=tl.float64))
    b_sin *= b_rest
    b_turns = b_turns.to(tl.int32)
    b_odd = (b_turns & 1) == 1
    b_first, b_second = tl.where(b_odd, b_sin, b_cos), tl.where(b_odd, b_cos, b_sin)
    return (tl.where(((b_turns + 1) & 2) == 2, -b_first, b_first),
            tl.where((b_turns & 2) == 2, -b_second, b_second))


@triton.jit
def load_angles(p_table, positions, o_token, m_l, W, K: tl.constexpr, BS: tl.constexpr):
    """Load cosines and sines of tokens for all pairs of channels, (BL, BS / 2)."""
    pair = tl.arange(0, BS // 2)[None, :]
    # of columns the pairs count on from K: a position less
    o_table = tl.where(pair < K, (o_token // W)[:, None], (o_token % W)[:, None] - 1) * K + pair
    m_table = m_l[:, None] & (pair < 2 * K)
    return (tl.load(p_table + o_table, mask=m_table, other=1.0),
            tl.load(p_table + positions * K + o_table, mask=m_table, other=0.0))


@triton.jit
def rotate(b_t, b_cos, b_sin, BL: tl.constexpr, BS: tl.constexpr):
    """Turn the channel pairs (2j, 2j + 1) of b_t (BL, BS)."""
    b_even, b_odd = tl.split(tl.reshape(b_t, (BL, BS // 2, 2)))
    b_turned = tl.join(b_even * b_cos - b_odd * b_sin, b_even * b_sin + b_odd * b_cos)
    return settled(b_turned, BL, BS)


@triton.jit
def feature(b_t, m_t, BL: tl.constexpr, BS: tl.constexpr):
    """elu(t) + 1 inside the mask, 0 outside, (BL, BS)."""
    # exp of a positive number is dropped; a minimum before it would drop NaN
    return settled(tl.where(m_t, tl.where(b_t > 0, b_t + 1, exp(b_t)), 0), BL, BS)


@triton.jit
def feature_slope(b_t, b_feature):
    """Derivative of :func:`feature`."""
    return tl.where(b_t > 0, 1, b_feature)


@triton.jit
def denominators(b_q, b_keys, scale):
    """Compute s q_l . keys_j + 1e-6, (BL, BH)."""
    return scale * tl.sum(b_q[:, None, :] * b_keys[None, :, :], axis=2) + 1e-6


@triton.jit
def read_keys(b_sum, b_t, b_keys, b_rest, BL: tl.constexpr, H: tl.constexpr, HK: tl.constexpr,
              DTYPE: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
              HALVES: tl.constexpr):
    """Add t_l . keys_j of tokens (BL, S) and heads (HK, S), of which H may exist, to b_sum (BL, H).

    Without HALVES no product of matrices, whose parts would be many and its errors too large. With
    it HK is at least as many as a product takes.
    """
    if HALVES and H == HK:
        b_sum = add_dot(b_sum, b_t, tl.trans(b_keys), tl.trans(b_rest), DTYPE, PRECISION, ACC,
                        HALVES)
    elif HALVES:
        b_products = add_dot(tl.zeros((BL, HK), dtype=ACC), b_t, tl.trans(b_keys),
                             tl.trans(b_rest), DTYPE, PRECISION, ACC, HALVES)
        # of heads that do not exist come zeros
        b_sum += tl.sum(tl.reshape(b_products, (BL, HK // H, H)), axis=1)
    else:
        b_sum += tl.sum(b_t[:, None, :] * b_keys[None, :, :], axis=2)
    return b_sum


@triton.jit
def add_keys(b_sum, b_w, b_keys, b_rest, BL: tl.constexpr, H: tl.constexpr, HK: tl.constexpr,
             DTYPE: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
             HALVES: tl.constexpr):
    """Add w_lj keys_j of H heads (BL, H) to b_sum (BL, S); see :func:`read_keys`."""
    if HALVES:
        if H < HK:  # weights stand again where keys are zero
            b_w = tl.reshape(tl.broadcast_to(b_w[:, None, :], (BL, HK // H, H)), (BL, HK))
        b_sum = add_dot(b_sum, b_w, b_keys, b_rest, DTYPE, PRECISION, ACC, HALVES)
    else:
        # along the last axis: of a sum along the middle one Triton makes a product of matrices
        b_sum += tl.sum(b_w[:, None, :] * tl.trans(b_keys)[None, :, :], axis=2)
    return b_sum


@triton.jit
def column(b_t, o_h, j):
    """Return the numbers of head j, (BL, ), of those of heads o_h, (BL, H)."""
    return tl.sum(tl.where(o_h[None, :] == j, b_t, 0), axis=1)


@triton.jit
def with_column(b_t, o_h, j, b_numbers):
    """Return the numbers of heads o_h with those of head j replaced; see :func:`column`."""
    return tl.where(o_h[None, :] == j, b_numbers[:, None], b_t)
