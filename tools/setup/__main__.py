"""Make the environment that everything else here runs in: PyTorch, the hosts, this package.

tools/setup.sh starts this folder with a bare interpreter, before anything is installed. So it
needs the standard library only, and it is no part of ``mmvssd``, whose import needs PyTorch.
"""
import argparse
import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from checks import (
    COMPILE_MMCV,
    check_compiler,
    check_disk,
    check_index,
    check_pip,
    check_replaceable,
    check_torchvision,
    check_venv_module,
)
from commands import Commands, Progress, SetupError, explain
from environments import (
    HOSTS,
    LOG,
    OWN,
    ROOT,
    STAMP,
    UNFINISHED,
    choose_environment,
    describe,
    dotted,
    drop_half_installed,
    is_usable,
)
from packages import has_torch, keeps_compiled_mmcv, plan, read_pins, torchvision_for, write_pins

# GB of disk: the environment and what pip keeps; what pip downloads before it installs.
ENVIRONMENT_GB, DOWNLOADS_GB = 3, 1
CUDA_ENVIRONMENT_GB, CUDA_DOWNLOADS_GB = 10, 4  # with PyTorch's CUDA build
ADOPTED_GB = 2  # without PyTorch

#: The last proof; it also compiles the byte code that the first command of a user needs.
IMPORTS = ('import cv2, mmvssd, mmvssd_kernels, mmcv.ops; '
           'import mmdet.apis, mmseg.apis, mmpretrain.apis')

HELP = """
Install PyTorch, MMDetection, MMSegmentation, MMPreTrain and this package; nothing is compiled.
The first time takes about two minutes on 2 cores, later runs a second. If you interrupt it, the
next run goes on from there.

It installs into `.venv` in this checkout. If a virtualenv or conda environment is active that has
PyTorch 2.4 or later on Python 3.10 to 3.13, it installs into that one and keeps its PyTorch.
A `.venv` that you made yourself is added to, never emptied; if it does not fit, nothing is done.
"""

ENVIRONMENT_VARIABLES = """
environment variables:
  PYTHON    the interpreter, 3.10 to 3.13, to make `.venv` with; then an active environment is not
            used. Default: the first that fits of python3, python3.11, 3.12, 3.13, 3.10.
  MAX_JOBS  processes that compile mmcv's ops, with --with-compiled-mmcv. Default: as many as cores
            and memory allow.

pip's own settings hold, from its configuration file or as PIP_INDEX_URL, PIP_EXTRA_INDEX_URL and
PIP_FIND_LINKS. On Linux the default index has PyTorch's CUDA build, several GB. To have the small
CPU build on a machine without a GPU, point one of them to where PyTorch publishes it.
"""


