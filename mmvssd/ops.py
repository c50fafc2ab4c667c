"""The ops of ``mmvssd_kernels`` as entries of :data:`mmvssd.registry.KERNELS`.

``KERNELS.get('nc_ssd')`` is the function itself. Which implementation it runs is its own matter,
see :mod:`mmvssd_kernels.dispatch`.
"""
from mmvssd.registry import KERNELS
from mmvssd_kernels import nc_ssd

KERNELS.register_module(name='nc_ssd', module=nc_ssd)

__all__ = ['nc_ssd']
