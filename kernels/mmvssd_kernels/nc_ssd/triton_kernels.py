"""Jit functions of the plain ``nc_ssd``; symbols as in :mod:`mmvssd_kernels.nc_ssd.reference`.

Grids of kernels that sum or read states are (h, splits, N). So programs that run side by side are
the heads of one stretch of tokens. B and C come from memory once, and from the cache for further
heads. A second pass takes the images from the last to the first: the cache still holds the last.

Heads lie side by side, and so do what they hold and step sizes: p_x (N, L, h, P), p_dt (N, L, h),
p_B and p_C (N, L, G, S) have strides over images and tokens only. All else is contiguous.

States are (parts, N, h, S, P). With HALVES, for half inputs, they are two bfloat16 numbers each,
high and low. Then x, dy, B and C enter products as they are, exact in two, and no product has a
factor that is zero. Without HALVES there is one part, and products are as DTYPE and PRECISION say.
"""
import triton
import triton.language as tl

from mmvssd_kernels.triton_math import add_dot, dot, load_state, parts, store_state
from mmvssd_kernels.triton_products import cut_mask, product

# What changes from image to image. To compile for multiples of 16 among them would gain nothing: a
# grid of another size would only compile the kernels once more.
VARYING = ['L', 'split_length', 'W', 'positions', 'tiles', 'stride_dn']


@triton.jit
def valid_tokens(p_mask, n, o_l, L, stop, MASKED: tl.constexpr):
    """Return which of an image's tokens o_l are before ``stop`` and no padding; p_mask (N, L)."""
    m_l = o_l < stop
    if MASKED:
        m_l = m_l & (tl.load(p_mask + n * L + o_l, mask=m_l, other=0) != 0)
    return m_l


@triton.jit
def rows(o_l, FAR: tl.constexpr):
    """Return the tokens of a tile as factors of strides; FAR: of strides that need 64 bits."""
    o_row = o_l
    if FAR:
        o_row = o_l.to(tl.int64)
    return o_row


@triton.jit
def total(b_t, TENSOR_MEMORY: tl.constexpr):
    """Sum a block (T,); TENSOR_MEMORY: on a GPU that keeps results of products in such memory.

    For that, Triton 3.6 and 3.7 fail to compile the sum of a vector that follows from a product.
    They compile that of a matrix of one row, which takes some instructions more elsewhere.
    """
    if TENSOR_MEMORY:
        t = tl.sum(b_t[None, :])
    else:
        t = tl.sum(b_t, axis=0)
    return t


@triton.jit
def sum_state(p_x, p_dt, p_A, p_B, p_mask, n, j, start, stop, L, stride_xn, stride_xl, stride_dn,
              stride_dl, stride_Bn, stride_Bl, P: tl.constexpr, S: tl.constexpr, G: tl.constexpr,
              MASKED: tl.constexpr, FAR: tl.constexpr, BL: tl.constexpr, BS: tl.constexpr,
              BP: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
              HALVES: tl.constexpr):
    """Sum what the tokens from ``start`` to ``stop`` add to a head's state, (BS, BP)."""
    first = start.to(tl.int64)
    o_l, o_s, o_p = tl.arange(0, BL), tl.arange(0, BS), tl.arange(0, BP)
    o_row = rows(o_l, FAR)
    m_s, m_p = o_s < S, o_p < P
    p_x += n * stride_xn + first * stride_xl + j * P
    o_x = o_row[:, None] * stride_xl + o_p[None, :]
    p_B += n * stride_Bn + first * stride_Bl + (j % G) * S
    o_B = o_row[:, None] * stride_Bl + o_s[None, :]
    p_dt += n * stride_dn + first * stride_dl + j
    A = tl.load(p_A + j).to(ACC)

    b_state = tl.zeros((BS, BP), dtype=ACC)
    for i in range(tl.cdiv(stop - start, BL)):
        m_l = valid_tokens(p_mask, n, start + i * BL + o_l, L, stop, MASKED)
        b_x = tl.load(p_x + o_x, mask=m_l[:, None] & m_p[None, :], other=0).to(ACC)
        b_B = tl.load(p_B + o_B, mask=m_l[:, None] & m_s[None, :], other=0)
        b_m = -A * tl.load(p_dt + o_row * stride_dl, mask=m_l, other=0).to(ACC)
        # state = sum_l B_l (outer) (m_l x_l)
        b_high, b_low = parts(b_m[:, None] * b_x, HALVES)
        b_state = add_dot(b_state, tl.trans(b_B), b_high, b_low, DTYPE, PRECISION, ACC, HALVES)
        p_x += tl.cast(BL, tl.int64) * stride_xl
        p_B += tl.cast(BL, tl.int64) * stride_Bl
        p_dt += tl.cast(BL, tl.int64) * stride_dl
    return b_state


