"""The block of both families."""
from typing import Optional

from torch import Tensor, nn

from mmvssd.models.layers.conv import PositionConv
from mmvssd.models.layers.drop_path import DropPath
from mmvssd.models.layers.mlp import MLP
from mmvssd.models.layers.padding import Padding


class Block(nn.Module):
    """A mixer and an MLP, each inside a residual branch.

    Args:
        dim: Channels in and out.
        mixer: Module that mixes tokens, (N, H, W, C) and a padding or None -> (N, H, W, C).
        mlp_ratio: Hidden width of the MLP over ``dim``; 0 for a block without MLP.
        drop_path: Probability that a sample skips a branch.
        position_convs: Whether a position convolution stands before each branch.
    """

    def __init__(self, dim: int, mixer: nn.Module, mlp_ratio: float = 4, drop_path: float = 0.0,
                 position_convs: bool = False) -> None:
        super().__init__()
        self.cpe1 = PositionConv(dim) if position_convs else None
        self.norm1 = nn.LayerNorm(dim)
        self.mixer = mixer
        self.drop_path = DropPath(drop_path)
        self.mlp = None
        if mlp_ratio:
            self.cpe2 = PositionConv(dim) if position_convs else None
            self.norm2 = nn.LayerNorm(dim)
            self.mlp = MLP(dim, int(mlp_ratio * dim))

    def forward(self, x: Tensor, padding: Optional[Padding] = None) -> Tensor:
        """(N, H, W, C) -> (N, H, W, C); no token sees padding."""
        if self.cpe1 is not None:
            x = self.cpe1(x, padding)
        x = x + self.drop_path(self.mixer(self.norm1(x), padding))
        if self.mlp is None:
            return x
        if self.cpe2 is not None:
            x = self.cpe2(x, padding)
        return x + self.drop_path(self.mlp(self.norm2(x)))
