"""Which numbers ``--amp`` computes with, and whether it scales the loss."""
from typing import Tuple

import torch
from mmengine.config import ConfigDict
from mmengine.device import get_device


def use_mixed_precision(optim_wrapper: ConfigDict) -> str:
    """Turn an optimizer wrapper's settings into those of mixed precision.

    bfloat16 reaches as far as float32 and needs no loss scaling; float16 gets a dynamic scale.
    What the settings themselves say of ``dtype`` and ``loss_scale`` stays.

    Args:
        optim_wrapper: A recipe's settings; they are changed.

    Returns:
        What was chosen and why, in a line.

    Raises:
        ValueError: The settings' ``dtype`` does not run on this device.
    """
    dtype, reason = _default_dtype()
    if optim_wrapper.get('dtype') is not None:
        dtype, reason = str(optim_wrapper.dtype).replace('torch.', ''), 'optim_wrapper.dtype'
        _check(dtype)
    scaling, why = 'off', 'bfloat16 reaches as far as float32'
    if optim_wrapper.get('loss_scale') is not None:
        scaling, why = optim_wrapper.loss_scale, 'optim_wrapper.loss_scale'
    elif dtype != 'bfloat16':
        scaling, why = 'dynamic', f'gradients may leave the range of {dtype}'
    optim_wrapper.type = 'AmpOptimWrapper'
    optim_wrapper.dtype = dtype
    optim_wrapper.loss_scale = dict(enabled=False) if scaling == 'off' else scaling
    return f'--amp: autocast to {dtype} ({reason}), loss scaling {scaling} ({why})'


def _default_dtype() -> Tuple[str, str]:
    """Return the narrow dtype of this device, and why."""
    device = get_device()
    if device == 'cpu':
        return 'bfloat16', 'the one that autocast has on the CPU'
    if device == 'cuda' and has_bfloat16():
        return 'bfloat16', 'the GPU has it'
    return 'float16', f'no bfloat16 on this {device} device'


def has_bfloat16() -> bool:
    """Return whether the GPU computes with bfloat16 itself; emulation is slower than float32."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


def _check(dtype: str) -> None:
    """Raise ValueError for a dtype that autocast does not take here."""
    device = get_device()
    if device == 'cpu' and dtype != 'bfloat16':
        raise ValueError(f'optim_wrapper.dtype is {dtype}, on the CPU only bfloat16 fits; leave '
                         'it out, and it is chosen by the device')
    if device == 'cuda' and dtype == 'bfloat16' and not torch.cuda.is_bf16_supported():
        raise ValueError('optim_wrapper.dtype is bfloat16, which this GPU does not have; float16 '
                         'fits')
