"""Jit functions of ``selective_scan`` and ``selective_scan_2d``.

Per channel and entry s of the state, in the order in which a sequence runs::

    h_t = exp(delta_t A_s) h_{t-1} + delta_t B_{t,s} u_t,   y_t = sum_s C_{t,s} h_t + D u_t

A tile is BL tokens, a chunk of the sequence, of BD channels. Token t of a sequence lies at row
t // W and column t % W of a grid; for one that runs over columns the host exchanges the two, and a
plain sequence is a single row. Tiles are cut in the order of memory for both directions: a reversed
sequence runs through them, and through the tokens in each, from the last to the first. Places
beyond the end have a step of 0, with which the state passes as it is.

One program takes all the sequences that run along an axis, the first DIRECTIONS' ``count`` of them
forward, the others reversed: number ``first + i * step``. Where sequences are groups of channels,
as in ``selective_scan``, there is a program for each ``group``.

What is kept of a chunk: p_total (K, N, chunks, D), the sum of its steps, and p_end, p_state and
p_dstate (K, N, chunks, S, D): its end state from zero, the state before it, the gradient after it.
"""
import triton
import triton.language as tl

from mmvssd_kernels.triton_math import dot

# what changes from image to image, or from rows to columns: to compile for those that are multiples
# of 16 would gain nothing
VARYING = ['L', 'W', 'N', 'chunks', 'blocks', 'splits', 'images', 'first', 'forward', 'add_du',
           'stride_mn', 'stride_mr', 'stride_mc', 'stride_qsplit', 'stride_psplit',
           'stride_Bn', 'stride_Bg', 'stride_Br', 'stride_Bk', 'stride_Cn', 'stride_Cg',
           'stride_Cr', 'stride_Ck', 'stride_pn', 'stride_pg', 'stride_pr', 'stride_pk']


@triton.jit
def follow(a_left, b_left, a_right, b_right):
    """Join two stretches of h -> a h + b."""
    return a_left * a_right, a_right * b_left + b_right


@triton.jit
def follow_with_rest(a_left, b_left, c_left, a_right, b_right, c_right):
    """The same, and c, which is b without the last step's own input: a_t h_{t-1}."""
    return a_left * a_right, a_right * b_left + b_right, a_right * b_left + c_right


@triton.jit
def add_before(total_left, before_left, total_right, before_right):
    """Sums up to a place, and those without the place itself."""
    return total_left + total_right, total_left + before_right


@triton.jit
def softplus(b_z):
    """log(1 + exp(z)) and its derivative; both keep their digits however small they are."""
    b_e = tl.exp(-tl.abs(b_z))
    b_w = 1 + b_e
    # log(1 + e) = log(w) + (what rounding took from w) / w
    b_log = tl.log(b_w) + (b_e - (b_w - 1)) / b_w
    return tl.maximum(b_z, 0) + b_log, tl.where(b_z > 0, 1, b_e) / b_w


