"""Models that the package adds to the hosts."""
from mmvssd.models.backbones import VSSD, VMamba

__all__ = ['VMamba', 'VSSD']
