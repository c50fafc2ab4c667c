"""Which part of a padded batch is image."""
from typing import Tuple

import torch
from torch import Tensor


class Padding:
    """Valid sizes of a batch whose images were padded, at the right and below, to one grid.

    Args:
        sizes: Height and width of each image in tokens of the grid, (N, 2), integers.
        grid: Height and width of the grid.

    Attributes:
        mask: (N, H, W) bool, False = padding.
    """

    def __init__(self, sizes: Tensor, grid: Tuple[int, int]) -> None:
        self.sizes = sizes
        self.grid = tuple(grid)
        rows, columns = (torch.arange(side, device=sizes.device) for side in self.grid)
        inside = [rows < sizes[:, :1], columns < sizes[:, 1:]]  # (N, H), (N, W)
        self.mask = inside[0][:, :, None] & inside[1][:, None, :]

    def clear(self, x: Tensor) -> Tensor:
        """Set padding to zero, whatever it holds: (N, C, H, W) -> (N, C, H, W).

        After this a convolution sees zeros past an image's edge, as at the border of a single
        image.
        """
        return x.masked_fill(~self.mask[:, None], 0)

    def strided(self, stride: int) -> 'Padding':
        """Sizes and grid after a convolution of that stride whose sides round up."""
        if stride == 1:
            return self
        height, width = self.grid
        return Padding((self.sizes - 1) // stride + 1,
                       ((height - 1) // stride + 1, (width - 1) // stride + 1))
