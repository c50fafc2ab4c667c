"""Check what must be there before anything is begun; each check raises SetupError."""
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from commands import SetupError, explain, pip_environment
from environments import NEWEST_PYTHON, OLDEST_PYTHON, dotted, leading_numbers
from packages import torchvision_for

OLDEST_PIP = (22, 3)
COMPILE_MMCV = Path(__file__).with_name('compile_mmcv.py')


def check_venv_module():
    if find_spec('ensurepip') is None or find_spec('venv') is None:
        version = dotted(sys.version_info[:2])
        raise SetupError(
            f'{sys.executable} (Python {version}) lacks the venv module, which makes the '
            'environment.',
            f'Debian, Ubuntu: sudo apt install python{version}-venv',
            'Fedora:         sudo dnf install python3-libs',
            'Elsewhere:      PYTHON=/path/to/another/python3.11 bash tools/setup.sh')


def check_replaceable(environment, seen):
    """Raise SetupError unless a set-up made the `.venv` that does not fit, or it is empty."""
    folder = environment.prefix
    if environment.is_own() or not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise SetupError(f'{folder} is not a folder, and an environment is to be made there.',
                         'Move it away, and run this again.')
    if not any(folder.iterdir()):
        return
    if seen is not None and 'pip' not in seen['versions']:
        check_pip(environment, seen)
    python = 'no Python that runs' if seen is None else f'Python {dotted(seen["python"])}'
    raise SetupError(
        f'{folder} was not made by this set-up, so it stays as it is; it has {python}, and '
        f'{dotted(OLDEST_PYTHON)} to {dotted(NEWEST_PYTHON)} fit.',
        f'Move it away (mv {shlex.quote(str(folder))} {shlex.quote(str(folder) + ".old")}) and '
        'run this again;',
        'or activate another environment that has PyTorch, and run this again.')


def check_pip(environment, seen):
    """Raise SetupError if the environment has no pip, as those that uv makes."""
    if leading_numbers(seen['versions'].get('pip', '0')) < OLDEST_PIP:
        python = environment.python
        raise SetupError(
            f'the environment {environment.prefix} has no pip, or one older than '
            f'{dotted(OLDEST_PIP)}.',
            f'Run: {python} -m ensurepip --upgrade && {python} -m pip install --upgrade pip')


def check_torchvision(environment, seen):
    """Raise SetupError if an adopted environment's torchvision is not the one for its PyTorch."""
    torch = seen['versions']['torch'].split('+')[0]
    for requirement in seen['torchvision_requires']:
        needed = re.match(r'torch\s*\(?==\s*([\w.]+)', requirement)
        if needed and needed[1] != torch:
            raise SetupError(
                f'torchvision {seen["versions"]["torchvision"]} in {environment.prefix} is for '
                f'PyTorch {needed[1]}, and {torch} is there.',
                f'Run: {environment.python} -m pip install torch=={torch} {torchvision_for(torch)}',
                'with the index that the PyTorch came from (--index-url), and then this again.')


def check_disk(needs):
    """Raise SetupError unless each disk has room for all that is needed on it.

    Args:
        needs (dict): folder -> GB.
    """
    disks = {}
    for folder, gigabytes in needs.items():
        disks.setdefault(os.stat(folder).st_dev, []).append((folder, gigabytes))
    for wanted in disks.values():
        needed = sum(gigabytes for _, gigabytes in wanted)
        free = shutil.disk_usage(wanted[0][0]).free / 1e9
        if free < needed:
            folders = ' and '.join(str(folder) for folder, _ in wanted)
            raise SetupError(
                f'the set-up needs {needed} GB in {folders}, and {free:.1f} GB are free there.',
                'Free some space, or use another disk: for the checkout, or (TMPDIR) for '
                'downloads.')


def check_compiler(python):
    """Ask compile_mmcv.py whether this machine can compile; SetupError with its answer if not."""
    done = subprocess.run([python, '-I', COMPILE_MMCV, '--check'], capture_output=True, text=True,
                          check=False)
    if done.returncode:
        raise SetupError(*done.stderr.strip().splitlines())


def check_index(environment, requirement, folder):
    """Ask pip for one package before all. Returns whether it brings CUDA libraries with it."""
    report = folder / 'report.json'
    done = subprocess.run(
        [environment.python, '-I', '-m', 'pip', 'install', '--dry-run', '--no-deps',
         '--ignore-installed', '--retries', '1', '--timeout', '15', '--report', report,
         requirement], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env=pip_environment(), check=False)
    if done.returncode:
        raise SetupError(f'pip cannot get {requirement}.', *explain(done.stdout))
    metadata = json.loads(report.read_text())['install'][0]['metadata']
    return any(re.match('nvidia-|cuda-', needed) and 'extra ==' not in needed
               for needed in metadata.get('requires_dist', []))
