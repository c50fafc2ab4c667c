"""Many processes on the CPU.

MMEngine's launchers call ``torch.cuda.set_device`` and start whatever backend the config names,
nccl by default; its Runner gives DistributedDataParallel a ``device_ids``; and PyTorch's
SyncBatchNorm refuses CPU tensors. All are wrong without an accelerator. The wrappers below decide
when they are called: where MMEngine has a device other than the CPU, they only pass the call on.
"""
import copy
import logging
from contextlib import contextmanager

import torch
from mmengine.device import get_device
from mmengine.dist import utils as dist_utils
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper, revert_sync_batchnorm
from mmengine.registry import MODEL_WRAPPERS
from torch.nn.parallel import DistributedDataParallel

from mmvssd.compat.patching import when_imported, wrap_once

LAUNCHERS = ('_init_dist_pytorch', '_init_dist_mpi', '_init_dist_slurm')
CPU_BACKENDS = ('gloo', 'mpi', 'ucc')


def apply() -> None:
    """Wrap MMEngine's launchers and what the Runner does with a model in many processes."""
    for launcher in LAUNCHERS:
        wrap_once(dist_utils, launcher, _init_process_group)
    when_imported('mmengine.runner.runner', _patch_runner)


def _patch_runner(module):
    wrap_once(module.Runner, 'wrap_model', _wrap_model)
    wrap_once(module, 'convert_sync_batchnorm', _convert_sync_batchnorm)


def _init_process_group(launcher, backend, *args, **kwargs):
    """Run a launcher of MMEngine; on the CPU without ``set_device``, and with a CPU backend."""
    if get_device() != 'cpu':
        return launcher(backend, *args, **kwargs)
    cpu_backend = backend if backend in CPU_BACKENDS else 'gloo'
    # The launchers also read the scheduler's environment; only this one call in them is wrong.
    with _no_cuda_set_device():
        launcher(cpu_backend, *args, **kwargs)
    if cpu_backend != backend:
        _warn(f'There is no accelerator here: the process group runs on {cpu_backend} '
              f'instead of {backend}.')
    return None


@contextmanager
def _no_cuda_set_device():
    original = torch.cuda.set_device
    torch.cuda.set_device = lambda device: None
    try:
        yield
    finally:
        torch.cuda.set_device = original


def _wrap_model(original, runner, model_wrapper_cfg, model):
    """Wrap the model as the Runner does; on the CPU with ``device_ids=None`` and no SyncBN."""
    if get_device() != 'cpu' or not runner.distributed or is_model_wrapper(model):
        return original(runner, model_wrapper_cfg, model)
    if any('SyncBatchNorm' in type(module).__name__ for module in model.modules()):
        _warn('SyncBatchNorm needs an accelerator: it is reverted to BatchNorm, so each process '
              'takes the statistics of its own images only.')
        model = revert_sync_batchnorm(model)
    return original(runner, _cpu_wrapper_cfg(runner, model_wrapper_cfg), model)


def _cpu_wrapper_cfg(runner, model_wrapper_cfg):
    """The config's wrapper, or the Runner's own; a DDP that names no devices is given none."""
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
    _warn(f'sync_bn={implementation!r} is left out: SyncBatchNorm needs an accelerator.')
    return model


def _warn(message):
    if dist_utils.is_main_process():
        print_log(message, logger='current', level=logging.WARNING)
