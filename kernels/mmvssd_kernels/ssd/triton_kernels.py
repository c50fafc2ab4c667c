"""Jit functions of ``ssd``; symbols as in :mod:`mmvssd_kernels.ssd.reference`.

A chunk has T tokens here, which concerns only the kernels. Tokens are counted in the order in which
the state runs: in reverse, pointers start at the last token and strides over tokens are negative.
Head j reads group j // r. a_t = dt_t A is the logarithm of a step's decay.

Matrices over the tokens of a chunk are [i, j]: row i reads, column j is read. ``DTYPE`` and
``PRECISION`` are those of products, which x, dy, B and C of bfloat16 enter as they are. With
HALVES, for half inputs, kept states are two bfloat16 numbers each, high and low. With CUT float32
blocks are cut in parts, see :mod:`mmvssd_kernels.triton_products`.
"""
import triton
import triton.language as tl

from mmvssd_kernels.triton_math import LOG2_E, dot_of_parts, exp, load_state, store_state
from mmvssd_kernels.triton_products import cut, cut_mask, dot_of_cut, product

# What changes from image to image. To compile for multiples of 16 among them would gain nothing: a
# grid of another size would only compile the kernels once more.
VARYING = ['L', 'length', 'segments', 'stride_dn', 'stride_ddn']


@triton.jit
def add_pairs(high, low, other_high, other_low):
    """Add two sums, each a number and what rounding took from it (Knuth's TwoSum)."""
    total = high + other_high
    part = total - high
    rest = (high - (total - part)) + (other_high - part)
    return total, low + other_low + rest


@triton.jit
def sums(b_dt):
    """dt_1 + ... + dt_i at i, as a number and what rounding took from it.

    Differences of such sums keep small steps beside large ones. Steps are summed, and A multiplies
    the differences: a compiler would fuse a product with the first sum that takes it, and what
    rounding took would be something else then.
    """
    return tl.associative_scan((b_dt, tl.zeros_like(b_dt)), 0, add_pairs)


@triton.jit
def decays(b_later, b_rest_later, b_earlier, b_rest, A, HALVES: tl.constexpr):
    """exp(a_{j+1} + ... + a_i) from sums up to i and j.

    Of half inputs a GPU's own exponential is good enough: their products err by more.
    """
    b_dt = (b_later - b_earlier) + (b_rest_later - b_rest)
    if HALVES:
        b_decay = tl.exp2(b_dt * (A * LOG2_E))
    else:
        b_decay = exp(b_dt * A)
    return b_decay


@triton.jit
def decays_in_chunk(b_sum, b_rest, A, T: tl.constexpr, HALVES: tl.constexpr):
    """Decays from token j to token i at [i, j], 0 where i < j."""
    o_t = tl.arange(0, T)
    b_decay = decays(b_sum[:, None], b_rest[:, None], b_sum[None, :], b_rest[None, :], A, HALVES)
    return tl.where(o_t[:, None] >= o_t[None, :], b_decay, 0.0)


@triton.jit
def decays_from_chunk(b_sum, b_rest, A, T: tl.constexpr, HALVES: tl.constexpr):
    """Transpose :func:`decays_in_chunk`: from token j to token i at [j, i]."""
    o_t = tl.arange(0, T)
    b_decay = decays(b_sum[None, :], b_rest[None, :], b_sum[:, None], b_rest[:, None], A, HALVES)
    return tl.where(o_t[None, :] >= o_t[:, None], b_decay, 0.0)


@triton.jit
def last(b_t, T: tl.constexpr):
    """The last number of a block (T,)."""
    return tl.sum(tl.where(tl.arange(0, T) == T - 1, b_t, 0.0), axis=0)


@triton.jit
def decays_to_end(b_sum, b_rest, A, T: tl.constexpr):
    """exp(a_{j+1} + ... + a_T)."""
    return exp(((last(b_sum, T) - b_sum) + (last(b_rest, T) - b_rest)) * A)


