"""Orders in which a grid is turned into four sequences, and back."""
from mmvssd_kernels.cross_scan.description import CROSS_MERGE, CROSS_SCAN
from mmvssd_kernels.cross_scan.op import PATTERNS, cross_merge, cross_scan
from mmvssd_kernels.cross_scan.orders import ORDERS

__all__ = ['CROSS_MERGE', 'CROSS_SCAN', 'ORDERS', 'PATTERNS', 'cross_merge', 'cross_scan']
