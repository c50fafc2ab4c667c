"""Jit functions of ``ssd``; symbols as in :mod:`mmvssd_kernels.ssd.reference`.

A chunk has T tokens here, which concerns only the kernels. Tokens are counted in the order in which
the state runs: in reverse, pointers start at the last token and strides over tokens are negative.
Head j reads group j // r. a_t = dt_t A is the logarithm of a step's decay.

Matrices over the tokens of a chunk are [i, j]: row i reads, column j is read. ``DTYPE`` and
``PRECISION`` are those of products. With HALVES, for half inputs, kept states are two bfloat16
numbers each, high and low, and x, dy, B and C enter products as they are. What the gradient of A
sums within a chunk is added in ACC with the precision ``EXACT``.
"""
import triton
import triton.language as tl

from mmvssd_kernels.triton_math import add_dot, dot_of_parts, exp, load_state, store_state


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
def decays(b_sum, b_rest, A, T: tl.constexpr):
    """exp(a_{j+1} + ... + a_i) at [i, j], 0 where i < j."""
    o_t = tl.arange(0, T)
    b_dt = (b_sum[:, None] - b_sum[None, :]) + (b_rest[:, None] - b_rest[None, :])
    return tl.where(o_t[:, None] >= o_t[None, :], exp(b_dt * A), 0.0)


@triton.jit
def last(b_t, T: tl.constexpr):
    """The last number of a block (T,)."""
    return tl.sum(tl.where(tl.arange(0, T) == T - 1, b_t, 0.0), axis=0)


@triton.jit
def decays_to_end(b_sum, b_rest, A, T: tl.constexpr):
    """exp(a_{j+1} + ... + a_T)."""
    return exp(((last(b_sum, T) - b_sum) + (last(b_rest, T) - b_rest)) * A)


@triton.jit
def entering(b_x, b_B, b_weight, DTYPE: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr):
    """What tokens add to the state: sum_j w_j B_j (outer) x_j."""
    b_B = b_B.to(ACC) * b_weight[:, None]
    return dot_of_parts(tl.trans(b_B), b_x, DTYPE, PRECISION, ACC)


@triton.jit
def joined(b_high, b_low, ACC: tl.constexpr, HALVES: tl.constexpr):
    """Return the numbers of which :func:`load_state` returned the halves."""
    b_t = b_high.to(ACC)
    if HALVES:
        b_t += b_low.to(ACC)
    return b_t