@triton.jit
def tokens(o_t, L, W, p_mask, stride_mr, stride_mc, MASKED: tl.constexpr):
    """Row and column of tokens at o_t, and which of them exist and are no padding."""
    o_row = (o_t // W).to(tl.int64)
    o_column = (o_t % W).to(tl.int64)
    m_t = (o_t >= 0) & (o_t < L)
    if MASKED:
        m_t = m_t & (tl.load(p_mask + o_row * stride_mr + o_column * stride_mc, mask=m_t,
                             other=0) != 0)
    return o_row, o_column, m_t


@triton.jit
def load_tile(p, o_row, o_column, o_c, m_t, m_c, stride_r, stride_k, stride_c):
    """Numbers of tokens and channels; 0 where there is none, whatever padding holds."""
    o_t = o_row * stride_r + o_column * stride_k
    return tl.load(p + o_t[:, None] + o_c[None, :] * stride_c, mask=m_t[:, None] & m_c[None, :],
                   other=0)


@triton.jit
def steps(p_dt, o_row, o_column, m_t, b_weight, b_bias, o_d, m_d, R, stride_tr, stride_tk,
          stride_tc, SOFTPLUS: tl.constexpr, BR: tl.constexpr, DTYPE: tl.constexpr,
          PRECISION: tl.constexpr, ACC: tl.constexpr):
    """Step sizes (BL, BD), 0 at padding, and their derivative by what softplus is taken of.

    They are given, or with a rank (BR > 0) the product of dt (BL, BR) and the weight (BR, BD).
    """
    if BR:
        o_r = tl.arange(0, BR)
        b_dt = load_tile(p_dt, o_row, o_column, o_r, m_t, o_r < R, stride_tr, stride_tk, stride_tc)
        b_z = dot(b_dt, b_weight, DTYPE, PRECISION, ACC)
    else:
        b_z = load_tile(p_dt, o_row, o_column, o_d, m_t, m_d, stride_tr, stride_tk,
                        stride_tc).to(ACC)
    b_z += b_bias[None, :]
    if SOFTPLUS:
        b_delta, b_slope = softplus(b_z)
    else:
        b_delta = b_z
        b_slope = tl.full(b_z.shape, 1, dtype=ACC)
    m_td = m_t[:, None] & m_d[None, :]
    return tl.where(m_td, b_delta, 0), tl.where(m_td, b_slope, 0)


@triton.jit
def load_weight(p_weight, o_d, m_d, R, stride_wd, stride_wr, BR: tl.constexpr):
    """The weight that widens step sizes, (BR, BD)."""
    o_r = tl.arange(0, BR if BR else 1)
    return tl.load(p_weight + o_d[None, :] * stride_wd + o_r[:, None] * stride_wr,
                   mask=(o_r < R)[:, None] & m_d[None, :], other=0)


@triton.jit
def load_vector(p, o, m, stride, ACC: tl.constexpr):
    """Numbers of a vector as ACC; 0 where there is none."""
    return tl.load(p + o * stride, mask=m, other=0).to(ACC)


@triton.jit(do_not_specialize=VARYING)
def chunk_ends(p_u, p_dt, p_weight, p_bias, p_A, p_B, p_mask, p_total, p_end, L, W, D, S, R, N, K,
               chunks, blocks, first, step, count,
               stride_un, stride_ug, stride_ur, stride_uk, stride_ud,
               stride_tn, stride_tg, stride_tr, stride_tk, stride_tc,
               stride_wg, stride_wd, stride_wr, stride_b, stride_Ad, stride_As,
               stride_Bn, stride_Bg, stride_Br, stride_Bk, stride_Bs,
               stride_mn, stride_mr, stride_mc,
               BACKWARD: tl.constexpr, DIRECTIONS: tl.constexpr, SOFTPLUS: tl.constexpr,
               MASKED: tl.constexpr, BL: tl.constexpr, BD: tl.constexpr, BR: tl.constexpr,
               DTYPE: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr):
    """What each chunk makes of nothing: p_total, and p_end from a state of zero.

    The last token of chunk c in the sequence's order has seen, of each token t,

        end = sum_t exp(A_s sum_{r after t} delta_r) delta_t u_t B_{t,s}

    BACKWARD: u is dy and B is C, and end what the chunk hands back to the one before,

        end = sum_t exp(A_s sum_{r up to t} delta_r) dy_t C_{t,s}
    """
    pid = tl.program_id(0)
    block = pid % blocks
    c = pid // blocks % chunks
    n = (pid // blocks // chunks % N).to(tl.int64)
    group = pid // blocks // chunks // N
    o_t = c * BL + tl.arange(0, BL)
    o_d = block * BD + tl.arange(0, BD)
    m_d = o_d < D
    o_d64 = o_d.to(tl.int64)
    o_row, o_column, m_t = tokens(o_t, L, W, p_mask + n * stride_mn, stride_mr, stride_mc, MASKED)
    b_u = load_tile(p_u + n * stride_un + group * stride_ug, o_row, o_column, o_d64, m_t, m_d,
                    stride_ur, stride_uk, stride_ud).to(ACC)
    for direction in tl.static_range(DIRECTIONS):
        for i in range(count):
            k = (first + group + (direction * count + i) * step).to(tl.int64)
            b_weight = load_weight(p_weight + k * stride_wg, o_d64, m_d, R, stride_wd, stride_wr,
                                   BR)
            b_bias = load_vector(p_bias, k * D + o_d, m_d, stride_b, ACC)
            b_delta, _ = steps(p_dt + n * stride_tn + k * stride_tg, o_row, o_column, m_t,
                               b_weight, b_bias, o_d64, m_d, R, stride_tr, stride_tk, stride_tc,
                               SOFTPLUS, BR, DTYPE, PRECISION, ACC)
            # a sum of what comes later runs from the end
            b_until, b_before = tl.associative_scan((b_delta, tl.zeros_like(b_delta)), 0,
                                                    add_before,
                                                    reverse=(direction == 0) != BACKWARD)
            b_sum = b_until if BACKWARD else b_before
            b_input = b_u if BACKWARD else b_delta * b_u
            place = (k * N + n) * chunks + c
            tl.store(p_total + place * D + o_d, tl.sum(b_delta, axis=0), mask=m_d)
            for s in range(S):
                b_A = load_vector(p_A + s * stride_As, k * D + o_d, m_d, stride_Ad, ACC)
                b_B = tl.load(p_B + n * stride_Bn + k * stride_Bg + o_row * stride_Br
                              + o_column * stride_Bk + s * stride_Bs, mask=m_t, other=0).to(ACC)
                b_end = tl.sum(tl.exp(b_sum * b_A[None, :]) * b_input * b_B[:, None], axis=0)
                tl.store(p_end + (place * S + s) * D + o_d, b_end, mask=m_d)


@triton.jit(do_not_specialize=VARYING)
def carry(p_total, p_end, p_A, p_state, D, S, N, chunks, blocks, forward, stride_Ad, stride_As,
          BACKWARD: tl.constexpr, BC: tl.constexpr, BE: tl.constexpr, ACC: tl.constexpr):
    """The state before each chunk, from what each makes of nothing.

    Sequences from number ``forward`` on are reversed; BACKWARD goes the other way, and p_state is
    the gradient of the state after each chunk. A program takes BE of the D * S entries.
    """
    pid = tl.program_id(0)
    sequence = (pid // blocks).to(tl.int64)
    k = sequence // N
    from_last = (k >= forward) != BACKWARD
    o_e = pid % blocks * BE + tl.arange(0, BE)
    m_e = o_e < S * D
    o_s = o_e // D
    o_d = o_e % D
    b_A = tl.load(p_A + (k * D + o_d) * stride_Ad + o_s * stride_As, mask=m_e, other=0).to(ACC)
    b_state = tl.zeros((BE, ), dtype=ACC)
    for start in range(0, chunks, BC):
        o_c = start + tl.arange(0, BC)
        o_c = o_c.to(tl.int64)
        # h before a chunk = exp(A total) h + end, of its predecessor
        o_before = sequence * chunks + tl.where(from_last, chunks - o_c, o_c - 1)
        m_before = ((o_c > 0) & (o_c < chunks))[:, None] & m_e[None, :]
        b_total = tl.load(p_total + o_before[:, None] * D + o_d[None, :], mask=m_before, other=0)
        b_end = tl.load(p_end + o_before[:, None] * (S * D) + o_e[None, :], mask=m_before, other=0)
        b_a = tl.exp(b_total * b_A[None, :])
        b_b = tl.where((o_c == start)[:, None], b_end + b_a * b_state[None, :], b_end)
        _, b_h = tl.associative_scan((b_a, b_b), 0, follow)
        o_place = sequence * chunks + tl.where(from_last, chunks - 1 - o_c, o_c)
        tl.store(p_state + o_place[:, None] * (S * D) + o_e[None, :], b_h,
                 mask=(o_c < chunks)[:, None] & m_e[None, :])
        b_state = tl.sum(tl.where((o_c == start + BC - 1)[:, None], b_h, 0), axis=0)


@triton.jit(do_not_specialize=VARYING)
def outputs(p_u, p_dt, p_weight, p_bias, p_A, p_B, p_C, p_D, p_mask, p_state, p_y, L, W, D, S, R,
            N, K, chunks, blocks, first, step, count,
            stride_un, stride_ug, stride_ur, stride_uk, stride_ud,
            stride_tn, stride_tg, stride_tr, stride_tk, stride_tc,
            stride_wg, stride_wd, stride_wr, stride_b, stride_Ad, stride_As, stride_D,
            stride_Bn, stride_Bg, stride_Br, stride_Bk, stride_Bs,
            stride_Cn, stride_Cg, stride_Cr, stride_Ck, stride_Cs,
            stride_mn, stride_mr, stride_mc,
            stride_yn, stride_yg, stride_yr, stride_yk, stride_yd,
            ADD: tl.constexpr, DIRECTIONS: tl.constexpr, SOFTPLUS: tl.constexpr,
            MASKED: tl.constexpr, BL: tl.constexpr, BD: tl.constexpr, BR: tl.constexpr,
            DTYPE: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr):
    """Outputs of each chunk from the state before it, all sequences along the axis added up.

    ADD: to what y holds, the outputs of the other axis.
    """
    pid = tl.program_id(0)
    block = pid % blocks
    c = pid // blocks % chunks
    n = (pid // blocks // chunks % N).to(tl.int64)
    group = pid // blocks // chunks // N
    o_l = tl.arange(0, BL)
    o_d = block * BD + tl.arange(0, BD)
    m_d = o_d < D
    o_d64 = o_d.to(tl.int64)
    o_row, o_column, m_t = tokens(c * BL + o_l, L, W, p_mask + n * stride_mn, stride_mr,
                                  stride_mc, MASKED)
    b_u = load_tile(p_u + n * stride_un + group * stride_ug, o_row, o_column, o_d64, m_t, m_d,
                    stride_ur, stride_uk, stride_ud).to(ACC)
    b_y = tl.zeros((BL, BD), dtype=ACC)
    b_skip = tl.zeros((BD, ), dtype=ACC)
    for direction in tl.static_range(DIRECTIONS):
        m_first = (o_l == (BL - 1 if direction == 1 else 0))[:, None]
        for i in range(count):
            k = (first + group + (direction * count + i) * step).to(tl.int64)
            b_weight = load_weight(p_weight + k * stride_wg, o_d64, m_d, R, stride_wd, stride_wr,
                                   BR)
            b_bias = load_vector(p_bias, k * D + o_d, m_d, stride_b, ACC)
            b_delta, _ = steps(p_dt + n * stride_tn + k * stride_tg, o_row, o_column, m_t,
                               b_weight, b_bias, o_d64, m_d, R, stride_tr, stride_tk, stride_tc,
                               SOFTPLUS, BR, DTYPE, PRECISION, ACC)
            b_delta_u = b_delta * b_u
            b_skip += load_vector(p_D, k * D + o_d, m_d, stride_D, ACC)
            p_before = p_state + ((k * N + n) * chunks + c) * S * D + o_d
            p_Bk = p_B + n * stride_Bn + k * stride_Bg + o_row * stride_Br + o_column * stride_Bk
            p_Ck = p_C + n * stride_Cn + k * stride_Cg + o_row * stride_Cr + o_column * stride_Ck
            for s in range(S):
                b_A = load_vector(p_A + s * stride_As, k * D + o_d, m_d, stride_Ad, ACC)
                b_before = tl.load(p_before + s * D, mask=m_d, other=0)
                b_B = tl.load(p_Bk + s * stride_Bs, mask=m_t, other=0).to(ACC)
                b_C = tl.load(p_Ck + s * stride_Cs, mask=m_t, other=0).to(ACC)
                b_a = tl.exp(b_delta * b_A[None, :])
                b_b = b_delta_u * b_B[:, None]
                b_b = tl.where(m_first, b_b + b_a * b_before[None, :], b_b)
                _, b_h = tl.associative_scan((b_a, b_b), 0, follow, reverse=direction == 1)
                b_y += b_h * b_C[:, None]
    b_y += b_u * b_skip[None, :]
    o_y = o_row * stride_yr + o_column * stride_yk
    p_y += n * stride_yn + group * stride_yg + o_y[:, None] + o_d64[None, :] * stride_yd
    # padding gets its zero
    m_y = (c * BL + o_l < L)[:, None] & m_d[None, :]
    if ADD:
        b_y += tl.load(p_y, mask=m_y, other=0)
    tl.store(p_y, b_y, mask=m_y)


@triton.jit
def add(p, b, m, more):
    """Store, or where there is ``more`` than this, add to what is there."""
    tl.store(p, b + tl.load(p, mask=m & more, other=0).to(b.dtype), mask=m)


@triton.jit(do_not_specialize=VARYING)
def gradients(p_u, p_dt, p_weight, p_bias, p_A, p_B, p_C, p_D, p_mask, p_state, p_dstate, p_dy,
              p_du, p_ddt, p_dB, p_dC, p_dparameters, L, W, D, S, R, N, K, chunks, blocks, splits,
              images, first, step, count, add_du,
              stride_un, stride_ug, stride_ur, stride_uk, stride_ud,
              stride_tn, stride_tg, stride_tr, stride_tk, stride_tc,
              stride_wg, stride_wd, stride_wr, stride_b, stride_Ad, stride_As, stride_D,
              stride_Bn, stride_Bg, stride_Br, stride_Bk, stride_Bs,
              stride_Cn, stride_Cg, stride_Cr, stride_Ck, stride_Cs,
              stride_mn, stride_mr, stride_mc,
              stride_yn, stride_yg, stride_yr, stride_yk, stride_yd,
              stride_xn, stride_xg, stride_xr, stride_xk, stride_xd,
              stride_qn, stride_qg, stride_qr, stride_qk, stride_qc, stride_qsplit,
              stride_pn, stride_pg, stride_pr, stride_pk, stride_ps, stride_psplit,
              DIRECTIONS: tl.constexpr, SOFTPLUS: tl.constexpr, MASKED: tl.constexpr,
              BL: tl.constexpr, BD: tl.constexpr, BR: tl.constexpr, BS: tl.constexpr,
              DTYPE: tl.constexpr, PRECISION: tl.constexpr, GRAD_DTYPE: tl.constexpr,
              GRAD_PRECISION: tl.constexpr, ACC: tl.constexpr):
    """Gradients of all inputs. A program takes a chunk, of several images one after the other, and
    of a ``splits``-th of the channels block by block.

    With e_t = C_t dy_t, and h run again from the state before the chunk,

        g_t = e_t + exp(delta_{t+1} A_s) g_{t+1}                     gradient of h_t
        w_t = g_t exp(delta_t A_s) h_{t-1}                           gradient of delta_t A_s

    Sums over channels, p_dB, p_dC and p_ddt, are the split's own. Sums over tokens, p_dparameters
    (slots, K, 2 + S + R, D) of bias, D, A and weight, are the own of the chunk and images. Strides
    x are those of du, q of ddt (channels in place of ranks where step sizes are given), p of dB
    and dC.
    """
    pid = tl.program_id(0)
    split = pid % splits
    c = pid // splits % chunks
    portions = tl.cdiv(N, images)
    portion = pid // splits // chunks % portions
    group = pid // splits // chunks // portions
    slot = portion * chunks + c
    per_split = tl.cdiv(blocks, splits)
    o_l = tl.arange(0, BL)
    o_s = tl.arange(0, BS)
    o_r = tl.arange(0, BR if BR else 1)
    m_end = c * BL + o_l < L
    first_image = (portion * images).to(tl.int64)
    for image in range(tl.minimum(images, N - portion * images)):
        n = first_image + image
        more_images = n > first_image
        o_row, o_column, m_t = tokens(c * BL + o_l, L, W, p_mask + n * stride_mn, stride_mr,
                                      stride_mc, MASKED)
        for direction in tl.static_range(DIRECTIONS):
            m_first = (o_l == (BL - 1 if direction == 1 else 0))[:, None]
            m_last = (o_l == (0 if direction == 1 else BL - 1))[:, None]
            # the token after each one
            o_next_row, o_next_column, m_next = tokens(
                c * BL + o_l + (-1 if direction == 1 else 1), L, W, p_mask + n * stride_mn,
                stride_mr, stride_mc, MASKED)
            for i in range(count):
                k = (first + group + (direction * count + i) * step).to(tl.int64)
                more_sequences = (add_du + direction * count + i) > 0
                p_Bk = (p_B + n * stride_Bn + k * stride_Bg + o_row * stride_Br
                        + o_column * stride_Bk)
                p_Ck = (p_C + n * stride_Cn + k * stride_Cg + o_row * stride_Cr
                        + o_column * stride_Ck)
                p_dtk = p_dt + n * stride_tn + k * stride_tg
                place = ((k * N + n) * chunks + c) * S * D
                b_dB = tl.zeros((BL, BS), dtype=ACC)
                b_dC = tl.zeros((BL, BS), dtype=ACC)
                b_ddt = tl.zeros((BL, BR if BR else 1), dtype=ACC)
                for block in range(split * per_split,
                                   tl.minimum((split + 1) * per_split, blocks)):
                    o_d = block * BD + tl.arange(0, BD)
                    m_d = o_d < D
                    o_d64 = o_d.to(tl.int64)
                    m_td = m_end[:, None] & m_d[None, :]
                    b_u = load_tile(p_u + n * stride_un + group * stride_ug, o_row, o_column,
                                    o_d64, m_t, m_d, stride_ur, stride_uk, stride_ud).to(ACC)
                    b_dy = load_tile(p_dy + n * stride_yn + group * stride_yg, o_row, o_column,
                                     o_d64, m_t, m_d, stride_yr, stride_yk, stride_yd).to(ACC)
                    b_weight = load_weight(p_weight + k * stride_wg, o_d64, m_d, R, stride_wd,
                                           stride_wr, BR)
                    b_bias = load_vector(p_bias, k * D + o_d, m_d, stride_b, ACC)
                    b_delta, b_slope = steps(p_dtk, o_row, o_column, m_t, b_weight, b_bias, o_d64,
                                             m_d, R, stride_tr, stride_tk, stride_tc, SOFTPLUS,
                                             BR, DTYPE, PRECISION, ACC)
                    b_next, _ = steps(p_dtk, o_next_row, o_next_column, m_next, b_weight, b_bias,
                                      o_d64, m_d, R, stride_tr, stride_tk, stride_tc, SOFTPLUS,
                                      BR, DTYPE, PRECISION, ACC)
                    b_delta_u = b_delta * b_u
                    b_du = tl.zeros((BL, BD), dtype=ACC)
                    b_ddelta = tl.zeros((BL, BD), dtype=ACC)
                    p_sums = p_dparameters + (slot.to(tl.int64) * K + k) * (2 + S + R) * D + o_d
                    for s in range(S):
                        b_A = load_vector(p_A + s * stride_As, k * D + o_d, m_d, stride_Ad, ACC)
                        b_before = tl.load(p_state + place + s * D + o_d, mask=m_d, other=0)
                        b_after = tl.load(p_dstate + place + s * D + o_d, mask=m_d, other=0)
                        b_B = tl.load(p_Bk + s * stride_Bs, mask=m_t, other=0).to(ACC)
                        b_C = tl.load(p_Ck + s * stride_Cs, mask=m_t, other=0).to(ACC)
                        b_a = tl.exp(b_delta * b_A[None, :])
                        # c_t = a_t h_{t-1}
                        b_c = tl.where(m_first, b_a * b_before[None, :], 0)
                        b_b = b_delta_u * b_B[:, None] + b_c
                        _, b_h, b_c = tl.associative_scan((b_a, b_b, b_c), 0, follow_with_rest,
                                                          reverse=direction == 1)
                        b_e = b_dy * b_C[:, None]
                        b_e = tl.where(m_last, b_e + b_after[None, :], b_e)
                        b_a = tl.exp(b_next * b_A[None, :])
                        _, b_g = tl.associative_scan((b_a, b_e), 0, follow, reverse=direction == 0)
                        b_w = b_g * b_c
                        m_s = (o_s == s)[None, :]
                        b_dB += tl.where(m_s, tl.sum(b_g * b_delta_u, axis=1)[:, None], 0)
                        b_dC += tl.where(m_s, tl.sum(b_h * b_dy, axis=1)[:, None], 0)
                        b_du += b_g * b_B[:, None]
                        b_ddelta += b_w * b_A[None, :]
                        add(p_sums + (2 + s) * D, tl.sum(b_w * b_delta, axis=0), m_d, more_images)
                    b_D = load_vector(p_D, k * D + o_d, m_d, stride_D, ACC)
                    b_dz = (b_ddelta + b_du * b_u) * b_slope
                    o_x = o_row * stride_xr + o_column * stride_xk
                    add(p_du + n * stride_xn + group * stride_xg + o_x[:, None]
                        + o_d64[None, :] * stride_xd, b_du * b_delta + b_dy * b_D[None, :], m_td,
                        more_sequences)
                    add(p_sums, tl.sum(b_dz, axis=0), m_d, more_images)
                    add(p_sums + D, tl.sum(b_dy * b_u, axis=0), m_d, more_images)
                    if BR:
                        b_dt = load_tile(p_dtk, o_row, o_column, o_r, m_t, o_r < R, stride_tr,
                                         stride_tk, stride_tc)
                        b_dweight = dot(tl.trans(b_dt), b_dz, GRAD_DTYPE, GRAD_PRECISION, ACC)
                        add(p_sums[None, :] + (2 + S + o_r)[:, None] * D, b_dweight,
                            (o_r < R)[:, None] & m_d[None, :], more_images)
                        b_ddt += dot(b_dz, tl.trans(b_weight), GRAD_DTYPE, GRAD_PRECISION, ACC)
                    else:
                        o_q = o_row * stride_qr + o_column * stride_qk
                        tl.store(p_ddt + n * stride_qn + k * stride_qg + o_q[:, None]
                                 + o_d64[None, :] * stride_qc, b_dz, mask=m_td)
                o_p = ((n * stride_pn + k * stride_pg + split * stride_psplit
                        + o_row * stride_pr + o_column * stride_pk)[:, None]
                       + o_s[None, :] * stride_ps)
                m_p = m_end[:, None] & (o_s < S)[None, :]
                tl.store(p_dB + o_p, b_dB, mask=m_p)
                tl.store(p_dC + o_p, b_dC, mask=m_p)
                if BR:
                    o_q = ((n * stride_qn + k * stride_qg + split * stride_qsplit
                            + o_row * stride_qr + o_column * stride_qk)[:, None]
                           + o_r[None, :] * stride_qc)
                    tl.store(p_ddt + o_q, b_ddt, mask=m_end[:, None] & (o_r < R)[None, :])
                # the next sequence, and image, adds to what this one has stored
                tl.debug_barrier()
