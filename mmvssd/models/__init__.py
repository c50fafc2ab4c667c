"""Models that the package adds to the hosts."""
from mmvssd.models.backbones import VSSD

__all__ = ['VSSD']
