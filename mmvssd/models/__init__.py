"""Models that the package adds to the hosts."""
from mmvssd.models.backbones import VSSD, VMamba
from mmvssd.models.classifiers import mesa_classifier

__all__ = ['VMamba', 'VSSD', 'mesa_classifier']