@triton.jit(do_not_specialize=VARYING)
def partial_states(p_x, p_dt, p_A, p_B, p_mask, p_states, L, split_length, stride_xn, stride_xl,
                   stride_dn, stride_dl, stride_Bn, stride_Bl, h: tl.constexpr, P: tl.constexpr,
                   S: tl.constexpr, G: tl.constexpr, MASKED: tl.constexpr, FAR: tl.constexpr,
                   BL: tl.constexpr, BS: tl.constexpr, BP: tl.constexpr, DTYPE: tl.constexpr,
                   PRECISION: tl.constexpr, ACC: tl.constexpr, HALVES: tl.constexpr):
    """Sum a stretch of tokens: p_states (splits, N, h, S, P) in ACC."""
    split = tl.program_id(1)
    j, n = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    start = split * split_length
    b_state = sum_state(p_x, p_dt, p_A, p_B, p_mask, n, j, start,
                        tl.minimum(start + split_length, L), L, stride_xn, stride_xl, stride_dn,
                        stride_dl, stride_Bn, stride_Bl, P, S, G, MASKED, FAR, BL, BS, BP, DTYPE,
                        PRECISION, ACC, HALVES)
    o_s, o_p = tl.arange(0, BS), tl.arange(0, BP)
    o_state = (n * h + j) * S * P + o_s[:, None] * P + o_p[None, :]
    images = tl.num_programs(2).to(tl.int64)
    tl.store(p_states + split * images * h * S * P + o_state, b_state,
             mask=(o_s < S)[:, None] & (o_p < P)[None, :])


@triton.jit(do_not_specialize=['splits'])
def combine(p_parts, p_states, splits, size, BE: tl.constexpr, ACC: tl.constexpr,
            HALVES: tl.constexpr):
    """Add the states (splits, size) of all stretches in their order."""
    o_e = tl.program_id(0).to(tl.int64) * BE + tl.arange(0, BE)
    m_e = o_e < size
    b_state = tl.zeros((BE, ), dtype=ACC)
    p_parts += o_e
    for _ in range(splits):
        b_state += tl.load(p_parts, mask=m_e, other=0)
        p_parts += size
    store_state(p_states, o_e, size, b_state, m_e, HALVES)