@triton.jit
def factor_offsets(o_t, o_s, stride_l, stride_s, CUT: tl.constexpr):
    """Offsets of B within a chunk: [token, entry], or [entry, token] if it is cut."""
    if CUT:
        o_B = o_s[:, None] * stride_s + o_t[None, :] * stride_l
    else:
        o_B = o_t[:, None] * stride_l + o_s[None, :] * stride_s
    return o_B


@triton.jit
def added(b_x, b_B, b_weight, mask, DTYPE: tl.constexpr, PRECISION: tl.constexpr,
          ACC: tl.constexpr, CUT: tl.constexpr):
    """What tokens add to the state: sum_j w_j B_j (outer) x_j."""
    if CUT:
        b_B = b_B.to(ACC) * b_weight[None, :]
        b_added = product(b_B, b_x, mask, DTYPE, PRECISION, ACC, CUT)
    else:
        b_B = b_B.to(ACC) * b_weight[:, None]
        b_added = dot_of_parts(tl.trans(b_B), b_x, DTYPE, PRECISION, ACC)
    return b_added


@triton.jit
def joined(b_high, b_low, ACC: tl.constexpr, HALVES: tl.constexpr):
    """Return the numbers of which :func:`load_state` returned the halves."""
    b_t = b_high.to(ACC)
    if HALVES:
        b_t += b_low.to(ACC)
    return b_t


@triton.jit
def after_segment(b_state, p_x, p_dt, p_B, o_x, o_B, m_s, m_p, A, L, begin, count, stride_xl,
                  stride_dl, stride_Bl, BACKWARD: tl.constexpr, T: tl.constexpr,
                  DTYPE: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
                  CUT: tl.constexpr):
    """What ``count`` chunks from ``begin`` on make of a state (BS, BP), and the decay's logarithm.

    Backward, with dy for x and C for B, the gradient of the state after them becomes that before.
    """
    o_t = tl.arange(0, T)
    logarithm = tl.full((), 0, dtype=ACC)
    for i in range(count):
        c = begin + i
        if BACKWARD:
            c = begin + count - 1 - i
        token = c.to(tl.int64) * T
        m_t = o_t < L - c * T
        b_x = tl.load(p_x + token * stride_xl + o_x, mask=m_t[:, None] & m_p[None, :], other=0)
        m_B = m_t[:, None] & m_s[None, :]
        if CUT:
            m_B = m_s[:, None] & m_t[None, :]
        b_B = tl.load(p_B + token * stride_Bl + o_B, mask=m_B, other=0)
        b_dt = tl.load(p_dt + token * stride_dl + o_t * stride_dl, mask=m_t, other=0).to(ACC)
        b_sum, b_rest = sums(b_dt)
        total = last(b_sum, T) * A
        if BACKWARD:
            # dstate = sum_i exp(a_1 + ... + a_i) C_i (outer) dy_i
            b_weight = exp(b_sum * A)
        else:
            # state = sum_j exp(a_{j+1} + ... + a_T) dt_j B_j (outer) x_j
            b_weight = decays_to_end(b_sum, b_rest, A, T) * b_dt
        b_state = exp(total) * b_state + added(b_x, b_B, b_weight, cut_mask(L), DTYPE,
                                                PRECISION, ACC, CUT)
        logarithm += total
    return b_state, logarithm


