"""Keep the details of MMEngine's log off the terminal; the log file has them all.

What the hosts print or warn of themselves, beside the log, goes too if a user can do nothing about
it. Each is known by its source and its text.
"""
import logging
import re
import sys
import warnings
from typing import Any, Callable, List, Optional, Set

from mmengine.logging import MMLogger
from torch.utils.data import DataLoader

from mmvssd.compat.patching import when_imported, wrap_once
from mmvssd.errors import printable
from mmvssd.processes import is_first

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
    *(f'Failed to search registry with scope "{scope}" in the "{tree}" registry tree.'
      for scope in ('mmdet', 'mmpretrain', 'mmseg')
      for tree in ('function', 'inferencer', 'strategy')),
    # test.py --out
    *(f'The prefix is not set in metric class {metric}.'
      for metric in ('DumpDetResults', 'DumpResults')),
    '"FileClient" will be deprecated in future. Please use io functions in ',
    '"HardDiskBackend" is the alias of "LocalBackend" and the former will be deprecated in future.',
)
#: End of MMEngine's warning at each frozen parameter, of which frozen_stages makes a hundred.
FROZEN = ' is skipped since its requires_grad=False'
#: Warnings of Python's at what the hosts do themselves: the module that warns, and the start.
OWN_WARNINGS = (
    ('mmcv.image.photometric', "Only use 'alpha' for pillow backend."),
    ('mmengine.model.wrappers.distributed', '`broadcast_buffers` is deprecated.'),
    # test.py --show-dir
    ('mmengine.structures.pixel_data', 'The shape of value will convert from '),
    ('mmengine.visualization.visualizer', 'Warning: The bbox is out of bounds, '),
    ('mmengine.visualization.visualizer', 'Warning: The polygon is out of bounds, '),
    ('mmengine.optim.optimizer.amp_optimizer_wrapper',
     '`torch.cuda.amp.GradScaler(args...)` is deprecated.'),
    # the published recipes have that default, so their losses are to keep it
    ('mmseg.models.losses.cross_entropy_loss', 'Default ``avg_non_ignore`` is False, '),
    ('mmseg.models.builder', '``build_loss`` would be deprecated soon, '),
)
#: Warnings that one process says for all of a job.
ONE_FOR_ALL = (
    ('mmengine.utils.dl_utils.setup_env', 'Setting MKL_NUM_THREADS environment variable '),
    ('mmengine.utils.dl_utils.setup_env', 'Setting OMP_NUM_THREADS environment variable '),
)
#: What pycocotools prints whenever it reads annotations, or results to be scored.
COCO_PROGRESS = ('loading annotations into memory...', 'Loading and preparing results...',
                 'creating index...', 'index created!', 'Done (t=', 'DONE (t=')
#: What MMEngine prints as it loads a checkpoint without a log: the file, and all names that do not
#: fit. All commands say the latter themselves, in a few lines.
LOADING = ('Loads checkpoint by ', 'The model and loaded state dict do not match exactly')
#: What MMDetection and MMEngine log of a validation in which nothing was found.
NOTHING_FOUND = 'The testing results of the whole dataset is empty.'
NO_BEST = 'Since `metrics` is an empty dict, the behavior to save the best checkpoint '

#: Numbers of workers that PyTorch has looked at, and warned of if they are too many.
_checked: Set[int] = set()


def keep_details_off() -> None:
    """Have every MMLogger that is made from now on print no details; a second call adds nothing.

    MMEngine's Runner logs them while it is built, so a filter that it gets later comes too late.
    With ``log_level='DEBUG'`` in the config they are printed all the same.
    """
    wrap_once(MMLogger, '__init__', _init)
    for module, start in OWN_WARNINGS if is_first() else (*OWN_WARNINGS, *ONE_FOR_ALL):
        warnings.filterwarnings('ignore', re.escape(start), module=f'{re.escape(module)}$')
    wrap_once(DataLoader, 'check_worker_number_rationality', _check_workers)
    when_imported('pycocotools.coco', _print_no_progress)
    when_imported('mmengine.logging.logger', _print_no_progress)


def _check_workers(original: Callable[[DataLoader], None], loader: DataLoader) -> None:
    """Warn of too many workers once: a training makes loaders again and again.

    A filter of Python's cannot: it forgets what it showed whenever another filter comes.
    """
    if is_first() and loader.num_workers not in _checked:
        _checked.add(loader.num_workers)
        original(loader)


def _print_no_progress(module: Any) -> None:
    """Give a module a ``print`` of its own, which leaves out what is no news."""
    module.print = _print


def _print(*values: Any, **options: Any) -> None:
    if not (values and str(values[0]).startswith((*COCO_PROGRESS, *LOADING))):
        print(*values, **options)


def soften_empty_validations(logger: logging.Logger) -> None:
    """Have a training say in one line that a validation found nothing: no error, early on."""
    logger.addFilter(_EmptyValidations())


class _EmptyValidations(logging.Filter):
    """Makes MMDetection's error one line, and leaves out MMEngine's warning that follows it."""

    def __init__(self) -> None:
        super().__init__()
        self._is_told = False

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if message == NOTHING_FOUND:
            self._is_told = True
            # MMEngine says a warning once only
            record.levelno, record.levelname = logging.INFO, 'INFO'
            record.msg, record.args = ('Validation found no objects. That is usual in the first '
                                       'epochs, and a fault later; such a checkpoint is never '
                                       'best_*.pth'), ()
        elif self._is_told and message.startswith(NO_BEST):
            self._is_told = False
            return False
        return True


def tell_of_details(logger: logging.Logger) -> None:
    """Log in which file the details are, if there is one."""
    for file in log_files(logger):
        logger.info(f'Environment, config, hooks and all else: {file}')


def log_files(logger: Optional[logging.Logger] = None) -> List[str]:
    """Return the files that a logger writes; None takes that of the run at hand."""
    handlers = (logger or MMLogger.get_current_instance()).handlers
    return [handler.baseFilename for handler in handlers
            if isinstance(handler, logging.FileHandler)]


def _init(original, self, *args, **kwargs):
    original(self, *args, **kwargs)
    for handler in self.handlers:
        handler.handleError = _LogErrors(handler)
        if not _is_file(handler) and handler.level > logging.DEBUG:
            handler.addFilter(_is_wanted)


class _LogErrors:
    """Says once that a log cannot be written to; Python shows a stack at each record.

    Args:
        handler: Of the log file, or of the terminal, which may be a pipe whose reader has gone.
    """

    def __init__(self, handler: logging.Handler):
        self.handler, self._is_told = handler, False

    def __call__(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            logging.Handler.handleError(self.handler, record)
        elif not self._is_told:
            self._is_told = True
            where = getattr(self.handler, 'baseFilename', 'terminal')
            print(printable(f'{where}: the log cannot be written ({error.strerror or error})'),
                  file=sys.stderr)


def _is_file(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.FileHandler)


def _is_wanted(record: logging.LogRecord) -> bool:
    quiet = OWN_WAYS if record.levelno >= logging.WARNING else DETAILS
    message = record.getMessage()
    return not (message.startswith(quiet) or message.endswith(FROZEN))
