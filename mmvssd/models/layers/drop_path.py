"""Stochastic depth (arXiv 1603.09382)."""
from torch import Tensor, nn


class DropPath(nn.Module):
    """Drop a residual branch for whole samples in training; scale those kept to the same mean.

    Args:
        drop_prob: Probability that a sample's branch is dropped, in [0, 1).
    """

    def __init__(self, drop_prob: float = 0.0) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.drop_prob == 0:
            return x
        keep = 1 - self.drop_prob
        return x * x.new_empty(len(x), *[1] * (x.dim() - 1)).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        return f'drop_prob={self.drop_prob:.3f}'
