"""Jit functions of ``nc_ssd``; symbols as in :mod:`mmvssd_kernels.nc_ssd.reference`.

Grids are (h, splits, N): programs that run side by side are the heads of one stretch of tokens, so
that B and C come from memory once and from the cache for all further heads.

In the normalized form b_k and b_q are features, b_kr and b_qr features after rotation; in the
plain form they are all B and C themselves.
"""
import triton
import triton.language as tl

from mmvssd_kernels.triton_math import dot

# what changes from image to image: to compile for multiples of 16 would gain nothing
VARYING = ['L', 'W', 'split_length']


@triton.jit
def rotary_table(p_cos, p_sin, K, LOG_BASE: tl.constexpr, BK: tl.constexpr):
    """Cosines and sines of position * base ** (-k / K), in float64 before they are stored."""
    position = tl.program_id(0)
    k = tl.arange(0, BK)
    b_angle = position.to(tl.float64) * tl.exp(-k.to(tl.float64) / K * LOG_BASE)
    tl.store(p_cos + position * K + k, tl.cos(b_angle), mask=k < K)
    tl.store(p_sin + position * K + k, tl.sin(b_angle), mask=k < K)


@triton.jit
def load_angles(p_cos, p_sin, o_l, m_l, W, K, BS: tl.constexpr):
    """Cosines and sines of tokens at o_l for all pairs of channels, (BL, BS / 2)."""
    pair = tl.arange(0, BS // 2)[None, :]
    by_row = pair < K
    position = tl.where(by_row, (o_l // W)[:, None], (o_l % W)[:, None])
    o_table = position * K + tl.where(by_row, pair, pair - K)
    m_table = m_l[:, None] & (pair < 2 * K)
    return (tl.load(p_cos + o_table, mask=m_table, other=1.0),
            tl.load(p_sin + o_table, mask=m_table, other=0.0))


@triton.jit
def rotate(b_t, b_cos, b_sin, BL: tl.constexpr, BS: tl.constexpr):
    """Turn the channel pairs (2j, 2j + 1) of b_t (BL, BS)."""
    b_even, b_odd = tl.split(tl.reshape(b_t, (BL, BS // 2, 2)))
    b_turned = tl.join(b_even * b_cos - b_odd * b_sin, b_even * b_sin + b_odd * b_cos)
    return tl.reshape(b_turned, (BL, BS))


@triton.jit
def feature(b_t, m_t):
    """elu(t) + 1 inside the mask, 0 outside."""
    return tl.where(m_t, tl.where(b_t > 0, b_t + 1, tl.exp(tl.minimum(b_t, 0))), 0)


@triton.jit
def feature_slope(b_t, b_feature):
    """Derivative of :func:`feature`."""
    return tl.where(b_t > 0, 1, b_feature)


@triton.jit
def valid_tokens(p_mask, o_l, first, stop, stride_l, MASKED: tl.constexpr):
    """Which of the tokens first + o_l exist and are no padding; p_mask points to token first."""
    m_l = first + o_l < stop
    if MASKED:
        m_l = m_l & (tl.load(p_mask + o_l * stride_l, mask=m_l, other=0) != 0)
    return m_l


@triton.jit
def softmax(b_m, p_softmax, m_l):
    """Weights exp(m - max) / sum; see :func:`combine`."""
    return tl.where(m_l, tl.exp(b_m - tl.load(p_softmax)) * tl.load(p_softmax + 1), 0)


@triton.jit(do_not_specialize=VARYING)
def partial_states(p_x, p_dt, p_A, p_B, p_mask, p_cos, p_sin, p_states, p_sums, L, h, P, S, G, W,
                   K, split_length, stride_xn, stride_xl, stride_xh, stride_xp, stride_dn,
                   stride_dl, stride_dh, stride_A, stride_Bn, stride_Bl, stride_Bg, stride_Bs,
                   stride_mn, stride_ml, NORMALIZE: tl.constexpr, MASKED: tl.constexpr,
                   BL: tl.constexpr, BS: tl.constexpr, BP: tl.constexpr, DTYPE: tl.constexpr,
                   PRECISION: tl.constexpr, ACC: tl.constexpr):
    """Sum a stretch of tokens: p_states (splits, N, h, S, P), p_sums (splits, N, h, S + 2).

    The normalized form weights tokens by exp(m_l - max m) and gives beside the state: the sums of
    keys (S numbers), of weights, and the maximum, all of this stretch.
    """
    split = tl.program_id(1)
    j, n = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    start = split * split_length
    stop = tl.minimum(start + split_length, L)
    first = start.to(tl.int64)
    o_l, o_s, o_p = tl.arange(0, BL), tl.arange(0, BS), tl.arange(0, BP)
    m_s, m_p = o_s < S, o_p < P
    p_x += n * stride_xn + first * stride_xl + j * stride_xh
    p_x += o_l[:, None] * stride_xl + o_p[None, :] * stride_xp
    p_B += n * stride_Bn + first * stride_Bl + (j % G) * stride_Bg
    p_B += o_l[:, None] * stride_Bl + o_s[None, :] * stride_Bs
    p_dt += n * stride_dn + first * stride_dl + j * stride_dh + o_l * stride_dl
    p_mask += n * stride_mn + first * stride_ml
    A = tl.load(p_A + j * stride_A).to(ACC)

    b_state = tl.zeros((BS, BP), dtype=ACC)
    b_keys = tl.zeros((BS, ), dtype=ACC)
    largest = tl.full((), -float('inf'), dtype=ACC)
    total = tl.full((), 0, dtype=ACC)
    for i in range(tl.cdiv(stop - start, BL)):
        m_l = valid_tokens(p_mask, o_l, start + i * BL, stop, stride_ml, MASKED)
        m_ls = m_l[:, None] & m_s[None, :]
        b_x = tl.load(p_x, mask=m_l[:, None] & m_p[None, :], other=0).to(ACC)
        b_k = tl.load(p_B, mask=m_ls, other=0).to(ACC)
        b_m = -A * tl.load(p_dt, mask=m_l, other=0).to(ACC)
        if NORMALIZE:
            b_m = tl.where(m_l, b_m, -float('inf'))
            before = largest
            largest = tl.maximum(largest, tl.max(b_m, axis=0))
            # as long as all tokens were padding any finite number will do
            base = tl.where(largest == -float('inf'), 0, largest)
            b_m = tl.exp(b_m - base)
            shrink = tl.exp(before - base)
            total = total * shrink + tl.sum(b_m, axis=0)
            b_k = feature(b_k, m_ls)
            b_keys = b_keys * shrink + tl.sum(b_k * b_m[:, None], axis=0)
            b_state *= shrink
            b_cos, b_sin = load_angles(p_cos, p_sin, start + i * BL + o_l, m_l, W, K, BS)
            b_k = rotate(b_k, b_cos, b_sin, BL, BS)
        # state = sum_l B_l (outer) (m_l x_l)
        b_state += dot(tl.trans(b_k), b_m[:, None] * b_x, DTYPE, PRECISION, ACC)
        p_x += BL * stride_xl
        p_B += BL * stride_Bl
        p_dt += BL * stride_dl
        p_mask += BL * stride_ml

    part = (split * tl.num_programs(2) + n) * h + j
    tl.store(p_states + part * S * P + o_s[:, None] * P + o_p[None, :], b_state,
             mask=m_s[:, None] & m_p[None, :])
    if NORMALIZE:
        p_sums += part * (S + 2)
        tl.store(p_sums + o_s, b_keys, mask=m_s)
        tl.store(p_sums + S, total)
        tl.store(p_sums + S + 1, largest)


@triton.jit(do_not_specialize=['splits'])
def combine(p_parts, p_sums, p_states, p_keys, p_softmax, size, S, splits, stride_parts,
            stride_sums, NORMALIZE: tl.constexpr, BS: tl.constexpr, BE: tl.constexpr,
            BN: tl.constexpr, ACC: tl.constexpr):
    """Add the states of all stretches in their order; ``size`` is S * P.

    The normalized form brings them to one maximum and divides by the sum of weights; it also gives
    key sums p_keys (N, h, S), and in p_softmax (N, h, 2) the maximum of m and 1 / sum exp(m - max).
    """
    head = tl.program_id(0).to(tl.int64)
    o_e = tl.program_id(1) * BE + tl.arange(0, BE)
    o_s = tl.arange(0, BS)
    m_e, m_s = o_e < size, o_s < S
    b_state = tl.zeros((BE, ), dtype=ACC)
    b_keys = tl.zeros((BS, ), dtype=ACC)
    p_parts += head * size + o_e
    p_sums += head * (S + 2)
    base = tl.full((), 0, dtype=ACC)
    total = tl.full((), 0, dtype=ACC)
    if NORMALIZE:
        o_n = tl.arange(0, BN)
        largest = tl.max(tl.load(p_sums + o_n.to(tl.int64) * stride_sums + S + 1,
                                 mask=o_n < splits, other=-float('inf')), axis=0)
        base = tl.where(largest == -float('inf'), 0, largest)
    for _ in range(splits):
        b_part = tl.load(p_parts, mask=m_e, other=0)
        if NORMALIZE:
            shrink = tl.exp(tl.load(p_sums + S + 1) - base)
            total += shrink * tl.load(p_sums + S)
            b_keys += shrink * tl.load(p_sums + o_s, mask=m_s, other=0)
            b_part *= shrink
        b_state += b_part
        p_parts += stride_parts
        p_sums += stride_sums
    if NORMALIZE:
        # no token at all: the state is 0, and so is every weight
        scale = tl.where(total > 0, 1 / total, 0)
        b_state *= scale
        if tl.program_id(1) == 0:
            tl.store(p_keys + head * S + o_s, b_keys * scale, mask=m_s)
            tl.store(p_softmax + head * 2, base)
            tl.store(p_softmax + head * 2 + 1, scale)
    tl.store(p_states + head * size + o_e, b_state, mask=m_e)


@triton.jit(do_not_specialize=VARYING)
def outputs(p_x, p_C, p_D, p_mask, p_cos, p_sin, p_states, p_keys, p_y, L, h, P, S, G, W, K,
            split_length, scale, stride_xn, stride_xl, stride_xh, stride_xp, stride_Cn, stride_Cl,
            stride_Cg, stride_Cs, stride_D, stride_mn, stride_ml, NORMALIZE: tl.constexpr,
            SKIP: tl.constexpr, MASKED: tl.constexpr, BL: tl.constexpr, BS: tl.constexpr,
            BP: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr):
    """Let a stretch of tokens read the state: p_y (N, L, h, P), contiguous."""
    split = tl.program_id(1)
    j, n = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    start = split * split_length
    stop = tl.minimum(start + split_length, L)
    first = start.to(tl.int64)
    o_l, o_s, o_p = tl.arange(0, BL), tl.arange(0, BS), tl.arange(0, BP)
    m_s, m_p = o_s < S, o_p < P
    p_x += n * stride_xn + first * stride_xl + j * stride_xh
    p_x += o_l[:, None] * stride_xl + o_p[None, :] * stride_xp
    p_y += ((n * L + first) * h + j) * P + o_l[:, None] * h * P + o_p[None, :]
    p_C += n * stride_Cn + first * stride_Cl + (j % G) * stride_Cg
    p_C += o_l[:, None] * stride_Cl + o_s[None, :] * stride_Cs
    p_mask += n * stride_mn + first * stride_ml
    head = n * h + j
    b_state = tl.load(p_states + head * S * P + o_s[:, None] * P + o_p[None, :],
                      mask=m_s[:, None] & m_p[None, :], other=0)
    b_keys = tl.zeros((BS, ), dtype=ACC)
    if NORMALIZE:
        b_keys = tl.load(p_keys + head * S + o_s, mask=m_s, other=0)

    for i in range(tl.cdiv(stop - start, BL)):
        m_l = valid_tokens(p_mask, o_l, start + i * BL, stop, stride_ml, MASKED)
        m_ls = m_l[:, None] & m_s[None, :]
        b_q = tl.load(p_C, mask=m_ls, other=0).to(ACC)
        if NORMALIZE:
            b_q = feature(b_q, m_ls)
            b_denominator = scale * tl.sum(b_q * b_keys[None, :], axis=1) + 1e-6
            b_cos, b_sin = load_angles(p_cos, p_sin, start + i * BL + o_l, m_l, W, K, BS)
            b_q = rotate(b_q, b_cos, b_sin, BL, BS)
            # y_l = (s R_l q_l . state) / denom_l
            b_y = scale * dot(b_q, b_state, DTYPE, PRECISION, ACC) / b_denominator[:, None]
        else:
            # y_l = C_l . state
            b_y = dot(b_q, b_state, DTYPE, PRECISION, ACC)
        if SKIP:
            b_x = tl.load(p_x, mask=m_l[:, None] & m_p[None, :], other=0).to(ACC)
            b_y += tl.load(p_D + j * stride_D).to(ACC) * b_x
        m_stop = start + i * BL + o_l < stop  # padding is written too, as zeros
        tl.store(p_y, b_y.to(p_y.dtype.element_ty), mask=m_stop[:, None] & m_p[None, :])
        p_x += BL * stride_xl
        p_C += BL * stride_Cl
        p_y += BL * h * P
        p_mask += BL * stride_ml


@triton.jit(do_not_specialize=VARYING)
def partial_state_gradients(p_dy, p_C, p_mask, p_cos, p_sin, p_states, p_keys, p_dstates, p_dkeys,
                            L, h, P, S, G, W, K, split_length, scale, stride_yn, stride_yl,
                            stride_yh, stride_yp, stride_Cn, stride_Cl, stride_Cg, stride_Cs,
                            stride_mn, stride_ml, NORMALIZE: tl.constexpr, MASKED: tl.constexpr,
                            BL: tl.constexpr, BS: tl.constexpr, BP: tl.constexpr,
                            DTYPE: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr):
    """What a stretch of tokens hands back to the state: (splits, N, h, S, P) and (..., S)."""
    split = tl.program_id(1)
    j, n = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    start = split * split_length
    stop = tl.minimum(start + split_length, L)
    first = start.to(tl.int64)
    o_l, o_s, o_p = tl.arange(0, BL), tl.arange(0, BS), tl.arange(0, BP)
    m_s, m_p = o_s < S, o_p < P
    m_sp = m_s[:, None] & m_p[None, :]
    p_dy += n * stride_yn + first * stride_yl + j * stride_yh
    p_dy += o_l[:, None] * stride_yl + o_p[None, :] * stride_yp
    p_C += n * stride_Cn + first * stride_Cl + (j % G) * stride_Cg
    p_C += o_l[:, None] * stride_Cl + o_s[None, :] * stride_Cs
    p_mask += n * stride_mn + first * stride_ml
    head = n * h + j
    b_state = tl.zeros((BS, BP), dtype=ACC)
    b_keys = tl.zeros((BS, ), dtype=ACC)
    if NORMALIZE:
        b_state = tl.load(p_states + head * S * P + o_s[:, None] * P + o_p[None, :], mask=m_sp,
                          other=0)
        b_keys = tl.load(p_keys + head * S + o_s, mask=m_s, other=0)

    b_dstate = tl.zeros((BS, BP), dtype=ACC)
    b_dkeys = tl.zeros((BS, ), dtype=ACC)
    for i in range(tl.cdiv(stop - start, BL)):
        m_l = valid_tokens(p_mask, o_l, start + i * BL, stop, stride_ml, MASKED)
        m_ls = m_l[:, None] & m_s[None, :]
        b_dy = tl.load(p_dy, mask=m_l[:, None] & m_p[None, :], other=0).to(ACC)
        b_q = tl.load(p_C, mask=m_ls, other=0).to(ACC)
        if NORMALIZE:
            b_q = feature(b_q, m_ls)
            b_cos, b_sin = load_angles(p_cos, p_sin, start + i * BL + o_l, m_l, W, K, BS)
            b_qr = rotate(b_q, b_cos, b_sin, BL, BS)
            b_denominator = scale * tl.sum(b_q * b_keys[None, :], axis=1) + 1e-6
            b_dy = scale * b_dy / b_denominator[:, None]
            # ddenom_l = -dy_l . n_l / denom_l**2, with dy . n = qr . (state dy)
            b_dqr = dot(b_dy, tl.trans(b_state), DTYPE, PRECISION, ACC)
            b_ddenominator = -tl.sum(b_qr * b_dqr, axis=1) / b_denominator
            b_dkeys += scale * tl.sum(b_q * b_ddenominator[:, None], axis=0)
            b_q = b_qr
        # dstate = sum_l C_l (outer) dy_l
        b_dstate += dot(tl.trans(b_q), b_dy, DTYPE, PRECISION, ACC)
        p_dy += BL * stride_yl
        p_C += BL * stride_Cl
        p_mask += BL * stride_ml

    part = (split * tl.num_programs(2) + n) * h + j
    tl.store(p_dstates + part * S * P + o_s[:, None] * P + o_p[None, :], b_dstate, mask=m_sp)
    if NORMALIZE:
        tl.store(p_dkeys + part * S + o_s, b_dkeys, mask=m_s)


@triton.jit(do_not_specialize=VARYING)
def gradients(p_x, p_dt, p_A, p_B, p_C, p_D, p_mask, p_cos, p_sin, p_states, p_keys, p_softmax,
              p_dstates, p_dkeys, p_dy, p_dx, p_dm, p_dm_sums, p_dB, p_dC, p_dD, L, h, P, S, G, W,
              K, scale, stride_xn, stride_xl, stride_xh, stride_xp, stride_dn, stride_dl, stride_dh,
              stride_A, stride_Bn, stride_Bl, stride_Bg, stride_Bs, stride_Cn, stride_Cl,
              stride_Cg, stride_Cs, stride_D, stride_mn, stride_ml, stride_yn, stride_yl,
              stride_yh, stride_yp, NORMALIZE: tl.constexpr, SKIP: tl.constexpr,
              MASKED: tl.constexpr, BL: tl.constexpr, BS: tl.constexpr, BP: tl.constexpr,
              DTYPE: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr):
    """Gradients of a tile of tokens and one group; the group's heads one after the other.

    p_dx (N, L, h, P), p_dm (N, L, h), p_dB and p_dC (N, L, G, S) are contiguous; p_dm_sums and p_dD
    (tiles, N, h) hold what this tile adds to the sum of dm, and to dD.
    """
    tile = tl.program_id(1)
    g, n = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    first = tile.to(tl.int64) * BL
    o_l, o_s, o_p = tl.arange(0, BL), tl.arange(0, BS), tl.arange(0, BP)
    m_s, m_p = o_s < S, o_p < P
    m_sp = m_s[:, None] & m_p[None, :]
    m_stop = tile * BL + o_l < L  # with padding
    p_mask += n * stride_mn + first * stride_ml
    m_l = valid_tokens(p_mask, o_l, tile * BL, L, stride_ml, MASKED)
    m_ls, m_lp = m_l[:, None] & m_s[None, :], m_l[:, None] & m_p[None, :]
    p_B += n * stride_Bn + first * stride_Bl + g * stride_Bg
    p_C += n * stride_Cn + first * stride_Cl + g * stride_Cg
    b_B = tl.load(p_B + o_l[:, None] * stride_Bl + o_s[None, :] * stride_Bs, mask=m_ls,
                  other=0).to(ACC)
    b_C = tl.load(p_C + o_l[:, None] * stride_Cl + o_s[None, :] * stride_Cs, mask=m_ls,
                  other=0).to(ACC)
    b_kr = b_B
    b_qr = b_C
    if NORMALIZE:
        b_k = feature(b_B, m_ls)
        b_q = feature(b_C, m_ls)
        b_cos, b_sin = load_angles(p_cos, p_sin, tile * BL + o_l, m_l, W, K, BS)
        b_kr = rotate(b_k, b_cos, b_sin, BL, BS)
        b_qr = rotate(b_q, b_cos, b_sin, BL, BS)
        b_dk = tl.zeros((BL, BS), dtype=ACC)
        b_dq = tl.zeros((BL, BS), dtype=ACC)
    b_dkr = tl.zeros((BL, BS), dtype=ACC)
    b_dqr = tl.zeros((BL, BS), dtype=ACC)
    p_x += n * stride_xn + first * stride_xl
    p_x += o_l[:, None] * stride_xl + o_p[None, :] * stride_xp
    p_dy += n * stride_yn + first * stride_yl
    p_dy += o_l[:, None] * stride_yl + o_p[None, :] * stride_yp
    p_dx += (n * L + first) * h * P + o_l[:, None] * h * P + o_p[None, :]
    p_dt += n * stride_dn + first * stride_dl + o_l * stride_dl
    p_dm += (n * L + first) * h + o_l * h
    part = (tile * tl.num_programs(2) + n) * h

    for i in range(h // G):
        j = i * G + g
        head = n * h + j
        o_state = head * S * P + o_s[:, None] * P + o_p[None, :]
        b_state = tl.load(p_states + o_state, mask=m_sp, other=0)
        b_dstate = tl.load(p_dstates + o_state, mask=m_sp, other=0)
        b_x = tl.load(p_x + j * stride_xh, mask=m_lp, other=0).to(ACC)
        b_dy = tl.load(p_dy + j * stride_yh, mask=m_lp, other=0).to(ACC)
        b_dt = tl.load(p_dt + j * stride_dh, mask=m_l, other=0).to(ACC)
        A = tl.load(p_A + j * stride_A).to(ACC)
        b_m = -A * b_dt
        b_dx = tl.zeros((BL, BP), dtype=ACC)
        if SKIP:
            b_dx = tl.load(p_D + j * stride_D).to(ACC) * b_dy
            tl.store(p_dD + part + j, tl.sum(tl.sum(b_x * b_dy, axis=1), axis=0))
        # t_l = dstate x_l
        b_t = dot(b_x, tl.trans(b_dstate), DTYPE, PRECISION, ACC)
        b_dm = tl.sum(b_kr * b_t, axis=1)
        if NORMALIZE:
            b_keys = tl.load(p_keys + head * S + o_s, mask=m_s, other=0)
            b_dkeys = tl.load(p_dkeys + head * S + o_s, mask=m_s, other=0)
            b_w = softmax(b_m, p_softmax + head * 2, m_l)
            b_denominator = scale * tl.sum(b_q * b_keys[None, :], axis=1) + 1e-6
            b_g = scale * b_dy / b_denominator[:, None]
            b_h = dot(b_g, tl.trans(b_state), DTYPE, PRECISION, ACC)
            b_dqr += b_h
            b_ddenominator = -tl.sum(b_qr * b_h, axis=1) / b_denominator
            b_dq += scale * b_ddenominator[:, None] * b_keys[None, :]
            b_dk += b_w[:, None] * b_dkeys[None, :]
            # dw_l = kr_l . t_l + k_l . dkeys; softmax: dm_l = w_l (dw_l - sum_i w_i dw_i), where
            # sum_i w_i dw_i = state . dstate + keys . dkeys
            mean = tl.sum(tl.sum(b_state * b_dstate, axis=1), axis=0)
            mean += tl.sum(b_keys * b_dkeys, axis=0)
            b_dm = b_w * (b_dm + tl.sum(b_k * b_dkeys[None, :], axis=1) - mean)
            b_m = b_w
        else:
            # dC_l = state dy_l
            b_dqr += dot(b_dy, tl.trans(b_state), DTYPE, PRECISION, ACC)
        # dB_l = m_l t_l, dx_l = m_l B_l . dstate + D dy_l
        b_dkr += b_m[:, None] * b_t
        b_dx += b_m[:, None] * dot(b_kr, b_dstate, DTYPE, PRECISION, ACC)
        tl.store(p_dx + j * P, b_dx.to(p_dx.dtype.element_ty),
                 mask=m_stop[:, None] & m_p[None, :])
        tl.store(p_dm + j, b_dm, mask=m_stop)
        if NORMALIZE:
            tl.store(p_dm_sums + part + j, tl.sum(b_dm, axis=0))

    if NORMALIZE:
        b_dkr = (rotate(b_dkr, b_cos, -b_sin, BL, BS) + b_dk) * feature_slope(b_B, b_k)
        b_dqr = (rotate(b_dqr, b_cos, -b_sin, BL, BS) + b_dq) * feature_slope(b_C, b_q)
    o_ls = ((n * L + first) * G + g) * S + o_l[:, None] * G * S + o_s[None, :]
    m_store = m_stop[:, None] & m_s[None, :]
    tl.store(p_dB + o_ls, b_dkr.to(p_dB.dtype.element_ty), mask=m_store)
    tl.store(p_dC + o_ls, b_dqr.to(p_dC.dtype.element_ty), mask=m_store)


@triton.jit(do_not_specialize=VARYING)
def step_gradients(p_dt, p_A, p_mask, p_softmax, p_dm, p_surplus, p_ddt, p_dA, L, h, stride_dn,
                   stride_dl, stride_dh, stride_A, stride_mn, stride_ml, NORMALIZE: tl.constexpr,
                   MASKED: tl.constexpr, BL: tl.constexpr, ACC: tl.constexpr):
    """From dm (N, L, h) of m = -dt A to p_ddt (N, L, h), and to what a tile adds to dA.

    Gradients through a softmax add up to 0. Those of :func:`gradients` do so up to the rounding of
    two large sums, which dA would show: p_surplus (N, h), what they add up to, is taken off.
    """
    tile = tl.program_id(1)
    j, n = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    first = tile.to(tl.int64) * BL
    o_l = tl.arange(0, BL)
    p_mask += n * stride_mn + first * stride_ml
    m_l = valid_tokens(p_mask, o_l, tile * BL, L, stride_ml, MASKED)
    o_lh = ((n * L + first) * h + j) + o_l * h
    A = tl.load(p_A + j * stride_A).to(ACC)
    b_dt = tl.load(p_dt + n * stride_dn + first * stride_dl + j * stride_dh + o_l * stride_dl,
                   mask=m_l, other=0).to(ACC)
    b_dm = tl.load(p_dm + o_lh, mask=m_l, other=0)
    if NORMALIZE:
        b_w = softmax(-A * b_dt, p_softmax + (n * h + j) * 2, m_l)
        b_dm -= b_w * tl.load(p_surplus + n * h + j)
    tl.store(p_ddt + o_lh, (-A * b_dm).to(p_ddt.dtype.element_ty), mask=tile * BL + o_l < L)
    tl.store(p_dA + (tile * tl.num_programs(2) + n) * h + j, -tl.sum(b_dt * b_dm, axis=0))
