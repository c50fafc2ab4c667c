"""The families of backbones, a row each.

The converters, the doctor, the throughput table and the tests read this table. It imports no
model: a row holds import paths, which are followed when a model or its rules are asked for.

A package of its own adds a row by :func:`register_family`. If it declares the module that does so
as an entry point of the group ``mmvssd.families``, every command sees the row.
"""
import importlib
import importlib.metadata
import logging
import pkgutil
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Dict, Iterator, Mapping, Optional, Tuple, Type

from mmengine.logging import print_log

if TYPE_CHECKING:
    from mmvssd.converters.rules import Rules
    from mmvssd.models.backbones.base import BaseBackbone


@dataclass(frozen=True)
class Family:
    """A family of backbones.

    Attributes:
        name: Name in recipes, checkpoints and on command lines: lower-case letters and digits.
        backbone_path: The backbone, 'package.module:Class'. The class derives from
            :class:`~mmvssd.models.backbones.base.BaseBackbone` and is registered in
            ``mmvssd.registry.MODELS``.
        rules_path: The converter's :class:`~mmvssd.converters.rules.Rules`, 'package.module:NAME';
            None for a family without published checkpoints.
        nano: A small ``arch`` of four stages, whose first has a width of 16. The tests of all
            backbones run on it, in seconds.
    """

    name: str
    backbone_path: str
    rules_path: Optional[str]
    nano: Mapping[str, Any]

    @property
    def backbone(self) -> Type['BaseBackbone']:
        """The backbone's class; ImportError if its path leads nowhere."""
        return self._follow(self.backbone_path)

    @property
    def rules(self) -> Optional['Rules']:
        """The converter's rules; ImportError if their path leads nowhere."""
        return self._follow(self.rules_path) if self.rules_path else None

    @property
    def type(self) -> str:
        """What a config names from any host, such as 'mmvssd.VSSD'."""
        return f'mmvssd.{self.backbone_path.rpartition(":")[2]}'

    def _follow(self, path: str) -> Any:
        try:
            return pkgutil.resolve_name(path)
        except (ImportError, AttributeError) as error:
            raise ImportError(f'family {self.name}: {path} leads nowhere ({error})') from error


#: Every family by its name.
FAMILIES: Dict[str, Family] = {}


def register_family(family: Family) -> None:
    """Add a row in this process; a row that is there already is left as it is.

    Raises:
        ValueError: The name or a path is malformed, or another family has that name.
    """
    # a recipe's name is cut at '_', and then its model's at the first '-'
    if not re.fullmatch('[a-z][a-z0-9]*', family.name):
        raise ValueError(f'family: got the name {family.name!r}, expected lower-case letters and '
                         'digits, a letter first')
    for path in (family.backbone_path, family.rules_path):
        if path is not None and not re.fullmatch(r'[\w.]+:\w+', path):
            raise ValueError(f"family {family.name}: got the path {path!r}, expected "
                             "'package.module:Name'")
    if FAMILIES.get(family.name, family) != family:
        raise ValueError(f'family {family.name}: the name is taken by '
                         f'{FAMILIES[family.name].backbone_path}; choose another one')
    FAMILIES[family.name] = family


def every_arch() -> Iterator[Tuple[Family, str]]:
    """Return every family with each of its archs, in the order of the table."""
    return ((family, arch) for family in FAMILIES.values() for arch in family.backbone.archs)


def import_backbones() -> None:
    """Import each family's backbone, which registers it."""
    for family in FAMILIES.values():
        importlib.import_module(family.backbone_path.partition(':')[0])


def import_plugins() -> None:
    """Import what installed packages declare as ``mmvssd.families``; each registers its rows.

    A package that cannot be imported is left out with a warning.
    """
    for entry in importlib.metadata.entry_points(group='mmvssd.families'):
        try:
            importlib.import_module(entry.value)
        except ImportError as error:
            print_log(f'{entry.value}, an entry point of mmvssd.families, is left out: {error}',
                      logger='current', level=logging.WARNING)


register_family(Family(
    'vssd', 'mmvssd.models.backbones.vssd:VSSD', 'mmvssd.converters.vssd:RULES',
    nano=dict(embed_dims=16, depths=(1, 1, 2, 1), num_heads=(2, 2, 4, 4), d_state=8)))
register_family(Family(
    'vmamba', 'mmvssd.models.backbones.vmamba:VMamba', 'mmvssd.converters.vmamba:RULES',
    nano=dict(embed_dims=16, depths=(1, 1, 2, 1))))
import_plugins()
