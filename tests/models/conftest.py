"""Small backbones: the nano arch of every family, and of ours one with each kind of layer.

A test with ``variant`` runs on all of them, one with ``version`` on the published versions, one
with ``nano`` on one of each family.
"""
from typing import NamedTuple

import pytest

from mmvssd.families import FAMILIES, Family

#: Stems that drop what is left of a side that their stride does not divide.
ROUNDING_DOWN = ('patch', 'simple')


class Variant(NamedTuple):
    """A family and a small arch of it."""

    family: Family
    arch: dict

    def build(self, **options):
        return self.family.backbone(self.arch, **options)

    @property
    def rounds_down(self):
        """Whether the stem drops what is left of a side that its stride does not divide."""
        return self.family.backbone.arch_type(**self.arch).stem in ROUNDING_DOWN


def change(family, **settings):
    """The nano arch of a family with other settings."""
    return Variant(FAMILIES[family], dict(FAMILIES[family].nano, **settings))


NANO = {name: Variant(family, family.nano) for name, family in FAMILIES.items()}
VARIANTS = {
    **NANO,
    'iccv2025': change('vssd', expansion=1, mlp_ratio=3, d_state=(4, 8, 12, None), normalize=True,
                       stem='plain', downsample='plain'),
    'simple': change('vssd', stem='simple', downsample='simple'),
    'groups': change('vssd', n_groups=2, negative_decay=True),
    'attention first': change('vssd', mixers=('attention', 'nc_ssd', 'nc_ssd', 'nc_ssd')),
    'causal': change('vssd', mixers=('ssd', 'bi_ssd', 'nc_ssd', 'attention')),
    'causal groups': change('vssd', mixers=('bi_ssd', 'ssd', 'bi_ssd', 'ssd'), n_groups=2),
    'v0': change('vmamba', version='v0', d_state=4),
    'unidirectional': change('vmamba', pattern='unidirectional'),
    'bidirectional': change('vmamba', pattern='bidirectional', ssm_ratio=1),
    'cascade': change('vmamba', pattern='cascade', d_state=2),
    'no conv': change('vmamba', conv=False, gated=True, d_state=4),
    'mixed versions': change('vmamba', version='v0', mlp_ratio=2, stem='simple', conv_bias=False,
                             downsample='norm', gated=False),
}
#: The nano archs, and those of the other published versions.
VERSIONS = [*NANO, 'iccv2025', 'v0']


@pytest.fixture(params=VARIANTS)
def variant(request):
    """A small backbone; parametrise it with ``indirect=True`` to run on some of them."""
    return VARIANTS[request.param]


@pytest.fixture(params=VERSIONS)
def version(request):
    """A small backbone of each published version."""
    return VARIANTS[request.param]


@pytest.fixture(params=NANO)
def nano(request):
    """A small backbone of each family."""
    return NANO[request.param]


@pytest.fixture(params=FAMILIES)
def family(request):
    """Each family's class."""
    return FAMILIES[request.param].backbone
