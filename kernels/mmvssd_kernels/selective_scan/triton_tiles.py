"""Tiles of the scans: where they lie, how they are loaded and stored, their steps and sums.

A grid is a line of tokens: its rows behind each other, or its columns. Several images may be joined
to a line. A tile is BL tokens of a line and BD channels. Lanes of a warp lie side by side along
channels, so that a scan along the tokens of a tile stays in the registers of a thread. Places
beyond the end of the line have a step of 0, with which the state passes as it is.

In memory rows lie behind each other, and so do joined images: a token's place on the grid, counted
by rows, tells where it is in every tensor.
"""
import triton
import triton.language as tl

from mmvssd_kernels.triton_math import dot_of_parts, exp, last, softplus


@triton.jit
def follow(a_left, b_left, a_right, b_right):
    """Join two stretches of h -> a h + b."""
    return a_left * a_right, a_right * b_left + b_right


@triton.jit
def follow_with_rest(a_left, b_left, c_left, a_right, b_right, c_right):
    """Join them, and c, which is b without the last step's own input: a_t h_{t-1}."""
    return a_left * a_right, a_right * b_left + b_right, a_right * b_left + c_right


@triton.jit
def follow_in_image(a_left, b_left, c_left, new_left, a_right, b_right, c_right, new_right):
    """Join them, but what is ``new`` follows nothing.

    A decay of 0 would do, if there were no NaN and no infinity, of which images shall not get each
    other's.
    """
    b = tl.where(new_right != 0, b_right, a_right * b_left + b_right)
    c = tl.where(new_right != 0, c_right, a_right * b_left + c_right)
    return a_left * a_right, b, c, new_left | new_right


@triton.jit
def channels(block, BD: tl.constexpr):
    """Number a block's channels, of which a lane takes one.

    They are contiguous, and marked as not aligned: the next lanes take the next channels, not the
    next tokens.
    """
    return tl.multiple_of(block * BD + tl.arange(0, BD), 1)


@triton.jit
def present(o_d, D: tl.constexpr, BD: tl.constexpr):
    """Tell which channels there are: all, and the compiler knows it, if blocks divide them."""
    return (o_d < D) | (D % BD == 0)


@triton.jit
def order(REVERSE: tl.constexpr, BL: tl.constexpr):
    """Return places of a tile's tokens on their line, in the order of the sequence."""
    o_l = tl.arange(0, BL)
    if REVERSE:
        o_l = BL - 1 - o_l
    return o_l


@triton.jit
def row(b_t, t: tl.constexpr, BL: tl.constexpr, ACC: tl.constexpr):
    """Return row t of a tile, bit for bit.

    Its thread has it: of a sum of bits with zeros the compiler leaves nothing.
    """
    BITS: tl.constexpr = tl.int64 if tl.float64 == ACC else tl.int32
    m_row = (tl.arange(0, BL) == t)[:, None]
    return tl.sum(tl.where(m_row, b_t.to(BITS, bitcast=True), 0), axis=0).to(ACC, bitcast=True)


@triton.jit
def run_back(b_e, b_a, b_after, new, JOINED: tl.constexpr, BL: tl.constexpr, ACC: tl.constexpr):
    """Run g_t = e_t + a_{t+1} g_{t+1} from the last row; return all g, and a_0 g_0.

    If JOINED, nothing comes back from row ``new``, the first of an image.

    It goes row by row: a reversed scan would exchange numbers between lanes, though one has them
    all.
    """
    o_l = tl.arange(0, BL)[:, None]
    b_row = row(b_e, BL - 1, BL, ACC) + b_after
    b_g = tl.where(o_l == BL - 1, b_row[None, :], b_e)
    for i in tl.static_range(1, BL):
        b_own = row(b_e, BL - 1 - i, BL, ACC)
        b_row = tl.fma(row(b_a, BL - i, BL, ACC), b_row, b_own)
        if JOINED:
            b_row = tl.where(new == BL - i, b_own, b_row)
        b_g = tl.where(o_l == BL - 1 - i, b_row[None, :], b_g)
    b_row *= row(b_a, 0, BL, ACC)
    if JOINED:
        b_row = tl.where(new == 0, 0, b_row)
    return b_g, b_row


