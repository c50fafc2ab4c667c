"""What mmcv tells of its compiler, for the environment that the hosts log."""
from typing import Optional

import torch

from mmvssd.compat.mmcv_ops import through_torchvision
from mmvssd.version import __version__


def get_compiler_version() -> str:
    """Say that nothing was compiled, and what serves the ops."""
    return f'none; the ops are served by mmvssd {__version__}{_torchvision(" and torchvision")}'


def get_compiling_cuda_version() -> str:
    """Return the CUDA version of torchvision's ops if they serve a GPU, or 'not available'."""
    if torch.cuda.is_available() and through_torchvision.obstacle('cuda') is None:
        return f'{torch.version.cuda} (torchvision)'
    return 'not available'


def _torchvision(text: str) -> Optional[str]:
    devices = ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']
    return text if any(through_torchvision.obstacle(kind) is None for kind in devices) else ''
