"""State-space ops for vision backbones, which need only PyTorch."""
from mmvssd_kernels.cross_scan import cross_merge, cross_scan
from mmvssd_kernels.nc_ssd import nc_ssd
from mmvssd_kernels.selective_scan import selective_scan
from mmvssd_kernels.selective_scan_2d import selective_scan_2d
from mmvssd_kernels.ssd import ssd

__all__ = ['cross_merge', 'cross_scan', 'nc_ssd', 'selective_scan', 'selective_scan_2d', 'ssd']
