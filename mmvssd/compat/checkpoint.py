"""Loading MMEngine's checkpoints under ``torch.load``'s safe default.

From 2.6 on ``torch.load`` reads with ``weights_only=True`` and refuses the classes that a
checkpoint of MMEngine's Runner names. :mod:`mmvssd.compat.checkpoint_classes` allows these few.
``weights_only`` stays on, and a file that names anything else is refused and runs nothing.

They are allowed when MMEngine's own loader is imported. A script that imports PyTorch only, such as
MMSegmentation's ``publish_model.py``, never does that. There a file that is refused is read a
second time with the classes allowed.

Fix: retire when MMEngine allows the classes in its checkpoints itself.
"""
import sys
from pickle import UnpicklingError
from typing import Optional

from mmvssd.compat.patching import when_imported, wrap_once

ALLOWING = 'mmvssd.compat.checkpoint_classes'


def apply() -> None:
    """Wrap ``torch.load``, and allow the classes once MMEngine's loader is imported."""
    serialization, torch = sys.modules['torch.serialization'], sys.modules['torch']
    stock = serialization.load
    wrap_once(serialization, 'load', _load)
    if getattr(torch, 'load', None) is stock:  # PyTorch was imported before this
        torch.load = serialization.load
    when_imported('mmengine.runner.checkpoint', _allow)


def idle() -> Optional[str]:
    """Return that PyTorch refuses nothing by default, or None."""
    is_safe = sys.modules['torch'].__version__ >= (2, 6)
    return None if is_safe else 'this PyTorch loads everything by default'


def _load(original, f, *args, **kwargs):
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


def _allow(module=None) -> bool:
    """Allow MMEngine's classes; False without an MMEngine."""
    try:
        from mmvssd.compat import checkpoint_classes
    except ImportError:
        return False
    checkpoint_classes.allow()
    return True
