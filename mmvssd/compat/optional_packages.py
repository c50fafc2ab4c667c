"""Packages that the hosts can do without, which are installed but do not import.

The hosts try to import such a package and take an ``ImportError`` for "not installed". A package
that was built for another NumPy, or that looks for CUDA in vain, raises something else. Then the
host does not import either, though nothing that runs needs the package. Here the error becomes an
``ImportError``, and a warning names the package once.

Fix: retire when the hosts take any error of an optional import for "not installed".
"""
import functools
import logging
from typing import Dict, Optional

from mmvssd.compat.patching import fail_as_not_installed, when_imported, wrap_once
from mmvssd.import_errors import first_line, root_of, with_version
from mmvssd.processes import is_first

#: What MMEngine, mmcv and the three hosts import if it is there, by its import name.
PACKAGES = (
    'Sophia', 'albumentations', 'apex', 'bitsandbytes', 'cityscapesscripts', 'd_cube',
    'dadaptation', 'deepspeed', 'detectron2', 'dsdl', 'imagecorruptions', 'jsonlines', 'lap',
    'ldm', 'lion_pytorch', 'lvis', 'motmetrics', 'osgeo', 'panopticapi', 'pycocoevalcap',
    'sahi', 'seaborn', 'skimage', 'sklearn', 'tifffile', 'timm', 'trackeval', 'transformers',
    'turbojpeg',
)

_failures: Dict[str, str] = {}


def apply() -> None:
    """Watch the imports of the packages."""
    for package in PACKAGES:
        fail_as_not_installed(package, functools.partial(_tell, package))
    when_imported('transformers.utils.import_utils', _watch_transformers)


def idle() -> Optional[str]:
    """Return that no optional package has failed, or None."""
    return None if _failures else 'no optional package has failed to import'


def notice() -> Optional[str]:
    """Return which optional packages have failed, or None."""
    return '; '.join(_failures.values()) or None


def _tell(package: str, error: Exception) -> None:
    if package in _failures:
        return
    _failures[package] = (
        f'{with_version(package)} is installed but does not import '
        f'({first_line(root_of(error))}), and the hosts go on without it: update or remove it')
    if is_first():
        logging.getLogger('mmvssd').warning(_failures[package])


def _watch_transformers(module) -> None:
    """Watch transformers, which imports most modules when one of their names is first used."""
    if hasattr(module, '_LazyModule') and hasattr(module._LazyModule, '_get_module'):
        wrap_once(module._LazyModule, '_get_module', _get_module)


def _get_module(original, self, name):
    try:
        return original(self, name)
    except ImportError:
        raise
    except Exception as error:
        _tell('transformers', error)
        raise ImportError(first_line(error)) from error
