"""Non-causal state space duality (NC-SSD), plain and normalized."""
from mmvssd_kernels.nc_ssd.op import nc_ssd

__all__ = ['nc_ssd']