@triton.jit
def states(p_x, p_dt, p_A, p_B, p_starts, p_states, p_decays, L, h, P, S, r, length, stride_xn,
           stride_xl, stride_xh, stride_xp, stride_dn, stride_dl, stride_dh, stride_A, stride_Bn,
           stride_Bl, stride_Bg, stride_Bs, BACKWARD: tl.constexpr, ENDS: tl.constexpr,
           STARTS: tl.constexpr, T: tl.constexpr, BS: tl.constexpr, BP: tl.constexpr,
           DTYPE: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
           HALVES: tl.constexpr):
    """Run the state through a segment of ``length`` chunks: p_states (parts, N, h, chunks, S, P).

    It holds the state before each chunk, with HALVES in two parts. With ENDS it is (N, h, segments,
    S, P) and holds what each segment makes of a state of 0. Its decays go to p_decays (N, h,
    segments) then. A segment starts with the state that p_starts (N, h, segments, S, P) holds if
    there is one, else with 0.

    Backward, with dy for x and C for B, it is the gradient of the state after each chunk, and runs
    from the last token to the first.
    """
    tiles = tl.cdiv(P, BP)
    j, n = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(2).to(tl.int64)
    segment, chunks = tl.program_id(1), tl.cdiv(L, T)
    begin = segment * length
    count = tl.minimum(length, chunks - begin)
    o_t, o_s, o_p = tl.arange(0, T), tl.arange(0, BS), tl.program_id(0) % tiles * BP
    o_p += tl.arange(0, BP)
    m_s, m_p = o_s < S, o_p < P
    m_sp = m_s[:, None] & m_p[None, :]
    p_x += n * stride_xn + j * stride_xh + o_t[:, None] * stride_xl + o_p[None, :] * stride_xp
    p_B += n * stride_Bn + (j // r) * stride_Bg
    p_B += o_t[:, None] * stride_Bl + o_s[None, :] * stride_Bs
    p_dt += n * stride_dn + j * stride_dh + o_t * stride_dl
    A = tl.load(p_A + j * stride_A).to(ACC)
    o_state = o_s[:, None] * P + o_p[None, :]
    place = (n * h + j) * tl.num_programs(1) + segment
    b_state = tl.zeros((BS, BP), dtype=ACC)
    if STARTS:
        b_state += tl.load(p_starts + place * S * P + o_state, mask=m_sp, other=0)
    logarithm = tl.full((), 0, dtype=ACC)
    for i in range(count):
        c = begin + i
        if BACKWARD:
            c = begin + count - 1 - i
        token = c.to(tl.int64) * T
        m_t = token + o_t < L
        b_x = tl.load(p_x + token * stride_xl, mask=m_t[:, None] & m_p[None, :], other=0)
        b_B = tl.load(p_B + token * stride_Bl, mask=m_t[:, None] & m_s[None, :], other=0)
        b_dt = tl.load(p_dt + token * stride_dl, mask=m_t, other=0).to(ACC)
        if not ENDS:
            p_chunk = p_states + ((n * h + j) * chunks + c) * S * P
            whole = tl.num_programs(2).to(tl.int64) * h * chunks * S * P
            store_state(p_chunk, o_state, whole, b_state, m_sp, HALVES)
        b_sum, b_rest = sums(b_dt)
        total = last(b_sum, T) * A
        if BACKWARD:
            # dstate = sum_i exp(a_1 + ... + a_i) C_i (outer) dy_i
            b_weight = exp(b_sum * A)
        else:
            # state = sum_j exp(a_{j+1} + ... + a_T) dt_j B_j (outer) x_j
            b_weight = decays_to_end(b_sum, b_rest, A, T) * b_dt
        b_state = exp(total) * b_state + entering(b_x, b_B, b_weight, DTYPE, PRECISION, ACC)
        logarithm += total
    if ENDS:
        tl.store(p_states + place * S * P + o_state, b_state, mask=m_sp)
        if tl.program_id(0) % tiles == 0:
            tl.store(p_decays + place, exp(logarithm))


@triton.jit
def carry(p_states, p_decays, segments, size, BACKWARD: tl.constexpr, BE: tl.constexpr,
          ACC: tl.constexpr):
    """Turn what segments make of 0 into the state before each; backward, the gradient after each.

    p_states (N * h, segments, size) in place.
    """
    sequence = tl.program_id(0).to(tl.int64)
    o_e = tl.program_id(1) * BE + tl.arange(0, BE)
    m_e = o_e < size
    start = sequence * segments
    step = 1
    if BACKWARD:
        start += segments - 1
        step = -1
    p_states += start * size + o_e
    p_decays += start
    b_state = tl.zeros((BE, ), dtype=ACC)
    for _ in range(segments):
        b_own = tl.load(p_states, mask=m_e, other=0)
        tl.store(p_states, b_state, mask=m_e)
        b_state = tl.load(p_decays) * b_state + b_own
        p_states += step * size
        p_decays += step


@triton.jit
def outputs(p_x, p_dt, p_A, p_B, p_C, p_D, p_starts, p_y, L, h, P, S, r, length, stride_xn,
            stride_xl, stride_xh, stride_xp, stride_dn, stride_dl, stride_dh, stride_A, stride_Bn,
            stride_Bl, stride_Bg, stride_Bs, stride_Cn, stride_Cl, stride_Cg, stride_Cs, stride_D,
            stride_yn, stride_yl, SKIP: tl.constexpr, STARTS: tl.constexpr, T: tl.constexpr,
            BS: tl.constexpr, BP: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr,
            ACC: tl.constexpr):
    """Compute the outputs of a segment, p_y (N, L, h, P), chunk by chunk.

    The state before the segment is in p_starts (N, h, segments, S, P) if there is one, else 0.
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
    o_B = o_t[:, None] * stride_Bl + o_s[None, :] * stride_Bs
    o_C = o_t[:, None] * stride_Cl + o_s[None, :] * stride_Cs
    o_y = o_t[:, None] * stride_yl + o_p[None, :]
    A = tl.load(p_A + j * stride_A).to(ACC)
    b_state = tl.zeros((BS, BP), dtype=ACC)
    if STARTS:
        p_starts += ((n * h + j) * tl.num_programs(1) + segment) * S * P
        b_state += tl.load(p_starts + o_s[:, None] * P + o_p[None, :],
                           mask=m_s[:, None] & m_p[None, :], other=0)
    for i in range(count):
        m_t = first + i * T + o_t < L
        m_ts, m_tp = m_t[:, None] & m_s[None, :], m_t[:, None] & m_p[None, :]
        b_B = tl.load(p_B + o_B, mask=m_ts, other=0)
        b_C = tl.load(p_C + o_C, mask=m_ts, other=0)
        b_x = tl.load(p_x + o_x, mask=m_tp, other=0)
        b_dt = tl.load(p_dt + o_t * stride_dl, mask=m_t, other=0).to(ACC)
        b_sum, b_rest = sums(b_dt)
        # y_i = sum_{j <= i} (C_i . B_j) exp(a_{j+1} + ... + a_i) dt_j x_j
        b_scores = dot_of_parts(b_C, tl.trans(b_B), DTYPE, PRECISION, ACC)
        b_scores *= decays(b_sum, b_rest, A, T) * b_dt[None, :]
        b_y = dot_of_parts(b_scores, b_x, DTYPE, PRECISION, ACC)
        # y_i += exp(a_1 + ... + a_i) C_i . state
        b_y += dot_of_parts(b_C, b_state, DTYPE, PRECISION, ACC) * exp(b_sum * A)[:, None]
        if SKIP:
            b_y += b_x.to(ACC) * tl.load(p_D + j * stride_D).to(ACC)
        tl.store(p_y + o_y, b_y, mask=m_tp)
        b_weight = decays_to_end(b_sum, b_rest, A, T) * b_dt
        b_state = exp(last(b_sum, T) * A) * b_state
        b_state += entering(b_x, b_B, b_weight, DTYPE, PRECISION, ACC)
        p_x += tl.cast(T, tl.int64) * stride_xl
        p_B += tl.cast(T, tl.int64) * stride_Bl
        p_C += tl.cast(T, tl.int64) * stride_Cl
        p_dt += tl.cast(T, tl.int64) * stride_dl
        p_y += tl.cast(T, tl.int64) * stride_yl


@triton.jit
def token_gradients(p_x, p_dt, p_A, p_B, p_C, p_D, p_states, p_dstates, p_dy, p_dx, p_ddt, p_dA,
                    p_dD, L, h, P, S, r, stride_xn, stride_xl, stride_xh, stride_xp, stride_dn,
                    stride_dl, stride_dh, stride_A, stride_Bn, stride_Bl, stride_Bg, stride_Bs,
                    stride_Cn, stride_Cl, stride_Cg, stride_Cs, stride_D, stride_yn, stride_yl,
                    stride_yh, stride_yp, stride_dxn, stride_dxl, stride_ddn, stride_ddl,
                    SKIP: tl.constexpr, T: tl.constexpr, BS: tl.constexpr, BP: tl.constexpr,
                    DTYPE: tl.constexpr, PRECISION: tl.constexpr, EXACT: tl.constexpr,
                    ACC: tl.constexpr, HALVES: tl.constexpr):
    """Compute the gradients of x and dt of a chunk and a head.

    Sums over the head's channels come first, and dx last, in a loop of its own: what one needs
    leaves no registers for the other. dy and the state's gradient are read twice.

    p_dA and p_dD (N, chunks, h) are parts of sums.
    """
    j, n = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    c = tl.program_id(1)
    first = c.to(tl.int64) * T
    o_t, o_s, o_p = tl.arange(0, T), tl.arange(0, BS), tl.arange(0, BP)
    m_t, m_s = first + o_t < L, o_s < S
    m_ts = m_t[:, None] & m_s[None, :]
    p_x += n * stride_xn + first * stride_xl + j * stride_xh
    p_dy += n * stride_yn + first * stride_yl + j * stride_yh
    p_dx += n * stride_dxn + first * stride_dxl + j * P
    chunk = ((n * h + j) * tl.num_programs(1) + c) * S * P
    whole = tl.num_programs(2).to(tl.int64) * h * tl.num_programs(1) * S * P
    b_dyx = tl.zeros((T, T), dtype=ACC)
    b_dyS = tl.zeros((T, BS), dtype=ACC)
    b_xdS = tl.zeros((T, BS), dtype=ACC)
    through = tl.full((), 0, dtype=ACC)
    dD = tl.full((), 0, dtype=ACC)
    for tile in range(0, P, BP):
        o_column = tile + o_p[None, :]
        m_p = tile + o_p < P
        m_tp, m_sp = m_t[:, None] & m_p[None, :], m_s[:, None] & m_p[None, :]
        b_x = tl.load(p_x + o_t[:, None] * stride_xl + o_column * stride_xp, mask=m_tp, other=0)
        b_dy = tl.load(p_dy + o_t[:, None] * stride_yl + o_column * stride_yp, mask=m_tp, other=0)
        o_state = chunk + o_s[:, None] * P + o_column
        b_high, b_low = load_state(p_states, o_state, whole, m_sp, HALVES)
        b_dhigh, b_dlow = load_state(p_dstates, o_state, whole, m_sp, HALVES)
        b_both = joined(b_high, b_low, ACC, HALVES) * joined(b_dhigh, b_dlow, ACC, HALVES)
        through += tl.sum(tl.sum(b_both, axis=1), axis=0)
        b_dyS = add_dot(b_dyS, b_dy, tl.trans(b_high), tl.trans(b_low), ACC, EXACT, ACC, HALVES)
        b_xdS = add_dot(b_xdS, b_x, tl.trans(b_dhigh), tl.trans(b_dlow), ACC, EXACT, ACC, HALVES)
        b_dyx += dot_of_parts(b_dy, tl.trans(b_x), DTYPE, PRECISION, ACC)
        if SKIP:
            dD += tl.sum(tl.sum(b_dy.to(ACC) * b_x.to(ACC), axis=1), axis=0)

    p_B += n * stride_Bn + first * stride_Bl + (j // r) * stride_Bg
    p_C += n * stride_Cn + first * stride_Cl + (j // r) * stride_Cg
    b_B = tl.load(p_B + o_t[:, None] * stride_Bl + o_s[None, :] * stride_Bs, mask=m_ts, other=0)
    b_C = tl.load(p_C + o_t[:, None] * stride_Cl + o_s[None, :] * stride_Cs, mask=m_ts, other=0)
    b_entering = tl.sum(b_B.to(ACC) * b_xdS, axis=1)
    b_start = tl.sum(b_C.to(ACC) * b_dyS, axis=1)
    p_dt += n * stride_dn + first * stride_dl + j * stride_dh
    b_dt = tl.load(p_dt + o_t * stride_dl, mask=m_t, other=0).to(ACC)
    A = tl.load(p_A + j * stride_A).to(ACC)
    b_sum, b_rest = sums(b_dt)
    b_end = decays_to_end(b_sum, b_rest, A, T)
    # (C_i . B_j) exp(a_{j+1} + ... + a_i)
    b_read = dot_of_parts(b_C, tl.trans(b_B), DTYPE, PRECISION, ACC) * decays(b_sum, b_rest, A, T)
    # what dt_j weighs: its token in the outputs, and in the state that leaves the chunk
    b_scores = b_read * b_dyx
    b_entering *= b_end
    b_ddt = tl.sum(b_scores, axis=0) + b_entering
    # a_t decays what passes it: from earlier tokens (or the state before) to later (or after)
    m_later = o_t[:, None] > o_t[None, :]
    b_pairs = tl.where(m_later, b_scores * b_dt[None, :], 0.0)
    # sum_{i >= t} at [t, j]; the factor is exact in bfloat16
    b_above = tl.where(o_t[:, None] <= o_t[None, :], 1.0, 0.0).to(tl.bfloat16)
    b_pairs = dot_of_parts(b_above, b_pairs, ACC, EXACT, ACC)
    b_da = tl.sum(tl.where(m_later, b_pairs, 0.0), axis=1)
    b_start *= exp(b_sum * A)
    b_da += tl.sum(tl.where(o_t[:, None] >= o_t[None, :], b_start[:, None], 0.0), axis=0)
    b_da += tl.sum(tl.where(m_later, (b_entering * b_dt)[None, :], 0.0), axis=1)
    b_da += through * exp(last(b_sum, T) * A)
    p_ddt += n * stride_ddn + first * stride_ddl + j
    tl.store(p_ddt + o_t * stride_ddl, b_ddt + b_da * A, mask=m_t)
    o_part = (n * tl.num_programs(1) + c) * h + j
    tl.store(p_dA + o_part, tl.sum(tl.where(m_t, b_da * b_dt, 0.0), axis=0))
    if SKIP:
        tl.store(p_dD + o_part, dD)

    for tile in range(0, P, BP):
        o_column = tile + o_p[None, :]
        m_p = tile + o_p < P
        m_tp, m_sp = m_t[:, None] & m_p[None, :], m_s[:, None] & m_p[None, :]
        b_dy = tl.load(p_dy + o_t[:, None] * stride_yl + o_column * stride_yp, mask=m_tp, other=0)
        o_state = chunk + o_s[:, None] * P + o_column
        b_dhigh, b_dlow = load_state(p_dstates, o_state, whole, m_sp, HALVES)
        # dx_j = dt_j (sum_{i >= j} (C_i . B_j) exp(a_{j+1} + ... + a_i) dy_i
        #              + exp(a_{j+1} + ... + a_T) B_j . dstate) + D dy_j
        b_dx = tl.zeros((T, BP), dtype=ACC)
        b_dx = add_dot(b_dx, b_B, b_dhigh, b_dlow, DTYPE, PRECISION, ACC, HALVES) * b_end[:, None]
        b_dx += dot_of_parts(tl.trans(b_read), b_dy, DTYPE, PRECISION, ACC)
        b_dx *= b_dt[:, None]
        if SKIP:
            b_dx += b_dy.to(ACC) * tl.load(p_D + j * stride_D).to(ACC)
        tl.store(p_dx + o_t[:, None] * stride_dxl + o_column, b_dx, mask=m_tp)


@triton.jit
def group_gradients(p_x, p_dt, p_A, p_B, p_C, p_states, p_dstates, p_dy, p_dB, p_dC, L, h, P, S, r,
                    stride_xn, stride_xl, stride_xh, stride_xp, stride_dn, stride_dl, stride_dh,
                    stride_A, stride_Bn, stride_Bl, stride_Bg, stride_Bs, stride_Cn, stride_Cl,
                    stride_Cg, stride_Cs, stride_yn, stride_yl, stride_yh, stride_yp, stride_dBn,
                    stride_dBl, T: tl.constexpr, BS: tl.constexpr, BP: tl.constexpr,
                    DTYPE: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
                    HALVES: tl.constexpr):
    """Compute the gradients of B and C of a chunk and a group: sums over the group's heads."""
    g, n = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    c = tl.program_id(1)
    first = c.to(tl.int64) * T
    o_t, o_s, o_p = tl.arange(0, T), tl.arange(0, BS), tl.arange(0, BP)
    m_t, m_s = first + o_t < L, o_s < S
    m_ts = m_t[:, None] & m_s[None, :]
    p_B += n * stride_Bn + first * stride_Bl + g * stride_Bg
    p_C += n * stride_Cn + first * stride_Cl + g * stride_Cg
    b_B = tl.load(p_B + o_t[:, None] * stride_Bl + o_s[None, :] * stride_Bs, mask=m_ts, other=0)
    b_C = tl.load(p_C + o_t[:, None] * stride_Cl + o_s[None, :] * stride_Cs, mask=m_ts, other=0)
    p_x += n * stride_xn + first * stride_xl
    p_dy += n * stride_yn + first * stride_yl
    p_dt += n * stride_dn + first * stride_dl
    whole = tl.num_programs(2).to(tl.int64) * h * tl.num_programs(1) * S * P
    b_dB = tl.zeros((T, BS), dtype=ACC)
    b_dC = tl.zeros((T, BS), dtype=ACC)
    for member in range(r):
        j = g * r + member
        b_dt = tl.load(p_dt + j * stride_dh + o_t * stride_dl, mask=m_t, other=0).to(ACC)
        A = tl.load(p_A + j * stride_A).to(ACC)
        b_sum, b_rest = sums(b_dt)
        chunk = ((n * h + j) * tl.num_programs(1) + c) * S * P
        b_dyx = tl.zeros((T, T), dtype=ACC)
        b_dyS = tl.zeros((T, BS), dtype=ACC)
        b_xdS = tl.zeros((T, BS), dtype=ACC)
        for tile in range(0, P, BP):
            o_column = tile + o_p[None, :]
            m_p = tile + o_p < P
            m_tp, m_sp = m_t[:, None] & m_p[None, :], m_s[:, None] & m_p[None, :]
            b_x = tl.load(p_x + j * stride_xh + o_t[:, None] * stride_xl + o_column * stride_xp,
                          mask=m_tp, other=0)
            b_dy = tl.load(p_dy + j * stride_yh + o_t[:, None] * stride_yl + o_column * stride_yp,
                           mask=m_tp, other=0)
            o_state = chunk + o_s[:, None] * P + o_column
            b_high, b_low = load_state(p_states, o_state, whole, m_sp, HALVES)
            b_dyS = add_dot(b_dyS, b_dy, tl.trans(b_high), tl.trans(b_low), DTYPE, PRECISION, ACC,
                            HALVES)
            b_high, b_low = load_state(p_dstates, o_state, whole, m_sp, HALVES)
            b_xdS = add_dot(b_xdS, b_x, tl.trans(b_high), tl.trans(b_low), DTYPE, PRECISION, ACC,
                            HALVES)
            b_dyx += dot_of_parts(b_dy, tl.trans(b_x), DTYPE, PRECISION, ACC)
        b_scores = decays(b_sum, b_rest, A, T) * b_dyx * b_dt[None, :]
        b_dC += b_dyS * exp(b_sum * A)[:, None]
        b_dB += b_xdS * (decays_to_end(b_sum, b_rest, A, T) * b_dt)[:, None]
        b_dC += dot_of_parts(b_scores, b_B, DTYPE, PRECISION, ACC)
        b_dB += dot_of_parts(tl.trans(b_scores), b_C, DTYPE, PRECISION, ACC)
    o_group = n * stride_dBn + first * stride_dBl + g * S
    o_group += o_t[:, None] * stride_dBl + o_s[None, :]
    tl.store(p_dB + o_group, b_dB, mask=m_ts)
    tl.store(p_dC + o_group, b_dC, mask=m_ts)
