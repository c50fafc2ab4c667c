"""Vision state-space backbones and their kernels for the OpenMMLab hosts."""
from mmvssd import compat
from mmvssd.version import __version__

compat.apply_all()

__all__ = ['__version__']