def make_venv(environment, progress):
    """Make `.venv`, in place of what an interrupted attempt left of it."""
    folder = environment.prefix
    if environment.is_own():
        for entry in folder.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != OWN:
                entry.unlink()
    folder.mkdir(exist_ok=True)
    (folder / OWN).touch()  # first, so that an interrupted attempt is known as one
    progress.say(f'making {folder} with Python {dotted(sys.version_info[:2])}')
    done = subprocess.run([sys.executable, '-I', '-m', 'venv', folder],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise SetupError(f'could not make {folder}.', *explain(done.stdout))


def install(environment, seen, commands, folder, *, compiled):
    """Install all that is missing, PyTorch first."""
    keeps = keeps_compiled_mmcv(environment, seen)
    constraints, wanted = plan(environment, seen, compiled=compiled or keeps)
    held = ('--constraint', write_pins(folder / 'constraints.txt', constraints))
    # Byte code is compiled as it is first used: all of it takes longer than to install.
    pip = (environment.python, '-I', '-m', 'pip')
    versions = seen['versions']
    if 'torchvision' not in versions or not has_torch(versions, constraints['torch']):
        commands.run(f'PyTorch {constraints["torch"]}', [
            *pip, 'install', '--no-compile', f'torch=={constraints["torch"]}',
            torchvision_for(constraints['torch']), *held])
    if 'mmcv' in versions and not keeps:
        commands.run(f'removing mmcv {versions["mmcv"]}, whose ops do not load here', [
            *pip, 'uninstall', '--yes', 'mmcv'])
    commands.run(f'the hosts and what they import, {len(wanted)} packages', [
        *pip, 'install', '--no-compile', '--no-deps', '--requirement',
        write_pins(folder / 'wanted.txt', wanted)])
    if compiled:
        commands.run('mmcv with compiled ops', [environment.python, '-I', COMPILE_MMCV])
    commands.run('this checkout', [
        *pip, 'install', '--no-deps', '--no-build-isolation', '--editable', ROOT])


def prepare(environment, seen, progress, folder, *, compiled):
    """Check what must be there and make `.venv`, before anything is installed; returns looks."""
    tmp = Path(tempfile.gettempdir())
    if environment.adopted:
        check_pip(environment, seen)
        check_torchvision(environment, seen)
        check_disk({environment.prefix: ADOPTED_GB, tmp: DOWNLOADS_GB})
    elif not is_usable(seen):
        check_venv_module()
        check_replaceable(environment, seen)
        check_disk({ROOT: ENVIRONMENT_GB, tmp: DOWNLOADS_GB})
        if compiled:
            check_compiler(sys.executable)
        make_venv(environment, progress)
        seen = environment.look()
    elif compiled:
        check_compiler(environment.python)
    pins = read_pins(seen['python'])
    if not environment.adopted and not has_torch(seen['versions'], pins['torch']):
        progress.say('asking the package index for PyTorch')
        if check_index(environment, f'torch=={pins["torch"]}', folder):
            progress.say('PyTorch will be the CUDA build, several GB (for a CPU build see --help)')
            check_disk({environment.prefix: CUDA_ENVIRONMENT_GB, tmp: CUDA_DOWNLOADS_GB})
    elif any(seen['versions'].get(name) != pins[name] for name in HOSTS):
        check_index(environment, f'mmengine=={pins["mmengine"]}', folder)
    return seen


def set_up(environment, seen, progress, lock, *, compiled):
    """Do the whole; raises SetupError."""
    progress.say(f'setting up {environment.prefix}')
    with tempfile.TemporaryDirectory(prefix='mmvssd-setup-') as folder:
        folder = Path(folder)
        seen = prepare(environment, seen, progress, folder, compiled=compiled)
        drop_half_installed(environment, seen)
        log = environment.prefix / LOG
        log.write_text('')
        (environment.prefix / STAMP).unlink(missing_ok=True)
        (environment.prefix / UNFINISHED).touch()
        commands = Commands(progress, log, lock)
        install(environment, environment.look(), commands, folder, compiled=compiled)
    commands.run('trying what was installed', [environment.python, '-I', '-c', IMPORTS])
    finish(environment)
    progress.say(f'ready: {environment.python}')


def finish(environment):
    """Note that it is set up, if what was installed is what Python will import."""
    seen = environment.look()
    stamp = environment.stamp(seen)
    if stamp is None:
        raise SetupError(
            f'in {environment.prefix} Python imports mmvssd from '
            f'{seen["origins"].get("mmvssd", "nowhere")}, not from this checkout.',
            f'Run: {environment.python} -m pip uninstall --yes mmvssd', 'and then this again.')
    (environment.prefix / STAMP).write_text(stamp)
    (environment.prefix / UNFINISHED).unlink()


@contextlib.contextmanager
def only_one(folder, progress):
    """Hold a lock on a folder, an open file; wait for another set-up that has it."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say('another set-up of this checkout is running: waiting for it')
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


class Parser(argparse.ArgumentParser):
    """One message for what the options are, in the form of all others."""

    def error(self, message):
        raise SetupError(f'{message}; --help lists what there is.')


def parse(arguments):
    parser = Parser(prog='bash tools/setup.sh', description=HELP, epilog=ENVIRONMENT_VARIABLES,
                    formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument('--print-python', action='store_true',
                        help="progress goes to stderr, and the path of the environment's python "
                             'to stdout: python=$(bash tools/setup.sh --print-python)')
    parser.add_argument('--with-compiled-mmcv', action='store_true',
                        help="compile mmcv's C++ ops, 6 to 10 minutes on 2 cores, in place of "
                             'mmcv-lite; needs a C++ compiler, and nvcc for a GPU')
    parser.add_argument('--describe', action='store_true', help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments=None):
    """Set up, or say that all is there; returns the exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        options = parse(arguments)
        if options.describe:
            print(json.dumps(describe()))
            return 0
        progress = Progress(sys.stderr if options.print_python else sys.stdout)
        with only_one(ROOT, progress) as lock:
            environment, seen = choose_environment(progress)
            if environment.is_set_up(seen, options.with_compiled_mmcv):
                progress.say(f'already set up: {environment.prefix}')
            else:
                set_up(environment, seen, progress, lock, compiled=options.with_compiled_mmcv)
        if options.print_python:
            print(environment.python)
    except SetupError as error:
        print(f'\nSet-up stopped: {error}', file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, a folder that cannot be written to
        print(f'\nSet-up stopped: {SetupError(*explain(str(error)))}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\nInterrupted; run it again to go on from here.', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
