"""What ``ssd`` takes and gives: the same as ``nc_ssd``."""
from mmvssd_kernels.description import describe
from mmvssd_kernels.nc_ssd.description import NC_SSD

SSD = describe(NC_SSD._replace(op='ssd'))
