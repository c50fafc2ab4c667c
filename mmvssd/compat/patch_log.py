"""A line in every run's log that says which patches are in effect.

The patches come into every process of an environment, so a run whose config knows nothing of this
package has to tell of them too.

Feature: a run says which patches it runs with.
"""
from mmengine.dist import is_main_process
from mmengine.logging import print_log
from mmengine.runner import FlexibleRunner, Runner

from mmvssd import compat
from mmvssd.compat.patching import wrap_once


def apply() -> None:
    """Wrap the constructors of MMEngine's Runners."""
    for runner in (Runner, FlexibleRunner):
        wrap_once(runner, '__init__', _init)


def _init(original, self, *args, **kwargs):
    original(self, *args, **kwargs)
    if is_main_process():
        print_log(compat.summary(), logger='current')
