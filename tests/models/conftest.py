"""Small backbones of both families, one of each kind; a test with ``variant`` runs on all."""
from typing import NamedTuple

import pytest

from mmvssd.models import VSSD, VMamba

VSSD_NANO = dict(embed_dims=16, depths=(1, 1, 2, 1), num_heads=(2, 2, 4, 4), d_state=8)
VMAMBA_NANO = dict(embed_dims=16, depths=(1, 1, 2, 1))


class Variant(NamedTuple):
    """A family's class and a small arch.

    ``rounds_down``: the stem drops what is left of a side that its stride does not divide.
    """

    family: type
    arch: dict
    rounds_down: bool = False

    def build(self, **options):
        return self.family(self.arch, **options)


VARIANTS = {
    'arxiv': Variant(VSSD, VSSD_NANO),
    'iccv2025': Variant(VSSD, dict(VSSD_NANO, expansion=1, mlp_ratio=3, d_state=(4, 8, 12, None),
                                   normalize=True, stem='plain', downsample='plain')),
    'simple': Variant(VSSD, dict(VSSD_NANO, stem='simple', downsample='simple'), True),
    'groups': Variant(VSSD, dict(VSSD_NANO, n_groups=2, negative_decay=True)),
    'attention first': Variant(
        VSSD, dict(VSSD_NANO, mixers=('attention', 'nc_ssd', 'nc_ssd', 'nc_ssd'))),
    'causal': Variant(VSSD, dict(VSSD_NANO, mixers=('ssd', 'bi_ssd', 'nc_ssd', 'attention'))),
    'causal groups': Variant(VSSD, dict(VSSD_NANO, mixers=('bi_ssd', 'ssd', 'bi_ssd', 'ssd'),
                                        n_groups=2)),
    'v0': Variant(VMamba, dict(VMAMBA_NANO, version='v0', d_state=4), True),
    'cross': Variant(VMamba, VMAMBA_NANO),
    'unidirectional': Variant(VMamba, dict(VMAMBA_NANO, pattern='unidirectional')),
    'bidirectional': Variant(VMamba, dict(VMAMBA_NANO, pattern='bidirectional', ssm_ratio=1)),
    'cascade': Variant(VMamba, dict(VMAMBA_NANO, pattern='cascade', d_state=2)),
}


@pytest.fixture(params=VARIANTS)
def variant(request):
    """A small backbone; parametrise it with ``indirect=True`` to run on some of them."""
    return VARIANTS[request.param]


@pytest.fixture(params=[VSSD, VMamba])
def family(request):
    """Each family's class."""
    return request.param
