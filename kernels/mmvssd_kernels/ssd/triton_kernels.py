"""Jit functions of ``ssd``; symbols as in :mod:`mmvssd_kernels.ssd.reference`.

A chunk has T tokens here, which concerns only the kernels. Tokens are counted in the order in which
the state runs: in reverse, pointers start at the last token and strides over tokens are negative.
Head j reads group j // r. a_t = dt_t A is the logarithm of a step's decay.

Matrices over the tokens of a chunk are [i, j]: row i reads, column j is read. ``DTYPE`` and
``PRECISION`` are those of products that are rounded to the dtype of the tokens in the end. States,
and all that the gradient of A sums, are products in ACC with the precision ``EXACT``.
"""
import triton
import triton.language as tl

from mmvssd_kernels.triton_math import dot_of_parts, exp


@triton.jit
def decays(b_a, T: tl.constexpr):
    """exp(a_{j+1} + ... + a_i) at [i, j], 0 where i < j."""
    o_t = tl.arange(0, T)
    # a sum for each column: differences of sums would lose small steps beside large ones
    b_sums = tl.cumsum(tl.where(o_t[:, None] > o_t[None, :], b_a[:, None], 0.0), axis=0)
    return tl.where(o_t[:, None] >= o_t[None, :], exp(b_sums), 0.0)


@triton.jit
def decays_from_start(b_a, T: tl.constexpr):
    """exp(a_1 + ... + a_i)."""
    o_t = tl.arange(0, T)
    return exp(tl.sum(tl.where(o_t[:, None] >= o_t[None, :], b_a[None, :], 0.0), axis=1))


@triton.jit
def decays_to_end(b_a, T: tl.constexpr):
    """exp(a_{j+1} + ... + a_T)."""
    o_t = tl.arange(0, T)
    return exp(tl.sum(tl.where(o_t[:, None] > o_t[None, :], b_a[:, None], 0.0), axis=0))


