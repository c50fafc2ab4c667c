"""Compare weights with a model's own: names, shapes and kinds of values."""
from typing import Any, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from mmvssd.errors import printable
from mmvssd.phrases import counted, numbered, some


class Mismatch(NamedTuple):
    """Differences of a state dict from a model's."""

    missing: List[str]
    unexpected: List[str]
    shapes: List[Tuple[str, tuple, tuple]]  # name, given, expected
    unusable: Sequence[Tuple[str, str]] = ()  # name, what is wrong with the values


def compare(given: Mapping[str, Any], expected: Mapping[str, Tensor]) -> Mismatch:
    """List the names, shapes and kinds of values in which ``given`` differs from ``expected``.

    What is given beside the weights and is no tensor, such as a count of epochs, is passed over.
    """
    typed = [name for name in given if isinstance(expected.get(name), Tensor)]
    common = [name for name in typed if isinstance(given[name], Tensor)]
    others = [name for name in typed if not isinstance(given[name], Tensor)]
    fitting = [name for name in common if given[name].shape == expected[name].shape]
    wrong = [(name, _type_of(given[name])) for name in others]
    wrong += [(name, fault) for name in fitting
              if (fault := _what_is_wrong(given[name], expected[name]))]
    return Mismatch(
        missing=[name for name in expected if name not in given],
        unexpected=[name for name, value in given.items()
                    if name not in expected and isinstance(value, Tensor)],
        shapes=[(name, tuple(given[name].shape), tuple(expected[name].shape))
                for name in common if name not in fitting],
        unusable=[(name, what) for name, what in wrong if what])


def _type_of(value: Any) -> str:
    kind = 'None' if value is None else f'of type {type(value).__name__}'
    return f'{kind}, expected a tensor'


def _what_is_wrong(given: Tensor, expected: Tensor) -> Optional[str]:
    """Say why values cannot stand for a model's own of the same shape; None if they can."""
    if given.is_meta and not expected.is_meta:
        return 'a shape without values (of the meta device)'
    if given.layout is not torch.strided:
        return f'a sparse tensor ({given.layout})'
    if given.is_quantized and not expected.is_quantized:
        return f'quantized ({given.dtype})'
    if given.is_complex() and not expected.is_complex():
        return f'complex numbers ({given.dtype})'
    if given.dtype != expected.dtype and _is_packed(given.dtype):
        return f'packed numbers ({given.dtype}), which PyTorch converts to no other kind'
    if expected.is_floating_point() and not given.is_floating_point():
        kind = 'truth values' if given.dtype == torch.bool else 'whole numbers'
        return f'{kind} ({given.dtype}), expected {expected.dtype}'
    given, expected = _computable(given), _computable(expected)
    if _is_finite(given) or (_is_infinite_by_design(given) and not _is_finite(expected)):
        return None
    return numbered(f'{{}} of {counted(given.numel(), "value")} [is|are] not finite',
                    int((~torch.isfinite(given)).sum()))


def _is_packed(dtype: torch.dtype) -> bool:
    """Tell a kind of several numbers, or of bits, in a byte: it can be kept, but not converted."""
    if dtype.is_complex:
        return False
    try:
        torch.empty(1, dtype=dtype).to(torch.float32)
    except RuntimeError:  # torch is asked: it has other kinds in each version
        return True
    return False


def _computable(value: Tensor) -> Tensor:
    """Widen numbers of 8 bits, which PyTorch keeps but does not compute with."""
    narrow = value.is_floating_point() and value.dtype.itemsize == 1
    return value.float() if narrow and not _is_packed(value.dtype) else value


def _is_finite(value: Tensor) -> bool:
    if value.is_meta or not (value.is_floating_point() or value.is_complex()):
        return True
    if _is_packed(value.dtype):
        return True  # their 4 bits have no place for an infinity
    return bool(torch.isfinite(value).all())


def _is_infinite_by_design(value: Tensor) -> bool:
    """Tell a mask of zeros and infinities, or a limit that is not set, from broken weights.

    A model that has loaded its weights is as broken as they are, so it cannot tell.
    """
    finite = value[torch.isfinite(value)]
    is_mask = len(finite) > 0 and not finite.any()
    return not value.isnan().any() and (is_mask or value.numel() == 1)


def describe(mismatch: Mismatch) -> str:
    """Say in a few lines what differs."""
    shapes = [f'{name}: {given}, expected {expected}' for name, given, expected in mismatch.shapes]
    unusable = [f'{name}: {what}' for name, what in mismatch.unusable]
    parts = [('missing', mismatch.missing), ('unknown', mismatch.unexpected),
             ('of another shape', shapes), ('unusable', unusable)]
    return '\n  '.join(f'{len(names)} {kind}: {printable(some(names, "; "))}'
                       for kind, names in parts if names)
