"""Checks of an op's arguments: one error that names the argument, what was given and what fits."""
import difflib
from typing import Any, Optional, Sequence, Union

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_tensor(name: str, tensor: Tensor, shape: Sequence[Union[int, str]], *,
                 dtypes: Sequence[torch.dtype] = FLOATS,
                 device: Optional[torch.device] = None) -> None:
    """Raise ValueError unless ``tensor`` has the shape, one of the dtypes, and the device.

    Args:
        name: The argument's name.
        tensor: What was given.
        shape: An integer for a size that is known, a letter for one that is free.
        dtypes: The dtypes that fit.
        device: The device that fits; None allows any.
    """
    if not isinstance(tensor, Tensor):
        raise ValueError(f'{name}: got {type(tensor).__name__}, expected a tensor {_text(shape)}')
    fits = tensor.dim() == len(shape) and all(
        isinstance(size, str) or size == given for size, given in zip(shape, tensor.shape))
    if not fits:
        raise ValueError(f'{name}: got shape {tuple(tensor.shape)}, expected {_text(shape)}')
    if tensor.dtype not in dtypes:
        raise ValueError(f'{name}: got dtype {tensor.dtype}, '
                         f'expected one of {", ".join(map(str, dtypes))}')
    if device is not None and tensor.device != device:
        raise ValueError(f'{name}: got device {tensor.device}, expected {device} as the others')


def check_optional(name: str, tensor: Optional[Tensor], shape: Sequence[Union[int, str]],
                   device: torch.device) -> None:
    """Raise ValueError unless ``tensor`` is None or one that :func:`check_tensor` lets pass."""
    if tensor is not None:
        check_tensor(name, tensor, shape, device=device)


def check_mask(mask: Optional[Tensor], shape: Sequence[int], device: torch.device) -> None:
    """Raise ValueError unless ``mask`` is None, or bool with that shape and device."""
    if mask is not None:
        check_tensor('mask', mask, shape, dtypes=(torch.bool,), device=device)


def check_duality(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Optional[Tensor],
                  mask: Optional[Tensor]) -> None:
    """Raise ValueError unless these are arguments of ``nc_ssd``, and thus of ``ssd``."""
    check_tensor('x', x, ('N', 'L', 'h', 'P'))
    N, L, h, _ = x.shape
    check_tensor('dt', dt, (N, L, h), device=x.device)
    check_tensor('A', A, (h,), device=x.device)
    check_tensor('B', B, (N, L, 'G', 'S'), device=x.device)
    check_tensor('C', C, tuple(B.shape), device=x.device)
    check_optional('D', D, (h,), x.device)
    check_mask(mask, (N, L), x.device)
    check_groups(B.shape[2], h, 'heads of x')


def check_groups(groups: int, members: int, what: str) -> None:
    """Raise ValueError unless ``groups`` of B and C share out that many heads or channels.

    The published models number members in two ways. ``nc_ssd``: head j reads group j % G, as in
    VSSD. ``ssd`` and ``selective_scan``: member j of m reads group j // (m / G), as in Mamba.
    """
    if groups == 0 or members % groups:
        raise ValueError(f'B: got {groups} groups, expected a number that divides the {members} '
                         f'{what}')


def check_grid(grid: Sequence[int], L: int, of: str) -> None:
    """Raise ValueError unless ``grid`` is (H, W) with H * W = L, the number of tokens in ``of``."""
    sides = tuple(grid) if isinstance(grid, (tuple, list, torch.Size)) else ()
    if (len(sides) != 2 or not all(map(_is_integer, sides)) or any(side < 0 for side in sides)
            or sides[0] * sides[1] != L):
        raise ValueError(f'grid: got {grid}, expected (H, W) with H * W = {L}, '
                         f'the number of tokens in {of}')


def check_flag(name: str, value: bool) -> None:
    """Raise ValueError unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f'{name}: got {value!r}, expected True or False')


def check_positive(name: str, value: int) -> None:
    """Raise ValueError unless ``value`` is an integer of 1 or more."""
    if not _is_integer(value) or value < 1:
        raise ValueError(f'{name}: got {value!r}, expected a positive integer')


def _is_integer(value: Any) -> bool:
    # NumPy's integers, and sizes that a tracer left open, have types of their own; torch.compile
    # takes the latter for int and knows no hasattr of them
    return (isinstance(value, int) or hasattr(value, '__index__')) and not isinstance(value, bool)


def check_choice(name: str, value: str, known: Sequence[str]) -> None:
    """Raise ValueError unless ``value`` is one of ``known``.

    ``mmvssd`` has one of its own for settings of models. Who uses only the ops does not have it.
    """
    if value not in known:
        close = difflib.get_close_matches(str(value), known, n=1)
        raise ValueError(f'{name}: unknown name {value!r}; known: {", ".join(known)}'
                         + (f'; did you mean {close[0]!r}?' if close else ''))


def _text(shape: Sequence[Union[int, str]]) -> str:
    # only where a check failed: a size that torch.compile left open has no text
    return '(' + ', '.join(map(str, shape)) + (',)' if len(shape) == 1 else ')')