@triton.jit
def part_of_work(pid, blocks, chunks, images, SEQUENCES: tl.constexpr):
    """Tell which part of the work is a program's: block of channels, chunk, images, group, part."""
    block = (pid % blocks).to(tl.int64)
    c = pid // blocks % chunks
    image = pid // blocks // chunks % images
    rest = (pid // blocks // chunks // images).to(tl.int64)
    group = rest if SEQUENCES == 1 else rest * 0
    part = rest * 0 if SEQUENCES == 1 else rest
    return block, c, image, group, part


@triton.jit
def lines_of(rows, columns, images, chunks, BL: tl.constexpr):
    """Return tokens of a line, its tiles, and tiles of a chunk."""
    W = rows * columns * images
    tiles = tl.cdiv(W, BL)
    return W, tiles, tl.cdiv(tiles, chunks)


@triton.jit
def number_of(place, group, way: tl.constexpr, AXES: tl.constexpr, COUNT: tl.constexpr,
              DIRECTIONS: tl.constexpr):
    """Return a sequence's number, of its place in the order in which programs take them."""
    axis: tl.constexpr = way // DIRECTIONS
    return group + axis + (place - axis * COUNT * DIRECTIONS) * AXES


@triton.jit
def distance(K: tl.constexpr, stride_k):
    """Return how far neighbours of a row lie from each other; K is compiled in, or 0."""
    return K if K else stride_k


@triton.jit
def place(j, begin, count, rows, columns, o_t, TURN: tl.constexpr, REVERSE: tl.constexpr,
          JOINED: tl.constexpr, BL: tl.constexpr):
    """Return where a chunk's tile j lies, in the sequence's order.

    Returns:
        Its number, and of its first token the place on the line and on the grid. How far from the
        latter its tokens o_t are. The place of the first in its image.
    """
    if REVERSE:
        j = count - 1 - j
    tile = begin + j
    start = tile * BL
    rest = start
    if JOINED:
        rest = start - quotient(start, rows * columns) * rows * columns
    at = start
    o_p = o_t
    if TURN:
        column = quotient(rest, rows)
        first = rest - column * rows
        at = start - rest + first * columns + column
        o_p = down_columns(o_t, first, rows, columns, BL)
        if JOINED:  # the next image begins where its first column does, not with one more
            o_p += tl.where(o_t < rows * columns - rest, 0, (rows - 1) * columns)
        # a lane computes one, and shared memory hands all to all, as in load_projections
        o_p = tl.reshape(tl.associative_scan(o_p[:, None], 1, last), o_t.shape)
    return tile.to(tl.int64), start.to(tl.int64), at.to(tl.int64), o_p, rest


@triton.jit
def first_row(rest, tokens, REVERSE: tl.constexpr, BL: tl.constexpr):
    """Return the row of a tile with which a sequence enters an image; none has it, if none does.

    ``rest`` is the place of the first token in its image.
    """
    if REVERSE:
        new = BL - (tokens - rest)
    else:
        new = (tokens - rest) % tokens
    return new


@triton.jit
def run(b_a, b_b, b_c, new, JOINED: tl.constexpr):
    """Run h -> a h + b over the rows; return h, and c + a h of the row before.

    If JOINED, row ``new`` follows nothing.
    """
    if JOINED:
        m_new = (tl.arange(0, b_a.shape[0]) == new)[:, None]
        b_new = tl.where(m_new, 1, tl.zeros(b_a.shape, dtype=tl.int32))
        _, b_h, b_c, _ = tl.associative_scan((b_a, b_b, b_c, b_new), 0, follow_in_image)
    else:
        _, b_h, b_c = tl.associative_scan((b_a, b_b, b_c), 0, follow_with_rest)
    return b_h, b_c


@triton.jit
def quotient(number, divisor):
    """Divide whole numbers that are not negative; without a sign that takes less."""
    return (number.to(tl.uint32) // divisor.to(tl.uint32)).to(tl.int32)


@triton.jit
def down_columns(o_t, first, rows, columns, BL: tl.constexpr):
    """Return how far tokens are on the grid that come o_t after one in row ``first``.

    They pass (first + o_t) // rows columns. In a tile a column of many rows ends once at most, so a
    height of BL will do. With such small numbers a product and a shift divide.
    """
    height = tl.minimum(rows, BL)
    o_row = o_t + (height - tl.minimum(rows - first, height))
    o_column = (o_row * (65536 // height + 1)) >> 16
    return o_t * columns + o_column * (1 - rows * columns)


@triton.jit
def tokens_of(p_mask, start, o_t, o_p, W, mk, MASKED: tl.constexpr, BL: tl.constexpr):
    """Tell how many of a tile's tokens there are, which are no padding, and if all are there.

    All tiles but the last are whole. A branch for these costs less than a mask for each token.
    """
    left = tl.minimum(W - start, BL).to(tl.int32)
    m_kept = tl.full((BL, ), 1, dtype=tl.int1)
    if MASKED:
        m_kept = tl.load(p_mask + o_p * mk, mask=o_t < left, other=0) != 0
    return left, m_kept, (left == BL) & (not MASKED)


@triton.jit
def entry(s, stride):
    """Return how far entry s of the state lies from the first, in 64 bits."""
    return (tl.full((), 0, dtype=tl.int64) + s) * stride


@triton.jit
def places(p, o_t, o_c, T, C):
    """Return where numbers of a tile's tokens and channels lie, T and C apart."""
    return p + o_c.to(tl.int64)[None, :] * C + o_t.to(tl.int64)[:, None] * T


@triton.jit
def places_anew(p, first, o_t, o_c, T, C, tile, K: tl.constexpr, TURN: tl.constexpr,
                FAR: tl.constexpr):
    """Return :func:`places` of a tile, whose channels begin with ``first``.

    If tokens lie side by side, a lane has places of many channels. Kept from tile to tile they
    would take more registers than there are. So each tile computes them anew: of a distance that
    depends on its number, which is never negative, the compiler must think that it changes. FAR:
    offsets within a tile take 64 bits.
    """
    if (K == 1) & (not TURN):
        o_near = tl.arange(0, o_c.shape[0])
        if FAR:
            o_near = o_near.to(tl.int64)
        p_tile = p + first * C + (o_near[None, :] * (C + (tile < 0).to(tl.int32)) + o_t[:, None])
    else:
        p_tile = places(p, o_t, o_c, T, C)
    return p_tile


@triton.jit
def places_of_steps(p, at, first, o_t, o_c, T, C, tile, A: tl.constexpr, K: tl.constexpr,
                    TURN: tl.constexpr, FAR: tl.constexpr, BR: tl.constexpr):
    """Return where a tile's step sizes lie; its first token has place ``at``.

    With BR they are ranks by tokens: a tile of 16 tokens by 32 ranks has the shape of those of
    channels, and the compiler would give all of them one layout. Every token begins at a multiple
    of A bytes, which a lane may load at once. The compiler cannot tell, for it does not know how
    far images lie from each other.
    """
    p += at * T
    if BR:
        p_ranks = tl.multiple_of(p, A) + o_c.to(tl.int64)[:, None] * C
        p_tile = p_ranks + o_t.to(tl.int64)[None, :] * T
    else:
        p_tile = places_anew(p, first, o_t, o_c, T, C, tile, K, TURN, FAR)
    return p_tile


@triton.jit
def sums_of(p_sums, slot, K, k, o_d, D: tl.constexpr, S: tl.constexpr, R: tl.constexpr):
    """Return where a sequence's first sum over tokens lies, for each channel."""
    return p_sums + ((slot.to(tl.int64) * K + k) * (2 + S + R) * D + o_d)


@triton.jit
def by_channel(b_t, K: tl.constexpr, TURN: tl.constexpr):
    """Hand a tile around so that a lane has all tokens of its channel: 16 of them, bit by bit.

    If tokens lie side by side, lanes have loaded a channel's tokens together, and would exchange
    numbers for each step of a scan.
    """
    if (K == 1) & (not TURN):
        BL: tl.constexpr = b_t.shape[0]
        BD: tl.constexpr = b_t.shape[1]
        b_0, b_1 = tl.split(tl.reshape(tl.trans(b_t), (BD, 2, 2, 2, 2)))
        b_00, b_10 = tl.split(b_0)
        b_01, b_11 = tl.split(b_1)
        b_000, b_100 = tl.split(b_00)
        b_010, b_110 = tl.split(b_10)
        b_001, b_101 = tl.split(b_01)
        b_011, b_111 = tl.split(b_11)
        b_0 = tl.join(tl.join(b_000, b_100), tl.join(b_010, b_110))
        b_1 = tl.join(tl.join(b_001, b_101), tl.join(b_011, b_111))
        b_t = tl.trans(tl.reshape(tl.join(b_0, b_1), (BD, BL)))
    return b_t


@triton.jit
def across(m_t, m_c, BR: tl.constexpr):
    """Join masks of tokens and channels to that of a tile, or of BR ranks one to a row."""
    return m_c[:, None] & m_t[None, :] if BR else m_t[:, None] & m_c[None, :]


@triton.jit
def load_tiles(p_u, p_dt, p_y, o_t, left, m_kept, m_d, m_c, m_y, whole, PADDING: tl.constexpr,
               UK: tl.constexpr, TK: tl.constexpr, YK: tl.constexpr, TURN: tl.constexpr,
               BR: tl.constexpr):
    """Load three tiles, of channels m_d, m_c and m_y; 0 if there is no token, or it is padding.

    PADDING: of the third padding is loaded too.
    """
    if whole:
        b_u = tl.load(p_u, mask=m_d[None, :], other=0)
        b_dt = tl.load(p_dt, mask=m_c[:, None] if BR else m_c[None, :], other=0)
        b_y = tl.load(p_y, mask=m_y[None, :], other=0)
    else:
        m_line = o_t < left
        m_t = m_line & m_kept
        b_u = tl.load(p_u, mask=m_t[:, None] & m_d[None, :], other=0)
        b_dt = tl.load(p_dt, mask=across(m_t, m_c, BR), other=0)
        b_y = tl.load(p_y, mask=(m_line if PADDING else m_t)[:, None] & m_y[None, :], other=0)
    b_dt = tl.trans(b_dt) if BR else by_channel(b_dt, TK, TURN)
    return by_channel(b_u, UK, TURN), b_dt, by_channel(b_y, YK, TURN)


@triton.jit
def store_tile(p, p_others, b_t, o_t, rest, m_kept, m_c, more, whole, ADD: tl.constexpr,
               BR: tl.constexpr):
    """Store a tile, 0 at padding; with ADD on top of p_others, if there is ``more``.

    The line's ``rest`` is told in 64 bits, not as ``left``: a compiler that sees the condition of
    the loads again computes it for all tiles, ahead of the branches. With BR it is of ranks, one to
    a row.
    """
    if whole:
        if ADD:
            b_t += tl.load(p_others, mask=(m_c & more)[None, :], other=0).to(b_t.dtype)
        tl.store(p, b_t, mask=m_c[:, None] if BR else m_c[None, :])
    else:
        m_t = o_t < rest
        b_t = tl.where(m_kept[None, :] if BR else m_kept[:, None], b_t, 0)
        if ADD:
            b_t += tl.load(p_others, mask=m_t[:, None] & (m_c & more)[None, :],
                           other=0).to(b_t.dtype)
        tl.store(p, b_t, mask=across(m_t, m_c, BR))


@triton.jit
def load_projections(p_B, p_C, m_t, ACC: tl.constexpr):
    """Load B and C of a tile's tokens for an entry of the state; 0 if there is none, or padding.

    Each lane loads and widens one number, and shared memory hands all to all. It takes both for
    that: the compiler thinks less than a warp's worth so cheap that each lane loads them all. And
    it takes a scan of single numbers after the conversion, or that would come after the exchange.
    """
    p_both = tl.where((tl.arange(0, 2) == 0)[None, :], p_B[:, None], p_C[:, None])
    b_both = tl.load(p_both, mask=m_t[:, None], other=0).to(ACC)
    b_both = tl.associative_scan(b_both[:, :, None], 2, last)
    return tl.split(tl.reshape(b_both, p_both.shape))


@triton.jit
def sum_of_channels(b_t, BL: tl.constexpr, BD: tl.constexpr):
    """Sum a tile over its channels.

    Lanes have a channel each, and would exchange each token's number five times. Halves are split
    off such that a lane gets a row of one token instead, by shared memory, and adds alone.
    """
    b_t = tl.reshape(b_t, (BL, BD // 16, 2, 2, 2, 2))
    for _ in tl.static_range(4):
        b_left, b_right = tl.split(b_t)
        b_t = b_left + b_right
    return tl.sum(b_t, axis=1)


@triton.jit
def load_vector(p, o, m, stride, ACC: tl.constexpr):
    """Load numbers of a vector as ACC; 0 if there is none."""
    return tl.load(p + o * stride, mask=m, other=0).to(ACC)


@triton.jit
def load_weight(p_weight, o_d, m_d, stride_wd, stride_wr, R: tl.constexpr, BR: tl.constexpr):
    """Load the weight that widens step sizes, (BR, BD)."""
    o_r = tl.arange(0, BR if BR else 1)
    return tl.load(p_weight + o_d[None, :] * stride_wd + o_r.to(tl.int64)[:, None] * stride_wr,
                   mask=(o_r < R)[:, None] & m_d[None, :], other=0)


@triton.jit
def step_channels(o_d, m_d, R: tl.constexpr, BR: tl.constexpr):
    """Number what a token's step sizes are given as: one a channel, or with BR > 0 the ranks."""
    o_c = tl.arange(0, BR) if BR else o_d
    m_c = o_c < R if BR else m_d
    return o_c, m_c


@triton.jit
def steps(b_dt, o_t, left, m_kept, whole, b_weight, b_bias, SOFTPLUS: tl.constexpr,
          SLOPE: tl.constexpr, BR: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr,
          ACC: tl.constexpr):
    """Compute step sizes (BL, BD), 0 at padding, and their derivative by what softplus is of.

    They are given, or with a rank (BR > 0) the product of dt (BL, BR) and the weight (BR, BD).
    SLOPE: the derivative is used too.
    """
    if BR:
        # numbers as the scans want them: the layout of a product would spread over all that follows
        b_z = dot_of_parts(b_dt, b_weight, DTYPE, PRECISION, ACC)
        if SLOPE:  # of two blocks that follow both would be handed around, later
            b_z = by_channel(b_z, 1, False)
        else:
            b_z = tl.associative_scan(b_z, 0, last)
    else:
        b_z = b_dt.to(ACC)
    b_delta = b_z + b_bias[None, :]
    b_slope = tl.full(b_z.shape, 1, dtype=ACC)
    if SOFTPLUS:
        b_delta, b_slope = softplus(b_delta, ACC)
    if not whole:
        tl.debug_barrier()  # keeps the compiler from running this always, to choose afterwards
        # in 16 bits, or the conditions of the loads would be kept for it
        m_t = ((o_t < left.to(tl.int16)) & m_kept)[:, None]
        b_delta = tl.where(m_t, b_delta, 0)
        b_slope = tl.where(m_t, b_slope, 0)
    return b_delta, b_slope


@triton.jit
def finite(b_A):
    """Return A without negative infinity, which would make NaN of a step of 0."""
    return tl.maximum(b_A, -1e38, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def load_A(p_A, o_d, m_d, stride_Ad, SOFTPLUS: tl.constexpr, ACC: tl.constexpr):
    """Load A, and the step from which on exp(delta A) is 0, or if A is positive infinite.

    Steps that softplus made are cut off there, which saves a bound on each side of each product.
    """
    b_A = load_vector(p_A, o_d, m_d, stride_Ad, ACC)
    b_longest = b_A
    if SOFTPLUS and tl.float32 == ACC:
        b_A = finite(b_A)
        b_longest = tl.where(b_A < 0, 88.1, 89.0) / tl.maximum(tl.abs(b_A), 1e-36)
    return b_A, b_longest


@triton.jit
def decay(b_delta, b_A, b_longest, SOFTPLUS: tl.constexpr, ACC: tl.constexpr):
    """Compute exp(delta A)."""
    if SOFTPLUS and tl.float32 == ACC:
        b_delta = tl.minimum(b_delta, b_longest[None, :], propagate_nan=tl.PropagateNan.ALL)
        b_a = exp(b_delta * b_A[None, :], LOW=False, HIGH=False)
    else:
        b_a = exp(b_delta * b_A[None, :])
    return b_a
