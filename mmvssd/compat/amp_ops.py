"""mmcv's compiled ops under mixed precision on the CPU.

mmcv's NMS and RoIAlign read float32 memory on the CPU and raise on bfloat16, so that a detector
stops at its first step under ``--amp``. Half inputs on the CPU pass through them as float32.
RoIAlign's result has the dtype of its input again, which the hosts rely on.

Fix: retire when mmcv's NMS and RoIAlign take bfloat16 on the CPU.
"""
from typing import Optional

import torch

from mmvssd.compat import mmcv_ops
from mmvssd.compat.devices import accelerator
from mmvssd.compat.patching import when_imported, wrap_once

HALVES = (torch.bfloat16, torch.float16)


def apply() -> None:
    """Wrap the two ops if they are compiled; those of :mod:`mmvssd.compat.mmcv_ops` need it not."""
    if _own_ops():
        return
    when_imported('mmcv.ops.nms', lambda module: wrap_once(module.NMSop, 'forward', _forward))
    when_imported('mmcv.ops.roi_align', lambda module: _patch_roi_align(module.RoIAlignFunction))


def idle() -> Optional[str]:
    """Return that the ops are not mmcv's, or that there is an accelerator, or None."""
    return _own_ops() or accelerator()


def _own_ops() -> Optional[str]:
    return 'the ops of mmcv_ops take bfloat16' if mmcv_ops.idle() is None else None


def _patch_roi_align(function):
    wrap_once(function, 'forward', _forward)
    wrap_once(function, 'backward', _backward)


def _forward(original, ctx, x, *args):
    """Run on (N, ...) features or boxes; indices, which NMS gives, keep their integer dtype."""
    if not _is_cpu_half(x):
        return original(ctx, x, *args)
    y = original(ctx, x.float(), *[_widened(argument) for argument in args])
    return y.to(x.dtype) if y.is_floating_point() else y


def _backward(original, ctx, gradient):
    return original(ctx, _widened(gradient))  # autograd casts what comes back to the input's dtype


def _widened(value):
    return value.float() if isinstance(value, torch.Tensor) and _is_cpu_half(value) else value


def _is_cpu_half(tensor):
    return tensor.device.type == 'cpu' and tensor.dtype in HALVES
