"""How a patch is laid over a function of MMEngine: around it, once, and when it is there."""
import functools
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder

_MARK = '_mmvssd_compat'


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


def when_imported(name, patch):
    """Call ``patch(module)`` right after the import of a module, or now if that has been.

    So that ``import mmvssd`` imports nothing heavy for the sake of a patch, and does not fail where
    that import would.

    Args:
        name (str): the module's full name.
        patch (callable): called with the module.
    """
    if name in sys.modules:
        patch(sys.modules[name])
    elif not any(isinstance(finder, _AfterImport) and finder.does(name, patch)
                 for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport(name, patch))


class _AfterImport(MetaPathFinder):
    """Finds one module as Python does, and adds a step to the end of its import."""

    def __init__(self, name, patch):
        self.name, self.patch = name, patch

    def does(self, name, patch):
        """Whether it will apply this patch to this module, so that another one need not."""
        return (self.name, _path(self.patch)) == (name, _path(patch))

    def find_spec(self, fullname, path=None, target=None):
        spec = self._find(fullname, path) if fullname == self.name else None
        if spec is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            # Only after an import that worked; one that failed may be tried again.
            sys.meta_path.remove(self)
            self.patch(module)

        spec.loader.exec_module = exec_module
        return spec

    def _find(self, fullname, path):
        """Ask the next finder that has a patch for the module, or Python."""
        later = sys.meta_path[sys.meta_path.index(self) + 1:]
        for finder in later:
            if isinstance(finder, _AfterImport) and finder.name == fullname:
                return finder.find_spec(fullname, path)
        return PathFinder.find_spec(fullname, path)


def _path(patch):
    return patch.__module__, patch.__qualname__
