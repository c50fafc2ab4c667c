"""Focal losses as mmcv computes them: sigmoid and softmax, forward and backward.

Source: Lin et al., Focal Loss for Dense Object Detection, arXiv 1708.02002. Logarithms are taken of
no less than the smallest normal float32, as mmcv's kernels do.
"""
import torch
from torch import Tensor

from mmvssd.compat.mmcv_ops.weighted_rows import widened

SMALLEST = torch.finfo(torch.float32).tiny


def sigmoid_focal_loss_forward(input: Tensor, target: Tensor, weight: Tensor, output: Tensor,
                               gamma: float, alpha: float) -> None:
    """Compute each class's loss.

    Args:
        input (Tensor): (N, K) logits.
        target (Tensor): (N,) int64 classes; one outside 0 to K - 1 is background.
        weight (Tensor): (K,) factor of each target class, or empty for none.
        output (Tensor): (N, K), written.
        gamma (float): exponent.
        alpha (float): share of the positive class.
    """
    p, positive = widened(input).sigmoid(), _one_hot(target, input.shape[1])
    gain = (1 - p)**gamma * _log(p)
    loss = p**gamma * _log(1 - p)
    output.copy_(_balanced(gain, loss, positive, alpha) * _factor(weight, target)[:, None])


def sigmoid_focal_loss_backward(input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor,
                                gamma: float, alpha: float) -> None:
    """Write the derivative of each loss by its logit to ``grad_input`` (N, K)."""
    p, positive = widened(input).sigmoid(), _one_hot(target, input.shape[1])
    gain = (1 - p)**gamma * (1 - p - gamma * p * _log(p))
    loss = p**gamma * (gamma * (1 - p) * _log(1 - p) - p)
    grad_input.copy_(_balanced(gain, loss, positive, alpha) * _factor(weight, target)[:, None])


def softmax_focal_loss_forward(input: Tensor, target: Tensor, weight: Tensor, output: Tensor,
                               gamma: float, alpha: float) -> None:
    """Compute each row's loss.

    Args:
        input (Tensor): (N, K) probabilities, after softmax.
        target (Tensor): (N,) int64 classes; negative ones are ignored.
        weight (Tensor): (K,) factor of each target class, or empty for none.
        output (Tensor): (N,), written.
    """
    p = _of_target(widened(input), target)
    loss = -alpha * (1 - p)**gamma * _log(p) * _factor(weight, target)
    output.copy_(torch.where(target >= 0, loss, 0))


def softmax_focal_loss_backward(input: Tensor, target: Tensor, weight: Tensor, buff: Tensor,
                                grad_input: Tensor, gamma: float, alpha: float) -> None:
    """Write the derivatives by the logits to ``grad_input`` (N, K).

    ``input`` is the softmax; ``buff`` (N,) receives the part that a row has in common.
    """
    probability = widened(input)
    p = _of_target(probability, target)
    common = alpha * (gamma * (1 - p)**(gamma - 1) * p * _log(p) - (1 - p)**gamma)
    buff.copy_(torch.where(target >= 0, common * _factor(weight, target), 0))
    grad_input.copy_(widened(buff)[:, None] * (_one_hot(target, input.shape[1]) - probability))


def _one_hot(target, classes):
    return (target[:, None] == torch.arange(classes, device=target.device)).float()


def _of_target(probability, target):
    return probability.gather(1, target.clamp(min=0)[:, None]).squeeze(1)


def _log(p):
    return p.clamp(min=SMALLEST).log()


def _balanced(gain, loss, positive, alpha):
    return -(positive * alpha * gain + (1 - positive) * (1 - alpha) * loss)


def _factor(weight, target):
    """(N,) factor of each row's class; 1 without weights, and for a class that has none."""
    if not weight.numel():
        return torch.ones_like(target, dtype=torch.float32)
    known = (target >= 0) & (target < len(weight))
    return torch.where(known, widened(weight)[target.clamp(0, len(weight) - 1)], 1)
