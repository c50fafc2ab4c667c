"""How a patch is laid over a function of MMEngine: around it, once, and when it is there."""
import functools
import sys
import threading
from typing import Any, Callable, Dict, List, Optional, Set

_MARK = '_mmvssd_compat'
#: Packages of which a module may be half imported when a patch is found for it: they import each
#: other's modules, and a patch is looked for at the end of each.
_HOSTS = ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain')


def wrap_once(owner, name, wrapper):
    """Put ``wrapper`` around ``owner.name``; a second call leaves the first one in place.

    Args:
        owner (module or type): what holds the function.
        name (str): the function's name there.
        wrapper (callable): called as ``wrapper(original, *args, **kwargs)``.

    Raises:
        AttributeError: if ``owner`` has no ``name``, as in an MMEngine that this does not know.
    """
    original = getattr(owner, name)
    if hasattr(original, _MARK):
        return

    @functools.wraps(original)
    def patched(*args, **kwargs):
        return wrapper(original, *args, **kwargs)

    setattr(patched, _MARK, wrapper)
    setattr(owner, name, patched)


def when_imported(name: str, patch: Callable[[Any], None]) -> None:
    """Call ``patch(module)`` right after the import of a module, or now if that has ended.

    So ``import mmvssd`` imports nothing for the sake of a patch, and does not fail if that import
    would. The same function given twice for a module is called once.

    Args:
        name: The module's full name.
        patch: Called with the module.
    """
    module = sys.modules.get(name)
    if module is not None and name not in _finder.under_way:
        patch(module)
        return
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    patches = _finder.patches.setdefault(name, [])
    if _identity(patch) not in map(_identity, patches):
        patches.append(patch)


def fail_as_not_installed(package: str, tell: Callable[[Exception], None]) -> None:
    """Make every error that ends a package's import an ``ImportError``, as of an absent one.

    Args:
        package: A package's top-level name. One that is imported already stays as it is.
        tell: Called with the error, before it becomes an ``ImportError``.
    """
    if _failing not in sys.meta_path:
        sys.meta_path.insert(0, _failing)
    _failing.told.setdefault(package, tell)


class _Finder:
    """Finds modules as the finders behind it do, and runs their code in a way of its own."""

    def wants(self, name: str) -> bool:
        """Tell whether a module is this finder's business."""
        raise NotImplementedError

    def execute(self, name: str, stock: Callable[[Any], None], module) -> None:
        """Run the code of the module of that name by ``stock(module)``."""
        raise NotImplementedError

    def find_spec(self, name, path=None, target=None):
        """Return the spec of the finders behind, or None."""
        spec = self._found_behind(name, path, target) if self.wants(name) else None
        if spec is None or not hasattr(spec.loader, 'exec_module'):
            return None
        spec.loader.exec_module = functools.partial(self.execute, name, spec.loader.exec_module)
        return spec

    def _found_behind(self, name, path, target) -> Optional[Any]:
        """Ask all finders behind: a host of an editable installation has one of its own."""
        finders = list(sys.meta_path)
        for finder in finders[finders.index(self) + 1:]:
            spec = finder.find_spec(name, path, target) if hasattr(finder, 'find_spec') else None
            if spec is not None:
                return spec
        return None


class _AfterImport(_Finder):
    """Adds a step to the end of an import."""

    def __init__(self):
        self.patches: Dict[str, List[Callable]] = {}
        self.under_way: Set[str] = set()

    def wants(self, name):
        return name in self.patches or name.partition('.')[0] in _HOSTS

    def execute(self, name, stock, module):
        self.under_way.add(name)
        try:
            stock(module)
        finally:
            self.under_way.discard(name)
        # only after an import that worked; one that failed may be tried again
        for patch in self.patches.pop(name, []):
            patch(module)


class _FailingImports(_Finder):
    """Makes every error out of a package's import an ImportError."""

    def __init__(self):
        self.told: Dict[str, Callable[[Exception], None]] = {}
        self._under_way = threading.local()

    def wants(self, name):
        return name.partition('.')[0] in self.told

    def execute(self, name, stock, module):
        package = name.partition('.')[0]
        # the package itself may expect an error of its own modules
        is_outermost = not hasattr(self._under_way, package)
        setattr(self._under_way, package, True)
        try:
            stock(module)
        except Exception as error:
            if isinstance(error, ImportError) or not is_outermost:
                raise
            self.told[package](error)
            raise ImportError(f'{type(error).__name__}: {error}', name=name) from error
        finally:
            if is_outermost:
                delattr(self._under_way, package)


_finder = _AfterImport()
_failing = _FailingImports()


def _identity(patch):
    """Tell functions apart by where they are defined; a lambda is made anew at each call."""
    return getattr(patch, '__module__', None), getattr(patch, '__qualname__', patch)
