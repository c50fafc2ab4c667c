"""The rules that turn a family's published names into ours."""
from dataclasses import dataclass
from typing import Mapping, Sequence, Tuple

NOTHING = r'(?!)'  # matches no name


@dataclass(frozen=True)
class Variant:
    """Rules that hold if a published state dict is of a model with other settings.

    Attributes:
        has: Pattern of names; the variant is that of a state dict with one.
        lacks: Pattern of names; the variant is not that of a state dict with one.
        renamed: Pairs as in :class:`Rules`, which come first.
        settings: Settings of the arch that such a state dict has.
    """

    has: str
    lacks: str
    renamed: Sequence[Tuple[str, str]]
    settings: Mapping[str, str]


@dataclass(frozen=True)
class Rules:
    """Rules of one family, from its published names to those of its backbone here.

    A pattern has to match a whole name, and the first one that does counts. Published names come
    without ``module.`` and ``backbone.``; names here are those of the backbone's state dict.

    Attributes:
        renamed: (pattern of published names, replacement) pairs.
        dropped: (pattern of published names that hold nothing learnt, reason) pairs.
        linear: Pattern of weights that are a linear layer's here; a 1x1 convolution's may stand
            for them.
        pointwise: Pattern of weights that are a 1x1 convolution's here; a linear layer's may
            stand for them.
        variants: Rules of published options that no arch of its own has.
    """

    renamed: Sequence[Tuple[str, str]]
    dropped: Sequence[Tuple[str, str]] = ()
    linear: str = NOTHING
    pointwise: str = NOTHING
    variants: Sequence[Variant] = ()
