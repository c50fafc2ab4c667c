"""Jit functions of ``cross_scan`` and ``cross_merge``: one kernel each, for all patterns.

A program has a tile of channels, rows and columns of a grid. The memory of a grid is contiguous
along columns or channels, that of sequences along columns or rows. So a tile has BLOCK = 16 of
each: in each of these directions 16 neighbours are at least 32 bytes, a whole sector. For each load
and store Triton lets neighbouring threads run along the contiguous direction, since it knows a
stride of 1. If two of them differ, it turns the tile around in shared memory. So all accesses are
coalesced, in a grid of either layout.

COLUMNS and REVERSED have bit k set where sequence k runs over columns first, and from the end.
"""
import triton
import triton.language as tl


@triton.jit
def tile_of(C, H, W, BLOCK: tl.constexpr):
    """Return the program's image, and its channels (B, 1, 1), rows (1, B, 1), columns (1, 1, B)."""
    # one axis of programs: the other two have room for 65,535 alone
    pid = tl.program_id(0)
    columns, rows, channels = tl.cdiv(W, BLOCK), tl.cdiv(H, BLOCK), tl.cdiv(C, BLOCK)
    o = tl.arange(0, BLOCK)
    o_w = pid % columns * BLOCK + o[None, None, :]
    pid = pid // columns
    o_h = pid % rows * BLOCK + o[None, :, None]
    pid = pid // rows
    o_c = pid % channels * BLOCK + o[:, None, None]
    return (pid // channels).to(tl.int64), o_c.to(tl.int64), o_h, o_w


@triton.jit
def place(o_h, o_w, H, W, k: tl.constexpr, COLUMNS: tl.constexpr, REVERSED: tl.constexpr):
    """Return where sequence k has the tokens of a tile."""
    o_l = o_h * W + o_w
    if (COLUMNS >> k) & 1:
        o_l = o_w * H + o_h
    if (REVERSED >> k) & 1:
        o_l = H * W - 1 - o_l
    return o_l


@triton.jit
def scan(p_x, p_y, C, H, W, stride_n, stride_c, stride_h, stride_w, COLUMNS: tl.constexpr,
         REVERSED: tl.constexpr, BLOCK: tl.constexpr):
    """p_y (N, 4, C, H * W), contiguous, from p_x (N, C, H, W) of any strides."""
    n, o_c, o_h, o_w = tile_of(C, H, W, BLOCK)
    m = (o_c < C) & (o_h < H) & (o_w < W)
    o_x = n * stride_n + o_c * stride_c + o_h.to(tl.int64) * stride_h
    b_x = tl.load(p_x + o_x + o_w.to(tl.int64) * stride_w, mask=m)
    for k in tl.static_range(4):
        # summed in this order they take fewer instructions, and half of the registers
        o_y = (n * 4 + k) * C * H * W
        o_k = place(o_h, o_w, H, W, k, COLUMNS, REVERSED).to(tl.int64)
        tl.store(p_y + o_y + (o_k + o_c * (H * W)), b_x, mask=m)


@triton.jit
def merge(p_y, p_x, C, H, W, stride_n, stride_k, stride_c, stride_l, COLUMNS: tl.constexpr,
          REVERSED: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr):
    """p_x (N, C, H, W), contiguous, the sum of p_y (N, 4, C, H * W) of any strides."""
    n, o_c, o_h, o_w = tile_of(C, H, W, BLOCK)
    m = (o_c < C) & (o_h < H) & (o_w < W)
    b_x = tl.zeros((BLOCK, BLOCK, BLOCK), dtype=ACC)
    for k in tl.static_range(4):
        o_l = place(o_h, o_w, H, W, k, COLUMNS, REVERSED).to(tl.int64)
        o_y = n * stride_n + tl.full((), k, tl.int64) * stride_k + o_c * stride_c
        b_x += tl.load(p_y + o_y + o_l * stride_l, mask=m, other=0).to(ACC)
    tl.store(p_x + (n * C + o_c) * H * W + o_h * W + o_w, b_x, mask=m)
