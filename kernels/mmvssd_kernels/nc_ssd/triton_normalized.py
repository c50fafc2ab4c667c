"""Jit functions of the normalized ``nc_ssd``; symbols as in its reference.

A tile is BL tokens of BH heads, (BL, BH, BP), since heads are narrow. Features, their rotation and
products serve all heads of a tile at once, as columns of one matrix, (BL, BH * BP). Layouts and
grids are those of :mod:`mmvssd_kernels.nc_ssd.triton_kernels`, the grid's first axis being tiles of
heads. A token stride of x, dy and y is a multiple of ALIGN, which is what it is counted in.

b_k and b_q are features, b_kr and b_qr features after rotation. States (N, h, S, P) have sums of
keys (N, h, S) behind them, gradients of states those of keys, and stretches give such parts each.
With HALVES all these are two bfloat16 numbers each, as those of the plain form.
Weights of the softmax are exp(m - p_softmax[0]) * p_softmax[1].
"""
import triton
import triton.language as tl

from mmvssd_kernels.nc_ssd.triton_features import (
    add_keys,
    column,
    cos_sin,
    denominators,
    feature,
    feature_slope,
    handed_out,
    load_angles,
    read_keys,
    rotate,
    with_column,
)
from mmvssd_kernels.nc_ssd.triton_kernels import VARYING, rows, valid_tokens
from mmvssd_kernels.triton_math import add_dot, exp, inverse, load_state, parts, store_state

# the distance of images counts in steps that are aligned
_VARYING = [*VARYING, 'stride_xn', 'stride_yn']


@triton.jit
def with_more(b_largest, b_total, b_m, b_sum):
    """Join maxima of m, and sums of exp(m) as shares of exp(maximum), with further ones."""
    b_before = b_largest
    b_largest = tl.maximum(b_largest, b_m)
    # as long as all tokens were padding any finite number will do
    b_base = tl.where(b_largest == -float('inf'), 0, b_largest)
    return b_largest, b_total * exp(b_before - b_base) + b_sum * exp(b_m - b_base)


@triton.jit
def store_softmax(p_softmax, o, m, b_largest, b_total):
    """Store the maximum and 1 / sum. Of no token at all every weight is 0."""
    tl.store(p_softmax + o * 2, tl.where(b_largest == -float('inf'), 0, b_largest), mask=m)
    tl.store(p_softmax + o * 2 + 1, tl.where(b_total > 0, inverse(b_total), 0), mask=m)


@triton.jit(do_not_specialize=_VARYING)
def prepare(p_dt, p_A, p_mask, p_softmax, p_table, L, split_length, positions, stride_dn,
            stride_dl, h: tl.constexpr, K: tl.constexpr, LOG_BASE: tl.constexpr,
            MASKED: tl.constexpr, WHOLE: tl.constexpr, BK: tl.constexpr, BL: tl.constexpr,
            ACC: tl.constexpr):
    """Compute the softmax's maximum and sum over a stretch of tokens, and the rotary table.

    p_softmax is (splits, N, h, 2). WHOLE: the only stretch there is, of which 1 / sum is stored.
    p_table (2, positions, K): cosines and sines of position * base ** (-k / K), in float64 before
    they are stored.
    """
    j, split, n = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    images = tl.num_programs(2).to(tl.int64)
    o_l = tl.arange(0, BL)
    A = tl.load(p_A + j).to(ACC)
    p_dt += n * stride_dn + j
    begin = split * split_length
    stop = tl.minimum(begin + split_length, L)
    # a maximum and a sum for each lane, joined at last
    b_largest = tl.full((BL, ), -float('inf'), dtype=ACC)
    b_total = tl.zeros((BL, ), dtype=ACC)
    for start in range(begin, stop, BL):
        m_l = valid_tokens(p_mask, n, start + o_l, L, stop, MASKED)
        b_dt = tl.load(p_dt + (start + o_l).to(tl.int64) * stride_dl, mask=m_l, other=0)
        b_m = tl.where(m_l, -A * b_dt.to(ACC), -float('inf'))
        b_largest, b_total = with_more(b_largest, b_total, b_m, 1.0)
    largest = tl.max(b_largest, axis=0)
    base = tl.where(largest == -float('inf'), 0, largest)
    total = tl.sum(b_total * exp(b_largest - base), axis=0)
    o_softmax = (split * images + n) * h + j
    if WHOLE:
        store_softmax(p_softmax, o_softmax, True, largest, total)
    else:
        tl.store(p_softmax + o_softmax * 2, largest)
        tl.store(p_softmax + o_softmax * 2 + 1, total)

    o_k = tl.arange(0, BK)
    program = (tl.program_id(2) * tl.num_programs(1) + split) * h + j
    for position in range(program, positions, h * tl.num_programs(1) * tl.num_programs(2)):
        b_frequency = tl.exp(-o_k.to(tl.float64) / K * tl.full((), LOG_BASE, dtype=tl.float64))
        b_cos, b_sin = cos_sin(b_frequency * position)
        o_table = position * K + o_k
        tl.store(p_table + o_table, b_cos.to(ACC), mask=o_k < K)
        tl.store(p_table + positions * K + o_table, b_sin.to(ACC), mask=o_k < K)


