"""How a patch is laid over a function of MMEngine: around it, once, and visibly."""
import functools

_MARK = '_mmvssd_compat'


def wrap_once(owner, name, wrapper):
    """Put ``wrapper`` around ``owner.name``; a second call leaves the first one in place.

    Args:
        owner (module or type): what holds the function.
        name (str): the function's name there.
        wrapper (callable): called as ``wrapper(original, *args, **kwargs)``.

    Raises:
        AttributeError: if ``owner`` has no ``name``: that MMEngine is one this package does not know.
    """
    original = getattr(owner, name)
    if hasattr(original, _MARK):
        return

    @functools.wraps(original)
    def patched(*args, **kwargs):
        return wrapper(original, *args, **kwargs)

    setattr(patched, _MARK, wrapper)
    setattr(owner, name, patched)


def is_wrapped(function):
    """Whether :func:`wrap_once` made ``function``."""
    return hasattr(function, _MARK)
