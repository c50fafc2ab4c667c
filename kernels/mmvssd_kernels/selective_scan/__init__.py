"""The selective scan of Mamba over one-dimensional sequences."""
from mmvssd_kernels.selective_scan.description import SELECTIVE_SCAN
from mmvssd_kernels.selective_scan.op import selective_scan

__all__ = ['SELECTIVE_SCAN', 'selective_scan']
