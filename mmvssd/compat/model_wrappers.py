"""A Runner's model in many processes on the CPU.

MMEngine's Runner gives DistributedDataParallel a ``device_ids``, and PyTorch's SyncBatchNorm
refuses CPU tensors. Both are wrong without an accelerator. The wrappers decide when they are
called: if MMEngine has a device other than the CPU, they only pass the call on.

Fix: retire when MMEngine's Runner trains in many processes on the CPU.
"""
import copy
from typing import Optional

from mmengine.device import get_device
from mmengine.model import is_model_wrapper, revert_sync_batchnorm
from mmengine.registry import MODEL_WRAPPERS
from mmengine.runner import runner as runners
from torch.nn.parallel import DistributedDataParallel

from mmvssd.compat.devices import accelerator
from mmvssd.compat.distributed import warn
from mmvssd.compat.patching import wrap_once


def apply() -> None:
    """Wrap what the Runner does with a model in many processes."""
    wrap_once(runners.Runner, 'wrap_model', _wrap_model)
    wrap_once(runners, 'convert_sync_batchnorm', _convert_sync_batchnorm)


def idle() -> Optional[str]:
    """Return that there is an accelerator, or None."""
    return accelerator()


def _wrap_model(original, runner, model_wrapper_cfg, model):
    """Wrap the model as the Runner does; on the CPU with ``device_ids=None`` and no SyncBN."""
    if get_device() != 'cpu' or not runner.distributed or is_model_wrapper(model):
        return original(runner, model_wrapper_cfg, model)
    if any('SyncBatchNorm' in type(module).__name__ for module in model.modules()):
        warn('SyncBatchNorm needs an accelerator: it is reverted to BatchNorm, so each process '
             'takes the statistics of its own images only.')
        model = revert_sync_batchnorm(model)
    return original(runner, _cpu_wrapper_cfg(runner, model_wrapper_cfg), model)


def _cpu_wrapper_cfg(runner, model_wrapper_cfg):
    """Return the config's wrapper, or the Runner's own, without devices if it names none."""
    if model_wrapper_cfg is None:
        return dict(
            type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False,
            find_unused_parameters=runner.cfg.get('find_unused_parameters', False))
    cfg = copy.copy(model_wrapper_cfg)
    cfg.setdefault('type', 'MMDistributedDataParallel')
    wrapper = MODEL_WRAPPERS.get(cfg['type'])
    if wrapper is not None and issubclass(wrapper, DistributedDataParallel):
        cfg.setdefault('device_ids', None)
    return cfg


def _convert_sync_batchnorm(original, model, implementation='torch'):
    """Convert BatchNorm to SyncBN as a config's ``sync_bn`` asks, but not on the CPU."""
    if get_device() != 'cpu':
        return original(model, implementation)
    warn(f'sync_bn={implementation!r} is left out: SyncBatchNorm needs an accelerator.')
    return model
