"""Bring mmvssd's patches into a process before it imports what they patch.

``mmvssd.pth`` in site-packages calls :func:`install` as Python starts. So the hosts' own tools and
inferencers need no ``import mmvssd``. Every process of the environment pays for this module:
it imports nothing that Python has not imported by then, and nothing here may stop an import.
"""
import os
import sys

#: The packages whose import brings the patches.
PACKAGES = frozenset(('torch', 'mmengine', 'mmcv', 'torchvision'))


class PatchFirst:
    """Import mmvssd when Python looks for one of :data:`PACKAGES`; find nothing itself.

    ``import mmvssd`` imports none of these packages, so the search is not entered twice. Its import
    lock makes a second thread wait until the patches are registered.
    """

    is_done = False

    def find_spec(self, name, path=None, target=None):
        """Ask the finders ahead, after mmvssd has put one there; Python asks those behind."""
        if name not in PACKAGES or self.is_done:
            return None
        _import_mmvssd()
        # this finder stays in sys.meta_path: Python is walking along it
        self.is_done = True
        for finder in sys.meta_path[:sys.meta_path.index(self)]:
            spec = finder.find_spec(name, path, target) if hasattr(finder, 'find_spec') else None
            if spec is not None:
                return spec
        return None


_finder = PatchFirst()


def install() -> None:
    """Put the finder first, unless ``MMVSSD_PATCHES=off`` is set; a second call does nothing."""
    if os.environ.get('MMVSSD_PATCHES') != 'off' and _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def _import_mmvssd() -> None:
    try:
        import mmvssd  # noqa: F401
    except Exception as error:  # whatever is wrong with mmvssd, others' imports go on
        import logging  # it raises nothing, and needs no stderr
        reason = (str(error).strip() or 'no message').splitlines()[0]
        logging.getLogger('mmvssd').warning(
            'mmvssd patches nothing in this process: %s: %s (MMVSSD_PATCHES=off silences this)',
            type(error).__name__, reason)
