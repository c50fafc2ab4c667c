"""Jit functions of ``selective_scan`` and ``selective_scan_2d``.

Per channel and entry s of the state, in the order in which a sequence runs::

    h_t = exp(delta_t A_s) h_{t-1} + delta_t B_{t,s} u_t,   y_t = sum_s C_{t,s} h_t + D u_t

A program takes the tiles (``triton_tiles.py``) of a chunk one after the other, and the state along.

Along each of AXES axes run COUNT sequences forward, and with two DIRECTIONS as many reversed. An
axis and direction is a way, and bit ``way`` of TURNED tells whether it runs down columns. The
sequence q of an axis has number ``axis + q * AXES``. A program takes ``each`` of them, all of an
axis or one, and adds them up to a part of its own. Of an axis at a time, ONLY, a launch begins with
sequence ``base`` and adds to what the one before has written; with -1 it takes all axes. If
sequences are groups of channels, as in ``selective_scan``, there is a program for each ``group``.
Chunks are cut in the order of memory for both directions. If JOINED, a program takes ``images``
images as one line.

What is kept of a chunk: p_total (K, N, chunks, D), the sum of its steps, and p_end, p_state and
p_dstate (K, N, chunks, S, D): its end state from zero, the state before it, the gradient after it.
"""
import triton
import triton.language as tl

from mmvssd_kernels.selective_scan.triton_tiles import (
    channels,
    decay,
    distance,
    entry,
    finite,
    first_row,
    follow,
    lines_of,
    load_A,
    load_projections,
    load_tiles,
    load_vector,
    load_weight,
    number_of,
    order,
    part_of_work,
    place,
    places,
    places_anew,
    places_of_steps,
    present,
    row,
    run,
    run_back,
    step_channels,
    steps,
    store_tile,
    sum_of_channels,
    sums_of,
    tokens_of,
)
from mmvssd_kernels.triton_math import dot_of_parts, exp

# What changes from image to image, or from rows to columns. To compile for multiples of 16 among
# them would gain nothing: a grid of odd sides would only compile all kernels once more.
VARYING = ['N', 'K', 'chunks', 'tiles', 'images', 'blocks', 'forward', 'base', 'each', 'rows',
           'columns', 'slots', 'stride_mn', 'stride_mk', 'stride_uk', 'stride_tk',
           'stride_Bk', 'stride_Ck', 'stride_yk', 'stride_xk', 'stride_qk',
           'stride_pk', 'stride_tn', 'stride_Bn', 'stride_Cn', 'stride_pn',
           'stride_pb', 'stride_yp', 'stride_xp']