@triton.jit
def chunk_states(p_x, p_dt, p_A, p_B, p_states, p_decays, L, h, P, S, r, stride_xn, stride_xl,
                 stride_xh, stride_xp, stride_dn, stride_dl, stride_dh, stride_A, stride_Bn,
                 stride_Bl, stride_Bg, stride_Bs, BACKWARD: tl.constexpr, T: tl.constexpr,
                 BS: tl.constexpr, BP: tl.constexpr, EXACT: tl.constexpr, ACC: tl.constexpr):
    """Compute what a chunk makes of a state of 0: p_states (N, h, chunks, S, P).

    Backward, of the state's gradient, with dy for x and C for B. Decays over whole chunks go to
    p_decays (N, h, chunks).
    """
    tiles = tl.cdiv(P, BP)
    j, n = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(2).to(tl.int64)
    c = tl.program_id(1)
    first = c.to(tl.int64) * T
    o_t, o_s, o_p = tl.arange(0, T), tl.arange(0, BS), tl.program_id(0) % tiles * BP
    o_p += tl.arange(0, BP)
    m_t, m_s, m_p = first + o_t < L, o_s < S, o_p < P
    p_x += n * stride_xn + first * stride_xl + j * stride_xh
    p_x += o_t[:, None] * stride_xl + o_p[None, :] * stride_xp
    p_B += n * stride_Bn + first * stride_Bl + (j // r) * stride_Bg
    p_B += o_t[:, None] * stride_Bl + o_s[None, :] * stride_Bs
    p_dt += n * stride_dn + first * stride_dl + j * stride_dh + o_t * stride_dl
    b_x = tl.load(p_x, mask=m_t[:, None] & m_p[None, :], other=0)
    b_B = tl.load(p_B, mask=m_t[:, None] & m_s[None, :], other=0).to(ACC)
    b_dt = tl.load(p_dt, mask=m_t, other=0).to(ACC)
    b_a = b_dt * tl.load(p_A + j * stride_A).to(ACC)
    if BACKWARD:
        # dstate = sum_i exp(a_1 + ... + a_i) C_i (outer) dy_i
        b_weight = decays_from_start(b_a, T)
    else:
        # state = sum_j exp(a_{j+1} + ... + a_T) dt_j B_j (outer) x_j
        b_weight = decays_to_end(b_a, T) * b_dt
    b_state = dot_of_parts(tl.trans(b_B * b_weight[:, None]), b_x, ACC, EXACT, ACC)
    place = (n * h + j) * tl.num_programs(1) + c
    p_states += place * S * P + o_s[:, None] * P + o_p[None, :]
    tl.store(p_states, b_state, mask=m_s[:, None] & m_p[None, :])
    if tl.program_id(0) % tiles == 0:
        tl.store(p_decays + place, exp(tl.sum(b_a, axis=0)))


@triton.jit
def carry(p_states, p_decays, chunks, size, BACKWARD: tl.constexpr, BE: tl.constexpr,
          ACC: tl.constexpr):
    """Turn what chunks make of 0 into the state before each; backward, the gradient after each.

    p_states (N * h, chunks, size) in place.
    """
    sequence = tl.program_id(0).to(tl.int64)
    o_e = tl.program_id(1) * BE + tl.arange(0, BE)
    m_e = o_e < size
    start = sequence * chunks
    step = 1
    if BACKWARD:
        start += chunks - 1
        step = -1
    p_states += start * size + o_e
    p_decays += start
    b_state = tl.zeros((BE, ), dtype=ACC)
    for _ in range(chunks):
        b_own = tl.load(p_states, mask=m_e, other=0)
        tl.store(p_states, b_state, mask=m_e)
        b_state = tl.load(p_decays) * b_state + b_own
        p_states += step * size
        p_decays += step


@triton.jit
def outputs(p_x, p_dt, p_A, p_B, p_C, p_D, p_states, p_y, L, h, P, S, r, stride_xn, stride_xl,
            stride_xh, stride_xp, stride_dn, stride_dl, stride_dh, stride_A, stride_Bn, stride_Bl,
            stride_Bg, stride_Bs, stride_Cn, stride_Cl, stride_Cg, stride_Cs, stride_D, stride_yn,
            stride_yl, SKIP: tl.constexpr, T: tl.constexpr, BS: tl.constexpr, BP: tl.constexpr,
            DTYPE: tl.constexpr, PRECISION: tl.constexpr, EXACT: tl.constexpr, ACC: tl.constexpr):
    """Compute the outputs of a chunk, p_y (N, L, h, P), from the state before it."""
    tiles = tl.cdiv(P, BP)
    j, n = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(2).to(tl.int64)
    c = tl.program_id(1)
    first = c.to(tl.int64) * T
    o_t, o_s, o_p = tl.arange(0, T), tl.arange(0, BS), tl.program_id(0) % tiles * BP
    o_p += tl.arange(0, BP)
    m_t, m_s, m_p = first + o_t < L, o_s < S, o_p < P
    m_ts, m_tp = m_t[:, None] & m_s[None, :], m_t[:, None] & m_p[None, :]
    p_x += n * stride_xn + first * stride_xl + j * stride_xh
    p_x += o_t[:, None] * stride_xl + o_p[None, :] * stride_xp
    p_B += n * stride_Bn + first * stride_Bl + (j // r) * stride_Bg
    p_B += o_t[:, None] * stride_Bl + o_s[None, :] * stride_Bs
    p_C += n * stride_Cn + first * stride_Cl + (j // r) * stride_Cg
    p_C += o_t[:, None] * stride_Cl + o_s[None, :] * stride_Cs
    p_dt += n * stride_dn + first * stride_dl + j * stride_dh + o_t * stride_dl
    p_y += n * stride_yn + first * stride_yl + j * P + o_t[:, None] * stride_yl + o_p[None, :]
    p_states += ((n * h + j) * tl.num_programs(1) + c) * S * P + o_s[:, None] * P + o_p[None, :]
    b_B = tl.load(p_B, mask=m_ts, other=0)
    b_C = tl.load(p_C, mask=m_ts, other=0)
    b_dt = tl.load(p_dt, mask=m_t, other=0).to(ACC)
    b_a = b_dt * tl.load(p_A + j * stride_A).to(ACC)
    # y_i = sum_{j <= i} (C_i . B_j) exp(a_{j+1} + ... + a_i) dt_j x_j
    b_scores = dot_of_parts(b_C, tl.trans(b_B), DTYPE, PRECISION, ACC)
    b_scores *= decays(b_a, T) * b_dt[None, :]
    b_x = tl.load(p_x, mask=m_tp, other=0)
    b_y = dot_of_parts(b_scores, b_x, DTYPE, PRECISION, ACC)
    # y_i += exp(a_1 + ... + a_i) C_i . state
    b_state = tl.load(p_states, mask=m_s[:, None] & m_p[None, :], other=0)
    b_y += dot_of_parts(b_C, b_state, DTYPE, PRECISION, ACC) * decays_from_start(b_a, T)[:, None]
    if SKIP:
        b_y += b_x.to(ACC) * tl.load(p_D + j * stride_D).to(ACC)
    tl.store(p_y, b_y, mask=m_tp)


@triton.jit
def gradients(p_x, p_dt, p_A, p_B, p_C, p_D, p_states, p_dstates, p_dy, p_dx, p_ddt, p_dA, p_dB,
              p_dC, p_dD, L, h, P, S, r, stride_xn, stride_xl, stride_xh, stride_xp, stride_dn,
              stride_dl, stride_dh, stride_A, stride_Bn, stride_Bl, stride_Bg, stride_Bs,
              stride_Cn, stride_Cl, stride_Cg, stride_Cs, stride_D, stride_yn, stride_yl,
              stride_yh, stride_yp, stride_dxn, stride_dxl, stride_ddn, stride_ddl, stride_dBn,
              stride_dBl, SKIP: tl.constexpr, T: tl.constexpr, BS: tl.constexpr, BP: tl.constexpr,
              DTYPE: tl.constexpr, PRECISION: tl.constexpr, EXACT: tl.constexpr,
              ACC: tl.constexpr):
    """Compute gradients of a chunk and a group; p_dA, p_dD (N, chunks, h) are parts of sums."""
    g, n = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    c = tl.program_id(1)
    first = c.to(tl.int64) * T
    o_t, o_s, o_p = tl.arange(0, T), tl.arange(0, BS), tl.arange(0, BP)
    m_t, m_s = first + o_t < L, o_s < S
    m_ts = m_t[:, None] & m_s[None, :]
    m_later = o_t[:, None] > o_t[None, :]
    p_B += n * stride_Bn + first * stride_Bl + g * stride_Bg
    p_B += o_t[:, None] * stride_Bl + o_s[None, :] * stride_Bs
    p_C += n * stride_Cn + first * stride_Cl + g * stride_Cg
    p_C += o_t[:, None] * stride_Cl + o_s[None, :] * stride_Cs
    b_B = tl.load(p_B, mask=m_ts, other=0)
    b_C = tl.load(p_C, mask=m_ts, other=0)
    b_CB = dot_of_parts(b_C, tl.trans(b_B), DTYPE, PRECISION, ACC)
    b_dB = tl.zeros((T, BS), dtype=ACC)
    b_dC = tl.zeros((T, BS), dtype=ACC)
    p_x += n * stride_xn + first * stride_xl + o_t[:, None] * stride_xl
    p_dy += n * stride_yn + first * stride_yl + o_t[:, None] * stride_yl
    p_dx += n * stride_dxn + first * stride_dxl + o_t[:, None] * stride_dxl
    p_dt += n * stride_dn + first * stride_dl + o_t * stride_dl
    p_ddt += n * stride_ddn + first * stride_ddl + o_t * stride_ddl
    for member in range(r):
        j = g * r + member
        b_dt = tl.load(p_dt + j * stride_dh, mask=m_t, other=0).to(ACC)
        A = tl.load(p_A + j * stride_A).to(ACC)
        b_a = b_dt * A
        b_decay = decays(b_a, T)
        b_start = decays_from_start(b_a, T)
        b_end = decays_to_end(b_a, T)
        o_state = ((n * h + j) * tl.num_programs(1) + c) * S * P
        b_dyx = tl.zeros((T, T), dtype=ACC)
        b_dyS = tl.zeros((T, BS), dtype=ACC)
        b_xdS = tl.zeros((T, BS), dtype=ACC)
        through = tl.full((), 0, dtype=ACC)
        dD = tl.full((), 0, dtype=ACC)
        for tile in range(0, P, BP):
            m_p = tile + o_p < P
            m_tp, m_sp = m_t[:, None] & m_p[None, :], m_s[:, None] & m_p[None, :]
            o_column = tile + o_p[None, :]
            o_tile = o_state + o_s[:, None] * P + o_column
            b_x = tl.load(p_x + j * stride_xh + o_column * stride_xp, mask=m_tp, other=0)
            b_dy = tl.load(p_dy + j * stride_yh + o_column * stride_yp, mask=m_tp, other=0)
            b_state = tl.load(p_states + o_tile, mask=m_sp, other=0)
            b_dstate = tl.load(p_dstates + o_tile, mask=m_sp, other=0)
            b_dyx += dot_of_parts(b_dy, tl.trans(b_x), DTYPE, PRECISION, ACC)
            b_dyS += dot_of_parts(b_dy, tl.trans(b_state), ACC, EXACT, ACC)
            b_xdS += dot_of_parts(b_x, tl.trans(b_dstate), ACC, EXACT, ACC)
            through += tl.sum(tl.sum(b_state * b_dstate, axis=1), axis=0)
            # dx_j = dt_j (sum_{i >= j} (C_i . B_j) exp(a_{j+1} + ... + a_i) dy_i
            #              + exp(a_{j+1} + ... + a_T) B_j . dstate) + D dy_j
            b_dx = dot_of_parts(b_B, b_dstate, DTYPE, PRECISION, ACC) * b_end[:, None]
            b_dx += dot_of_parts(tl.trans(b_CB * b_decay), b_dy, DTYPE, PRECISION, ACC)
            b_dx *= b_dt[:, None]
            if SKIP:
                b_dx += b_dy.to(ACC) * tl.load(p_D + j * stride_D).to(ACC)
                dD += tl.sum(tl.sum(b_dy.to(ACC) * b_x.to(ACC), axis=1), axis=0)
            tl.store(p_dx + j * P + o_column, b_dx, mask=m_tp)
        b_scores = b_decay * b_dyx
        # what dt_j weighs: its token in the outputs, and in the state that leaves the chunk
        b_entering = b_end * tl.sum(b_B.to(ACC) * b_xdS, axis=1)
        b_ddt = tl.sum(b_CB * b_scores, axis=0) + b_entering
        b_scores *= b_dt[None, :]
        b_dC += dot_of_parts(b_scores, b_B, DTYPE, PRECISION, ACC) + b_dyS * b_start[:, None]
        b_dB += dot_of_parts(tl.trans(b_scores), b_C, DTYPE, PRECISION, ACC)
        b_dB += b_xdS * (b_end * b_dt)[:, None]
        # a_t decays what passes it: from earlier tokens (or the state before) to later (or after)
        b_read = b_start * tl.sum(b_C.to(ACC) * b_dyS, axis=1)
        b_pairs = tl.where(m_later, b_CB * b_scores, 0.0)
        b_pairs = tl.where(m_later, tl.cumsum(b_pairs, axis=0, reverse=True), 0.0)
        b_passed = tl.where(o_t[:, None] >= o_t[None, :], b_read[:, None], 0.0)
        b_da = tl.sum(b_pairs, axis=1) + tl.sum(b_passed, axis=0)
        b_passed = tl.where(m_later, (b_entering * b_dt)[None, :], 0.0)
        b_da += tl.sum(b_passed, axis=1) + through * exp(tl.sum(b_a, axis=0))
        tl.store(p_ddt + j, b_ddt + b_da * A, mask=m_t)
        o_part = (n * tl.num_programs(1) + c) * h + j
        tl.store(p_dA + o_part, tl.sum(tl.where(m_t, b_da * b_dt, 0.0), axis=0))
        if SKIP:
            tl.store(p_dD + o_part, dD)
    o_group = n * stride_dBn + first * stride_dBl + g * S
    o_group += o_t[:, None] * stride_dBl + o_s[None, :]
    tl.store(p_dB + o_group, b_dB, mask=m_ts)
    tl.store(p_dC + o_group, b_dC, mask=m_ts)
