"""Keep the details of MMEngine's log off the terminal; the log file has them all."""
import logging

from mmengine.logging import MMLogger

from mmvssd.compat.patching import wrap_once

#: How records begin that only the log file gets: together they are thousands of lines.
DETAILS = (
    '\n' + '-' * 60 + '\nSystem environment:',
    'Config:\n',
    'Hooks will be executed in the following order:',
    'paramwise_options -- ',
    'Distributed training is not used, all SyncBatchNorm',
    'Patches of mmvssd ',
)
#: Warnings of MMEngine's at what it and the hosts do themselves: a user can do nothing about them.
OWN_WAYS = (
    *(f'Failed to search registry with scope "{scope}" in the "function" registry tree.'
      for scope in ('mmdet', 'mmpretrain', 'mmseg')),
    '"FileClient" will be deprecated in future. Please use io functions in ',
    '"HardDiskBackend" is the alias of "LocalBackend" and the former will be deprecated in future.',
)


def keep_details_off() -> None:
    """Have every MMLogger that is made from now on print no details; a second call adds nothing.

    MMEngine's Runner logs them while it is built, so a filter that it gets later comes too late.
    With ``log_level='DEBUG'`` in the config they are printed all the same.
    """
    wrap_once(MMLogger, '__init__', _init)


def tell_of_details(logger: logging.Logger) -> None:
    """Log in which file the details are, if there is one."""
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            logger.info(f'Environment, config, hooks and all else: {handler.baseFilename}')


def _init(original, self, *args, **kwargs):
    original(self, *args, **kwargs)
    for handler in self.handlers:
        if not _is_file(handler) and handler.level > logging.DEBUG:
            handler.addFilter(_is_wanted)


def _is_file(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.FileHandler)


def _is_wanted(record: logging.LogRecord) -> bool:
    quiet = OWN_WAYS if record.levelno >= logging.WARNING else DETAILS
    return not record.getMessage().startswith(quiet)