@triton.jit
def read_state(p_x, p_C, p_D, p_mask, p_y, b_high, b_low, n, j, start, stop, L, stride_xn,
               stride_xl, stride_Cn, stride_Cl, h: tl.constexpr, P: tl.constexpr, S: tl.constexpr,
               G: tl.constexpr, SKIP: tl.constexpr, MASKED: tl.constexpr, FAR: tl.constexpr,
               BACK: tl.constexpr, BL: tl.constexpr, BS: tl.constexpr, BP: tl.constexpr,
               DTYPE: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
               HALVES: tl.constexpr):
    """Let the tokens from ``start`` to ``stop`` read a head's state, both of its parts (BS, BP).

    BACK: the last tile first.
    """
    steps = tl.cdiv(stop - start, BL)
    tile, step = start, BL
    if BACK:
        tile, step = start + (steps - 1) * BL, -BL
    first = tile.to(tl.int64)
    o_l, o_s, o_p = tl.arange(0, BL), tl.arange(0, BS), tl.arange(0, BP)
    o_row = rows(o_l, FAR)
    m_s, m_p = o_s < S, o_p < P
    p_x += n * stride_xn + first * stride_xl + j * P
    o_x = o_row[:, None] * stride_xl + o_p[None, :]
    p_y += ((n * L + first) * h + j) * P
    o_y = o_l[:, None] * (h * P) + o_p[None, :]
    p_C += n * stride_Cn + first * stride_Cl + (j % G) * S
    o_C = o_row[:, None] * stride_Cl + o_s[None, :]
    D = 0.
    if SKIP:
        D = tl.load(p_D + j).to(ACC)

    for i in range(steps):
        o_token = tile + i * step + o_l
        m_l = valid_tokens(p_mask, n, o_token, L, stop, MASKED)
        b_C = tl.load(p_C + o_C, mask=m_l[:, None] & m_s[None, :], other=0)
        # y_l = C_l . state + D x_l
        b_y = add_dot(tl.zeros((BL, BP), dtype=ACC), b_C, b_high, b_low, DTYPE, PRECISION, ACC,
                      HALVES)
        if SKIP:
            b_y += D * tl.load(p_x + o_x, mask=m_l[:, None] & m_p[None, :], other=0).to(ACC)
        # padding is written too, as zeros
        tl.store(p_y + o_y, b_y.to(p_y.dtype.element_ty),
                 mask=(o_token < stop)[:, None] & m_p[None, :])
        p_x += tl.cast(step, tl.int64) * stride_xl
        p_C += tl.cast(step, tl.int64) * stride_Cl
        p_y += step * h * P


@triton.jit(do_not_specialize=VARYING)
def outputs(p_x, p_C, p_D, p_mask, p_states, p_y, L, split_length, stride_xn, stride_xl, stride_Cn,
            stride_Cl, h: tl.constexpr, P: tl.constexpr, S: tl.constexpr, G: tl.constexpr,
            SKIP: tl.constexpr, MASKED: tl.constexpr, FAR: tl.constexpr, BL: tl.constexpr,
            BS: tl.constexpr, BP: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr,
            ACC: tl.constexpr, HALVES: tl.constexpr):
    """Let a stretch of tokens read the state: p_y (N, L, h, P)."""
    split = tl.program_id(1)
    j, images = tl.program_id(0).to(tl.int64), tl.num_programs(2).to(tl.int64)
    n = images - 1 - tl.program_id(2)
    start = split * split_length
    o_s, o_p = tl.arange(0, BS), tl.arange(0, BP)
    b_high, b_low = load_state(
        p_states, (n * h + j) * S * P + o_s[:, None] * P + o_p[None, :], images * h * S * P,
        (o_s < S)[:, None] & (o_p < P)[None, :], HALVES)
    read_state(p_x, p_C, p_D, p_mask, p_y, b_high, b_low, n, j, start,
               tl.minimum(start + split_length, L), L, stride_xn, stride_xl, stride_Cn, stride_Cl,
               h, P, S, G, SKIP, MASKED, FAR, False, BL, BS, BP, DTYPE, PRECISION, ACC, HALVES)


