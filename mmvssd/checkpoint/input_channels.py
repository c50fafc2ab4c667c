"""A pretrained first convolution for images of another number of channels."""
import re
from typing import Optional, Tuple

import torch
from torch import Tensor, nn

from mmvssd.checkpoint.comparison import Mismatch

#: What the new weights are made of.
ADAPTATIONS = ('average', 'repeat', 'extend')


def first_convolution(module: nn.Module) -> str:
    """Return the name of the convolution that a module with a stem begins with."""
    return next(name for name, part in module.named_modules() if isinstance(part, nn.Conv2d))


def adapt_channels(weight: Tensor, channels: int, how: str) -> Tensor:
    """Make a convolution's weight over for another number of channels.

    Args:
        weight: The weight (C, channels of the file, h, w).
        channels: Channels of the image.
        how: One of :data:`ADAPTATIONS`. ``'average'`` gives each channel the mean of all,
            ``'repeat'`` takes the file's in turn. Both scale them, so that sums over the channels
            stay in their range. ``'extend'`` keeps the file's channels, and begins others at zero.

    Returns:
        The weight (C, ``channels``, h, w).

    Raises:
        ValueError: ``how`` is 'extend', and the file has more channels.
    """
    given = weight.shape[1]
    if how == 'extend':
        if channels < given:
            raise ValueError(f"adapt_stem: 'extend' adds channels, and in_channels is {channels}, "
                             f"the file's {given}; 'average' and 'repeat' take fewer, too")
        return torch.cat([weight, weight.new_zeros(len(weight), channels - given,
                                                   *weight.shape[2:])], dim=1)
    if how == 'average':
        return weight.mean(1, keepdim=True).repeat(1, channels, 1, 1) * (given / channels)
    return weight[:, torch.arange(channels) % given] * (given / channels)


def differing_channels(mismatch: Mismatch) -> Optional[Tuple[int, int]]:
    """Return the channels of a file's images, and of the model's, if nothing else differs."""
    if len(mismatch.shapes) != 1 or mismatch.missing or mismatch.unexpected or mismatch.unusable:
        return None
    (name, given, expected), = mismatch.shapes
    fits = (re.search(r'(^|\.)stem\.', name) and len(given) == len(expected) == 4
            and given[0] == expected[0] and given[2:] == expected[2:])
    return (given[1], expected[1]) if fits else None
