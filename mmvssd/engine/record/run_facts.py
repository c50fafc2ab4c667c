"""What a run's result may hang on: versions, code, devices, precision, batch and learning rate."""
import logging
import os
import platform
import subprocess
from collections import Counter
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

import torch
from mmengine.device import get_device
from mmengine.dist import all_gather_object
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import nn

from mmvssd.checkpoint import unwrapped
from mmvssd.compat.versions import COMPANIONS, RANGES, installed
from mmvssd.engine.data.checks import dicts_of
from mmvssd.host_internals import accumulated_batches
from mmvssd.paths import project_root
from mmvssd.phrases import counted
from mmvssd.version import __version__

GIT_SECONDS = 20  # a checkout on a slow network disk


def versions() -> Dict[str, str]:
    """Return versions of all that computes; what is not installed is left out."""
    found = {name: installed(name) for name in (*RANGES, *COMPANIONS)}
    cudnn = torch.backends.cudnn.version() if torch.version.cuda else None
    return {
        'mmvssd': __version__,
        'python': platform.python_version(),
        **{name: version for name, version in found.items() if version},
        **({'cuda': torch.version.cuda} if torch.version.cuda else {}),
        **({'cudnn': str(cudnn)} if cudnn else {}),
    }


def checkout() -> Optional[dict]:
    """Commit of the checkout that mmvssd runs from, and whether it was changed since.

    Returns:
        ``commit``, and ``changed``: whether files differ from it or are new. None where mmvssd is
        no checkout, or git cannot tell.
    """
    root = project_root()
    top = _git(root, 'rev-parse', '--show-toplevel')
    # an environment with an installed wheel may lie in a checkout of something else
    if top is None or Path(top).resolve() != root:
        return None
    commit, changes = _git(root, 'rev-parse', 'HEAD'), _git(root, 'status', '--porcelain')
    if commit is None or changes is None:
        return None
    return dict(commit=commit, changed=bool(changes))