@triton.jit(do_not_specialize=['splits'])
def join_softmax(p_parts, p_softmax, splits, size, BE: tl.constexpr, ACC: tl.constexpr):
    """Join the maxima and sums (splits, size, 2) of all stretches in their order."""
    o_e = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    m_e = o_e < size
    b_largest = tl.full((BE, ), -float('inf'), dtype=ACC)
    b_total = tl.zeros((BE, ), dtype=ACC)
    for _ in range(splits):
        b_m = tl.load(p_parts + o_e * 2, mask=m_e, other=-float('inf'))
        b_sum = tl.load(p_parts + o_e * 2 + 1, mask=m_e, other=0)
        b_largest, b_total = with_more(b_largest, b_total, b_m, b_sum)
        p_parts += size * 2
    store_softmax(p_softmax, o_e, m_e, b_largest, b_total)


@triton.jit
def softmax(b_m, b_base, b_scale, m_m):
    """Compute weights of the softmax; see :func:`prepare`.

    The choice stands between product and difference, which a GPU would join without rounding the
    product. The maximum is a rounded one: the largest weight would not be exp(0).
    """
    b_m = tl.where(m_m, b_m, -float('inf'))
    return exp(b_m - b_base) * b_scale


@triton.jit(do_not_specialize=_VARYING)
def partial_states(p_x, p_B, p_mask, p_table, p_dt, p_A, p_softmax, p_weights, p_states, L,
                   split_length, W, positions, stride_xn, stride_xl, stride_Bn, stride_Bl,
                   stride_dn, stride_dl, h: tl.constexpr, P: tl.constexpr, S: tl.constexpr,
                   K: tl.constexpr, BACKWARD: tl.constexpr, WHOLE: tl.constexpr,
                   ALIGN: tl.constexpr, MASKED: tl.constexpr, FAR: tl.constexpr, BL: tl.constexpr,
                   BS: tl.constexpr, BH: tl.constexpr, BP: tl.constexpr, DTYPE: tl.constexpr,
                   PRECISION: tl.constexpr, ACC: tl.constexpr, HALVES: tl.constexpr):
    """Sum a stretch of tokens, weighted by the softmax.

    WHOLE: the only stretch there is, so that p_states are the states.

    BACKWARD: with p_weights (2, N, L, h), for states and for sums of keys, in its place. x and B
    are then dy and C, and the sums are gradients.
    """
    split, n = tl.program_id(1), tl.program_id(2).to(tl.int64)
    images = tl.num_programs(2).to(tl.int64)
    start = split * split_length
    stop = tl.minimum(start + split_length, L)
    first = start.to(tl.int64)
    o_l, o_s, o_p = tl.arange(0, BL), tl.arange(0, BS), tl.arange(0, BP)
    o_h = tl.program_id(0) * BH + tl.arange(0, BH)
    o_row = rows(o_l, FAR)
    m_s, m_h = o_s < S, o_h < h
    m_hp = m_h[:, None] & (o_p < P)[None, :]
    p_x += (n * stride_xn + first * stride_xl) * ALIGN
    o_x = (o_row * (stride_xl * ALIGN))[:, None, None] + (o_h[:, None] * P + o_p[None, :])[None]
    p_B += n * stride_Bn + first * stride_Bl
    o_B = o_row[:, None] * stride_Bl + o_s[None, :]
    if BACKWARD:
        p_weights += (n * L + first) * h
        o_w = o_l[:, None] * h + o_h[None, :]
    else:
        p_dt += n * stride_dn + first * stride_dl
        o_dt = o_row[:, None] * stride_dl + o_h[None, :]
        b_A = tl.load(p_A + o_h, mask=m_h, other=0).to(ACC)
        p_softmax += (n * h + o_h) * 2
        b_base, b_scale = tl.load(p_softmax, m_h, other=0), tl.load(p_softmax + 1, m_h, other=0)

    b_state = tl.zeros((BS, BH * BP), dtype=ACC)
    b_keys = tl.zeros((BL // 8, BH, BS), dtype=ACC)
    for begin in range(start, stop, BL):
        o_token = begin + o_l
        m_l = valid_tokens(p_mask, n, o_token, L, stop, MASKED)
        m_ls, m_lh = m_l[:, None] & m_s[None, :], m_l[:, None] & m_h[None, :]
        b_x = tl.load(p_x + o_x, mask=m_l[:, None, None] & m_hp[None], other=0).to(ACC)
        b_k = feature(tl.load(p_B + o_B, mask=m_ls, other=0).to(ACC), m_ls, BL, BS)
        b_cos, b_sin = load_angles(p_table, positions, o_token, m_l, W, K, BS)
        if BACKWARD:
            b_w = tl.load(p_weights + o_w, mask=m_lh, other=0)
            b_v = handed_out(tl.load(p_weights + images * L * h + o_w, mask=m_lh, other=0))
            p_weights += BL * h
        else:
            b_dt = tl.load(p_dt + o_dt, mask=m_lh, other=0).to(ACC)
            b_w = handed_out(softmax(-b_A[None, :] * b_dt, b_base[None, :], b_scale[None, :], m_lh))
            b_v = b_w
            p_dt += tl.cast(BL, tl.int64) * stride_dl
        # each token's own sums would take too many registers
        b_products = tl.reshape(b_v[:, :, None] * b_k[:, None, :], (8, BL // 8, BH, BS))
        b_keys += tl.sum(b_products, axis=0)
        # state = sum_l R_l k_l (outer) w_l x_l
        b_kr = rotate(b_k, b_cos, b_sin, BL, BS)
        b_high, b_low = parts(tl.reshape(b_w[:, :, None] * b_x, (BL, BH * BP)), HALVES)
        b_state = add_dot(b_state, tl.trans(b_kr), b_high, b_low, DTYPE, PRECISION, ACC, HALVES)
        p_x += tl.cast(BL * ALIGN, tl.int64) * stride_xl
        p_B += tl.cast(BL, tl.int64) * stride_Bl

    p_states += split.to(tl.int64) * (images * h * S * (P + 1))
    low = images * h * S * (P + 1)
    # plus 0, which a compiler does not know: it keeps no place from before the loop
    zero = (L < 0).to(tl.int64)
    o_state, m_state, o_keys, m_keys = places(images, n + zero, tl.program_id(0) + zero, h, P,
                                              S, BS, BH, BP)
    store_state(p_states, o_keys, low, tl.sum(b_keys, axis=0), m_keys, HALVES and WHOLE)
    store_state(p_states, o_state, low, b_state, m_state, HALVES and WHOLE)


@triton.jit
def places(images, n, tile, h: tl.constexpr, P: tl.constexpr, S: tl.constexpr, BS: tl.constexpr,
           BH: tl.constexpr, BP: tl.constexpr):
    """Return the places of a tile's states and sums of keys, and which of them exist."""
    o_c = tl.arange(0, BH * BP)
    o_s, o_h, o_p = tl.arange(0, BS), tile * BH + o_c // BP, o_c % BP
    o_state = n * (h * S * P) + o_s[:, None] * P + (o_h * (S * P) + o_p)[None, :]
    m_state = (o_s < S)[:, None] & ((o_h < h) & (o_p < P))[None, :]
    o_h = tile * BH + tl.arange(0, BH)
    o_keys = images * (h * S * P) + n * (h * S) + o_h[:, None] * S + o_s[None, :]
    return o_state, m_state, o_keys, (o_h < h)[:, None] & (o_s < S)[None, :]


@triton.jit(do_not_specialize=_VARYING)
def outputs(p_x, p_C, p_D, p_mask, p_table, p_states, p_y, L, split_length, W, positions,
            stride_xn, stride_xl, stride_Cn, stride_Cl, h: tl.constexpr, P: tl.constexpr,
            S: tl.constexpr, K: tl.constexpr, SKIP: tl.constexpr, ALIGN: tl.constexpr,
            MASKED: tl.constexpr, FAR: tl.constexpr, BL: tl.constexpr, BS: tl.constexpr,
            BH: tl.constexpr, BP: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr,
            ACC: tl.constexpr, HALVES: tl.constexpr):
    """Let a stretch of tokens read the state: p_y (N, L, h, P)."""
    split, n = tl.program_id(1), tl.num_programs(2) - 1 - tl.program_id(2).to(tl.int64)
    start = split * split_length
    stop = tl.minimum(start + split_length, L)
    first = start.to(tl.int64)
    o_l, o_s, o_p = tl.arange(0, BL), tl.arange(0, BS), tl.arange(0, BP)
    o_h = tl.program_id(0) * BH + tl.arange(0, BH)
    o_row = rows(o_l, FAR)
    m_s, m_h = o_s < S, o_h < h
    m_hp = m_h[:, None] & (o_p < P)[None, :]
    o_hp = (o_h[:, None] * P + o_p[None, :])[None]
    p_x += (n * stride_xn + first * stride_xl) * ALIGN
    o_x = (o_row * (stride_xl * ALIGN))[:, None, None] + o_hp
    p_y += (n * L + first) * (h * P)
    o_y = (o_l * (h * P))[:, None, None] + o_hp
    p_C += n * stride_Cn + first * stride_Cl
    o_C = o_row[:, None] * stride_Cl + o_s[None, :]
    images = tl.num_programs(2).to(tl.int64)
    low = images * h * S * (P + 1)
    o_state, m_state, o_keys, m_keys = places(images, n, tl.program_id(0), h, P, S, BS, BH, BP)
    b_high, b_low = load_state(p_states, o_state, low, m_state, HALVES)
    b_keys, b_rest = load_state(p_states, o_keys, low, m_keys, HALVES)
    if HALVES:
        b_keys = b_keys.to(ACC) + b_rest.to(ACC)
    scale = tl.full((), 1, dtype=ACC) / (h * P)
    if SKIP:
        b_D = tl.load(p_D + o_h, mask=m_h, other=0).to(ACC)

    for i in range(tl.cdiv(stop - start, BL)):
        o_token = start + i * BL + o_l
        m_l = valid_tokens(p_mask, n, o_token, L, stop, MASKED)
        m_ls = m_l[:, None] & m_s[None, :]
        b_q = feature(tl.load(p_C + o_C, mask=m_ls, other=0).to(ACC), m_ls, BL, BS)
        b_cos, b_sin = load_angles(p_table, positions, o_token, m_l, W, K, BS)
        b_factor = scale / denominators(b_q, b_keys, scale)
        # y_l = (s R_l q_l . state) / denom_l + D x_l
        b_y = tl.zeros((BL, BH * BP), dtype=ACC)
        b_y = add_dot(b_y, rotate(b_q, b_cos, b_sin, BL, BS), b_high, b_low, DTYPE, PRECISION, ACC,
                      HALVES)
        b_y = tl.reshape(b_y, (BL, BH, BP)) * b_factor[:, :, None]
        if SKIP:
            b_x = tl.load(p_x + o_x, mask=m_l[:, None, None] & m_hp[None], other=0).to(ACC)
            b_y += b_D[None, :, None] * b_x
        # padding is written too, as zeros
        tl.store(p_y + o_y, b_y.to(p_y.dtype.element_ty),
                 mask=(o_token < stop)[:, None, None] & m_hp[None])
        p_x += tl.cast(BL * ALIGN, tl.int64) * stride_xl
        p_C += tl.cast(BL, tl.int64) * stride_Cl
        p_y += BL * h * P


@triton.jit(do_not_specialize=_VARYING)
def query_gradients(p_C, p_mask, p_table, p_states, p_dy, p_dC, p_weights, L, W, positions,
                    stride_Cn, stride_Cl, stride_yn, stride_yl, h: tl.constexpr, P: tl.constexpr,
                    S: tl.constexpr, K: tl.constexpr, ALIGN: tl.constexpr, MASKED: tl.constexpr,
                    FAR: tl.constexpr, H: tl.constexpr, HK: tl.constexpr, BL: tl.constexpr,
                    BS: tl.constexpr, BP: tl.constexpr, DTYPE: tl.constexpr,
                    PRECISION: tl.constexpr, ACC: tl.constexpr, HALVES: tl.constexpr):
    """Compute gradients of C over a tile of tokens, p_dC (N, L, S), one head after the other.

    p_weights (2, N, L, h) are the weights of dy in gradients of states, and of features in those of
    sums of keys.
    """
    tile, images = tl.program_id(0), tl.num_programs(1).to(tl.int64)
    n = tl.program_id(1).to(tl.int64)
    first = tile.to(tl.int64) * BL
    o_l, o_s, o_p = tl.arange(0, BL), tl.arange(0, BS), tl.arange(0, BP)
    o_row = rows(o_l, FAR)
    m_s, m_p = o_s < S, o_p < P
    m_sp = m_s[:, None] & m_p[None, :]
    m_stop = tile * BL + o_l < L  # with padding
    m_l = valid_tokens(p_mask, n, tile * BL + o_l, L, L, MASKED)
    m_ls, m_lp = m_l[:, None] & m_s[None, :], m_l[:, None] & m_p[None, :]
    p_C += n * stride_Cn + first * stride_Cl
    b_C = tl.load(p_C + o_row[:, None] * stride_Cl + o_s[None, :], mask=m_ls, other=0).to(ACC)
    b_q = feature(b_C, m_ls, BL, BS)
    b_cos, b_sin = load_angles(p_table, positions, tile * BL + o_l, m_l, W, K, BS)
    b_qr = rotate(b_q, b_cos, b_sin, BL, BS)
    p_dy += (n * stride_yn + first * stride_yl) * ALIGN
    o_dy = o_row[:, None] * (stride_yl * ALIGN) + o_p[None, :]
    low = images * h * S * (P + 1)
    o_state = o_s[:, None] * P + o_p[None, :]
    scale = tl.full((), 1, dtype=ACC) / (h * P)
    p_weights += (n * L + first) * h
    b_dqr = tl.zeros((BL, BS), dtype=ACC)
    b_dq = tl.zeros((BL, BS), dtype=ACC)

    for start in range(0, h, H):
        # of H heads at once: what is computed for one, each lane that needs a number would repeat
        o_h = start + tl.arange(0, H)
        m_h = o_h < h
        o_k = start + tl.arange(0, HK)
        o_keys = images * (h * S * P) + n * (h * S) + o_k[:, None] * S + o_s[None, :]
        b_keys, b_rest = load_state(p_states, o_keys, low, (o_k < h)[:, None] & m_s[None, :],
                                    HALVES)
        b_products = read_keys(tl.zeros((BL, H), dtype=ACC), b_q, b_keys, b_rest, BL, H, HK, DTYPE,
                               PRECISION, ACC, HALVES)
        b_weights = scale * inverse(scale * b_products + 1e-6)
        b_key_weights = tl.zeros((BL, H), dtype=ACC)

        for j in range(start, tl.minimum(start + H, h)):
            b_dy = tl.load(p_dy + j * P + o_dy, mask=m_lp, other=0)
            b_high, b_low = load_state(p_states + (n * h + j) * (S * P), o_state, low, m_sp, HALVES)
            # g_l = s dy_l / denom_l, dR q_l = state g_l, ddenom_l = -dR q_l . R_l q_l / denom_l
            b_h = tl.zeros((BL, BS), dtype=ACC)
            b_h = add_dot(b_h, b_dy, tl.trans(b_high), tl.trans(b_low), DTYPE, PRECISION, ACC,
                          HALVES)
            b_h *= column(b_weights, o_h, j)[:, None]
            b_dqr += b_h
            b_key_weights = with_column(b_key_weights, o_h, j, tl.sum(b_h * b_qr, axis=1))

        b_key_weights *= -b_weights
        o_w = o_l[:, None] * h + o_h[None, :]
        m_w = m_stop[:, None] & m_h[None, :]
        tl.store(p_weights + o_w, b_weights, mask=m_w)
        tl.store(p_weights + images * L * h + o_w, b_key_weights, mask=m_w)
        b_dq = add_keys(b_dq, b_key_weights, b_keys, b_rest, BL, H, HK, DTYPE, PRECISION, ACC,
                        HALVES)

    if BS > 32 and not HALVES:
        # o_l plus 0, which a compiler does not know: so it is all computed anew, not kept all along
        o_l += (L < 0).to(tl.int32)
        b_cos, b_sin = load_angles(p_table, positions, tile * BL + o_l, m_l, W, K, BS)
        b_C = tl.load(p_C + rows(o_l, FAR)[:, None] * stride_Cl + o_s[None, :], mask=m_ls,
                      other=0).to(ACC)
        b_q = feature(b_C, m_ls, BL, BS)
    b_dC = (rotate(b_dqr, b_cos, -b_sin, BL, BS) + b_dq) * feature_slope(b_C, b_q)
    tl.store(p_dC + (n * L + first) * S + o_l[:, None] * S + o_s[None, :],
             b_dC.to(p_dC.dtype.element_ty), mask=m_stop[:, None] & m_s[None, :])


@triton.jit(do_not_specialize=_VARYING)
def gradients(p_x, p_dt, p_A, p_B, p_D, p_mask, p_table, p_softmax, p_dstates, p_dy, p_dx, p_dw,
              p_dB, p_sums, L, W, positions, stride_xn, stride_xl, stride_dn,
              stride_dl, stride_Bn, stride_Bl, stride_yn, stride_yl, h: tl.constexpr,
              P: tl.constexpr, S: tl.constexpr, K: tl.constexpr, SKIP: tl.constexpr,
              ALIGN: tl.constexpr, MASKED: tl.constexpr, FAR: tl.constexpr, H: tl.constexpr,
              HK: tl.constexpr, BL: tl.constexpr, BS: tl.constexpr, BP: tl.constexpr,
              DTYPE: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
              HALVES: tl.constexpr):
    """Compute gradients of x, w and B over a tile of tokens, one head after the other.

    p_dx (N, L, h, P), p_dw (N, L, h), p_dB (N, L, S); p_sums (2, h, N, tiles) holds what this tile
    adds to the sum of w dw, and to dD.
    """
    tile, tiles, images = tl.program_id(0), tl.num_programs(0), tl.num_programs(1).to(tl.int64)
    n = images - 1 - tl.program_id(1)
    first = tile.to(tl.int64) * BL
    o_l, o_s, o_p = tl.arange(0, BL), tl.arange(0, BS), tl.arange(0, BP)
    o_row = rows(o_l, FAR)
    m_s, m_p = o_s < S, o_p < P
    m_sp = m_s[:, None] & m_p[None, :]
    m_stop = tile * BL + o_l < L  # with padding
    m_l = valid_tokens(p_mask, n, tile * BL + o_l, L, L, MASKED)
    m_ls, m_lp = m_l[:, None] & m_s[None, :], m_l[:, None] & m_p[None, :]
    p_B += n * stride_Bn + first * stride_Bl
    o_B = o_row[:, None] * stride_Bl + o_s[None, :]
    b_B = tl.load(p_B + o_B, mask=m_ls, other=0).to(ACC)
    b_k = feature(b_B, m_ls, BL, BS)
    b_cos, b_sin = load_angles(p_table, positions, tile * BL + o_l, m_l, W, K, BS)
    b_kr = rotate(b_k, b_cos, b_sin, BL, BS)
    b_dkr = tl.zeros((BL, BS), dtype=ACC)
    p_x += (n * stride_xn + first * stride_xl) * ALIGN
    p_dy += (n * stride_yn + first * stride_yl) * ALIGN
    p_dx += (n * L + first) * (h * P)
    o_x = o_row[:, None] * (stride_xl * ALIGN) + o_p[None, :]
    o_dy = o_row[:, None] * (stride_yl * ALIGN) + o_p[None, :]
    o_dx = o_l[:, None] * (h * P) + o_p[None, :]
    o_state = o_s[:, None] * P + o_p[None, :]
    p_dt += n * stride_dn + first * stride_dl
    p_sums += n * tiles + tile
    low = images * h * S * (P + 1)
    b_dk = tl.zeros((BL, BS), dtype=ACC)
    tile_later, o_later = tile, o_l
    if HALVES or PRECISION != 'ieee':  # Turing's FMAs spill more then
        # plus 0, which a compiler does not know: places are computed anew, not kept all along
        tile_later += (L < 0).to(tl.int32)
        o_later += (L < 0).to(tl.int32)

    for start in range(0, h, H):
        # of H heads at once, as in query_gradients
        o_h = start + tl.arange(0, H)
        m_h = o_h < h
        b_dt = tl.load(p_dt + o_row[:, None] * stride_dl + o_h[None, :],
                       mask=m_l[:, None] & m_h[None, :], other=0).to(ACC)
        b_A = tl.load(p_A + o_h, mask=m_h, other=0).to(ACC)
        o_softmax = (n * h + o_h) * 2
        b_base = tl.load(p_softmax + o_softmax, m_h, other=0)
        b_scale = tl.load(p_softmax + o_softmax + 1, m_h, other=0)
        b_weights = softmax(-b_A[None, :] * b_dt, b_base[None, :], b_scale[None, :],
                            m_l[:, None] & m_h[None, :])
        b_dw = tl.zeros((BL, H), dtype=ACC)

        for j in range(start, tl.minimum(start + H, h)):
            b_x = tl.load(p_x + (o_x + j * P), mask=m_lp, other=0)
            if SKIP and HALVES:  # before products of halves take the registers
                b_dy = tl.load(p_dy + (o_dy + j * P), mask=m_lp, other=0)
                b_dD = tl.reshape(b_x.to(ACC) * b_dy.to(ACC), (BL * BP, ))
                tl.store(p_sums + (h + j) * images * tiles, tl.sum(b_dD, axis=0))
            b_w = column(b_weights, o_h, j)
            b_high, b_low = load_state(p_dstates + (n * h + j) * (S * P), o_state, low, m_sp,
                                       HALVES)
            # dR k_l = w_l dstate x_l
            b_t = tl.zeros((BL, BS), dtype=ACC)
            b_t = add_dot(b_t, b_x, tl.trans(b_high), tl.trans(b_low), DTYPE, PRECISION, ACC,
                          HALVES)
            b_dkr += b_w[:, None] * b_t
            # dx_l = w_l R_l k_l . dstate + D dy_l
            b_dx = tl.zeros((BL, BP), dtype=ACC)
            b_dx = add_dot(b_dx, b_kr, b_high, b_low, DTYPE, PRECISION, ACC, HALVES)
            # dw_l = (R_l k_l . dstate) . x_l + k_l . dkeys, whose second part follows
            b_dw = with_column(b_dw, o_h, j, tl.sum(b_dx * b_x.to(ACC), axis=1))
            b_dx *= b_w[:, None]
            if SKIP:
                if not HALVES:
                    b_dy = tl.load(p_dy + (o_dy + j * P), mask=m_lp, other=0)
                b_dx += tl.load(p_D + j).to(ACC) * b_dy.to(ACC)
                if not HALVES:
                    b_dD = tl.reshape(b_x.to(ACC) * b_dy.to(ACC), (BL * BP, ))
                    tl.store(p_sums + (h + j) * images * tiles, tl.sum(b_dD, axis=0))
            tl.store(p_dx + (o_dx + j * P), b_dx.to(p_dx.dtype.element_ty),
                     mask=m_stop[:, None] & m_p[None, :])

        # loaded anew: they would take a quarter of the registers all along
        o_B = rows(o_later, FAR)[:, None] * stride_Bl + o_s[None, :]
        b_B = tl.load(p_B + o_B, mask=m_ls, other=0).to(ACC)
        b_k = feature(b_B, m_ls, BL, BS)
        o_k = start + tl.arange(0, HK)
        o_keys = images * (h * S * P) + n * (h * S) + o_k[:, None] * S + o_s[None, :]
        b_dkeys, b_rest = load_state(p_dstates, o_keys, low, (o_k < h)[:, None] & m_s[None, :],
                                     HALVES)
        b_dw = read_keys(b_dw, b_k, b_dkeys, b_rest, BL, H, HK, DTYPE, PRECISION, ACC, HALVES)
        o_w = (n * L + first) * h + o_later[:, None] * h + o_h[None, :]
        tl.store(p_dw + o_w, b_dw, mask=m_stop[:, None] & m_h[None, :])
        tl.store(p_sums + o_h * images * tiles, tl.sum(b_weights * b_dw, axis=0), mask=m_h)
        b_dk = add_keys(b_dk, b_weights, b_dkeys, b_rest, BL, H, HK, DTYPE, PRECISION, ACC, HALVES)

    b_cos, b_sin = load_angles(p_table, positions, tile_later * BL + o_l, m_l, W, K, BS)
    b_dB = (rotate(b_dkr, b_cos, -b_sin, BL, BS) + b_dk) * feature_slope(b_B, b_k)
    tl.store(p_dB + (n * L + first) * S + o_later[:, None] * S + o_s[None, :],
             b_dB.to(p_dB.dtype.element_ty), mask=m_stop[:, None] & m_s[None, :])


@triton.jit
def centred(p_dt, p_A, p_mask, p_softmax, p_dw, p_sums, L, tiles, stride_dn, stride_dl,
            h: tl.constexpr, MASKED: tl.constexpr, BL: tl.constexpr, BT: tl.constexpr,
            ACC: tl.constexpr):
    """Return A, and of a stretch's tokens dt, w and w (dw - mean), mean = sum_i w_i dw_i.

    p_sums (h, N, tiles) are what tiles add to the mean.
    """
    j, n = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    first = tl.program_id(1).to(tl.int64) * BL
    o_t, o_l = tl.arange(0, BT), tl.arange(0, BL)
    m_l = valid_tokens(p_mask, n, tl.program_id(1) * BL + o_l, L, L, MASKED)
    A = tl.load(p_A + j).to(ACC)
    p_sums += (j * tl.num_programs(2) + n) * tiles
    b_mean = tl.zeros((BT, ), dtype=ACC)
    for start in range(0, tiles, BT):
        b_mean += tl.load(p_sums + start + o_t, mask=start + o_t < tiles, other=0)
    b_dt = tl.load(p_dt + n * stride_dn + first * stride_dl + j + o_l.to(tl.int64) * stride_dl,
                   mask=m_l, other=0).to(ACC)
    p_softmax += (n * h + j) * 2
    b_w = softmax(-A * b_dt, tl.load(p_softmax), tl.load(p_softmax + 1), m_l)
    b_dw = tl.load(p_dw + (n * L + first) * h + j + o_l * h, mask=m_l, other=0)
    return A, b_dt, b_w, b_w * (b_dw - tl.sum(b_mean, axis=0))


@triton.jit(do_not_specialize=_VARYING)
def surpluses(p_dt, p_A, p_mask, p_softmax, p_dw, p_sums, p_surplus, L, tiles, stride_dn,
              stride_dl, h: tl.constexpr, MASKED: tl.constexpr, BL: tl.constexpr,
              BT: tl.constexpr, ACC: tl.constexpr):
    """Sum w (dw - mean) over each stretch, p_surplus (h, N, stretches)."""
    _, _, _, b_dm = centred(p_dt, p_A, p_mask, p_softmax, p_dw, p_sums, L, tiles, stride_dn,
                            stride_dl, h, MASKED, BL, BT, ACC)
    o = (tl.program_id(0).to(tl.int64) * tl.num_programs(2) + tl.program_id(2))
    tl.store(p_surplus + o * tl.num_programs(1) + tl.program_id(1), tl.sum(b_dm, axis=0))


@triton.jit(do_not_specialize=_VARYING)
def step_gradients(p_dt, p_A, p_mask, p_softmax, p_dw, p_sums, p_surplus, p_ddt, p_dA, L, tiles,
                   stride_dn, stride_dl, h: tl.constexpr, SKIP: tl.constexpr,
                   MASKED: tl.constexpr, WHOLE: tl.constexpr, BL: tl.constexpr, BT: tl.constexpr,
                   ACC: tl.constexpr):
    """From dw (N, L, h) to p_ddt (N, L, h), and to what stretches add to dA and dD.

    Through the softmax of m = -dt A come dm_l = w_l (dw_l - mean), which add up to 0. If one token
    has nearly all weight, its own is the rounding of the mean. So what they add up to is taken off:
    of the only stretch there is (WHOLE), or as p_surplus (h, N, stretches) tells.
    p_dA (2, h, N, stretches) has less to add than p_sums (2, h, N, tiles); a stretch has BT tiles.
    """
    stretch, stretches = tl.program_id(1), tl.num_programs(1)
    j, n = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    images = tl.num_programs(2).to(tl.int64)
    o_t, o_l = tl.arange(0, BT), tl.arange(0, BL)
    A, b_dt, b_w, b_dm = centred(p_dt, p_A, p_mask, p_softmax, p_dw, p_sums, L, tiles, stride_dn,
                                 stride_dl, h, MASKED, BL, BT, ACC)
    surplus = tl.sum(b_dm, axis=0)
    if not WHOLE:
        b_surplus = tl.zeros((BT, ), dtype=ACC)
        p_surplus += (j * images + n) * stretches
        for start in range(0, stretches, BT):
            b_surplus += tl.load(p_surplus + start + o_t, mask=start + o_t < stretches, other=0)
        surplus = tl.sum(b_surplus, axis=0)
    b_dm -= b_w * surplus
    o_lh = (n * L + stretch.to(tl.int64) * BL) * h + j + o_l * h
    tl.store(p_ddt + o_lh, (-A * b_dm).to(p_ddt.dtype.element_ty), mask=stretch * BL + o_l < L)
    p_dA += (j * images + n) * stretches + stretch
    tl.store(p_dA, -tl.sum(b_dt * b_dm, axis=0))
    if SKIP:
        o_t += stretch * BT
        p_sums += (h * images + j * images + n) * tiles
        b_dD = tl.load(p_sums + o_t, mask=o_t < tiles, other=0)
        tl.store(p_dA + h * images * stretches, tl.sum(b_dD, axis=0))
