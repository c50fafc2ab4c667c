"""How a patch is laid over a function of MMEngine: around it, once, and when it is there."""
import functools
import sys
from typing import Any, Callable, Dict, List, Optional

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


def when_imported(name: str, patch: Callable[[Any], None]) -> None:
    """Call ``patch(module)`` right after the import of a module, or now if that has been.

    So ``import mmvssd`` imports nothing for the sake of a patch, and does not fail if that import
    would. The same function given twice for a module is called once.

    Args:
        name: The module's full name.
        patch: Called with the module.
    """
    module = sys.modules.get(name)
    if module is not None:
        patch(module)
        return
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    patches = _finder.patches.setdefault(name, [])
    if _identity(patch) not in map(_identity, patches):
        patches.append(patch)


class _AfterImport:
    """Finds modules as the finders behind it do, and adds a step to the end of their import."""

    def __init__(self):
        self.patches: Dict[str, List[Callable]] = {}

    def find_spec(self, name, path=None, target=None):
        if name not in self.patches:
            return None
        spec = self._found_behind(name, path, target)
        if spec is None or not hasattr(spec.loader, 'exec_module'):
            return None
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            # only after an import that worked; one that failed may be tried again
            for patch in self.patches.pop(name, []):
                patch(module)

        spec.loader.exec_module = exec_module
        return spec

    def _found_behind(self, name, path, target) -> Optional[Any]:
        """Ask all finders behind: a host of an editable installation has one of its own."""
        finders = list(sys.meta_path)
        for finder in finders[finders.index(self) + 1:]:
            spec = finder.find_spec(name, path, target) if hasattr(finder, 'find_spec') else None
            if spec is not None:
                return spec
        return None


_finder = _AfterImport()


def _identity(patch):
    """Tell functions apart by where they are defined; a lambda is made anew at each call."""
    return getattr(patch, '__module__', None), getattr(patch, '__qualname__', patch)
