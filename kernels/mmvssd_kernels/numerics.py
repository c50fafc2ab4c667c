"""What the ops share in how they compute: the dtype of sums, no autocast, no padding."""
import contextlib
from typing import Optional, Tuple

import torch
from torch import Tensor
from torch.nn import functional as F


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of sums and states: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def tf32_allowed() -> bool:
    """Return whether PyTorch allows float32 products by TF32, in either of its settings."""
    matmul = torch.backends.cuda.matmul
    # from PyTorch 2.9 on; the older getter raises once the newer setting was used
    if hasattr(matmul, 'fp32_precision'):
        return matmul.fp32_precision == 'tf32'
    return torch.get_float32_matmul_precision() != 'highest'


def common_dtype(x: Tensor, other: Tensor) -> torch.dtype:
    """Return the dtype of products of two inputs' numbers; if they differ, that of sums over x."""
    return x.dtype if x.dtype == other.dtype else sum_dtype(x.dtype)


def softplus_(z: Tensor) -> Tensor:
    """Replace z by log(1 + exp(z)), and return it."""
    # from PyTorch's own threshold of 20 on the result is z, in float64 off by 2e-9; exp(40) is far
    # from float32's largest number
    return F.softplus(z, threshold=40, out=z)


def no_autocast(x: Tensor) -> contextlib.AbstractContextManager:
    """Switch autocast off on the device of ``x``, within a ``with`` block."""
    # autocast knows no meta device, on which only shapes are computed
    return (contextlib.nullcontext() if x.is_meta
            else torch.autocast(x.device.type, enabled=False))


def cast(dtype: torch.dtype, *tensors: Tensor) -> Tuple[Tensor, ...]:
    """Return the tensors in a dtype; an exported graph gets no operator for those that have it."""
    return tuple(t if t.dtype == dtype else t.to(dtype) for t in tensors)


def decays(a: Tensor) -> Tensor:
    """exp(a_{j+1} + ... + a_i) at [j, i], 0 where i < j; (..., T) -> (..., T, T).

    Each row is a sum of its own. A difference of sums from the start of the chunk would lose the
    small steps that follow a large one.
    """
    T = a.shape[-1]
    later = torch.ones(T, T, dtype=torch.bool, device=a.device).triu(1)
    sums = a[..., None, :].masked_fill(~later, 0).cumsum(-1)
    # masked before exp, which could overflow there, and whose gradient would then be NaN
    return sums.masked_fill(later.mT, -torch.inf).exp()


def drop_padding(mask: Optional[Tensor], *tensors: Tensor,
                 tokens_last: bool = False) -> Tuple[Tensor, ...]:
    """Return the tensors with zeros at padding, whatever padding holds.

    The gradient at padding is zero, whatever comes back to it.

    Args:
        mask: (N, *tokens) bool, False = padding; None: there is no padding.
        tensors: (N, *tokens, ...), or (N, ..., *tokens) if ``tokens_last``.
        tokens_last: Whether the tokens' axes are the last ones.
    """
    if mask is None:
        return tensors
    # masked_fill, not a product: padding may hold inf or NaN
    return tuple(t.masked_fill(~_beside(mask, t.dim(), tokens_last), 0) for t in tensors)


def _beside(mask: Tensor, dim: int, tokens_last: bool) -> Tensor:
    """View a mask so that it broadcasts to tensors of ``dim`` axes."""
    N, *tokens = mask.shape
    others = [1] * (dim - mask.dim())
    return mask.view(N, *others, *tokens) if tokens_last else mask.view(N, *tokens, *others)
