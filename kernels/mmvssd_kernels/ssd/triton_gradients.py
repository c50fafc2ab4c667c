"""Jit functions of the gradients of ``ssd``; symbols as in :mod:`.triton_kernels`.

A segment has LENGTH chunks of T tokens. Within one, pairs of chunks meet in matrix products of
their tokens, and no state is kept. Earlier and later segments are met in the state before a
segment and in the gradient of the state after it, if there are several segments (STATES).

Between two chunks a decay is a product of three: to the end of the earlier one, through the chunks
in between, and from the start of the later one. None is larger than 1. :func:`chunk_weights` keeps
the outer two for each token, and the sum of each chunk's steps. ``padded`` counts the tokens of all
chunks; steps of padding are 0.

What passes a step from earlier to later tokens is its gradient. It is summed in parts, of which
none is a difference: that would be rounding if a step decays nearly all. What needs all channels of
a head is summed for each tile of them (``tiles``, N, h, ...).
"""
import triton
import triton.language as tl

from mmvssd_kernels.ssd.triton_kernels import (
    VARYING,
    decays_from_chunk,
    decays_in_chunk,
    decays_to_end,
    last,
    sums,
)
from mmvssd_kernels.triton_math import add_dot, dot_of_parts, exp, load_state
from mmvssd_kernels.triton_products import cut_mask, product


@triton.jit(do_not_specialize=VARYING)
def chunk_weights(p_dt, p_A, p_weights, p_totals, L, h, stride_dn, stride_dl, stride_dh, stride_A,
                  T: tl.constexpr, ACC: tl.constexpr):
    """Compute what the tokens of a chunk weigh, p_weights (4, N, h, padded).

    Before later chunks, dt decayed to the end of the chunk; in it, the decay from its start; and
    the sum of steps from its start, as a number and what rounding took from it. p_totals (N, h,
    chunks) is the sum of all its steps.
    """
    j, c, n = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2).to(tl.int64)
    o_t = c.to(tl.int64) * T + tl.arange(0, T)
    p_dt += n * stride_dn + j * stride_dh
    b_dt = tl.load(p_dt + o_t * stride_dl, mask=o_t < L, other=0).to(ACC)
    A = tl.load(p_A + j * stride_A).to(ACC)
    b_sum, b_rest = sums(b_dt)
    chunks = tl.num_programs(1)
    whole = tl.num_programs(2).to(tl.int64) * h * chunks * T
    p_weights += (n * h + j) * chunks * T + o_t
    tl.store(p_weights, decays_to_end(b_sum, b_rest, A, T) * b_dt)
    tl.store(p_weights + whole, exp(b_sum * A))
    tl.store(p_weights + 2 * whole, b_sum)
    tl.store(p_weights + 3 * whole, b_rest)
    tl.store(p_totals + (n * h + j) * chunks + c, last(b_sum, T))


@triton.jit
def decay_through(p_totals, begin, first, end, A, LENGTH: tl.constexpr):
    """Compute the decay through chunks ``first`` to ``end``, the latter not included, of a segment.

    The segment starts with chunk ``begin``; p_totals are those of the head.
    """
    o_c = begin + tl.arange(0, LENGTH)
    b_total = tl.load(p_totals + o_c, mask=(o_c >= first) & (o_c < end), other=0)
    return exp(tl.sum(b_total, axis=0) * A)


@triton.jit
def pairs_of_cut(p_x, m_x, p_B, m_B, p_C, o_C, m_C, p_dy, o_dy, m_dy, mask, DTYPE: tl.constexpr,
                 PRECISION: tl.constexpr, ACC: tl.constexpr):
    """Return dy of tokens i, and for the tokens j x_j . dy_i and B_j . C_i, of blocks that are cut.

    Parts of x and B would fill the registers all the time, so both are loaded again.
    """
    b_dy = tl.load(p_dy + o_dy, mask=m_dy, other=0)
    b_x = tl.load(p_x, mask=m_x, other=0)
    b_pairs = product(b_x, b_dy, mask, DTYPE, PRECISION, ACC, CUT=True, TURN=True)
    b_B = tl.load(p_B, mask=m_B, other=0)
    b_C = tl.load(p_C + o_C, mask=m_C, other=0)
    return b_dy, b_pairs, product(b_B, b_C, mask, DTYPE, PRECISION, ACC, CUT=True)


