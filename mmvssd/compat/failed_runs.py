"""Hooks that learn of the error which ends their run.

MMEngine's Runner calls ``after_run`` where a run ends well, and nothing where it does not. Here
hooks that have ``after_error(runner, error)`` are called with what ended it, Ctrl-C included.
"""
import logging

from mmengine.logging import print_log

from mmvssd.compat.patching import when_imported, wrap_once

RUNS = ('train', 'val', 'test')


def apply() -> None:
    """Wrap what starts a run of MMEngine's Runner."""
    when_imported('mmengine.runner.runner', lambda module: _patch(module.Runner))
    when_imported('mmengine.runner._flexible_runner', lambda module: _patch(module.FlexibleRunner))


def _patch(runner):
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
