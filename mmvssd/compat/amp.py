"""Mixed precision on the CPU.

MMEngine's AmpOptimWrapper asserts that there is an accelerator, though MMEngine's ``autocast``,
which it uses, runs bfloat16 on the CPU. bfloat16 has float32's range and needs no loss scaling. So
the wrapper is let through with a disabled GradScaler, which passes losses and steps on as they are.

Fix: retire when MMEngine's AmpOptimWrapper takes the CPU.
"""
from typing import Optional

import torch
from mmengine.device import get_device
from mmengine.optim import AmpOptimWrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper

from mmvssd.compat.devices import accelerator
from mmvssd.compat.patching import wrap_once


def apply() -> None:
    """Wrap the constructor of AmpOptimWrapper."""
    wrap_once(AmpOptimWrapper, '__init__', _init)


def idle() -> Optional[str]:
    """Return that there is an accelerator, or None."""
    return accelerator()


def _init(original, self, loss_scale='dynamic', dtype=None, **kwargs):
    """Construct an AmpOptimWrapper, on the CPU too.

    Raises:
        ValueError: for a dtype other than bfloat16 on the CPU, which autocast there does not take.
    """
    if get_device() != 'cpu':
        return original(self, loss_scale, dtype, **kwargs)
    if dtype not in (None, 'bfloat16', torch.bfloat16):
        raise ValueError(
            f'dtype={dtype!r} of AmpOptimWrapper does not run on the CPU: give '
            "dtype='bfloat16' there, or take OptimWrapper for float32")
    accelerator_check = amp_optimizer_wrapper.is_cuda_available
    amp_optimizer_wrapper.is_cuda_available = lambda: True
    try:
        return original(self, dict(enabled=False), 'bfloat16', **kwargs)
    finally:
        amp_optimizer_wrapper.is_cuda_available = accelerator_check
