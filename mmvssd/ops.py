"""The ops of ``mmvssd_kernels`` as entries of :data:`mmvssd.registry.KERNELS`.

``KERNELS.get('nc_ssd')`` is the function itself. Which implementation it runs is its own matter,
see :mod:`mmvssd_kernels.dispatch`. Once PyTorch's ONNX exporter loads its translations of
operators, those of the ops join them.
"""
import importlib

from mmvssd.compat.patching import when_imported
from mmvssd.registry import KERNELS
from mmvssd_kernels import cross_merge, cross_scan, nc_ssd, selective_scan, selective_scan_2d, ssd
from mmvssd_kernels.library import exporting
from mmvssd_kernels.selective_scan_2d.export import TRANSLATION

for op in (cross_merge, cross_scan, nc_ssd, selective_scan, selective_scan_2d, ssd):
    KERNELS.register_module(name=op.__name__, module=op)

when_imported('onnxscript.function_libs.torch_lib.ops',
              lambda translations: importlib.import_module(TRANSLATION))

__all__ = ['cross_merge', 'cross_scan', 'exporting', 'nc_ssd', 'selective_scan',
           'selective_scan_2d', 'ssd']
