"""The selective scan of four sequences over one grid, from low-rank step sizes to their sum."""
from mmvssd_kernels.selective_scan_2d.description import SELECTIVE_SCAN_2D
from mmvssd_kernels.selective_scan_2d.op import selective_scan_2d

__all__ = ['SELECTIVE_SCAN_2D', 'selective_scan_2d']
