"""State-space ops for vision backbones, usable with PyTorch alone."""
from mmvssd_kernels.nc_ssd import nc_ssd

__all__ = ['nc_ssd']
