"""The selective scan of Mamba over one-dimensional sequences."""
from mmvssd_kernels.selective_scan.op import selective_scan

__all__ = ['selective_scan']
