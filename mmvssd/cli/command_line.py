"""What the command lines of ``tools`` share."""
import argparse
import os
import select
import shlex
import signal
import sys
import traceback
from pathlib import Path
from typing import Callable, List

from mmengine.config import Config, DictAction
from mmengine.dist import is_main_process

from mmvssd.cli.launch import load_config
from mmvssd.cli.settings import keep_traceback
from mmvssd.cli.terminal import keep_details_off, log_files
from mmvssd.engine.record.signals import EndingSignals, signal_behind
from mmvssd.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    ExportError,
    NumericalFault,
    UnreadableImageError,
    printable,
)
from mmvssd.files import NO_ROOM
from mmvssd.phrases import emptiness
from mmvssd.processes import is_first

#: Errors of the user's input; their message says all, a traceback would bury it.
INPUT_ERRORS = (CheckpointError, ConfigError, DataError, NotADirectoryError, PermissionError)
#: Errors that end a command with only their message.
EXPLAINED = (*INPUT_ERRORS, ExportError, NumericalFault, UnreadableImageError)


class SettingsAction(DictAction):
    """MMEngine's KEY=VALUE, with an error of the command line's if the ``=`` is missing."""

    def __call__(self, parser, namespace, values, option_string=None):
        for value in values:
            if not value.partition('=')[0] or '=' not in value:
                parser.error(f'{option_string}: got {value!r}, expected KEY=VALUE')
        super().__call__(parser, namespace, values, option_string)


def named(text: str) -> str:
    """Take an argument that is a name or a path; an empty one is a variable that was not set."""
    if emptiness(text):
        raise argparse.ArgumentTypeError(emptiness(text))
    return text


def add_recipe_arguments(parser: argparse.ArgumentParser, *, needed: bool = True) -> None:
    """Add what every command that reads a recipe takes; some also work without one."""
    parser.add_argument('config', type=named, metavar='RECIPE', nargs=None if needed else '?',
                        help="a file, or its path below the project's configs")
    parser.add_argument('--cfg-options', nargs='+', action=SettingsAction, metavar='KEY=VALUE',
                        help='settings that override those of the recipe, by dotted key')


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every command that runs a recipe's loops takes."""
    parser.add_argument('--work-dir', type=named, metavar='FOLDER',
                        help='folder of logs and checkpoints; '
                        "default: the recipe's own, else work_dirs/<name of the recipe>")
    parser.add_argument('--launcher', choices=('none', 'pytorch', 'slurm', 'mpi'), default='none',
                        help='what has started several processes; the scripts tools/dist_*.sh and '
                        'tools/slurm_*.sh say it (default: %(default)s)')
    # torch.distributed hands it over if it does not set the environment variable
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0,
                        help=argparse.SUPPRESS)


def add_report_argument(parser: argparse.ArgumentParser) -> None:
    """Add what has a page written at the end of a run."""
    parser.add_argument('--report', action='store_true',
                        help='write report.html into the work dir at the end')


def write_report(work_dir: str) -> None:
    """Write the page of a work dir into it, in the first process."""
    if not is_main_process():
        return
    from mmvssd.reports.page import write  # here: matplotlib takes a second to import
    from mmvssd.reports.runs.page import page
    file = Path(work_dir) / 'report.html'
    command = shlex.join(['python', 'tools/report.py', work_dir, '--out', str(file)])
    write(file, page([Path(work_dir)], command))
    print(f'report in {printable(file)}')


def add_photograph_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every command that looks at photographs takes."""
    parser.add_argument('--images', nargs='+', default=['sklearn'], metavar='PATH',
                        help='files or folders, or sklearn or skimage for the photographs that '
                        'come with these packages (default: sklearn)')
    parser.add_argument('--num-images', type=int, default=50, metavar='N',
                        help='draw N of more images with the seed (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, metavar='NUMBER',
                        help='of random weights and of the choice of images (default: %(default)s)')


def read_recipe(args: argparse.Namespace) -> Config:
    """Read the recipe that the arguments of both kinds name."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return load_config(args.config, work_dir=args.work_dir, launcher=args.launcher,
                       options=args.cfg_options)


def show(text: str) -> None:
    """Print what was asked for; a reader that has seen enough, such as ``head``, ends nothing."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _print_no_more()


def _print_no_more() -> None:
    """Have what is left in the buffer of stdout fail no more as Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _reader_has_gone() -> bool:
    """Tell whether stdout is a pipe that nobody reads any more."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def run(main: Callable[[], None]) -> None:
    """Run a command; errors that say all end it with one message and exit code 2.

    What the hosts say that a user can do nothing about stays off the terminal.

    Ctrl-C, SIGTERM and SIGHUP end it with one message and exit code 128 plus the signal's number.
    :func:`say_if_ended` adds to it. A reader of the output that has gone, such as ``head``, ends it
    without one. A disk without room ends it with one message and exit code 2.
    Any other error ends it with its traceback, which the log file keeps too, a sentence on what to
    do, and exit code 1.
    """
    keep_details_off()
    _way_on.clear()
    signals = EndingSignals(lambda _: None, lambda: _say_ended(signals), lasting=True)
    if is_first():  # the others of a job end without a word
        signals.watch()
    try:
        main()
    except EXPLAINED as error:
        name, message = type(error).__name__, str(error)
        if message.startswith(f'Caught {name} in '):  # a worker's, with its traceback
            message = message.rpartition(f'{name}: ')[2]
        message = printable(message.strip())
        print(f'{name}: {message}', file=sys.stderr)
        sys.exit(2)
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        number = signal_behind(error)
        if number is not None:
            _say_ended(signals, number)
            sys.exit(128 + number)
        if isinstance(error, SystemExit):
            raise
        if isinstance(error, BrokenPipeError) and _reader_has_gone():
            _print_no_more()
            sys.exit(128 + signal.SIGPIPE)
        keep_traceback(error)
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            print(printable(f'OSError: {error.strerror}{_place(error)}; make room, or name another '
                            'folder'), file=sys.stderr)
            sys.exit(2)
        traceback.print_exc()
        print(f'\n{type(error).__name__}, see above. If one of your settings caused it, the last '
              'lines of the trace show in which module. If not, please open an issue with this '
              f'trace{_record()}.', file=sys.stderr)
        sys.exit(1)
    finally:
        signals.leave()


#: What a command that was ended may say besides, such as how it goes on.
_way_on: List[Callable[[], str]] = []


def say_if_ended(way_on: Callable[[], str]) -> None:
    """Have :func:`run` say something besides if a signal ends the command from now on."""
    _way_on[:] = [way_on]


def _say_ended(signals: EndingSignals, number: signal.Signals = signal.SIGTERM) -> None:
    """Say which signal ended a command, and outside of a run what the command says besides."""
    outside = signals.number is not None
    number = signals.number or number
    ended = 'Interrupted' if number == signal.SIGINT else f'Ended by {number.name}'
    way_on = ''.join(f': {say()}' for say in _way_on if outside)
    print(printable(f'{ended}{way_on}.'), file=sys.stderr)


def _place(error: OSError) -> str:
    """Name the file that could not be written, or the folder of the run that wrote it."""
    if error.filename is not None:
        return f': {error.filename}'
    runs = [Path(log).parent for log in log_files()]
    return f' (a file in {runs[-1]})' if runs else ''


def _record() -> str:
    """Name the record of the run that was stopped, if it wrote one."""
    records = [record for log in log_files() for record in Path(log).parent.glob('run*.json')]
    newest = max(records, key=lambda record: record.stat().st_mtime, default=None)
    return f' and {printable(newest)}' if newest else ''
