"""Backbones, found from any host as ``type='mmvssd.NAME'``."""
from mmvssd.models.backbones.vmamba import VMamba
from mmvssd.models.backbones.vssd import VSSD

#: By the names that converters give them.
FAMILIES = {'vssd': VSSD, 'vmamba': VMamba}

__all__ = ['FAMILIES', 'VMamba', 'VSSD']