@triton.jit(do_not_specialize=VARYING)
def whole_heads(p_x, p_dt, p_A, p_B, p_C, p_D, p_mask, p_states, p_y, L, stride_xn, stride_xl,
                stride_dn, stride_dl, stride_Bn, stride_Bl, stride_Cn, stride_Cl, h: tl.constexpr,
                P: tl.constexpr, S: tl.constexpr, G: tl.constexpr, SKIP: tl.constexpr,
                MASKED: tl.constexpr, FAR: tl.constexpr, BL: tl.constexpr, BS: tl.constexpr,
                BP: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
                HALVES: tl.constexpr):
    """Sum the state of all tokens of a head, and let them read it: p_states and p_y.

    The last tiles are read again first, as long as a cache has them. The grid is (h, 1, N).
    """
    j, n = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    images = tl.num_programs(2).to(tl.int64)
    b_state = sum_state(p_x, p_dt, p_A, p_B, p_mask, n, j, tl.program_id(1), L, L, stride_xn,
                        stride_xl, stride_dn, stride_dl, stride_Bn, stride_Bl, P, S, G, MASKED,
                        FAR, BL, BS, BP, DTYPE, PRECISION, ACC, HALVES)
    o_s, o_p = tl.arange(0, BS), tl.arange(0, BP)
    b_high, b_low = store_state(
        p_states, (n * h + j) * S * P + o_s[:, None] * P + o_p[None, :], images * h * S * P,
        b_state, (o_s < S)[:, None] & (o_p < P)[None, :], HALVES)
    read_state(p_x, p_C, p_D, p_mask, p_y, b_high, b_low, n, j, tl.program_id(1), L, L, stride_xn,
               stride_xl, stride_Cn, stride_Cl, h, P, S, G, SKIP, MASKED, FAR, True, BL, BS, BP,
               DTYPE, PRECISION, ACC, HALVES)


@triton.jit(do_not_specialize=VARYING)
def partial_state_gradients(p_dy, p_C, p_mask, p_dstates, L, split_length, stride_yn, stride_yl,
                            stride_Cn, stride_Cl, h: tl.constexpr, P: tl.constexpr,
                            S: tl.constexpr, G: tl.constexpr, MASKED: tl.constexpr,
                            FAR: tl.constexpr, WHOLE: tl.constexpr, BL: tl.constexpr,
                            BS: tl.constexpr, BP: tl.constexpr, DTYPE: tl.constexpr,
                            PRECISION: tl.constexpr,
                            ACC: tl.constexpr, HALVES: tl.constexpr):
    """Sum what a stretch of tokens hands back to the state; see :func:`partial_states`."""
    split = tl.program_id(1)
    j, n = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    start = split * split_length
    stop = tl.minimum(start + split_length, L)
    first = start.to(tl.int64)
    o_l, o_s, o_p = tl.arange(0, BL), tl.arange(0, BS), tl.arange(0, BP)
    o_row = rows(o_l, FAR)
    m_s, m_p = o_s < S, o_p < P
    p_dy += n * stride_yn + first * stride_yl + j * P
    o_dy = o_row[:, None] * stride_yl + o_p[None, :]
    p_C += n * stride_Cn + first * stride_Cl + (j % G) * S
    o_C = o_row[:, None] * stride_Cl + o_s[None, :]

    b_dstate = tl.zeros((BS, BP), dtype=ACC)
    for i in range(tl.cdiv(stop - start, BL)):
        m_l = valid_tokens(p_mask, n, start + i * BL + o_l, L, stop, MASKED)
        b_dy = tl.load(p_dy + o_dy, mask=m_l[:, None] & m_p[None, :], other=0)
        b_C = tl.load(p_C + o_C, mask=m_l[:, None] & m_s[None, :], other=0)
        # dstate = sum_l C_l (outer) dy_l
        if HALVES:
            b_dstate = dot(tl.trans(b_C), b_dy, b_C.dtype, 'ieee', ACC, b_dstate)
        else:
            b_dstate = dot(tl.trans(b_C), b_dy, DTYPE, PRECISION, ACC, b_dstate)
        p_dy += tl.cast(BL, tl.int64) * stride_yl
        p_C += tl.cast(BL, tl.int64) * stride_Cl

    o_state = (n * h + j) * S * P + o_s[:, None] * P + o_p[None, :]
    images = tl.num_programs(2).to(tl.int64)
    if WHOLE:
        store_state(p_dstates, o_state, images * h * S * P, b_dstate,
                    m_s[:, None] & m_p[None, :], HALVES)
    else:
        tl.store(p_dstates + split * images * h * S * P + o_state, b_dstate,
                 mask=m_s[:, None] & m_p[None, :])


