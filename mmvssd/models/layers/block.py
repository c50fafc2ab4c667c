"""VSSD's block."""
from torch import Tensor, nn

from mmvssd.models.layers.conv import GridConv2d
from mmvssd.models.layers.drop_path import DropPath
from mmvssd.models.layers.mlp import MLP


class Block(nn.Module):
    """A mixer and an MLP, each after a position convolution and inside a residual branch.

    Args:
        dim: Channels in and out.
        mixer: Module that mixes tokens, (N, H, W, C) -> (N, H, W, C).
        mlp_ratio: Hidden width of the MLP over ``dim``.
        drop_path: Probability that a sample skips a branch.
    """

    def __init__(self, dim: int, mixer: nn.Module, mlp_ratio: float = 4,
                 drop_path: float = 0.0) -> None:
        super().__init__()
        self.cpe1 = GridConv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm1 = nn.LayerNorm(dim)
        self.mixer = mixer
        self.cpe2 = GridConv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, int(mlp_ratio * dim))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, H, W, C)."""
        x = x + self.cpe1(x)
        x = x + self.drop_path(self.mixer(self.norm1(x)))
        x = x + self.cpe2(x)
        return x + self.drop_path(self.mlp(self.norm2(x)))
