"""Loading MMEngine's checkpoints under ``torch.load``'s safe default.

From 2.6 on ``torch.load`` reads with ``weights_only=True`` and refuses whatever is not allowed. A
checkpoint of MMEngine's Runner holds, beside tensors, its message hub: HistoryBuffer objects
around numpy arrays, and numpy scalars where a metric gave one. These few are allowed here.
``weights_only`` stays on: a file that names anything else is refused, and runs nothing.

A HistoryBuffer also carries its four statistics, which pickle writes as
``getattr(HistoryBuffer, 'min')``. ``getattr`` itself would let a file reach into any object, so
what is allowed under its name is :func:`statistics_method`, which gives these four only.
"""
import pickle

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

#: The numpy types of histories and metrics; objects stay out, for they can hold anything.
DTYPES = ('float64', 'float32', 'int64', 'int32', 'bool')

STATISTICS = ('min', 'max', 'current', 'mean')

# numpy 2 moved these functions, and a pickle keeps the path in the numpy that wrote it.
_NUMPY_FUNCTIONS = ('_reconstruct', 'scalar')
_NUMPY_PATHS = ('numpy.core.multiarray', 'numpy._core.multiarray')


def apply() -> None:
    """Allow what MMEngine's own checkpoints name, and nothing else."""
    if not hasattr(torch.serialization, 'add_safe_globals'):
        return
    # What the user, or a later MMEngine, has allowed already is left as it is.
    known = {_path(entry) for entry in torch.serialization.get_safe_globals()}
    torch.serialization.add_safe_globals(
        [entry for path, entry in safe_globals().items() if path not in known])


def safe_globals() -> dict:
    """What :func:`apply` allows, by the path under which a pickle names it."""
    classes = [HistoryBuffer, np.ndarray, np.dtype, *(type(np.dtype(name)) for name in DTYPES)]
    allowed = {_path(entry): entry for entry in classes}
    multiarray = np._core.multiarray if hasattr(np, '_core') else np.core.multiarray
    for name in _NUMPY_FUNCTIONS:
        for module in _NUMPY_PATHS:
            allowed[f'{module}.{name}'] = _named(module, name, getattr(multiarray, name))
    allowed['builtins.getattr'] = _named('builtins', 'getattr', statistics_method)
    return allowed


def statistics_method(owner, name):
    """``HistoryBuffer.min``, ``max``, ``current`` or ``mean``: the only getattr that is let through.

    Raises:
        pickle.UnpicklingError: for anything else.
    """
    if owner is not HistoryBuffer or name not in STATISTICS:
        raise pickle.UnpicklingError(
            f'a checkpoint may take only {", ".join(STATISTICS)} from HistoryBuffer by getattr, '
            f'this one asks for {name!r} of {owner!r}: load it only if you trust who made it')
    return getattr(HistoryBuffer, name)


def _path(entry):
    return entry[1] if isinstance(entry, tuple) else f'{entry.__module__}.{entry.__qualname__}'


def _named(module, name, function):
    """The function under another path: PyTorch looks a pickle's globals up by these attributes.

    (PyTorch also takes pairs of a function and a path, but not in all versions that have
    ``add_safe_globals``, and one that does not fails at its next ``torch.load``.)
    """
    def entry(*args):
        return function(*args)
    entry.__module__, entry.__name__, entry.__qualname__ = module, name, name
    return entry
