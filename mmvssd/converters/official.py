"""From the published files' names to a host's, as pure functions."""
import itertools
import re
from dataclasses import replace
from typing import Collection, Dict, List, Mapping, NamedTuple, Optional, Tuple

from torch import Tensor

from mmvssd.checkpoint import without_compile
from mmvssd.converters.rules import Rules, Variant
from mmvssd.families import FAMILIES
from mmvssd.phrases import numbered

#: Parts of a detector or segmentor that are the host's own and keep their names.
HOST_PARTS = r'(neck|rpn_head|roi_head|decode_head|auxiliary_head|data_preprocessor)\..+'

#: A classifier's final norm and head.
CLASSIFIER = ((r'(?:classifier\.)?norm\.(\w+)', r'backbone.norm3.\1'),
              (r'(?:classifier\.)?head\.(weight|bias)', r'head.fc.\1'))


class Conversion(NamedTuple):
    """A published state dict, converted and accounted for.

    Attributes:
        state: The converted state dict.
        taken: (published name, name here) of each entry taken.
        dropped: (published name, reason) of each entry left out on purpose.
        unknown: Published names that fit nothing, or a place that is taken.
        settings: Settings of the arch that the state dict has and no arch of its own.
    """

    state: Dict[str, Tensor]
    taken: List[Tuple[str, str]]
    dropped: List[Tuple[str, str]]
    unknown: List[str]
    settings: Dict[str, str]


def from_official(state_dict: Mapping[str, Tensor], family: str) -> Dict[str, Tensor]:
    """Rename a published state dict for a host's model.

    Args:
        state_dict: Weights of a published classifier, backbone, detector or segmentor; names
            may start with ``module.`` and ``backbone.``, and have torch.compile's ``_orig_mod.``.
        family: A name of :data:`mmvssd.families.FAMILIES`, such as 'vssd'.

    Returns:
        The weights as ``backbone.*``, a classifier's head as ``head.fc.*`` and its final norm as
        ``backbone.norm3``. The host's own parts of a detector or segmentor keep their names.

    Raises:
        ValueError: An unknown family, or names that don't belong to it (all are listed).
    """
    conversion = convert(state_dict, family)
    if conversion.unknown:
        raise ValueError(numbered(f'{{}} name[s] [is|are] not of the {family} family: ',
                                  len(conversion.unknown)) + ', '.join(conversion.unknown))
    return conversion.state


def convert(state_dict: Mapping[str, Tensor], family: str) -> Conversion:
    """Like :func:`from_official`, but reports unknown names instead of raising."""
    rules = rules_of(family)
    _check_state(state_dict)
    names = {published: re.sub(r'^(module\.)?(backbone\.)?', '', without_compile(published))
             for published in state_dict}
    variants = [variant for variant in rules.variants if _is_of(variant, names.values())]
    rules = replace(rules, renamed=[*itertools.chain.from_iterable(
        variant.renamed for variant in variants), *rules.renamed])
    result = Conversion({}, [], [], [], {name: value for variant in variants
                                         for name, value in variant.settings.items()})
    for published, value in state_dict.items():
        name = names[published]
        reason = next((why for pattern, why in rules.dropped if re.fullmatch(pattern, name)), None)
        ours = _rename(rules, name)
        if reason:
            result.dropped.append((published, reason))
        elif ours is None or ours in result.state:  # two for one place: neither is known
            result.unknown.append(published)
        else:
            result.taken.append((published, ours))
            result.state[ours] = _reshape(rules, ours, value)
    return result


def _check_state(state_dict: Mapping[str, Tensor]) -> None:
    if not isinstance(state_dict, Mapping):
        raise ValueError(f'state_dict: got {type(state_dict).__name__}, expected names and their '
                         'tensors')
    for name, value in state_dict.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f'state_dict: got {name!r} with {type(value).__name__}, expected a '
                             'name with its tensor')


def rules_of(family: str) -> Rules:
    """The rules of a family; ValueError if it is unknown or has no published checkpoints."""
    known = isinstance(family, str) and family in FAMILIES
    rules = FAMILIES[family].rules if known else None
    if rules is None:
        names = [name for name, row in FAMILIES.items() if row.rules_path]
        raise ValueError(f'family: unknown name {family!r}; known: {", ".join(names)}')
    return rules


def _is_of(variant: Variant, names: Collection[str]) -> bool:
    return (any(re.fullmatch(variant.has, name) for name in names)
            and not any(re.fullmatch(variant.lacks, name) for name in names))


def _rename(rules: Rules, name: str) -> Optional[str]:
    if re.fullmatch(HOST_PARTS, name):
        return name
    for table, prefix in ((CLASSIFIER, ''), (rules.renamed, 'backbone.')):
        for pattern, ours in table:
            match = re.fullmatch(pattern, name)
            if match:
                return prefix + match.expand(ours)
    return None


def _reshape(rules: Rules, ours: str, value: Tensor) -> Tensor:
    """Turn a 1x1 convolution's weight into a linear layer's, or back, as the model wants it."""
    if re.fullmatch(rules.linear, ours) or ours == 'head.fc.weight':
        return value.flatten(1) if value.dim() == 4 and value.shape[2:] == (1, 1) else value
    if re.fullmatch(rules.pointwise, ours.replace('backbone.', '', 1)) and value.dim() == 2:
        return value[..., None, None]
    return value