@triton.jit(do_not_specialize=VARYING)
def token_gradients(p_x, p_dt, p_A, p_B, p_C, p_D, p_weights, p_totals, p_dstates, p_dy, p_dx,
                    p_direct, p_passed, p_arriving, p_leaving, p_dD, L, h, P, S, r, padded,
                    stride_xn, stride_xl, stride_xh, stride_xp, stride_dn, stride_dl, stride_dh,
                    stride_A, stride_Bn, stride_Bl, stride_Bg, stride_Bs, stride_Cn, stride_Cl,
                    stride_Cg, stride_Cs, stride_D, stride_yn, stride_yl, stride_yh, stride_yp,
                    stride_dxn, stride_dxl, SKIP: tl.constexpr, STATES: tl.constexpr,
                    LENGTH: tl.constexpr, T: tl.constexpr, BS: tl.constexpr, BP: tl.constexpr,
                    DTYPE: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
                    HALVES: tl.constexpr, CUT: tl.constexpr):
    """Compute the gradient of x of a chunk, and of dt what its tokens weigh where others read them.

    Of what passes steps it sums what comes from tokens of the chunk. All are (tiles, N, h, ...):
    p_direct (padded) what dt weighs, p_passed (padded) what passes steps of the chunk, p_arriving
    (LENGTH, padded) what tokens of later chunks read of each chunk of their segment, p_leaving
    (chunks) what goes to later segments, p_dD (chunks). Matrices are [j, i]: token i reads j.
    """
    tiles = tl.cdiv(P, BP)
    j, n = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(2).to(tl.int64)
    tile = (tl.program_id(0) % tiles).to(tl.int64)
    c, chunks = tl.program_id(1), tl.num_programs(1)
    begin = c // LENGTH * LENGTH
    end = tl.minimum(begin + LENGTH, chunks)
    first = c.to(tl.int64) * T
    o_t, o_s, o_p = tl.arange(0, T), tl.arange(0, BS), tile * BP + tl.arange(0, BP)
    m_t, m_s, m_p = o_t < L - c * T, o_s < S, o_p < P
    m_ts, m_tp = m_t[:, None] & m_s[None, :], m_t[:, None] & m_p[None, :]
    p_x += n * stride_xn + first * stride_xl + j * stride_xh
    p_B += n * stride_Bn + first * stride_Bl + (j // r) * stride_Bg
    p_C += n * stride_Cn + (j // r) * stride_Cg
    p_group_C, p_head_dy = p_C, p_dy + (n * stride_yn + j * stride_yh)
    p_C += o_t[None, :] * stride_Cl + o_s[:, None] * stride_Cs
    p_dy += n * stride_yn + j * stride_yh + o_t[:, None] * stride_yl + o_p[None, :] * stride_yp
    o_x = o_t[:, None] * stride_xl + o_p[None, :] * stride_xp
    o_B = o_t[:, None] * stride_Bl + o_s[None, :] * stride_Bs
    mask = cut_mask(L)
    if not CUT:
        b_x = tl.load(p_x + o_x, mask=m_tp, other=0)
        b_B = tl.load(p_B + o_B, mask=m_ts, other=0)
    A = tl.load(p_A + j * stride_A).to(ACC)
    heads = tl.num_programs(2).to(tl.int64) * h
    sequence = n * h + j
    p_weights += sequence * padded
    p_totals += sequence * (padded // T)
    b_weight = tl.load(p_weights + first + o_t)
    sequence += tile * heads
    p_arriving += (sequence * LENGTH + c - begin) * padded + o_t
    # without the decay to the end of the chunk
    b_dx = tl.zeros((T, BP), dtype=ACC)
    b_out = tl.zeros((T, ), dtype=ACC)
    if STATES:
        segments = tl.cdiv(chunks, LENGTH)
        o_state = (n * h + j) * segments + c // LENGTH
        o_state = o_state * S * P + o_s[:, None] * P + o_p[None, :]
        b_high, b_low = load_state(p_dstates, o_state, heads * segments * S * P,
                                   m_s[:, None] & m_p[None, :], HALVES)
        if CUT:
            b_B = tl.load(p_B + o_B, mask=m_ts, other=0)
            b_dx = product(b_B, b_high, mask, DTYPE, PRECISION, ACC, CUT)
            b_x = tl.load(p_x + o_x, mask=m_tp, other=0)
        else:
            b_dx = add_dot(b_dx, b_B, b_high, b_low, DTYPE, PRECISION, ACC, HALVES)
        b_dx *= decay_through(p_totals, begin, c + 1, end, A, LENGTH)
        b_out += tl.sum(b_dx * b_x.to(ACC), axis=1)
        tl.store(p_leaving + sequence * chunks + c, tl.sum(b_out * b_weight, axis=0))
    decay = tl.full((), 1, dtype=ACC)  # through the chunks in between
    for k in range(c + 1, end):
        later = tl.cast(k, tl.int64) * T
        m_i = o_t < L - k * T
        if CUT:
            p_later_C, p_later_dy = p_C, p_dy
            o_C, o_y = later * stride_Cl, later * stride_yl
            if T == 64:  # on Hopper
                # plus 0, which a compiler does not know: places are computed anew, not kept
                o_i = o_t + ((L - k * T) >> 31)
                p_later_C, p_later_dy = p_group_C, p_head_dy
                o_C += o_i[None, :] * stride_Cl + o_s[:, None] * stride_Cs
                o_y += o_i[:, None] * stride_yl + o_p[None, :] * stride_yp
            b_dy, b_pairs, b_read = pairs_of_cut(
                p_x + o_x, m_tp, p_B + o_B, m_ts, p_later_C, o_C, m_i[None, :] & m_s[:, None],
                p_later_dy, o_y, m_i[:, None] & m_p[None, :], mask, DTYPE, PRECISION, ACC)
            b_late = tl.load(p_weights + heads * padded + later + o_t)
            b_read *= (b_late * decay)[None, :]
            b_dx = product(b_read, b_dy, mask, DTYPE, PRECISION, ACC, CUT, b_dx)
            b_read *= b_pairs
        else:
            b_C = tl.load(p_C + later * stride_Cl, mask=m_i[None, :] & m_s[:, None], other=0)
            b_dy = tl.load(p_dy + later * stride_yl, mask=m_i[:, None] & m_p[None, :], other=0)
            b_late = tl.load(p_weights + heads * padded + later + o_t)
            b_read = dot_of_parts(b_B, b_C, DTYPE, PRECISION, ACC) * (b_late * decay)[None, :]
            b_dx = dot_of_parts(b_read, b_dy, DTYPE, PRECISION, ACC, b_dx)
            b_read *= dot_of_parts(b_x, tl.trans(b_dy), DTYPE, PRECISION, ACC)
        b_out += tl.sum(b_read, axis=1)
        tl.store(p_arriving + later, tl.sum(b_read * b_weight[:, None], axis=0))
        decay *= exp(tl.load(p_totals + k) * A)
    p_dt += n * stride_dn + first * stride_dl + j * stride_dh
    b_dt = tl.load(p_dt + o_t * stride_dl, mask=m_t, other=0).to(ACC)
    b_sum = tl.load(p_weights + 2 * heads * padded + first + o_t)
    b_rest = tl.load(p_weights + 3 * heads * padded + first + o_t)
    b_end = decays_to_end(b_sum, b_rest, A, T)
    b_dx *= b_end[:, None]
    b_out *= b_end
    # dx_j = dt_j sum_{i >= j} (C_i . B_j) exp(a_{j+1} + ... + a_i) dy_i + D dy_j
    m_C = m_t[None, :] & m_s[:, None]
    if CUT:
        if SKIP:
            b_dy = tl.load(p_dy + first * stride_yl, mask=m_tp, other=0)
            b_own = tl.load(p_x + o_x, mask=m_tp, other=0)
            dD = tl.sum(tl.sum(b_dy.to(ACC) * b_own.to(ACC), axis=1), axis=0)
            tl.store(p_dD + sequence * chunks + c, dD)
        b_dy, b_pairs, b_read = pairs_of_cut(
            p_x + o_x, m_tp, p_B + o_B, m_ts, p_C, first * stride_Cl, m_C, p_dy, first * stride_yl,
            m_tp, mask, DTYPE, PRECISION, ACC)
    else:
        b_C = tl.load(p_C + first * stride_Cl, mask=m_C, other=0)
        b_dy = tl.load(p_dy + first * stride_yl, mask=m_tp, other=0)
        b_read = dot_of_parts(b_B, b_C, DTYPE, PRECISION, ACC)
    b_read *= decays_from_chunk(b_sum, b_rest, A, T, HALVES)
    b_dx = product(b_read, b_dy, mask, DTYPE, PRECISION, ACC, CUT, b_dx)
    if CUT:
        b_read *= b_pairs
        tl.store(p_direct + sequence * padded + first + o_t, tl.sum(b_read, axis=1) + b_out)
    b_dx *= b_dt[:, None]
    if SKIP:
        if CUT:
            b_dy = tl.load(p_dy + first * stride_yl, mask=m_tp, other=0)
        b_dx += b_dy.to(ACC) * tl.load(p_D + j * stride_D).to(ACC)
        if not CUT:
            dD = tl.sum(tl.sum(b_dy.to(ACC) * b_x.to(ACC), axis=1), axis=0)
            tl.store(p_dD + sequence * chunks + c, dD)
    p_dx += n * stride_dxn + first * stride_dxl + j * P
    tl.store(p_dx + o_t[:, None] * stride_dxl + o_p[None, :], b_dx, mask=m_tp)
    if not CUT:
        b_read *= dot_of_parts(b_x, tl.trans(b_dy), DTYPE, PRECISION, ACC)
        tl.store(p_direct + sequence * padded + first + o_t, tl.sum(b_read, axis=1) + b_out)
    # what passes step t: sum_{i >= t > j}, of which the sum over i is at [j, t]; its factor is
    # exact in bfloat16
    b_from = tl.where(o_t[:, None] >= o_t[None, :], 1.0, 0.0).to(tl.bfloat16)
    b_read = dot_of_parts(b_read, b_from, DTYPE, PRECISION, ACC) + b_out[:, None]
    b_earlier = tl.where(o_t[None, :] > o_t[:, None], b_dt[:, None], 0.0)
    tl.store(p_passed + sequence * padded + first + o_t, tl.sum(b_read * b_earlier, axis=0))


@triton.jit(do_not_specialize=VARYING)
def step_gradients(p_dt, p_A, p_direct, p_passed, p_arriving, p_entering, p_leaving, p_crossing,
                   p_ddt, p_dA, L, h, tiles, blocks, padded, stride_dn, stride_dl, stride_dh,
                   stride_A, stride_ddn, stride_ddl, STATES: tl.constexpr, LENGTH: tl.constexpr,
                   BE: tl.constexpr, T: tl.constexpr, ACC: tl.constexpr):
    """Compute the gradients of dt of a chunk, and p_dA (N, chunks, h) parts of a sum.

    p_entering (N, h, padded) is what tokens read of earlier segments, p_crossing (N, h, segments,
    blocks) what crosses a whole segment; the others are from :func:`token_gradients`.
    """
    j, n = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    c, chunks = tl.program_id(1), tl.num_programs(1)
    begin = c // LENGTH * LENGTH
    end = tl.minimum(begin + LENGTH, chunks)
    o_t = tl.arange(0, T)
    o_own, o_segment = c.to(tl.int64) * T + o_t, begin.to(tl.int64) * T + o_t
    heads = tl.num_programs(2).to(tl.int64) * h
    b_direct = tl.zeros((T, ), dtype=ACC)
    b_passed = tl.zeros((T, ), dtype=ACC)
    # what tokens of this chunk read of earlier ones; and of later chunks, which passes all steps
    b_read = tl.zeros((T, ), dtype=ACC)
    b_later = tl.zeros((T, ), dtype=ACC)
    passing = tl.full((), 0, dtype=ACC)
    o_q = tl.arange(0, LENGTH)
    m_q = begin + o_q < c
    for tile in range(tiles):
        sequence = tile * heads + n * h + j
        b_direct += tl.load(p_direct + sequence * padded + o_own)
        b_passed += tl.load(p_passed + sequence * padded + o_own)
        p_read = p_arriving + (sequence * LENGTH + o_q[:, None]) * padded
        b_read += tl.sum(tl.load(p_read + o_own[None, :], mask=m_q[:, None], other=0), axis=0)
        for k in tl.static_range(LENGTH):
            m_read = m_q & (begin + k > c) & (begin + k < end)
            b_qk = tl.load(p_read + (o_segment + k * T)[None, :], mask=m_read[:, None], other=0)
            b_later += tl.sum(b_qk, axis=0)
        if STATES:
            p_left = p_leaving + sequence * chunks + begin
            passing += tl.sum(tl.load(p_left + o_q, mask=m_q, other=0), axis=0)
    if STATES:
        p_entering += (n * h + j) * padded
        b_read += tl.load(p_entering + o_own)
        for k in tl.static_range(LENGTH):
            m_read = (begin + k > c) & (begin + k < end) & (o_t < T)
            b_later += tl.load(p_entering + o_segment + k * T, mask=m_read, other=0)
        p_crossing += ((n * h + j) * tl.cdiv(chunks, LENGTH) + c // LENGTH) * blocks
        o_e = tl.arange(0, BE)
        passing += tl.sum(tl.load(p_crossing + o_e, mask=o_e < blocks, other=0), axis=0)
    passing += tl.sum(b_later, axis=0)
    b_da = tl.sum(tl.where(o_t[:, None] >= o_t[None, :], b_read[:, None], 0.0), axis=0)
    b_da += b_passed + passing
    m_t = o_own < L
    A = tl.load(p_A + j * stride_A).to(ACC)
    p_dt += n * stride_dn + j * stride_dh
    b_dt = tl.load(p_dt + o_own * stride_dl, mask=m_t, other=0).to(ACC)
    tl.store(p_ddt + n * stride_ddn + j + o_own * stride_ddl, b_direct + b_da * A, mask=m_t)
    tl.store(p_dA + (n * chunks + c) * h + j, tl.sum(tl.where(m_t, b_da * b_dt, 0.0), axis=0))


@triton.jit
def products(p_own, start_own, stride_own, m_own, p_other, start_other, stride_other, m_other, P,
             mask, TILES: tl.constexpr, T: tl.constexpr, BP: tl.constexpr, DTYPE: tl.constexpr,
             PRECISION: tl.constexpr, ACC: tl.constexpr, CUT: tl.constexpr):
    """Compute products of own tokens of a head, the rows of p_own, with p_other's columns."""
    o_p = tl.arange(0, BP)
    b_products = tl.zeros((T, T), dtype=ACC)
    for tile in tl.static_range(0, TILES * BP, BP):
        m_p = tile + o_p < P
        b_own = tl.load(p_own + (start_own + (tile + o_p)[None, :] * stride_own),
                        mask=m_own[:, None] & m_p[None, :], other=0)
        b_other = tl.load(p_other + (start_other + (tile + o_p)[:, None] * stride_other),
                          mask=m_other[None, :] & m_p[:, None], other=0)
        b_products = product(b_own, b_other, mask, DTYPE, PRECISION, ACC, CUT, b_products)
    return b_products


@triton.jit(do_not_specialize=VARYING)
def group_gradients(p_own, p_other, p_dt, p_A, p_factor, p_C, p_weights, p_totals, p_states,
                    p_result, p_entering, L, h, P, S, r, padded, stride_on, stride_ol, stride_oh,
                    stride_op, stride_tn, stride_tl, stride_th, stride_tp, stride_dn, stride_dl,
                    stride_dh, stride_A, stride_fn, stride_fl, stride_fg, stride_fs, stride_Cn,
                    stride_Cl, stride_Cg, stride_Cs, stride_rn, stride_rl, BACKWARD: tl.constexpr,
                    STATES: tl.constexpr, LENGTH: tl.constexpr, TILES: tl.constexpr,
                    T: tl.constexpr, BS: tl.constexpr, BP: tl.constexpr, DTYPE: tl.constexpr,
                    PRECISION: tl.constexpr, ACC: tl.constexpr, HALVES: tl.constexpr,
                    CUT: tl.constexpr):
    """Compute the gradient of C of a chunk and a group, p_result (N, L, G, S).

    Own tokens are dy of the chunk, others x of it and of earlier ones, with the factor B. The sum
    over heads comes before the product with the factor. p_entering (N, h, padded) gets what tokens
    read of earlier segments. Backward it is the gradient of B: own tokens are x, others dy of the
    chunk and of later ones, with the factor C. Matrices are [own, other].
    """
    g, n = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    c, chunks = tl.program_id(1), tl.num_programs(1)
    begin = c // LENGTH * LENGTH
    end = tl.minimum(begin + LENGTH, chunks)
    first = c.to(tl.int64) * T
    o_t, o_s, o_p = tl.arange(0, T), tl.arange(0, BS), tl.arange(0, BP)
    m_t, m_s = o_t < L - c * T, o_s < S
    p_own += n * stride_on + first * stride_ol + o_t[:, None] * stride_ol
    p_other += n * stride_tn + o_t[None, :] * stride_tl
    p_factor += n * stride_fn + g * stride_fg + o_t[:, None] * stride_fl + o_s[None, :] * stride_fs
    p_weights += n * h * padded
    p_totals += n * h * (padded // T)
    heads = tl.num_programs(2).to(tl.int64) * h
    whole = heads * padded
    mask = cut_mask(L)
    b_result = tl.zeros((T, BS), dtype=ACC)
    if STATES:
        segments = tl.cdiv(chunks, LENGTH)
        if not BACKWARD:
            p_C += n * stride_Cn + g * stride_Cg + first * stride_Cl
            p_C += o_t[:, None] * stride_Cl + o_s[None, :] * stride_Cs
            b_C = tl.load(p_C, mask=m_t[:, None] & m_s[None, :], other=0)
        for member in range(r):
            j = g * r + member
            b_state = tl.zeros((T, BS), dtype=ACC)
            for tile in tl.static_range(0, TILES * BP, BP):
                m_p = tile + o_p < P
                o_column = j * stride_oh + (tile + o_p)[None, :] * stride_op
                b_own = tl.load(p_own + o_column, mask=m_t[:, None] & m_p[None, :], other=0)
                o_state = ((n * h + j) * segments + c // LENGTH) * S * P
                o_state += o_s[None, :] * P + (tile + o_p)[:, None]
                b_high, b_low = load_state(p_states, o_state, heads * segments * S * P,
                                           m_s[None, :] & m_p[:, None], HALVES)
                if CUT:
                    b_state = product(b_own, b_high, mask, DTYPE, PRECISION, ACC, CUT, b_state)
                else:
                    b_state = add_dot(b_state, b_own, b_high, b_low, DTYPE, PRECISION, ACC, HALVES)
            A = tl.load(p_A + j * stride_A).to(ACC)
            p_head = p_weights + j * padded + first + o_t
            p_total = p_totals + j * (padded // T)
            if BACKWARD:
                b_weight = tl.load(p_head)
                b_weight *= decay_through(p_total, begin, c + 1, end, A, LENGTH)
            else:
                b_weight = tl.load(p_head + whole)
                b_weight *= decay_through(p_total, begin, begin, c, A, LENGTH)
            b_state *= b_weight[:, None]
            b_result += b_state
            if not BACKWARD:
                tl.store(p_entering + (n * h + j) * padded + first + o_t,
                         tl.sum(b_state * b_C.to(ACC), axis=1))
    low, high = begin, c
    if BACKWARD:
        low, high = c + 1, end
    for k in range(low, high):
        other = tl.cast(k, tl.int64) * T
        m_other = o_t < L - k * T
        b_pairs = tl.zeros((T, T), dtype=ACC)
        for member in range(r):
            j = g * r + member
            b_products = products(p_own, j * stride_oh, stride_op, m_t, p_other,
                                  j * stride_th + other * stride_tl, stride_tp, m_other, P, mask,
                                  TILES, T, BP, DTYPE, PRECISION, ACC, CUT)
            A = tl.load(p_A + j * stride_A).to(ACC)
            p_early, p_late = p_weights + j * padded, p_weights + whole + j * padded
            if BACKWARD:
                decay = decay_through(p_totals + j * (padded // T), begin, c + 1, k, A, LENGTH)
                b_row, b_column = tl.load(p_early + first + o_t), tl.load(p_late + other + o_t)
            else:
                decay = decay_through(p_totals + j * (padded // T), begin, k + 1, c, A, LENGTH)
                b_row, b_column = tl.load(p_late + first + o_t), tl.load(p_early + other + o_t)
            b_pairs += b_products * (b_row * decay)[:, None] * b_column[None, :]
        b_factor = tl.load(p_factor + other * stride_fl, mask=m_other[:, None] & m_s[None, :],
                           other=0)
        b_result = product(b_pairs, b_factor, mask, DTYPE, PRECISION, ACC, CUT, b_result)
    # the chunk itself
    b_pairs = tl.zeros((T, T), dtype=ACC)
    p_dt += n * stride_dn + first * stride_dl + o_t * stride_dl
    for member in range(r):
        j = g * r + member
        b_products = products(p_own, j * stride_oh, stride_op, m_t, p_other,
                              j * stride_th + first * stride_tl, stride_tp, m_t, P, mask, TILES, T,
                              BP, DTYPE, PRECISION, ACC, CUT)
        A = tl.load(p_A + j * stride_A).to(ACC)
        p_head = p_weights + j * padded + first + o_t
        b_sum, b_rest = tl.load(p_head + 2 * whole), tl.load(p_head + 3 * whole)
        b_dt = tl.load(p_dt + j * stride_dh, mask=m_t, other=0).to(ACC)
        if BACKWARD:
            b_pairs += b_products * decays_from_chunk(b_sum, b_rest, A, T, HALVES) * b_dt[:, None]
        else:
            b_pairs += b_products * decays_in_chunk(b_sum, b_rest, A, T, HALVES) * b_dt[None, :]
    b_factor = tl.load(p_factor + first * stride_fl, mask=m_t[:, None] & m_s[None, :], other=0)
    b_result = product(b_pairs, b_factor, mask, DTYPE, PRECISION, ACC, CUT, b_result)
    p_result += n * stride_rn + first * stride_rl + g * S
    p_result += o_t[:, None] * stride_rl + o_s[None, :]
    tl.store(p_result, b_result, mask=m_t[:, None] & m_s[None, :])