@triton.jit(do_not_specialize=VARYING)
def states(p_x, p_dt, p_A, p_B, p_states, p_decays, L, h, P, S, r, length, stride_xn, stride_xl,
           stride_xh, stride_xp, stride_dn, stride_dl, stride_dh, stride_A, stride_Bn, stride_Bl,
           stride_Bg, stride_Bs, BACKWARD: tl.constexpr, T: tl.constexpr, BS: tl.constexpr,
           BP: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
           CUT: tl.constexpr):
    """Compute what a segment of ``length`` chunks makes of a state of 0, and the segment's decay.

    p_states (N, h, segments, S, P), p_decays (N, h, segments). Backward, with dy for x and C for B,
    it is the gradient of the state before the segment, and runs from the last token to the first.
    """
    tiles = tl.cdiv(P, BP)
    j, n = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(2).to(tl.int64)
    segment = tl.program_id(1)
    begin = segment * length
    o_t, o_s, o_p = tl.arange(0, T), tl.arange(0, BS), tl.program_id(0) % tiles * BP
    o_p += tl.arange(0, BP)
    m_s, m_p = o_s < S, o_p < P
    b_state, logarithm = after_segment(
        tl.zeros((BS, BP), dtype=ACC), p_x + n * stride_xn + j * stride_xh,
        p_dt + n * stride_dn + j * stride_dh, p_B + n * stride_Bn + (j // r) * stride_Bg,
        o_t[:, None] * stride_xl + o_p[None, :] * stride_xp,
        factor_offsets(o_t, o_s, stride_Bl, stride_Bs, CUT), m_s, m_p,
        tl.load(p_A + j * stride_A).to(ACC), L, begin,
        tl.minimum(length, tl.cdiv(L, T) - begin), stride_xl, stride_dl, stride_Bl, BACKWARD, T,
        DTYPE, PRECISION, ACC, CUT)
    place = (n * h + j) * tl.num_programs(1) + segment
    p_states += place * S * P + o_s[:, None] * P + o_p[None, :]
    tl.store(p_states, b_state, mask=m_s[:, None] & m_p[None, :])
    if tl.program_id(0) % tiles == 0:
        tl.store(p_decays + place, exp(logarithm))


@triton.jit(do_not_specialize=VARYING)
def states_in_turn(p_x, p_dt, p_A, p_B, p_states, p_before, p_crossing, L, h, P, S, r, length,
                   segments, stride_xn, stride_xl, stride_xh, stride_xp, stride_dn, stride_dl,
                   stride_dh, stride_A, stride_Bn, stride_Bl, stride_Bg, stride_Bs,
                   BACKWARD: tl.constexpr, T: tl.constexpr, BS: tl.constexpr, BP: tl.constexpr,
                   DTYPE: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
                   HALVES: tl.constexpr, CUT: tl.constexpr):
    """Do what :func:`states` and :func:`carry` do, if there are heads enough for all programs.

    A program runs a head segment by segment. p_crossing (N, h, segments, tiles of BP).
    """
    tiles = tl.cdiv(P, BP)
    tile = tl.program_id(0) % tiles
    j, n = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(2).to(tl.int64)
    o_t, o_s, o_p = tl.arange(0, T), tl.arange(0, BS), tile * BP + tl.arange(0, BP)
    m_s, m_p = o_s < S, o_p < P
    m_state = m_s[:, None] & m_p[None, :]
    p_x += n * stride_xn + j * stride_xh
    p_dt += n * stride_dn + j * stride_dh
    p_B += n * stride_Bn + (j // r) * stride_Bg
    o_x = o_t[:, None] * stride_xl + o_p[None, :] * stride_xp
    o_B = factor_offsets(o_t, o_s, stride_Bl, stride_Bs, CUT)
    A = tl.load(p_A + j * stride_A).to(ACC)
    low = tl.num_programs(2).to(tl.int64) * h * segments * S * P
    b_state = tl.zeros((BS, BP), dtype=ACC)
    for i in range(segments):
        segment = i
        if BACKWARD:
            segment = segments - 1 - i
        begin = segment * length
        place = (n * h + j) * segments + segment
        o_state = place * S * P + o_s[:, None] * P + o_p[None, :]
        store_state(p_states, o_state, low, b_state, m_state, HALVES)
        if BACKWARD:
            b_high, b_low = load_state(p_before, o_state, low, m_state, HALVES)
            crossing = tl.sum(tl.sum(b_state * joined(b_high, b_low, ACC, HALVES), axis=1), axis=0)
        b_state, logarithm = after_segment(
            b_state, p_x, p_dt, p_B, o_x, o_B, m_s, m_p, A, L, begin,
            tl.minimum(length, tl.cdiv(L, T) - begin), stride_xl, stride_dl, stride_Bl, BACKWARD,
            T, DTYPE, PRECISION, ACC, CUT)
        if BACKWARD:
            tl.store(p_crossing + place * tiles + tile, crossing * exp(logarithm))


@triton.jit(do_not_specialize=VARYING)
def carry(p_own, p_decays, p_states, p_before, p_crossing, segments, size, BACKWARD: tl.constexpr,
          BE: tl.constexpr, ACC: tl.constexpr, HALVES: tl.constexpr):
    """Turn what segments make of 0, p_own (N * h, segments, size), into the state before each.

    p_states (parts, N * h, segments, size), with HALVES in two parts. Backward it is the gradient
    of the state after each, and p_crossing (N * h, segments, blocks of BE) gets parts of what
    crosses a whole segment, with the states before segments in p_before.
    """
    sequence = tl.program_id(0).to(tl.int64)
    o_e = tl.program_id(1) * BE + tl.arange(0, BE)
    m_e = o_e < size
    low = tl.num_programs(0).to(tl.int64) * segments * size
    place = sequence * segments
    step = 1
    if BACKWARD:
        place += segments - 1
        step = -1
    b_state = tl.zeros((BE, ), dtype=ACC)
    for _ in range(segments):
        o_state = place * size + o_e
        store_state(p_states, o_state, low, b_state, m_e, HALVES)
        b_state *= tl.load(p_decays + place)
        if BACKWARD:
            b_high, b_low = load_state(p_before, o_state, low, m_e, HALVES)
            b_crossing = b_state * joined(b_high, b_low, ACC, HALVES)
            tl.store(p_crossing + place * tl.num_programs(1) + tl.program_id(1),
                     tl.sum(b_crossing, axis=0))
        b_state += tl.load(p_own + o_state, mask=m_e, other=0)
        place += step


@triton.jit(do_not_specialize=VARYING)
def outputs(p_x, p_dt, p_A, p_B, p_C, p_D, p_starts, p_y, L, h, P, S, r, length, stride_xn,
            stride_xl, stride_xh, stride_xp, stride_dn, stride_dl, stride_dh, stride_A, stride_Bn,
            stride_Bl, stride_Bg, stride_Bs, stride_Cn, stride_Cl, stride_Cg, stride_Cs, stride_D,
            stride_yn, stride_yl, SKIP: tl.constexpr, STARTS: tl.constexpr, T: tl.constexpr,
            BS: tl.constexpr, BP: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr,
            ACC: tl.constexpr, HALVES: tl.constexpr, CUT: tl.constexpr):
    """Compute the outputs of a segment, p_y (N, L, h, P), chunk by chunk.

    The state before the segment is in p_starts (parts, N, h, segments, S, P) if there is one,
    else 0.
    """
    tiles = tl.cdiv(P, BP)
    j, n = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(2).to(tl.int64)
    segment = tl.program_id(1)
    begin = segment * length
    count = tl.minimum(length, tl.cdiv(L, T) - begin)
    first = begin.to(tl.int64) * T
    o_t, o_s, o_p = tl.arange(0, T), tl.arange(0, BS), tl.program_id(0) % tiles * BP
    o_p += tl.arange(0, BP)
    m_s, m_p = o_s < S, o_p < P
    p_x += n * stride_xn + first * stride_xl + j * stride_xh
    p_B += n * stride_Bn + first * stride_Bl + (j // r) * stride_Bg
    p_C += n * stride_Cn + first * stride_Cl + (j // r) * stride_Cg
    p_dt += n * stride_dn + first * stride_dl + j * stride_dh
    p_y += n * stride_yn + first * stride_yl + j * P
    o_x = o_t[:, None] * stride_xl + o_p[None, :] * stride_xp
    o_B = factor_offsets(o_t, o_s, stride_Bl, stride_Bs, CUT)
    mask = cut_mask(L)
    o_C = o_t[:, None] * stride_Cl + o_s[None, :] * stride_Cs
    o_y = o_t[:, None] * stride_yl + o_p[None, :]
    A = tl.load(p_A + j * stride_A).to(ACC)
    b_state = tl.zeros((BS, BP), dtype=ACC)
    if STARTS:
        segments = tl.num_programs(1)
        o_state = ((n * h + j) * segments + segment) * S * P + o_s[:, None] * P + o_p[None, :]
        whole = tl.num_programs(2).to(tl.int64) * h * segments * S * P
        b_high, b_low = load_state(p_starts, o_state, whole, m_s[:, None] & m_p[None, :], HALVES)
        b_state += joined(b_high, b_low, ACC, HALVES)
    for i in range(count):
        m_t = o_t < L - (begin + i) * T
        m_ts, m_tp = m_t[:, None] & m_s[None, :], m_t[:, None] & m_p[None, :]
        if CUT:
            # in an order in which registers hold all
            b_dt = tl.load(p_dt + o_t * stride_dl, mask=m_t, other=0).to(ACC)
            b_sum, b_rest = sums(b_dt)
            # y_i = exp(a_1 + ... + a_i) C_i . state + D x_i
            b_C = tl.load(p_C + o_C, mask=m_ts, other=0)
            c_high, c_middle, c_low = cut(b_C, mask)
            h_high, h_middle, h_low = cut(b_state, mask)
            b_y = dot_of_cut(c_high, c_middle, c_low, h_high, h_middle, h_low, ACC)
            b_y *= exp(b_sum * A)[:, None]
            b_x = tl.load(p_x + o_x, mask=m_tp, other=0)
            if SKIP:
                b_y += b_x.to(ACC) * tl.load(p_D + j * stride_D).to(ACC)
            x_high, x_middle, x_low = cut(b_x, mask)
            b_B = tl.load(p_B + o_B, mask=m_s[:, None] & m_t[None, :], other=0)
            B_high, B_middle, B_low = cut(b_B, mask)
            b_scores = dot_of_cut(c_high, c_middle, c_low, B_high, B_middle, B_low, ACC)
            b_weight = decays_to_end(b_sum, b_rest, A, T) * b_dt
            B_high, B_middle, B_low = cut(b_B.to(ACC) * b_weight[None, :], mask)
            b_state = exp(last(b_sum, T) * A) * b_state
            b_state += dot_of_cut(B_high, B_middle, B_low, x_high, x_middle, x_low, ACC)
            # y_i += sum_{j <= i} (C_i . B_j) exp(a_{j+1} + ... + a_i) dt_j x_j
            b_scores *= decays_in_chunk(b_sum, b_rest, A, T, HALVES) * b_dt[None, :]
            s_high, s_middle, s_low = cut(b_scores, mask)
            b_y += dot_of_cut(s_high, s_middle, s_low, x_high, x_middle, x_low, ACC)
            tl.store(p_y + o_y, b_y, mask=m_tp)
        else:
            b_B = tl.load(p_B + o_B, mask=m_ts, other=0)
            b_C = tl.load(p_C + o_C, mask=m_ts, other=0)
            b_x = tl.load(p_x + o_x, mask=m_tp, other=0)
            b_dt = tl.load(p_dt + o_t * stride_dl, mask=m_t, other=0).to(ACC)
            b_sum, b_rest = sums(b_dt)
            # y_i = sum_{j <= i} (C_i . B_j) exp(a_{j+1} + ... + a_i) dt_j x_j
            b_scores = dot_of_parts(b_C, tl.trans(b_B), DTYPE, PRECISION, ACC)
            b_scores *= decays_in_chunk(b_sum, b_rest, A, T, HALVES) * b_dt[None, :]
            b_y = dot_of_parts(b_scores, b_x, DTYPE, PRECISION, ACC)
            # y_i += exp(a_1 + ... + a_i) C_i . state
            b_y += dot_of_parts(b_C, b_state, DTYPE, PRECISION, ACC) * exp(b_sum * A)[:, None]
            if SKIP:
                b_y += b_x.to(ACC) * tl.load(p_D + j * stride_D).to(ACC)
            tl.store(p_y + o_y, b_y, mask=m_tp)
            b_weight = decays_to_end(b_sum, b_rest, A, T) * b_dt
            b_state = exp(last(b_sum, T) * A) * b_state
            b_state += added(b_x, b_B, b_weight, mask, DTYPE, PRECISION, ACC, CUT)
        p_x += tl.cast(T, tl.int64) * stride_xl
        p_B += tl.cast(T, tl.int64) * stride_Bl
        p_C += tl.cast(T, tl.int64) * stride_Cl
        p_dt += tl.cast(T, tl.int64) * stride_dl
        p_y += tl.cast(T, tl.int64) * stride_yl
