"""The ops of ``mmvssd_kernels`` as entries of :data:`mmvssd.registry.KERNELS`.

``KERNELS.get('nc_ssd')`` is the function itself. Which implementation it runs is its own matter,
see :mod:`mmvssd_kernels.dispatch`. Once PyTorch's ONNX exporter loads its translations of
operators, those of the ops join them.
"""
import importlib
import logging
from typing import Any

from mmengine.logging import print_log

from mmvssd.compat.patching import when_imported
from mmvssd.registry import KERNELS
from mmvssd_kernels import cross_merge, cross_scan, nc_ssd, selective_scan, selective_scan_2d, ssd
from mmvssd_kernels.library import exporting
from mmvssd_kernels.selective_scan_2d.export import TRANSLATION

for op in (cross_merge, cross_scan, nc_ssd, selective_scan, selective_scan_2d, ssd):
    KERNELS.register_module(name=op.__name__, module=op)


def _translate(translations: Any) -> None:
    """Add the ops' translations; in an onnxscript that has no place for them, others serve."""
    try:
        importlib.import_module(TRANSLATION)
    except (ImportError, AttributeError) as error:
        print_log(f"ONNX: onnxscript does not take the selective scan's own translation ({error});"
                  ' its exports are larger and take longer', logger='current',
                  level=logging.WARNING)


when_imported('onnxscript.function_libs.torch_lib.ops', _translate)

__all__ = ['cross_merge', 'cross_scan', 'exporting', 'nc_ssd', 'selective_scan',
           'selective_scan_2d', 'ssd']
