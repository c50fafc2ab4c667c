"""The mask of PSANet: weights around each pixel, laid out over the whole picture.

A pixel has a weight for every pixel of a window around it. Laid out, it has one for every pixel of
the picture: those in its window, 0 elsewhere. Source: Zhao et al., PSANet, ECCV 2018.
"""
import torch
from torch import Tensor

COLLECT, DISTRIBUTE = 0, 1


def psamask_forward(input: Tensor, output: Tensor, psa_type: int, num_: int, h_feature: int,
                    w_feature: int, h_mask: int, w_mask: int, half_h_mask: int,
                    half_w_mask: int) -> None:
    """Lay weights out.

    Args:
        input (Tensor): (N, h_mask * w_mask, H, W) weights of each pixel's window.
        output (Tensor): (N, H * W, H, W), zeros, written.
        psa_type (int): 0, "collect": channels are the pixels that the weights are for; 1,
            "distribute": channels are the pixels that have the window.
        num_, h_feature, w_feature: as the shapes say.
        half_h_mask, half_w_mask (int): where in its window a pixel is.
    """
    place = _places(input, h_mask, w_mask, half_h_mask, half_w_mask)
    pixels = h_feature * w_feature
    # a row more takes what is beyond the picture
    laid_out = input.new_zeros(len(input), pixels + 1, pixels)
    laid_out.scatter_(1, place.expand(len(input), -1, -1), input.flatten(2))
    laid_out = laid_out[:, :pixels]
    output.copy_((laid_out if psa_type == COLLECT else laid_out.mT).reshape(output.shape))


def psamask_backward(grad_output: Tensor, grad_input: Tensor, psa_type: int, num_: int,
                     h_feature: int, w_feature: int, h_mask: int, w_mask: int, half_h_mask: int,
                     half_w_mask: int) -> None:
    """Add the gradient of :func:`psamask_forward` to ``grad_input``."""
    place = _places(grad_input, h_mask, w_mask, half_h_mask, half_w_mask)
    gradient = grad_output.flatten(2)
    gradient = gradient if psa_type == COLLECT else gradient.mT
    padded = torch.cat([gradient, torch.zeros_like(gradient[:, :1])], 1)
    grad_input += padded.gather(1, place.expand(len(gradient), -1, -1)).view_as(grad_input)


def _places(weights, h_mask, w_mask, half_h_mask, half_w_mask):
    """Return which pixel each weight is for, H * W for none: (h_mask * w_mask, H * W)"""
    height, width = weights.shape[2:]

    def axis(side, mask, half):
        return torch.arange(mask, device=weights.device)[:, None] - half \
            + torch.arange(side, device=weights.device)

    y = axis(height, h_mask, half_h_mask)[:, None, :, None]
    x = axis(width, w_mask, half_w_mask)[None, :, None, :]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return torch.where(inside, y * width + x, height * width).view(h_mask * w_mask, -1)
