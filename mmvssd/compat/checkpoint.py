"""Loading MMEngine's checkpoints under ``torch.load``'s safe default, and nothing that could harm.

From 2.6 on ``torch.load`` reads with ``weights_only=True`` and refuses the classes that a
checkpoint of MMEngine's Runner names. :mod:`mmvssd.compat.checkpoint_classes` allows these few.
``weights_only`` stays on, and a file that names anything else is refused and runs nothing. PyTorch
before 2.6, and MMEngine's loading of an address, get ``weights_only=True`` from here.

The classes are allowed when MMEngine's own loader is imported. A script that imports PyTorch only,
such as MMSegmentation's ``publish_model.py``, never does that. There a file that is refused is read
a second time with the classes allowed.

Every file is looked into first, by :mod:`mmvssd.compat.checkpoint_contents`. PyTorch's errors
advise to switch ``weights_only`` off; they are told in other words.

Fix: retire when MMEngine allows the classes in its checkpoints itself.
"""
import os
import re
import sys
from pickle import UnpicklingError

from mmvssd.compat.patching import when_imported, wrap_once

ALLOWING = 'mmvssd.compat.checkpoint_classes'


def apply() -> None:
    """Wrap ``torch.load``, and allow the classes once MMEngine's loader is imported."""
    serialization, torch = sys.modules['torch.serialization'], sys.modules['torch']
    stock = serialization.load
    wrap_once(serialization, 'load', _load)
    if getattr(torch, 'load', None) is stock:  # PyTorch was imported before this
        setattr(torch, 'load', serialization.load)  # noqa: B010
    when_imported('mmengine.runner.checkpoint', _prepare_loader)


def _prepare_loader(module) -> None:
    _allow()
    wrap_once(module, 'load_url', _load_url)


def _load_url(original, *args, **kwargs):
    return original(*args, **{'weights_only': True, **kwargs})  # its own default is False


def _load(original, f, *args, **kwargs):
    # a caller that names a pickle module, or switches the safe reader off, has chosen
    if kwargs.get('weights_only') is False or len(args) > 1 or kwargs.get('pickle_module'):
        return original(f, *args, **kwargs)
    if sys.modules['torch'].__version__ < (2, 6):  # its default is to run what the file says
        kwargs['weights_only'] = True
    from mmvssd.compat.checkpoint_contents import RefusedError, inspect
    try:
        inspect(f)
        return _load_allowing(original, f, *args, **kwargs)
    except RefusedError as error:
        raise UnpicklingError(f'{_name(f)}: {error}; nothing of it was loaded or run') from error
    except Exception as error:
        if 'weights_only' not in str(error):
            raise
        raise UnpicklingError(f'{_name(f)}: {_without_advice(str(error))}') from None


def _load_allowing(original, f, *args, **kwargs):
    if ALLOWING in sys.modules:
        return original(f, *args, **kwargs)
    start = f.tell() if hasattr(f, 'seek') else None
    try:
        return original(f, *args, **kwargs)
    except UnpicklingError:
        if not _allow():
            raise
    if start is not None:
        f.seek(start)
    return original(f, *args, **kwargs)


def _name(f) -> str:
    if isinstance(f, (str, os.PathLike)):
        return str(f)
    return str(getattr(f, 'name', 'the checkpoint'))


def _without_advice(message: str) -> str:
    """Say why PyTorch's safe reader refuses a file, without how to switch that reader off."""
    own = re.search(r'this file (.*)', message)
    if own:  # of the functions that stand in for what is allowed
        return own[1]
    found = re.search(r'GLOBAL ([^\s`]+)', message)
    if found:
        return (f'holds {found[1]}, which is not a part of weights and not safe to load; nothing '
                'of the file was loaded or run. Have its author save the state_dict() of the model')
    return ('it is damaged, of another kind, or holds what is not safe to load; nothing of it was '
            'loaded or run')


def _allow() -> bool:
    """Allow MMEngine's classes; False without an MMEngine."""
    try:
        from mmvssd.compat import checkpoint_classes
    except ImportError:
        return False
    checkpoint_classes.allow()
    return True
