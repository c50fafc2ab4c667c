"""The feed-forward half of a block."""
from torch import Tensor, nn

from mmvssd.models.layers.linear import GridLinear


class MLP(nn.Module):
    """Two linear layers with the exact GELU between them, on the last axis of (N, H, W, C).

    Args:
        dim: Channels in and out.
        hidden_dim: Channels between the two.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = GridLinear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = GridLinear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))
