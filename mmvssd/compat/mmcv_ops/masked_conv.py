"""The two steps of mmcv's MaskedConv2d, which convolves only where a mask says so.

Guided anchoring uses it in inference. Source: Wang et al., arXiv 1901.03278.
"""
import torch
import torch.nn.functional as F
from torch import Tensor


def masked_im2col_forward(im: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, col: Tensor,
                          kernel_h: int, kernel_w: int, pad_h: int, pad_w: int) -> None:
    """Write what the kernel covers at M places as columns.

    Args:
        im (Tensor): (1, C, H, W).
        mask_h_idx, mask_w_idx (Tensor): (M,) int64 places.
        col (Tensor): (C * kernel_h * kernel_w, M), written.
    """
    padded = F.pad(im[0], (pad_w, pad_w, pad_h, pad_h))
    down = torch.arange(kernel_h, device=im.device)[:, None, None]
    across = torch.arange(kernel_w, device=im.device)[:, None]
    col.copy_(padded[:, mask_h_idx + down, mask_w_idx + across].view_as(col))


def masked_col2im_forward(col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor,
                          height: int, width: int, channels: int) -> None:
    """Write (C, M) columns to M places of ``im`` (1, C, H, W)."""
    im[0, :, mask_h_idx, mask_w_idx] = col
