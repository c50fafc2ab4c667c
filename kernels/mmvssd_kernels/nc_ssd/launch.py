"""What the launches of one call of ``nc_ssd`` share, of either form."""
from typing import Optional, Tuple

import torch
from torch import Tensor

from mmvssd_kernels import triton_support
from mmvssd_kernels.numerics import sum_dtype
from mmvssd_kernels.triton_support import power_of_two

#: Distance of two tokens at which a tile's offsets need 64 bits.
FAR = 2**31 // 64
#: The GPUs that tiles were measured on, by the first number of their capability. Before them, and
#: on some after them, products keep their factors in registers.
HOPPER = 9
#: Those that keep results of products in a memory of its own: Blackwell in data centres.
BLACKWELL = 10
#: Programs that keep a large GPU busy; more of them would only add states to write and read.
PROGRAMS = 512


class Call:
    """Tensors as kernels take them, the stretches of their tokens, and constants.

    Args:
        x, dt, A, B, C, D, mask: Arguments of the op.
        others: Tensors like ``x``.
        BL: Tokens of a tile.
        heads: Heads of a tile.
        halves: Whether factors of products are bfloat16 numbers, two each if they are not inputs.
        programs: How many may share the heads, each with a stretch of tokens.

    Attributes:
        tensors: The arguments, copied unless what a token has lies side by side. In the place of
            what is absent stands another, which is never read.
        SKIP: Whether there is a D.
        hopper: Whether the GPU has Hopper's products, and its shared memory.
        tensor_memory: Whether the GPU keeps results of products in such memory.
        dtype: The dtype of sums.
        lengths: Tokens, and those of a stretch.
        grid: Programs of what sums and reads states.
        options: Constants of those.
    """

    def __init__(self, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor,
                 D: Optional[Tensor], mask: Optional[Tensor], *others: Tensor, BL: int,
                 heads: int = 1, halves: bool = False, programs: int = PROGRAMS) -> None:
        N, L, h, P = x.shape
        S = B.shape[3]
        self.SKIP, masked, self.dtype = D is not None, mask is not None, sum_dtype(x.dtype)
        x, dt, A, B, C, D, *others = map(_dense, (x, dt, A, B, C, A if D is None else D, *others))
        mask = x if mask is None else triton_support.load_mask(mask)
        self.tensors = x, dt, A, B, C, D, mask, *others
        generation = triton_support.capability(x.device)[0]
        self.hopper = generation == HOPPER
        self.tensor_memory = generation == BLACKWELL
        # stretches of whole tiles, and not so many that their states outweigh the tokens
        tiles, blocks = -(-L // BL), -(-h // heads)
        splits = max(1, min(programs // (N * blocks), tiles // 4))
        split_length = -(-tiles // splits) * BL
        self.lengths: Tuple[int, ...] = (L, split_length)
        self.grid = blocks, -(-L // split_length), N
        # halves are multiplied as they are
        product, precision = ((self.dtype, 'ieee') if halves
                              else triton_support.products(self.dtype, x.device))
        self.options = dict(
            h=h, P=P, S=S, MASKED=masked,
            FAR=max(t.stride(1) for t in (x, dt, B, C, *others)) >= FAR, BL=BL,
            BS=max(16, power_of_two(S)), BP=max(16, power_of_two(P)),
            DTYPE=triton_support.language(product), PRECISION=precision,
            ACC=triton_support.language(self.dtype), HALVES=halves, num_warps=4)

    def parts(self, state: Tensor) -> Tensor:
        """Allocate what stretches sum; it is the state itself if there is one stretch."""
        splits = self.grid[1]
        size = state.numel() // (2 if state.dtype == torch.bfloat16 else 1)
        return state if splits == 1 else state.new_empty((splits, size), dtype=self.dtype)

    def combine(self, parts: Tensor, state: Tensor) -> None:
        """Add what stretches summed."""
        if parts is not state:
            splits, size = parts.shape
            triton_support.kernels('nc_ssd').combine[-(-size // 256), ](
                parts, state, splits, size, BE=256, ACC=self.options['ACC'],
                HALVES=state.dtype == torch.bfloat16, num_warps=4)

    def add_parameters(self, sums: Tensor, dA: Tensor, dD: Tensor) -> None:
        """Add sums (2, h, ...) to the gradients of A and D."""
        h = sums.shape[1]
        triton_support.kernels('nc_ssd').parameter_gradients[h, 1 + self.SKIP](
            sums, dA, dD, sums[0, 0].numel(), BE=2048, ACC=self.options['ACC'], num_warps=8)


def _dense(t: Tensor) -> Tensor:
    """Return the tensor, or a copy unless what a token has lies side by side."""
    if t.stride(-1) == 1 and (t.dim() < 4 or t.stride(2) == t.shape[3]):
        return t
    return t.contiguous()