def _git(folder: Path, *arguments: str) -> Optional[str]:
    """Return what git says, or None if it does not work, which is no reason to stop a training."""
    # as a hook of git's starts a process, it names another repository; status may write an index
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith('GIT_')}
    environment['GIT_OPTIONAL_LOCKS'] = '0'
    try:
        done = subprocess.run(['git', '-C', str(folder), *arguments], env=environment,
                              capture_output=True, text=True, timeout=GIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def devices() -> Dict[str, int]:
    """Name the devices that the processes run on, and how many have each; a collective."""
    return dict(Counter(all_gather_object(_device())))


def _device() -> str:
    if get_device() == 'cuda':
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f'{_cpu_model()}, {threads} thread{"s" * (threads > 1)}'


def _cpu_model() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else f'{platform.machine()} CPU'


def training_precision(runner) -> str:
    """Dtype that the model's products run in, such as 'float32', as the optimizer wrapper sets it.

    To be asked when training begins.
    """
    wrapper = next(_wrappers(runner.optim_wrapper))
    if not isinstance(wrapper, OptimWrapper):  # DeepSpeed's, say, which casts the model
        return _precision(runner.model)
    with wrapper.optim_context(runner.model):
        return _precision(runner.model)


def evaluation_precision(runner, loop) -> str:
    """Return the same for a loop that validates or tests."""
    device = get_device()
    if getattr(loop, 'fp16', False):
        # MMEngine's choice of a dtype
        return 'bfloat16' if device == 'cpu' else _name(torch.get_autocast_gpu_dtype())
    return _precision(runner.model)


def _precision(model: nn.Module) -> str:
    if get_device() == 'cpu':
        enabled, dtype = torch.is_autocast_cpu_enabled(), torch.get_autocast_cpu_dtype()
    else:
        enabled, dtype = torch.is_autocast_enabled(), torch.get_autocast_gpu_dtype()
    return _name(dtype if enabled else next(model.parameters()).dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).replace('torch.', '')


class Batch(NamedTuple):
    """Images that a step of the optimizer sees, and how many the learning rate is for."""

    processes: int
    images: int  # of a process
    accumulated: int  # batches of a process that a step sums
    base: Optional[int]  # what the recipe names; None where it names none

    @property
    def total(self) -> int:
        """Images of a step."""
        return self.processes * self.images * self.accumulated

    def __str__(self) -> str:
        processes = counted(self.processes, 'process')
        accumulated = f' x {self.accumulated} accumulated' * (self.accumulated > 1)
        images = counted(self.images, 'image')
        return f'global batch {self.total} = {processes} x {images}{accumulated}'


def batch(runner) -> Optional[Batch]:
    """Return the batch of a Runner whose training loop and optimizer are built.

    Returns:
        None if its size differs from step to step, or a loop of the user's own does not tell it.
    """
    loader = runner.train_dataloader
    # a loader with a batch sampler has no size itself
    images = (getattr(loader, 'batch_size', None)
              or getattr(getattr(loader, 'batch_sampler', None), 'batch_size', None))
    if not isinstance(images, int):
        return None
    accumulated = max(accumulated_batches(wrapper) for wrapper in _wrappers(runner.optim_wrapper))
    base = (runner.cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    return Batch(runner.world_size, images, accumulated, base)


class Rate(NamedTuple):
    """A peak learning rate: as the recipe has it, and as the optimizer has it."""

    recipe: float
    used: float

    @property
    def scale(self) -> float:
        """By what the recipe's was multiplied."""
        return self.used / self.recipe


def rate(runner) -> Optional[Rate]:
    """Learning rate of a parameter that the recipe's settings multiply by nothing.

    A resumed optimizer has the checkpoint's, so it is to be asked after that is loaded.

    Returns:
        None if there are several optimizers, or a multiplier for every parameter.
    """
    wrappers = list(_wrappers(runner.optim_wrapper))
    if len(wrappers) > 1:
        return None
    optimizer = wrappers[0].optimizer
    recipe = optimizer.defaults.get('lr')
    paramwise = (runner.cfg.get('optim_wrapper') or {}).get('paramwise_cfg') or {}
    plain = {id(parameter) for name, parameter in unwrapped(runner.model).named_parameters()
             if not _is_multiplied(name, paramwise)}
    for group in optimizer.param_groups:
        if recipe and plain.intersection(map(id, group['params'])):
            # schedulers change 'lr' and keep what it began with; constructors that let the lr fall
            # from layer to layer keep the layer's share
            return Rate(recipe, group.get('initial_lr', group['lr']) / group.get('lr_scale', 1))
    return None


def _is_multiplied(name: str, paramwise: dict) -> bool:
    keys = paramwise.get('custom_keys') or {}
    if any(key in name and entry.get('lr_mult', 1) != 1 for key, entry in keys.items()):
        return True
    return any(paramwise.get(setting) is not None and part in name
               for setting, part in (('bias_lr_mult', 'bias'), ('dcn_offset_lr_mult', 'offset')))


def _wrappers(optim_wrapper) -> Iterator[OptimWrapper]:
    """Return a Runner's optimizer wrapper, or all of them if it has several."""
    several = isinstance(optim_wrapper, OptimWrapperDict)
    yield from optim_wrapper.values() if several else [optim_wrapper]


def judge_rate(batch: Batch, rate: Optional[Rate], *, resumed: bool) -> Tuple[int, str]:
    """Return what there is to say of a batch and its learning rate, and how loudly.

    Args:
        batch: What runs.
        rate: What it runs with.
        resumed: Whether the optimizer's state came from a checkpoint.

    Returns:
        Logging level and message.
    """
    if rate is None:
        return logging.INFO, str(batch)
    if batch.base is None:
        return logging.INFO, (f'{batch}; lr {rate.used:g} (the recipe has no '
                              'auto_scale_lr.base_batch_size that says which batch it is for)')
    wanted = batch.total / batch.base
    recipe = f"{batch}; the recipe's lr {rate.recipe:g} is for {batch.base}"
    if _equal(rate.scale, wanted):
        if _equal(wanted, 1):
            return logging.INFO, f'{recipe}, as it is'
        return logging.WARNING, f'{recipe}: scaled by {rate.scale:g} to {rate.used:g}'
    if resumed:
        return logging.WARNING, (
            f'{recipe}. The checkpoint that is resumed was trained with {rate.used:g} '
            f'({rate.scale:g} times it), and so is the rest; {wanted * rate.recipe:g} '
            f'({wanted:g} times it) would fit this batch, and needs a new run')
    if _equal(rate.scale, 1):
        return logging.WARNING, (f'{recipe}: NOT scaled. --auto-scale-lr scales it by {wanted:g} '
                                 f'to {wanted * rate.recipe:g}')
    return logging.WARNING, (f'{recipe}: scaled by {rate.scale:g} to {rate.used:g}, where '
                             f'{wanted:g} ({wanted * rate.recipe:g}) fits the batch')


def _equal(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-6 * abs(b)


def pretrained(model: dict) -> List[str]:
    """Return checkpoints that parts of a model's config start from."""
    return [entry['checkpoint'] for entry in dicts_of(model)
            if entry.get('type') == 'Pretrained' and entry.get('checkpoint')]
