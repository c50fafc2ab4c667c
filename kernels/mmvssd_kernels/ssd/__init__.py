"""Causal state space duality (SSD), Mamba-2's."""
from mmvssd_kernels.ssd.description import SSD
from mmvssd_kernels.ssd.op import ssd

__all__ = ['SSD', 'ssd']
