"""Backbones, found from any host as ``type='mmvssd.NAME'``."""
from mmvssd.families import import_backbones
from mmvssd.models.backbones.vmamba import VMamba
from mmvssd.models.backbones.vssd import VSSD

import_backbones()

__all__ = ['VMamba', 'VSSD']
