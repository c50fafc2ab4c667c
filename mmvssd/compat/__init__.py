"""Patches: what stock OpenMMLab needs on today's PyTorch, one file a problem.

The docstring of a file says what the problem is and ends with what the patch is: ``Fix: retire
when ...``, or ``Feature: ...``. Its ``apply()`` is called right after the import of the module that
:data:`PATCHES` names. It may run twice, asks no device anything, imports none of the hosts, and
changes nothing if its problem is absent. If that depends on the machine, the file has an ``idle()``
that returns the reason, or None. If the user should know what it did, it has a ``notice()`` that
returns a line, or None.

The environment variable ``MMVSSD_PATCHES`` leaves patches out: ``off`` all of them, a list such as
``-amp,-amp_ops`` some.
"""
import importlib
import logging
import os
from typing import Any, Dict, List, Optional

from mmvssd.compat import versions
from mmvssd.compat.patching import when_imported
from mmvssd.errors import ConfigError

ENVIRONMENT_VARIABLE = 'MMVSSD_PATCHES'

#: File of this folder -> the module after whose import its patch is applied.
PATCHES = {
    'amp': 'mmengine.optim',
    'amp_ops': 'mmcv.ops',
    'atomic_files': 'mmengine.fileio',
    'checkpoint': 'torch.serialization',
    'class_names': 'mmseg.datasets',
    'compiled_names': 'mmengine.runner',
    'config_strings': 'mmengine.runner',
    'config_texts': 'mmengine.config',
    'data_errors': 'mmengine.dataset',
    'deprecations': 'mmengine',
    'distributed': 'mmengine.dist',
    'failed_runs': 'mmengine.runner',
    'figure_margins': 'matplotlib._tight_bbox',
    'loader_workers': 'mmengine.runner',
    'mmcv_ops': 'mmcv',
    'model_complexity': 'mmengine.analysis',
    'model_wrappers': 'mmengine.runner',
    'multimodal': 'mmpretrain.utils.dependency',
    'negative_hue': 'mmcv',
    'optional_packages': 'mmengine',
    'padding_bands': 'mmcv.transforms',
    'patch_log': 'mmengine.runner',
    'segmentation_pictures': 'mmseg.visualization',
    'torchvision_ops': 'torchvision.extension',
    'tsne': 'sklearn.manifold',
    'unreadable_images': 'mmcv.transforms',
}


class Patch:
    """A patch, and what became of it in this process.

    Args:
        name: Its file in this folder.
        module: Full name of the module that brings it.
    """

    def __init__(self, name: str, module: str):
        self.name, self.module = name, module
        self._file: Any = None
        self._failure = ''

    def __call__(self, module) -> None:
        """Apply it, now that the module is imported. A failure is logged and stops nothing."""
        try:
            self._file = importlib.import_module(f'mmvssd.compat.{self.name}')
            self._file.apply()
        except Exception as error:  # a host's import must not fail for the sake of a patch
            self._failure = f'failed: {type(error).__name__}: {error}'
            logging.getLogger('mmvssd').warning('patch %s %s', self.name, self._failure)

    def idle(self) -> Optional[str]:
        """Return why it changes nothing in this process so far; None if it is in effect."""
        if self._failure:
            return self._failure
        if self._file is None:
            return f'{self.module} is not imported'
        return self._file.idle() if hasattr(self._file, 'idle') else None

    def notice(self) -> Optional[str]:
        """Return what the user should know of it, or None."""
        return self._file.notice() if hasattr(self._file, 'notice') else None


#: The patches that are not left out, by name.
_wanted: Dict[str, Patch] = {}


def apply_all() -> None:
    """Have every patch applied when its module is imported; ``import mmvssd`` calls this.

    Raises:
        ImportError: if the installed PyTorch or MMEngine does not fit (see
            :data:`mmvssd.compat.versions.RANGES`).
        ConfigError: if ``MMVSSD_PATCHES`` is not understood.
    """
    versions.apply()
    left_out = _left_out(os.environ.get(ENVIRONMENT_VARIABLE, ''))
    for name, module in PATCHES.items():
        if name not in left_out and name not in _wanted:
            _wanted[name] = Patch(name, module)
            when_imported(module, _wanted[name])


def _left_out(setting: str) -> List[str]:
    if setting == 'off':
        return list(PATCHES)
    names = [name.strip() for name in setting.split(',') if name.strip()]
    if any(name[0] != '-' or name[1:] not in PATCHES for name in names):
        raise ConfigError(f'{ENVIRONMENT_VARIABLE}: got {setting!r}, expected off, or a list such '
                          f'as -amp,-amp_ops of: {", ".join(PATCHES)}')
    return [name[1:] for name in names]


def in_effect() -> List[str]:
    """Return the names of the patches that change something in this process."""
    return [name for name, patch in _wanted.items() if patch.idle() is None]


def idle() -> Dict[str, str]:
    """Return the patches that change nothing in this process so far, each with the reason."""
    reasons = {name: patch.idle() for name, patch in _wanted.items()}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def notices() -> Dict[str, str]:
    """Return what the user should know of patches in effect, by patch."""
    lines = {name: patch.notice() for name, patch in _wanted.items()}
    return {name: line for name, line in lines.items() if line}


def left_out() -> List[str]:
    """Return the names of the patches that ``MMVSSD_PATCHES`` leaves out."""
    return [name for name in PATCHES if name not in _wanted]


def summary() -> str:
    """Return one line of which patches are in effect, which are not, and which are left out."""
    groups = {'in effect': in_effect(), 'idle': list(idle()),
              f'left out by {ENVIRONMENT_VARIABLE}': left_out()}
    listed = [f'{group}: {", ".join(names)}' for group, names in groups.items() if names]
    return f'Patches of mmvssd {"; ".join(listed)}'


__all__ = ['ENVIRONMENT_VARIABLE', 'PATCHES', 'apply_all', 'idle', 'in_effect', 'left_out',
           'notices', 'summary']
