"""Weighted sums of rows, and their transpose: what bilinear sampling is made of.

A feature map of C channels is a matrix of one row a pixel. A bilinear sample is the sum of four
of its rows, each times a weight. The ops of this package differ only in which rows and weights.
PyTorch has such a sum for embeddings: it is vectorised over channels, runs on all threads, and
needs no copy of the rows that it reads.
"""
import torch
import torch.nn.functional as F
from torch import Tensor

#: PyTorch sorts 32-bit integers by their digits, several times faster than 64-bit ones.
INT32_MAX = torch.iinfo(torch.int32).max


def as_rows(features: Tensor) -> Tensor:
    """Return (N, C, H, W) features as (N*H*W, C) rows, contiguous; no copy if channels_last."""
    rows = features.permute(0, 2, 3, 1)
    if not rows.is_contiguous():
        rows = features.flatten(2).transpose(1, 2).contiguous()  # copies faster than four axes
    return rows.reshape(-1, features.shape[1])


def add_rows(features: Tensor, rows: Tensor) -> None:
    """Add (N*H*W, C) rows to (N, C, H, W) features in place, an image at a time."""
    for image, part in zip(features, rows.view(len(features), -1, features.shape[1])):
        # PyTorch transposes a matrix by a copy several times faster than by a sum
        image += part.t().contiguous().view_as(image)


def sums(rows: Tensor, index: Tensor, weight: Tensor, size: Tensor) -> Tensor:
    """Add up weighted rows.

    Args:
        rows (Tensor): (R, C), floating point.
        index (Tensor): (E,) which row each term takes, integers; the terms of a sum lie together.
        weight (Tensor): (E,) its weight, the dtype of ``rows``.
        size (Tensor): (S,) how many terms each sum has, integers that add up to E.

    Returns:
        Tensor: (S, C); a sum without terms is 0.
    """
    if not index.numel() or not rows.shape[1]:
        return rows.new_zeros(len(size), rows.shape[1])
    return F.embedding_bag(index, rows, firsts(size).to(index.dtype), mode='sum',
                           per_sample_weights=weight)


def transposed_sums(rows: Tensor, index: Tensor, weight: Tensor, size: Tensor, *,
                    targets: int) -> Tensor:
    """Hand each sum's row back to the rows that it was made of: the transpose of :func:`sums`.

    Args:
        rows (Tensor): (S, C), one row a sum.
        index, weight, size: as :func:`sums` took them.
        targets (int): R, the number of rows there.

    Returns:
        Tensor: (R, C).
    """
    small = max(targets, index.numel()) <= INT32_MAX
    order = torch.argsort(index.int() if small else index, stable=True)
    term_sum = torch.repeat_interleave(size, output_size=index.numel())[order]
    return sums(rows, term_sum, weight[order], torch.bincount(index, minlength=targets))


def firsts(size: Tensor) -> Tensor:
    """Return where each group starts if groups of these sizes (S,) lie one after the other."""
    return size.cumsum(0) - size


def widened(x: Tensor) -> Tensor:
    """Return halves as float32, in which sums are made; others as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
