"""MMPreTrain's ``vis_tsne.py`` with scikit-learn 1.7 and later.

The tool gives ``TSNE`` an argument ``n_iter``, which scikit-learn has renamed to ``max_iter``. Here
the old name is passed on as the new one.

Fix: retire when MMPreTrain's tool uses the new name.
"""
import inspect
from typing import Optional

from sklearn.manifold import TSNE

from mmvssd.compat.patching import wrap_once


def apply() -> None:
    """Wrap the constructor if it does not know the old name."""
    if not idle():
        wrap_once(TSNE, '__init__', _init)


def idle() -> Optional[str]:
    """Return that this scikit-learn knows the old name, or None."""
    known = 'n_iter' in inspect.signature(TSNE.__init__).parameters
    return 'this scikit-learn knows n_iter' if known else None


def _init(original, self, *args, **kwargs):
    if 'n_iter' in kwargs:
        kwargs['max_iter'] = kwargs.pop('n_iter')
    original(self, *args, **kwargs)
