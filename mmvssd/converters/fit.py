"""Find the family and arch of a published state dict from its names and shapes."""
import functools
import logging
import re
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Type

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmvssd.checkpoint import Mismatch, compare
from mmvssd.converters.official import Conversion, convert, rules_of
from mmvssd.families import FAMILIES
from mmvssd.models.backbones.base import BaseBackbone


class Fit(NamedTuple):
    """The comparison of a published state dict with an arch.

    Attributes:
        family: A name of :data:`mmvssd.families.FAMILIES`.
        arch: Name of the arch.
        conversion: The state dict under this family's names.
        fresh: Entries that the state dict lacks and that may keep their first values. These are
            norms of outputs: a classifier has only the last one, and a plain backbone may have
            none.
        mismatch: All else in which it differs from the arch.
        twins: Other archs of the family with the same names and shapes: no file tells them apart.
    """

    family: str
    arch: str
    conversion: Conversion
    fresh: List[str]
    mismatch: Mismatch
    twins: List[str]

    @property
    def strange(self) -> int:
        """Number of entries of the state dict that have no place in this arch."""
        return len(self.conversion.unknown) + len(self.mismatch.unexpected)

    @property
    def differences(self) -> int:
        """Number of entries that are unknown, missing, superfluous or of another shape."""
        return len(self.conversion.unknown) + sum(len(names) for names in self.mismatch)


def candidates(family: Optional[str] = None, arch: Optional[str] = None) -> List[Tuple[str, str]]:
    """List what a choice leaves open as (family, arch); None leaves all open.

    A family that cannot be imported is left out with a warning, unless it is the choice.

    Raises:
        ValueError: A family or arch that is not known, or a family without published checkpoints.
        ImportError: The chosen family cannot be imported.
    """
    if family is not None:
        rules_of(family)
        known = [(family, name) for name in FAMILIES[family].backbone.archs]
    else:
        known = list(_every_published_arch())
    chosen = [pair for pair in known if arch in (None, pair[1])]
    if not chosen:
        raise ValueError(f'arch: unknown name {arch!r}; known: {_listed(known)}')
    return chosen


def _every_published_arch() -> Iterator[Tuple[str, str]]:
    for name, family in FAMILIES.items():
        try:
            published = family.rules is not None
            archs = family.backbone.archs
        except ImportError as error:
            print_log(f'{error}; its checkpoints are not looked for', logger='current',
                      level=logging.WARNING)
            continue
        if published:
            yield from ((name, arch) for arch in archs)


def closest_fit(state_dict: Mapping[str, Tensor], among: Sequence[Tuple[str, str]]) -> Fit:
    """Find the arch from which a published state dict differs least.

    Of families, the one that has a place for most of the entries.

    Args:
        state_dict: As in :func:`mmvssd.converters.from_official`.
        among: What to compare it with, see :func:`candidates`.

    Raises:
        ValueError: None of its names is of a backbone of these families.
    """
    conversions = {family: convert(state_dict, family) for family, _ in among}
    conversions = {family: conversion for family, conversion in conversions.items()
                   if any(re.match(r'backbone\.(?!norm\d)', ours) for ours in conversion.state)}
    if not conversions:
        raise ValueError(f'holds no published backbone, its names: {", ".join(state_dict)[:100]}; '
                         f'what fits: {_listed(among)}')
    fits = [_fit(conversions[family], family, arch) for family, arch in among
            if family in conversions]
    fewest = min(fit.strange for fit in fits)
    nearest = {fit.family for fit in fits if fit.strange == fewest}
    best = min((fit for fit in fits if fit.family in nearest), key=lambda fit: fit.differences)
    twins = [fit.arch for fit in fits if fit is not best and fit.family == best.family
             and (fit.fresh, fit.mismatch) == (best.fresh, best.mismatch)]
    return best._replace(twins=twins)


def _listed(pairs: Sequence[Tuple[str, str]]) -> str:
    """List archs by family: "micro, tiny (vssd); v0-tiny (vmamba)"."""
    families = dict.fromkeys(family for family, _ in pairs)
    return '; '.join(f'{", ".join(arch for name, arch in pairs if name == family)} ({family})'
                     for family in families)


def _fit(conversion: Conversion, family: str, arch: str) -> Fit:
    state = conversion.state
    ours = {name: value for name, value in state.items()
            if name.startswith(('backbone.', 'head.fc.'))}
    mismatch = compare(ours, _expected(family, arch, conversion))
    fresh = [name for name in mismatch.missing if re.match(r'backbone\.norm\d\.', name)
             and not (_is_classifier(state) and name.startswith('backbone.norm3.'))]
    missing = [name for name in mismatch.missing if name not in fresh]
    return Fit(family, arch, conversion, fresh, mismatch._replace(missing=missing), [])


def _is_classifier(state: Mapping[str, Tensor]) -> bool:
    return any(name.startswith('head.fc.') for name in state)


def _expected(family: str, arch: str, conversion: Conversion) -> Dict[str, Tensor]:
    """Names and shapes of a model of this arch; of a classifier if the weights are one's."""
    state = conversion.state
    backbone: Any = FAMILIES[family].backbone  # a class, which mypy takes for unhashable
    width, expected = _backbone_of(backbone, arch,
                                   tuple(conversion.settings.items()))
    expected = {f'backbone.{name}': value for name, value in expected.items()}
    if _is_classifier(state):
        classes = max(len(value) for name, value in state.items()
                      if name.startswith('head.fc.') and value.dim())
        expected['head.fc.weight'] = torch.empty(classes, width, device='meta')
        expected['head.fc.bias'] = torch.empty(classes, device='meta')
    return expected


@functools.cache
def _backbone_of(backbone: Type[BaseBackbone], arch: str, settings: tuple
                 ) -> Tuple[int, Dict[str, Tensor]]:
    """Width of the last output, and names and shapes of the state dict; nothing is drawn."""
    with torch.device('meta'):
        model = backbone(dict(vars(backbone.archs[arch]), **dict(settings)) if settings else arch)
    return model.dims[-1], model.state_dict()
