"""The contents of ``mmcv._ext``: each name of mmcv's compiled module, served or refused."""
import functools
import importlib
from types import ModuleType
from typing import Callable

import torch

from mmvssd.compat.mmcv_ops.names import FAMILIES, UNSERVED


def fill(module: ModuleType) -> None:
    """Give the module a function under every name that mmcv's compiled one has."""
    for family, names in FAMILIES.items():
        implementation = importlib.import_module(f'mmvssd.compat.mmcv_ops.{family}')
        for name in names:
            setattr(module, name, _exact(getattr(implementation, name)))
    for name in UNSERVED:
        setattr(module, name, _refusal(name))


def _exact(function: Callable) -> Callable:
    """Run outside autograd and autocast, as a compiled op does, which neither can look into."""

    @functools.wraps(function)
    def run(*args, **kwargs):
        device = next((arg.device.type for arg in args if isinstance(arg, torch.Tensor)), 'cpu')
        with torch.no_grad(), torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return run


def _refusal(name: str) -> Callable:

    def refuse(*args, **kwargs):
        raise NotImplementedError(
            f"{name} is one of mmcv's compiled ops. This environment has mmcv-lite, which comes "
            'without them, and neither torchvision nor mmvssd serves this one. The compiled mmcv '
            'has it (a C++ compiler is needed, and minutes): from a checkout of mmvssd, bash '
            'tools/setup.sh --with-compiled-mmcv; or pip uninstall -y mmcv-lite, then pip install '
            "'setuptools<81' wheel ninja psutil and pip install --no-build-isolation mmcv==2.1.0")

    refuse.__name__ = refuse.__qualname__ = name
    return refuse
