"""Checkpoints of models that ``torch.compile`` wraps.

Such a model's entries have ``_orig_mod.`` in their names. MMEngine, which takes off only the
``module.`` of a distributed wrapper, loads none of them, and goes on with untrained weights. Here
they get the names of the model that loads them, whether that is wrapped, in whole or in parts, or
not.

Fix: retire when MMEngine takes the names of compiled models.
"""
import sys

from mmvssd.compat.patching import wrap_once


def apply() -> None:
    """Wrap what MMEngine loads all weights by."""
    wrap_once(sys.modules['mmengine.runner.checkpoint'], 'load_state_dict', _load)


def _load(original, module, state_dict, *args, **kwargs):
    # that imports MMEngine's Runner, of which this is a part
    from mmvssd.checkpoint import named_as, unwrapped
    expected = unwrapped(module).state_dict().keys()
    if any('_orig_mod.' in name for name in {*state_dict, *expected}):
        state_dict = named_as(state_dict, expected)
    return original(module, state_dict, *args, **kwargs)
