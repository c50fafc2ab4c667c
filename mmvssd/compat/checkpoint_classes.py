"""The classes that ``torch.load`` lets through beside tensors: those of MMEngine's checkpoints.

A checkpoint of MMEngine's Runner holds its message hub: HistoryBuffer objects around numpy arrays,
and numpy scalars if a metric gave one.

A HistoryBuffer also carries its four statistics, which pickle writes as
``getattr(HistoryBuffer, 'min')``, and OneCycleLR its curve in the same way. ``getattr`` itself
would let a file reach into any object, so what is allowed under its name is :func:`method`, which
gives the six of :data:`METHODS` only. In the same way :func:`dtype` gives those that
are allowed; :mod:`mmvssd.compat.checkpoint_contents` has seen to their states. :func:`data` gives
the bytes of an array.
"""
import pickle

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim import OneCycleParamScheduler

#: The numpy types of histories and metrics; objects stay out, for they can hold anything.
DTYPES = ('float64', 'float32', 'int64', 'int32', 'bool')

#: The methods that a checkpoint may name, by their class.
METHODS = {
    HistoryBuffer: ('min', 'max', 'current', 'mean'),
    OneCycleParamScheduler: ('_annealing_cos', '_annealing_linear'),
}

# numpy 2 moved these functions, and a pickle keeps the path in the numpy that wrote it.
_NUMPY_FUNCTIONS = ('_reconstruct', 'scalar')
_NUMPY_PATHS = ('numpy.core.multiarray', 'numpy._core.multiarray')


def allow() -> None:
    """Allow what MMEngine's own checkpoints name, and nothing else; a second call adds nothing."""
    # What the user, or a later MMEngine, has allowed already is left as it is.
    known = {_path(entry) for entry in torch.serialization.get_safe_globals()}
    torch.serialization.add_safe_globals(
        [entry for path, entry in safe_globals().items() if path not in known])


def safe_globals() -> dict:
    """Return what :func:`allow` allows, by the path under which a pickle names it."""
    classes = [*METHODS, np.ndarray, *(type(np.dtype(name)) for name in DTYPES)]
    allowed = {_path(entry): entry for entry in classes}
    allowed['numpy.dtype'] = _named('numpy', 'dtype', dtype)
    multiarray = np._core.multiarray if hasattr(np, '_core') else np.core.multiarray
    for name in _NUMPY_FUNCTIONS:
        for module in _NUMPY_PATHS:
            allowed[f'{module}.{name}'] = _named(module, name, getattr(multiarray, name))
    allowed['builtins.getattr'] = _named('builtins', 'getattr', method)
    allowed['_codecs.encode'] = _named('_codecs', 'encode', data)  # PyTorch 2.4 lacks it
    return allowed


def method(owner, name):
    """Return one of :data:`METHODS`: all that a file gets of what it asks of getattr.

    Raises:
        pickle.UnpicklingError: for anything else.
    """
    for known, names in METHODS.items():
        if owner is known and name in names:
            return getattr(known, name)
    raise pickle.UnpicklingError(
        f'this file takes {name!r} of {owner!r} by getattr, which no checkpoint of MMEngine does')


def dtype(name, align, copy):
    """Return one of :data:`DTYPES`, or of what the user has allowed, as a pickle asks for it.

    Raises:
        pickle.UnpicklingError: for any other.
    """
    found = np.dtype(name, align=bool(align), copy=bool(copy))
    if type(found) not in torch.serialization.get_safe_globals():
        raise pickle.UnpicklingError(f'this file holds an array or a number of the dtype {name!r}; '
                                     f'checkpoints hold {", ".join(DTYPES)}')
    return found


def data(text, encoding):
    """Return bytes, which protocol 2 of pickle writes as text in latin1: those of an array.

    Raises:
        pickle.UnpicklingError: for another encoding.
    """
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'this file holds bytes as text in {encoding!r}, which no '
                                     'pickle does')
    return text.encode(encoding)


def _path(entry):
    return entry[1] if isinstance(entry, tuple) else f'{entry.__module__}.{entry.__qualname__}'


def _named(module, name, function):
    """Give a function another path: PyTorch looks a pickle's globals up by these attributes.

    PyTorch also takes pairs of a function and a path, but not in all versions that are supported.
    One that does not fails at its next ``torch.load``.
    """
    def entry(*args):
        return function(*args)
    entry.__module__, entry.__name__, entry.__qualname__ = module, name, name
    return entry
