"""mmcv's compiled ops without a compiler: ``mmcv._ext`` for an mmcv that was not compiled.

Fix: retire when mmcv ships wheels for the versions of PyTorch that are in use.

``mmcv-lite`` is a wheel of mmcv's Python, ``mmcv.ops`` included, under the same import name. It
lacks one module, ``mmcv._ext``, which holds what C++ and CUDA compute. Without it
``import mmcv.ops`` fails, and so does every detector. With :func:`apply` Python finds that module
here, after it has looked everywhere else. So a compiled mmcv keeps its own.

Three may serve an op, and :func:`providers` says which one does:

- the compiled mmcv, if it is installed;
- torchvision, if its compiled ops load on the device: NMS with ``offset=0``, RoIAlign in average
  mode, and both deformable convolutions (:mod:`~mmvssd.compat.mmcv_ops.through_torchvision`);
- this package, in PyTorch and NumPy on any device: those again, and soft and matching NMS, RoIAlign
  in max mode and the others of :data:`~mmvssd.compat.mmcv_ops.names.FAMILIES`, one file a family.

Every other op raises when it is called, not when it is imported, and names the way to the compiled
mmcv. Results are those of mmcv's kernels for the CPU, up to the order of sums; the tests hold them
to recordings. Halves are computed in float32, and an enclosing autocast changes nothing.
"""
import contextlib
import functools
import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Dict, Iterator, Optional

from mmvssd.compat.mmcv_ops.names import FAMILIES, THROUGH_TORCHVISION, UNSERVED, op_of

#: The module that a compiled mmcv has and mmcv-lite has not.
MODULE = 'mmcv._ext'

COMPILED, TORCHVISION, OWN = 'mmcv (compiled)', 'torchvision', 'mmvssd'


class _Finder(MetaPathFinder, Loader):
    """Finds ``mmcv._ext`` where no finder before it did, and fills it when it is imported."""

    def find_spec(self, fullname, path=None, target=None):
        return ModuleSpec(fullname, self, origin=__name__) if fullname == MODULE else None

    def create_module(self, spec):
        return None  # a plain module

    def exec_module(self, module):
        from mmvssd.compat.mmcv_ops.contents import fill  # now, for it needs PyTorch
        fill(module)


def apply() -> None:
    """Let ``import mmcv._ext`` find this implementation if there is no compiled one."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def idle() -> Optional[str]:
    """Return that there is a compiled mmcv, or None."""
    spec = _installed()
    is_found_here = spec is not None and isinstance(spec.loader, _Finder)
    return None if is_found_here else 'mmcv has compiled ops'


@functools.cache
def extension() -> ModuleType:
    """Return what :func:`apply` lets be found as ``mmcv._ext``, whatever is installed."""
    spec = _Finder().find_spec(MODULE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def served_by(module: ModuleType) -> Iterator[None]:
    """Have mmcv's ops call another module than the one that they imported, for a while.

    Tests and benchmarks compare implementations with it in one process: ``with
    served_by(extension())`` takes this package's in an environment with a compiled mmcv.

    Args:
        module (module): has the functions of ``mmcv._ext``.
    """
    importlib.import_module('mmcv.ops')
    callers = [caller for name, caller in sorted(sys.modules.items())
               if name.startswith('mmcv.ops.') and hasattr(caller, 'ext_module')]
    before = [caller.ext_module for caller in callers]
    try:
        for caller in callers:
            vars(caller)['ext_module'] = module
        yield
    finally:
        for caller, original in zip(callers, before):
            vars(caller)['ext_module'] = original


def providers(device: str = 'cpu') -> Dict[str, Optional[str]]:
    """Say who serves each op on a kind of device; imports mmcv and torchvision.

    Args:
        device (str): 'cpu', 'cuda' and so on.

    Returns:
        dict: op, such as 'roi_align' -> 'mmcv (compiled)', 'torchvision', 'mmvssd', or None if
        nobody does.
    """
    served = {op_of(name): OWN for family, names in FAMILIES.items() for name in names
              if family != 'info'}
    ops = {**dict.fromkeys(map(op_of, UNSERVED)), **served}
    spec = _installed()
    if spec is None:
        return dict.fromkeys(ops)
    if not isinstance(spec.loader, _Finder):
        return dict.fromkeys(ops, COMPILED)
    from mmvssd.compat.mmcv_ops.through_torchvision import obstacle
    if obstacle(device) is None:
        ops.update(dict.fromkeys(THROUGH_TORCHVISION, TORCHVISION))
    return ops


def _installed() -> Optional[ModuleSpec]:
    """Return where ``import mmcv._ext`` finds it; None if there is no mmcv that imports."""
    try:
        return importlib.util.find_spec(MODULE)
    except ImportError:
        return None


__all__ = ['MODULE', 'apply', 'extension', 'providers', 'served_by']
