"""MMSegmentation's ``get_flops.py``.

It gives MMEngine's ``get_model_complexity_info`` an input and the input's shape. MMEngine takes one
of the two and stops at both. Here the shape is left out if there is an input.

Fix: retire when MMSegmentation's tool gives one of the two.
"""
from mmengine import analysis

from mmvssd.compat.patching import wrap_once


def apply() -> None:
    """Wrap the function where the tool imports it from."""
    wrap_once(analysis, 'get_model_complexity_info', _complexity)


def _complexity(original, model, input_shape=None, inputs=None, *args, **kwargs):
    return original(model, input_shape if inputs is None else None, inputs, *args, **kwargs)