@triton.jit(do_not_specialize=VARYING)
def chunk_ends(p_u, p_dt, p_weight, p_bias, p_A, p_B, p_mask, p_total, p_end, N, chunks, base,
               rows, columns, stride_un, stride_ug, stride_uk, stride_ud,
               stride_tn, stride_tg, stride_tk, stride_tc,
               stride_wg, stride_wd, stride_wr, stride_b, stride_Ad, stride_As,
               stride_Bn, stride_Bg, stride_Bk, stride_Bs,
               stride_mn, stride_mk, UK: tl.constexpr, TK: tl.constexpr, TA: tl.constexpr,
               BK: tl.constexpr, MK: tl.constexpr, D: tl.constexpr, S: tl.constexpr,
               R: tl.constexpr, AXES: tl.constexpr, COUNT: tl.constexpr,
               DIRECTIONS: tl.constexpr, TURNED: tl.constexpr, ONLY: tl.constexpr,
               BACKWARD: tl.constexpr, SOFTPLUS: tl.constexpr, MASKED: tl.constexpr,
               BL: tl.constexpr, BD: tl.constexpr, BR: tl.constexpr,
               DTYPE: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr):
    """Compute what each chunk makes of nothing: p_total, and p_end from a state of zero.

    A program takes a single sequence. BACKWARD: u is dy, B is C, and the chunk runs from its end.
    Then p_end is what it hands back to the one before, g_t = exp(delta_t A) (dy_t C_t + g_{t+1}).
    """
    block, c, n, group, part = part_of_work(tl.program_id(0), tl.cdiv(D, BD), chunks, N,
                                            AXES * COUNT * DIRECTIONS)
    n = n.to(tl.int64)
    o_d = channels(block, BD)
    m_d = present(o_d, D, BD)
    o_c, m_c = step_channels(o_d, m_d, R, BR)
    m_first = (tl.arange(0, BL) == 0)[:, None]
    first = base + part
    p_un = p_u + n * stride_un + group * stride_ug
    p_maskn = p_mask + n * stride_mn
    for way in tl.static_range(AXES * DIRECTIONS):
        if (ONLY < 0) | (way // DIRECTIONS == ONLY):
            uk = distance(UK, stride_uk)
            tk = distance(TK, stride_tk)
            B_k = distance(BK, stride_Bk)
            mk = distance(MK, stride_mk)
            W, tiles, per_chunk = lines_of(rows, columns, 1, chunks, BL)
            begin = c * per_chunk
            count = tl.minimum(per_chunk, tiles - begin)
            o_t = order((way % DIRECTIONS == 1) != BACKWARD, BL)
            for number in range(tl.maximum(first, way * COUNT),
                                    tl.minimum(first + 1, (way + 1) * COUNT)):
                k = number_of(number, group, way, AXES, COUNT, DIRECTIONS)
                b_weight = load_weight(p_weight + k * stride_wg, o_d, m_d, stride_wd, stride_wr,
                                       R, BR)
                b_bias = load_vector(p_bias, k * D + o_d, m_d, stride_b, ACC)
                o_chunk = (k * N + n) * chunks + c
                p_h = p_end + o_chunk * S * D + o_d
                b_A, b_longest = load_A(p_A, k * D + o_d, m_d, stride_Ad, SOFTPLUS, ACC)
                p_dtk = p_dt + n * stride_tn + k * stride_tg
                b_before = tl.zeros((BD, ), dtype=ACC)
                b_total = tl.zeros((BD, ), dtype=ACC)
                if S > 1:
                    for s in range(S):
                        tl.store(p_h + s * D, b_before, mask=m_d)
                for j in range(count):
                    tile, start, at, o_p, _ = place(
                        j, begin, count, rows, columns, o_t, TURNED >> way & 1,
                        (way % DIRECTIONS == 1) != BACKWARD, False, BL)
                    left, m_kept, whole = tokens_of(p_maskn + at * mk, start, o_t, o_p, W, mk,
                                                    MASKED, BL)
                    p_tile = places(p_un + at * uk, o_p, o_d, uk, stride_ud)
                    b_u, b_dt, _ = load_tiles(
                        p_tile,
                        places_of_steps(p_dtk, at, 0, o_p, o_c, tk, stride_tc, tile, TA, 0, False,
                                        False, BR),
                        p_tile, o_t, left, m_kept, m_d, m_c, m_d, whole, False, UK,
                        TK, UK, TURNED >> way & 1, BR)
                    b_u = b_u.to(ACC)
                    b_delta, _ = steps(b_dt, o_t, left, m_kept, whole, b_weight, b_bias,
                                       SOFTPLUS, False, BR, DTYPE, PRECISION, ACC)
                    b_total += tl.sum(b_delta, axis=0)
                    m_t = m_kept & (start + o_t < W)
                    b_input = b_u if BACKWARD else b_delta * b_u
                    p_Bk = (p_B + n * stride_Bn + k * stride_Bg + at * B_k
                            + o_p.to(tl.int64) * B_k)
                    for s in range(S):
                        if S > 1:
                            b_A, b_longest = load_A(p_A + entry(s, stride_As), k * D + o_d, m_d,
                                                    stride_Ad, SOFTPLUS, ACC)
                            b_before = tl.load(p_h + s * D, mask=m_d, other=0)
                        p_Bs = p_Bk + entry(s, stride_Bs)
                        b_B, _ = load_projections(p_Bs, p_Bs, m_t, ACC)
                        b_a = decay(b_delta, b_A, b_longest, SOFTPLUS, ACC)
                        b_b = b_input * b_B[:, None]
                        if BACKWARD:
                            b_b *= b_a
                        b_b = tl.where(m_first, b_b + b_a * b_before[None, :], b_b)
                        _, b_h = tl.associative_scan((b_a, b_b), 0, follow)
                        b_before = row(b_h, BL - 1, BL, ACC)
                        if S > 1:
                            tl.store(p_h + s * D, b_before, mask=m_d)
                tl.store(p_total + o_chunk * D + o_d, b_total, mask=m_d)
                if S == 1:
                    tl.store(p_h, b_before, mask=m_d)


@triton.jit(do_not_specialize=VARYING)
def carry(p_total, p_end, p_A, p_state, D, S, N, chunks, blocks, forward, stride_Ad, stride_As,
          BACKWARD: tl.constexpr, BC: tl.constexpr, BE: tl.constexpr, ACC: tl.constexpr):
    """Compute the state before each chunk, from what each makes of nothing.

    Sequences from number ``forward`` on are reversed; BACKWARD goes the other way, and p_state is
    the gradient of the state after each chunk. A program takes BE of the D * S entries.
    """
    pid = tl.program_id(0)
    sequence = (pid // blocks).to(tl.int64)
    k = sequence // N
    from_last = (k >= forward) != BACKWARD
    o_e = pid % blocks * BE + tl.arange(0, BE)
    m_e = o_e < S * D
    o_s = (o_e // D).to(tl.int64)
    o_d = o_e % D
    b_A = tl.load(p_A + (k * D + o_d) * stride_Ad + o_s * stride_As, mask=m_e, other=0).to(ACC)
    if tl.float32 == ACC:
        b_A = finite(b_A)
    b_state = tl.zeros((BE, ), dtype=ACC)
    for start in range(0, chunks, BC):
        o_c = start + tl.arange(0, BC)
        o_c = o_c.to(tl.int64)
        # h before a chunk = exp(A total) h + end, of its predecessor
        o_before = sequence * chunks + tl.where(from_last, chunks - o_c, o_c - 1)
        m_before = ((o_c > 0) & (o_c < chunks))[:, None] & m_e[None, :]
        b_total = tl.load(p_total + o_before[:, None] * D + o_d[None, :], mask=m_before, other=0)
        b_end = tl.load(p_end + o_before[:, None] * (S * D) + o_e[None, :], mask=m_before, other=0)
        b_a = exp(b_total * b_A[None, :])
        b_b = tl.where((o_c == start)[:, None], b_end + b_a * b_state[None, :], b_end)
        _, b_h = tl.associative_scan((b_a, b_b), 0, follow)
        o_place = sequence * chunks + tl.where(from_last, chunks - 1 - o_c, o_c)
        tl.store(p_state + o_place[:, None] * (S * D) + o_e[None, :], b_h,
                 mask=(o_c < chunks)[:, None] & m_e[None, :])
        b_state = tl.sum(tl.where((o_c == start + BC - 1)[:, None], b_h, 0), axis=0)


@triton.jit(do_not_specialize=VARYING)
def outputs(p_u, p_dt, p_weight, p_bias, p_A, p_B, p_C, p_D, p_mask, p_carry, p_state, p_y, N,
            chunks, tiles, images, base, each, rows, columns,
            stride_un, stride_ug, stride_uk, stride_ud,
            stride_tn, stride_tg, stride_tk, stride_tc,
            stride_wg, stride_wd, stride_wr, stride_b, stride_Ad, stride_As, stride_D,
            stride_Bn, stride_Bg, stride_Bk, stride_Bs,
            stride_Cn, stride_Cg, stride_Ck, stride_Cs,
            stride_mn, stride_mk, stride_yp, stride_yn, stride_yg, stride_yk,
            stride_yd, UK: tl.constexpr, TK: tl.constexpr, TA: tl.constexpr, BK: tl.constexpr,
            CK: tl.constexpr, MK: tl.constexpr, YK: tl.constexpr, D: tl.constexpr,
            S: tl.constexpr, R: tl.constexpr, AXES: tl.constexpr, COUNT: tl.constexpr,
            DIRECTIONS: tl.constexpr, TURNED: tl.constexpr, ONLY: tl.constexpr,
            JOINED: tl.constexpr, SOFTPLUS: tl.constexpr, MASKED: tl.constexpr,
            BL: tl.constexpr, BD: tl.constexpr, BR: tl.constexpr, DTYPE: tl.constexpr,
            PRECISION: tl.constexpr, ACC: tl.constexpr):
    """Compute outputs of each chunk from the state before it, and add a program's sequences.

    p_carry, the state before each chunk, moves along and is overwritten. With a single chunk it is
    not read. p_state (K, N, tiles, S, D) takes the state before each tile, p_y a part of y for
    each program that writes to the same place.
    """
    block, c, n, group, part = part_of_work(tl.program_id(0), tl.cdiv(D, BD), chunks,
                                            tl.cdiv(N, images), AXES * COUNT * DIRECTIONS)
    joined = tl.minimum(images, N - n * images)
    n = (n * images).to(tl.int64)
    o_d = channels(block, BD)
    m_d = present(o_d, D, BD)
    o_c, m_c = step_channels(o_d, m_d, R, BR)
    m_first = (tl.arange(0, BL) == 0)[:, None]
    m_carried = m_d & (chunks > 1)
    first = base + part * each
    written = first if ONLY < 0 else 0
    p_un = p_u + n * stride_un + group * stride_ug
    p_yn = p_y + part * stride_yp + n * stride_yn + group * stride_yg
    p_maskn = p_mask + n * stride_mn
    for way in tl.static_range(AXES * DIRECTIONS):
        if (ONLY < 0) | (way // DIRECTIONS == ONLY):
            tl.debug_barrier()  # a direction adds to what the one before has stored
            uk = distance(UK, stride_uk)
            tk = distance(TK, stride_tk)
            B_k = distance(BK, stride_Bk)
            C_k = distance(CK, stride_Ck)
            mk = distance(MK, stride_mk)
            yk = distance(YK, stride_yk)
            W, all_tiles, per_chunk = lines_of(rows, columns, joined, chunks, BL)
            begin = c * per_chunk
            count = tl.minimum(per_chunk, all_tiles - begin)
            o_t = order(way % DIRECTIONS == 1, BL)
            for number in range(tl.maximum(first, way * COUNT),
                                tl.minimum(first + each, (way + 1) * COUNT)):
                k = number_of(number, group, way, AXES, COUNT, DIRECTIONS)
                b_weight = load_weight(p_weight + k * stride_wg, o_d, m_d, stride_wd, stride_wr,
                                       R, BR)
                b_bias = load_vector(p_bias, k * D + o_d, m_d, stride_b, ACC)
                b_D = load_vector(p_D, k * D + o_d, m_d, stride_D, ACC)
                b_A, b_longest = load_A(p_A, k * D + o_d, m_d, stride_Ad, SOFTPLUS, ACC)
                p_h = p_carry + ((k * N + n) * chunks + c) * S * D + o_d
                b_before = tl.load(p_h, mask=m_carried, other=0)
                if S > 1:
                    for s in range(S):
                        tl.store(p_h + s * D, tl.zeros((BD, ), dtype=ACC), mask=m_d & (chunks == 1))
                more = (number > written) & (AXES * COUNT * DIRECTIONS > 1)
                p_dtk = p_dt + n * stride_tn + k * stride_tg
                for j in range(count):
                    tile, start, at, o_p, rest = place(j, begin, count, rows, columns, o_t,
                                                       TURNED >> way & 1, way % DIRECTIONS == 1,
                                                       JOINED, BL)
                    new = first_row(rest, rows * columns, way % DIRECTIONS == 1, BL)
                    left, m_kept, whole = tokens_of(p_maskn + at * mk, start, o_t, o_p, W, mk,
                                                    MASKED, BL)
                    p_tile = places(p_yn + at * yk, o_p, o_d, yk, stride_yd)
                    b_u, b_dt, b_others = load_tiles(
                        places(p_un + at * uk, o_p, o_d, uk, stride_ud),
                        places_of_steps(p_dtk, at, 0, o_p, o_c, tk, stride_tc, tile, TA, 0, False,
                                        False, BR),
                        p_tile, o_t, left, m_kept, m_d, m_c, m_d & more, whole, True, UK,
                        TK, YK, TURNED >> way & 1, BR)
                    b_u = b_u.to(ACC)
                    b_delta, _ = steps(b_dt, o_t, left, m_kept, whole, b_weight, b_bias,
                                       SOFTPLUS, False, BR, DTYPE, PRECISION, ACC)
                    b_delta_u = b_delta * b_u
                    b_y = tl.fma(b_u, b_D[None, :], b_others.to(ACC))
                    m_t = m_kept & (start + o_t < W)
                    p_Bk = (p_B + n * stride_Bn + k * stride_Bg + at * B_k
                            + o_p.to(tl.int64) * B_k)
                    p_Ck = (p_C + n * stride_Cn + k * stride_Cg + at * C_k
                            + o_p.to(tl.int64) * C_k)
                    p_before = p_state + ((k * N + n) * tiles + tile) * S * D + o_d
                    for s in range(S):
                        if S > 1:
                            b_A, b_longest = load_A(p_A + entry(s, stride_As), k * D + o_d, m_d,
                                                    stride_Ad, SOFTPLUS, ACC)
                            b_before = tl.load(p_h + s * D, mask=m_d, other=0)
                        tl.store(p_before + s * D, b_before, mask=m_d)
                        b_B, b_C = load_projections(p_Bk + entry(s, stride_Bs),
                                                    p_Ck + entry(s, stride_Cs), m_t, ACC)
                        b_a = decay(b_delta, b_A, b_longest, SOFTPLUS, ACC)
                        b_b = b_delta_u * b_B[:, None]
                        if JOINED:
                            b_before = tl.where(new == 0, 0, b_before)
                        b_b = tl.where(m_first, b_b + b_a * b_before[None, :], b_b)
                        b_h, _ = run(b_a, b_b, b_b, new, JOINED)
                        b_y += b_h * b_C[:, None]
                        b_before = row(b_h, BL - 1, BL, ACC)
                        if S > 1:
                            tl.store(p_h + s * D, b_before, mask=m_d)
                    store_tile(p_tile, p_tile, b_y, o_t, W - start, m_kept, m_d, False, whole,
                               False, 0)


@triton.jit(do_not_specialize=VARYING)
def gradients(p_u, p_dt, p_weight, p_bias, p_A, p_B, p_C, p_D, p_mask, p_state, p_carry, p_dy,
               p_du, p_last, p_ddt, p_dB, p_dC, p_dparameters, N, K, chunks, tiles, images, base,
              each, rows, columns,
              stride_un, stride_ug, stride_uk, stride_ud,
              stride_tn, stride_tg, stride_tk, stride_tc,
              stride_wg, stride_wd, stride_wr, stride_b, stride_Ad, stride_As, stride_D,
              stride_Bn, stride_Bg, stride_Bk, stride_Bs,
              stride_Cn, stride_Cg, stride_Ck, stride_Cs,
              stride_mn, stride_mk, stride_yn, stride_yg, stride_yk,
              stride_yd, stride_xp, stride_xn, stride_xg, stride_xk, stride_xd,
              stride_qn, stride_qg, stride_qk, stride_qc, stride_qb,
              stride_pn, stride_pg, stride_pk, stride_ps, stride_pb,
              UK: tl.constexpr, TK: tl.constexpr, TA: tl.constexpr, BK: tl.constexpr,
              CK: tl.constexpr, MK: tl.constexpr, YK: tl.constexpr, XK: tl.constexpr,
              QK: tl.constexpr, QA: tl.constexpr, PK: tl.constexpr, D: tl.constexpr,
              S: tl.constexpr, R: tl.constexpr, AXES: tl.constexpr, COUNT: tl.constexpr,
              DIRECTIONS: tl.constexpr, TURNED: tl.constexpr, ONLY: tl.constexpr,
              JOINED: tl.constexpr, SOFTPLUS: tl.constexpr, MASKED: tl.constexpr,
              FAR: tl.constexpr, BL: tl.constexpr, BD: tl.constexpr, BR: tl.constexpr,
              DTYPE: tl.constexpr, PRECISION: tl.constexpr, GRAD_DTYPE: tl.constexpr,
              GRAD_PRECISION: tl.constexpr, ACC: tl.constexpr):
    """Compute gradients of all inputs.

    A program takes a chunk and a block of channels, of several images one after the other or
    joined, from the end.

    With e_t = C_t dy_t, and h run again from the state before each tile,

        g_t = e_t + exp(delta_{t+1} A_s) g_{t+1}                     gradient of h_t
        w_t = g_t exp(delta_t A_s) h_{t-1}                           gradient of delta_t A_s

    p_carry, what comes back to each chunk, moves along and is overwritten. With a single chunk it
    is not read. p_du takes a part for each program that writes to the same place. What the last of
    two launches completes goes to p_last instead, in another dtype. Sums over channels, p_dB, p_dC
    and p_ddt, are the block's own. Sums over tokens, p_dparameters (slots, K, 2 + S + R, D) of
    bias, D, A and weight, are the own of the chunk and images. Strides x are those of du, q of ddt
    (channels in place of ranks if step sizes are given), p of dB and dC.
    """
    block, c, portion, group, part = part_of_work(tl.program_id(0), tl.cdiv(D, BD), chunks,
                                                  tl.cdiv(N, images), AXES * COUNT * DIRECTIONS)
    first_d = block * BD
    first_c = block * (0 if BR else BD)
    o_r = tl.arange(0, BR if BR else 1)
    m_first = (tl.arange(0, BL) == 0)[:, None]
    first = (base + part * each).to(tl.int32)
    written = first if ONLY < 0 else 0
    first_image = portion * images
    lines = tl.minimum(images, N - portion * images)
    joined = 1
    if JOINED:
        lines, joined = joined, lines
    slot = portion * chunks + c
    for way in tl.static_range(AXES * DIRECTIONS):
        if (ONLY < 0) | (way // DIRECTIONS == ONLY):
            tl.debug_barrier()  # a direction adds to what the one before has stored
            uk = distance(UK, stride_uk)
            tk = distance(TK, stride_tk)
            B_k = distance(BK, stride_Bk)
            C_k = distance(CK, stride_Ck)
            mk = distance(MK, stride_mk)
            yk = distance(YK, stride_yk)
            xk = distance(XK, stride_xk)
            qk = distance(QK, stride_qk)
            pk = distance(PK, stride_pk)
            o_t = order(way % DIRECTIONS == 1, BL)
            for number in range(tl.maximum(first, way * COUNT),
                                tl.minimum(first + each, (way + 1) * COUNT)):
                k = number_of(number, group, way, AXES, COUNT, DIRECTIONS)
                # 0, of which the compiler must think that it changes: what depends on it is
                # computed for each sequence, and takes no registers from the first to the last
                zero = (number < base).to(tl.int32)
                W, all_tiles, per_chunk = lines_of(rows, columns, joined, chunks + zero, BL)
                begin = c * per_chunk
                count = tl.minimum(per_chunk, all_tiles - begin)
                o_d = channels(block + zero.to(tl.int64), BD)
                m_d = present(o_d, D, BD)
                o_c, m_c = step_channels(o_d, m_d, R, BR)
                m_carried = m_d & (chunks > 1)
                more = number > written
                b_weight = load_weight(p_weight + k * stride_wg, o_d, m_d, stride_wd, stride_wr,
                                       R, BR)
                b_bias = load_vector(p_bias, k * D + o_d, m_d, stride_b, ACC)
                b_D = load_vector(p_D, k * D + o_d, m_d, stride_D, ACC)
                b_A, b_longest = load_A(p_A, k * D + o_d, m_d, stride_Ad, SOFTPLUS, ACC)
                b_dbias = tl.zeros((BD, ), dtype=ACC)
                b_dD = tl.zeros((BD, ), dtype=ACC)
                b_dA = tl.zeros((BD, ), dtype=ACC)
                b_dweight = tl.zeros((BD, BR if BR else 1), dtype=ACC)
                if S > 1:
                    p_sums = sums_of(p_dparameters, slot, K, k, o_d, D, S, R)
                    for s in range(S):
                        tl.store(p_sums + (2 + s) * D, b_dA, mask=m_d)
                slot_here = slot
                for i in range(lines):
                    n = (first_image + i).to(tl.int64)
                    zero_n = (n < 0).to(tl.int64)  # as above, for each image
                    slot_here += zero_n.to(tl.int32)  # the sums' place is computed after it
                    k_n = k + zero_n
                    p_g = p_carry + ((k_n * N + n) * chunks + c) * S * D + (o_d + zero_n)
                    p_h = p_state + (k_n * N + n) * tiles * S * D + (o_d + zero_n)
                    p_un = p_u + n * stride_un + (group + zero_n) * stride_ug
                    p_dtk = p_dt + n * stride_tn + k_n * stride_tg
                    p_dyn = p_dy + n * stride_yn + (group + zero_n) * stride_yg
                    p_Bn = p_B + n * stride_Bn + k_n * stride_Bg
                    p_Cn = p_C + n * stride_Cn + k_n * stride_Cg
                    p_pn = n * stride_pn + k_n * stride_pg + (block + zero_n) * stride_pb
                    o_dun = (part + zero_n) * stride_xp + n * stride_xn + group * stride_xg
                    p_ddtn = p_ddt + n * stride_qn + k_n * stride_qg
                    b_after = tl.load(p_g, mask=m_carried, other=0)
                    if S > 1:
                        for s in range(S):
                            tl.store(p_g + s * D, tl.zeros((BD, ), dtype=ACC),
                                     mask=m_d & (chunks == 1))
                    for j in range(count):
                        tile, start, at, o_p, rest = place(j, begin, count, rows, columns, o_t,
                                                           TURNED >> way & 1,
                                                           way % DIRECTIONS == 0, JOINED, BL)
                        new = first_row(rest, rows * columns, way % DIRECTIONS == 1, BL)
                        left, m_kept, whole = tokens_of(p_mask + n * stride_mn + at * mk, start,
                                                        o_t, o_p, W, mk, MASKED, BL)
                        b_u, b_dt, b_dy = load_tiles(
                            places_anew(p_un + at * uk, first_d, o_p, o_d, uk,
                                        stride_ud, tile, UK, TURNED >> way & 1, FAR),
                            places_of_steps(p_dtk, at, first_c, o_p, o_c, tk, stride_tc, tile, TA,
                                            TK, TURNED >> way & 1, FAR, BR),
                            places_anew(p_dyn + at * yk, first_d, o_p, o_d, yk,
                                        stride_yd, tile, YK, TURNED >> way & 1, FAR),
                            o_t, left, m_kept, m_d, m_c, m_d, whole, False, UK,
                            TK, YK, TURNED >> way & 1, BR)
                        b_u = b_u.to(ACC)
                        b_dy = b_dy.to(ACC)
                        b_delta, b_slope = steps(b_dt, o_t, left, m_kept, whole, b_weight, b_bias,
                                                 SOFTPLUS, True, BR, DTYPE, PRECISION, ACC)
                        b_delta_u = b_delta * b_u
                        b_du = tl.zeros((BL, BD), dtype=ACC)
                        b_ddelta = tl.zeros((BL, BD), dtype=ACC)
                        m_w = start + o_t < W
                        o_place = at + o_p
                        p_Bk = p_Bn + o_place * B_k
                        p_Ck = p_Cn + o_place * C_k
                        p_pk = p_pn + o_place * pk
                        m_t = m_w & m_kept
                        for s in range(S):
                            if S > 1:
                                b_A, b_longest = load_A(p_A + entry(s, stride_As), k * D + o_d, m_d,
                                                        stride_Ad, SOFTPLUS, ACC)
                                b_after = tl.load(p_g + s * D, mask=m_d, other=0)
                            b_before = tl.load(p_h + (tile * S + s) * D, mask=m_d, other=0)
                            b_B, b_C = load_projections(p_Bk + entry(s, stride_Bs),
                                                        p_Ck + entry(s, stride_Cs), m_t, ACC)
                            b_a = decay(b_delta, b_A, b_longest, SOFTPLUS, ACC)
                            if JOINED:
                                b_before = tl.where(new == 0, 0, b_before)
                            b_c = tl.where(m_first, b_a * b_before[None, :], 0)
                            b_b = b_delta_u * b_B[:, None] + b_c
                            b_h, b_c = run(b_a, b_b, b_c, new, JOINED)
                            p_ps = p_pk + entry(s, stride_ps)
                            b_dC = sum_of_channels(b_h * b_dy, BL, BD)
                            tl.store(p_dC + p_ps, tl.where(m_kept, b_dC, 0), mask=m_w)
                            b_e = b_dy * b_C[:, None]
                            b_g, b_after = run_back(b_e, b_a, b_after, new, JOINED, BL, ACC)
                            b_w = b_g * b_c
                            b_dB = sum_of_channels(b_g * b_delta_u, BL, BD)
                            tl.store(p_dB + p_ps, tl.where(m_kept, b_dB, 0), mask=m_w)
                            b_du += b_g * b_B[:, None]
                            b_ddelta += b_w * b_A[None, :]
                            b_sum = tl.sum(b_w * b_delta, axis=0)
                            if S > 1:
                                tl.store(p_g + s * D, b_after, mask=m_d)
                                b_sum += tl.load(p_sums + (2 + s) * D, mask=m_d, other=0)
                                tl.store(p_sums + (2 + s) * D, b_sum, mask=m_d)
                            else:
                                b_dA += b_sum
                        b_dz = (b_ddelta + b_du * b_u) * b_slope
                        b_dbias += tl.sum(b_dz, axis=0)
                        b_dD += tl.sum(b_dy * b_u, axis=0)
                        b_du = b_du * b_delta + b_dy * b_D[None, :]
                        p_others = places_anew(p_du + o_dun + at * xk, first_d, o_p, o_d, xk,
                                               stride_xd, tile, XK, TURNED >> way & 1, FAR)
                        p_tile = p_others
                        if ONLY == AXES - 1 and (COUNT == 1 and way == AXES * DIRECTIONS - 1):
                            p_tile = places_anew(p_last + o_dun + at * xk, first_d, o_p, o_d, xk,
                                                 stride_xd, tile, XK, TURNED >> way & 1, FAR)
                        store_tile(p_tile, p_others, b_du, o_t, W - start, m_kept, m_d, more, whole,
                                   AXES * COUNT * DIRECTIONS > 1, 0)
                        p_ddtk = p_ddtn
                        if BR:
                            b_dweight += dot_of_parts(b_dz, b_dt, GRAD_DTYPE,
                                                      GRAD_PRECISION, ACC, None, True)
                            b_dz = tl.trans(dot_of_parts(b_dz, tl.trans(b_weight), GRAD_DTYPE,
                                                         GRAD_PRECISION, ACC))
                            p_ddtk += block * stride_qb
                        p_tile = places_of_steps(p_ddtk, at, first_c, o_p, o_c, qk, stride_qc,
                                                 tile, QA, QK, TURNED >> way & 1, FAR, BR)
                        store_tile(p_tile, p_tile, b_dz, o_t, W - start, m_kept, m_c, False, whole,
                                   False, BR)
                p_sums = sums_of(p_dparameters, slot_here, K, k, o_d, D, S, R)
                tl.store(p_sums, b_dbias, mask=m_d)
                tl.store(p_sums + D, b_dD, mask=m_d)
                if S == 1:
                    tl.store(p_sums + 2 * D, b_dA, mask=m_d)
                if BR:
                    tl.store(p_sums[:, None] + (2 + S + o_r)[None, :] * D, b_dweight,
                             mask=(o_r < R)[None, :] & m_d[:, None])


@triton.jit
def add_parts(p_parts, p_sum, size, PARTS: tl.constexpr, BE: tl.constexpr):
    """Add PARTS of ``size`` numbers each, in their order."""
    o_e = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    m_e = o_e < size
    b_sum = tl.load(p_parts + o_e, mask=m_e, other=0)
    for _ in range(1, PARTS):
        p_parts += size
        b_sum += tl.load(p_parts + o_e, mask=m_e, other=0)
    tl.store(p_sum + o_e, b_sum, mask=m_e)


@triton.jit(do_not_specialize=VARYING)
def add_slots(p_dparameters, p_dbias, p_dD, p_dA, p_dweight, slots, K, D: tl.constexpr,
              S: tl.constexpr, R: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
              ACC: tl.constexpr):
    """Add sums over tokens (slots, K, 2 + S + R, D), and store them as the parameters are."""
    ROWS: tl.constexpr = 2 + S + R
    blocks = tl.cdiv(D, BD)
    pid = tl.program_id(0)
    o_d = (pid % blocks).to(tl.int64) * BD + tl.arange(0, BD)
    m_d = o_d < D
    line = pid // blocks % ROWS
    k = (pid // blocks // ROWS).to(tl.int64)
    b_sum = tl.zeros((BD, ), dtype=ACC)
    for start in range(0, slots, BT):
        o_t = (start + tl.arange(0, BT)).to(tl.int64)
        b_sum += tl.sum(tl.load(
            p_dparameters + ((o_t * K + k) * ROWS + line)[:, None] * D + o_d[None, :],
            mask=(o_t < slots)[:, None] & m_d[None, :], other=0), axis=0)
    o_d += k * D
    tl.store(p_dbias + o_d, b_sum, mask=m_d & (line == 0))
    tl.store(p_dD + o_d, b_sum, mask=m_d & (line == 1))
    tl.store(p_dA + o_d * S + line - 2, b_sum, mask=m_d & (line >= 2) & (line < 2 + S))
    tl.store(p_dweight + o_d * R + line - 2 - S, b_sum, mask=m_d & (line >= 2 + S))
