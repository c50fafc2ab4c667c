"""Backbones, found from any host as ``type='mmvssd.NAME'``."""
from mmvssd.models.backbones.vmamba import VMamba
from mmvssd.models.backbones.vssd import VSSD

__all__ = ['VMamba', 'VSSD']
