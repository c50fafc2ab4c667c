"""Non-causal state space duality (NC-SSD), plain and normalized."""
from mmvssd_kernels.nc_ssd.description import NC_SSD
from mmvssd_kernels.nc_ssd.op import nc_ssd

__all__ = ['NC_SSD', 'nc_ssd']
