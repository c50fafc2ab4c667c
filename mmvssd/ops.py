"""The ops of ``mmvssd_kernels`` as entries of :data:`mmvssd.registry.KERNELS`.

``KERNELS.get('nc_ssd')`` is the function itself. Which implementation it runs is its own matter,
see :mod:`mmvssd_kernels.dispatch`.
"""
from mmvssd.registry import KERNELS
from mmvssd_kernels import cross_merge, cross_scan, nc_ssd, selective_scan, selective_scan_2d, ssd

for op in (cross_merge, cross_scan, nc_ssd, selective_scan, selective_scan_2d, ssd):
    KERNELS.register_module(name=op.__name__, module=op)

__all__ = ['cross_merge', 'cross_scan', 'nc_ssd', 'selective_scan', 'selective_scan_2d', 'ssd']
