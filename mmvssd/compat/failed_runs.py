"""Hooks that learn of the error which ends their run.

MMEngine's Runner calls ``after_run`` if a run ends well, and nothing if it does not. Here hooks
that have ``after_error(runner, error)`` are called with what ended it, Ctrl-C included.

Feature: a hook is told of the error that ends a run.
"""
import logging

from mmengine.logging import print_log
from mmengine.runner import FlexibleRunner, Runner

from mmvssd.compat.patching import wrap_once

RUNS = ('train', 'val', 'test')


def apply() -> None:
    """Wrap what starts a run of MMEngine's Runners."""
    for runner in (Runner, FlexibleRunner):
        for run in RUNS:
            wrap_once(runner, run, _telling_hooks)


def _telling_hooks(original, runner, *args, **kwargs):
    try:
        return original(runner, *args, **kwargs)
    except BaseException as error:
        try:
            runner.call_hook('after_error', error=error)
        except Exception as another:  # what a hook cannot do shall not hide why the run ended
            print_log(f'after_error: {type(another).__name__}: {another}', logger='current',
                      level=logging.ERROR)
        raise
