"""MMPreTrain's ``browse_dataset.py`` with matplotlib 3.11 and later.

The tool calls a private function of matplotlib, which has since got an argument, the renderer. Here
a call without one passes the figure's own.

Fix: retire when MMPreTrain's tool calls no private function of matplotlib.
"""
import inspect
from typing import Optional

from matplotlib import _tight_bbox

from mmvssd.compat.patching import wrap_once

ARGUMENT = 'renderer'


def apply() -> None:
    """Wrap the function if it asks for a renderer."""
    if not idle():
        wrap_once(_tight_bbox, 'adjust_bbox', _adjust)


def idle() -> Optional[str]:
    """Return that this matplotlib asks for no renderer, or None."""
    arguments = inspect.signature(_tight_bbox.adjust_bbox).parameters
    return None if ARGUMENT in arguments else 'this matplotlib asks for no renderer'


def _adjust(original, fig, bbox_inches, renderer=None, fixed_dpi=None):
    return original(fig, bbox_inches, renderer or fig.canvas.get_renderer(), fixed_dpi)