@triton.jit(do_not_specialize=VARYING)
def gradients(p_x, p_dt, p_A, p_B, p_C, p_D, p_mask, p_states, p_dstates, p_dy, p_dx, p_ddt, p_dB,
              p_dC, p_sums, L, stride_xn, stride_xl, stride_dn, stride_dl, stride_Bn, stride_Bl,
              stride_yn, stride_yl, h: tl.constexpr, P: tl.constexpr, S: tl.constexpr,
              G: tl.constexpr, SKIP: tl.constexpr, MASKED: tl.constexpr, FAR: tl.constexpr,
              BL: tl.constexpr, BS: tl.constexpr, BP: tl.constexpr, DTYPE: tl.constexpr,
              PRECISION: tl.constexpr, ACC: tl.constexpr, HALVES: tl.constexpr,
              TENSOR_MEMORY: tl.constexpr, CUT: tl.constexpr):
    """Compute gradients of a tile of tokens and one group; the group's heads one after the other.

    p_dx (N, L, h, P), p_ddt (N, L, h), p_dB and p_dC (N, L, G, S); p_sums (2, h, N, tiles) holds
    what this tile adds to dA, and to dD. CUT: factors are cut in parts once for all warps, see
    :mod:`mmvssd_kernels.triton_products`.
    """
    tile, tiles = tl.program_id(1), tl.num_programs(1)
    g, images = tl.program_id(0).to(tl.int64), tl.num_programs(2).to(tl.int64)
    n = images - 1 - tl.program_id(2)
    first = tile.to(tl.int64) * BL
    o_l, o_s, o_p = tl.arange(0, BL), tl.arange(0, BS), tl.arange(0, BP)
    o_row = rows(o_l, FAR)
    m_s = o_s < S
    m_stop = tile * BL + o_l < L  # with padding
    m_l = valid_tokens(p_mask, n, tile * BL + o_l, L, L, MASKED)
    m_ls = m_l[:, None] & m_s[None, :]
    p_B += n * stride_Bn + first * stride_Bl + g * S
    b_B = tl.load(p_B + (o_row[:, None] * stride_Bl + o_s[None, :]), mask=m_ls, other=0)
    mask = cut_mask(L)
    b_dB = tl.zeros((BL, BS), dtype=ACC)
    b_dC = tl.zeros((BL, BS), dtype=ACC)
    p_x += n * stride_xn + first * stride_xl
    p_dy += n * stride_yn + first * stride_yl
    p_dx += (n * L + first) * h * P
    p_dt += n * stride_dn + first * stride_dl
    p_ddt += (n * L + first) * h
    p_sums += n * tiles + tile
    o_x = o_row[:, None] * stride_xl + o_p[None, :]
    o_dy = o_row[:, None] * stride_yl + o_p[None, :]
    o_dx = o_l[:, None] * (h * P) + o_p[None, :]
    o_state = o_s[:, None] * P + o_p[None, :]
    low = images * h * S * P

    for i in range(h // G):
        j = i * G + g
        b_dt = tl.load(p_dt + j + o_row * stride_dl, mask=m_l, other=0).to(ACC)
        A = tl.load(p_A + j).to(ACC)
        b_m = -A * b_dt
        D = 0.
        if SKIP:
            D = tl.load(p_D + j).to(ACC)
        b_t = tl.zeros((BL, BS), dtype=ACC)
        b_dm = tl.zeros((BL, ), dtype=ACC)
        b_dD = tl.zeros((BL, ), dtype=ACC)
        for start in range(0, P, BP):
            m_p = start + o_p < P
            m_sp, m_lp = m_s[:, None] & m_p[None, :], m_l[:, None] & m_p[None, :]
            state = (n * h + j) * S * P + start
            b_dy = tl.load(p_dy + j * P + start + o_dy, mask=m_lp, other=0)
            b_x = tl.load(p_x + j * P + start + o_x, mask=m_lp, other=0)
            # dC_l = state dy_l
            b_high, b_low = load_state(p_states + state, o_state, low, m_sp, HALVES)
            if CUT:
                b_dC = product(b_dy, b_high, mask, DTYPE, PRECISION, ACC, CUT, b_dC, TURN=True,
                               STRICT=True)
            else:
                b_dC = add_dot(b_dC, b_dy, tl.trans(b_high), tl.trans(b_low), DTYPE, PRECISION,
                               ACC, HALVES)
            # dB_l = m_l t_l, t_l = dstate x_l
            b_high, b_low = load_state(p_dstates + state, o_state, low, m_sp, HALVES)
            if HALVES:
                b_t = add_dot(b_t, b_x, tl.trans(b_high), tl.trans(b_low), DTYPE, PRECISION, ACC,
                              HALVES)
            elif CUT:
                b_dB = product(b_m[:, None] * b_x, b_high, mask, DTYPE, PRECISION, ACC, CUT, b_dB,
                               TURN=True, STRICT=True)
            else:
                b_dB = add_dot(b_dB, b_m[:, None] * b_x.to(ACC), tl.trans(b_high),
                               tl.trans(b_low), DTYPE, PRECISION, ACC, HALVES)
            # dm_l = (B_l . dstate) . x_l, dx_l = m_l B_l . dstate + D dy_l
            b_dx = tl.zeros((BL, BP), dtype=ACC)
            if CUT:
                b_dx = product(b_B, b_high, mask, DTYPE, PRECISION, ACC, CUT, b_dx, STRICT=True)
            else:
                b_dx = add_dot(b_dx, b_B, b_high, b_low, DTYPE, PRECISION, ACC, HALVES)
            b_dm += tl.sum(b_dx * b_x.to(ACC), axis=1)
            b_dx *= b_m[:, None]
            if SKIP:
                b_dx += D * b_dy.to(ACC)
                b_dD += tl.sum(b_x.to(ACC) * b_dy.to(ACC), axis=1)
            tl.store(p_dx + j * P + start + o_dx, b_dx.to(p_dx.dtype.element_ty),
                     mask=m_stop[:, None] & m_p[None, :])
        if HALVES:
            b_dB += b_m[:, None] * b_t
        tl.store(p_ddt + j + o_l * h, (-A * b_dm).to(p_ddt.dtype.element_ty), mask=m_stop)
        tl.store(p_sums + j * images * tiles, -total(b_dt * b_dm, TENSOR_MEMORY))
        if SKIP:
            tl.store(p_sums + (h + j) * images * tiles, tl.sum(b_dD, axis=0))

    if CUT:
        # plus 0, which a compiler does not know: places are computed anew, not kept all along
        o_l += (L < 0).to(tl.int32)
    m_stop = tile * BL + o_l < L
    p_dB += ((n * L + first) * G + g) * S
    p_dC += ((n * L + first) * G + g) * S
    o_ls = o_l[:, None] * (G * S) + o_s[None, :]
    m_store = m_stop[:, None] & m_s[None, :]
    tl.store(p_dB + o_ls, b_dB.to(p_dB.dtype.element_ty), mask=m_store)
    tl.store(p_dC + o_ls, b_dC.to(p_dC.dtype.element_ty), mask=m_store)


@triton.jit(do_not_specialize=['count'])
def parameter_gradients(p_sums, p_dA, p_dD, count, BE: tl.constexpr, ACC: tl.constexpr):
    """Add p_sums (2, h, count) to p_dA and p_dD (h, ); the grid is (h, 2), or (h, 1) without D."""
    j, h = tl.program_id(0), tl.num_programs(0)
    p_sums += (tl.program_id(1) * h + j).to(tl.int64) * count
    o_e = tl.arange(0, BE)
    b_sum = tl.zeros((BE, ), dtype=ACC)
    for start in range(0, count, BE):
        b_sum += tl.load(p_sums + start + o_e, mask=start + o_e < count, other=0)
    total = tl.sum(b_sum, axis=0)
    if tl.program_id(1) == 0:
        tl.store(p_dA + j, total.to(p_dA.dtype.element_ty))
    else:
        tl.store(p_dD + j, total.to(p_dD.dtype.element_ty))
