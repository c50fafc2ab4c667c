"""Colors of classes in pictures."""
from numbers import Integral
from typing import Any, List, Tuple

import numpy as np

Color = Tuple[int, int, int]


def is_palette(palette: Any, count: int) -> bool:
    """Tell whether this is a sequence of RGB colors, 0 to 255, for so many classes or more."""
    return isinstance(palette, (list, tuple)) and len(palette) >= count and all(
        isinstance(color, (list, tuple)) and len(color) == 3
        and all(isinstance(value, Integral) and 0 <= int(value) <= 255 for value in color)
        for color in palette)


def palette_of(palette: Any, count: int) -> List[Color]:
    """Return a color for each class: the palette's if it is one, else such as drawn once."""
    if not is_palette(palette, count):
        palette = np.random.RandomState(42).randint(0, 256, (count, 3)).tolist()
    return [tuple(color) for color in palette]
