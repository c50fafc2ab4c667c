"""Choose the environment to set up, and see what is in it."""
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / 'requirements'
VENV = ROOT / '.venv'

# Files in the environment.
OWN = 'mmvssd-setup.made'  # a set-up made it: only such a one is ever emptied
STAMP = 'mmvssd-setup.stamp'  # what it was set up for
UNFINISHED = 'mmvssd-setup.unfinished'  # there while a set-up runs, and after an interrupted one
LOG = 'mmvssd-setup.log'

OLDEST_PYTHON, NEWEST_PYTHON = (3, 10), (3, 13)
OLDEST_TORCH = (2, 4)
HOSTS = ('mmengine', 'mmdet', 'mmsegmentation', 'mmpretrain')
#: What else results may hang on: another version needs another set-up.
FOLLOWED = ('torch', 'torchvision', 'triton', 'mmcv', 'mmcv-lite', 'opencv-python',
            'opencv-python-headless', *HOSTS)


def canonical(name):
    return re.sub(r'[-_.]+', '-', name).lower()


def describe():
    """Describe the environment of the interpreter that runs this; values fit into JSON."""
    found = {}
    for distribution in distributions():  # of two with one name the first is imported
        name = distribution.metadata['Name']
        if name:
            found.setdefault(canonical(name), distribution)
    requires = found['torchvision'].requires if 'torchvision' in found else None
    specs = {name: find_spec(name) for name in ('mmvssd', 'mmvssd_kernels', 'cv2')}
    return dict(
        python=list(sys.version_info[:2]), build=sys.version,
        purelib=sysconfig.get_path('purelib'),
        versions={name: distribution.version for name, distribution in found.items()},
        torchvision_requires=requires or [],
        origins={name: str(Path(spec.origin).resolve().parent)
                 for name, spec in specs.items() if spec and spec.origin})


class Environment:
    """A virtualenv or conda environment.

    Args:
        prefix (Path): its folder.
        adopted (bool): it was active; its PyTorch is left as it is.
    """

    def __init__(self, prefix, adopted):
        self.prefix, self.adopted = Path(prefix), adopted
        self.python = self.prefix / 'bin' / 'python'

    def look(self):
        """Describe it as it is now (see :func:`describe`), or None if its Python does not run."""
        # -I: neither PYTHONPATH nor the directory decides what is there
        try:
            done = subprocess.run([self.python, '-I', Path(__file__).parent, '--describe'],
                                  capture_output=True, text=True, check=True)
            return json.loads(done.stdout)
        except (OSError, ValueError, subprocess.CalledProcessError):
            return None

    def is_own(self):
        """Return whether a set-up made it."""
        return (self.prefix / OWN).is_file()

    def runs(self, code):
        return subprocess.run([self.python, '-I', '-c', code], capture_output=True,
                              check=False).returncode == 0

    def stamp(self, seen):
        """Return a digest of what a set-up follows from, or None if it is not whole."""
        versions = seen['versions']
        origins = {'mmvssd': ROOT / 'mmvssd', 'mmvssd_kernels': ROOT / 'kernels/mmvssd_kernels'}
        if not ({'torch', 'torchvision', *HOSTS} <= set(versions)
                and {'mmcv', 'mmcv-lite'} & set(versions)
                and all(seen['origins'].get(name) == str(path) for name, path in origins.items())):
            return None
        digest = hashlib.sha256(
            repr((seen['build'], [versions.get(name) for name in FOLLOWED])).encode())
        code = Path(__file__).parent.glob('*.py')
        built = (ROOT / 'setup.py', ROOT / 'mmvssd.pth')
        for path in (*sorted(REQUIREMENTS.glob('*.txt')), *built, *sorted(code)):
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def is_set_up(self, seen, compiled):
        """Return whether nothing is left to do, for an own or an adopted environment alike."""
        file = self.prefix / STAMP
        return (seen is not None and file.is_file() and file.read_text() == self.stamp(seen)
                and (not compiled or 'mmcv' in seen['versions']))


def leading_numbers(version):
    """Return the first two numbers of a version, for comparison: (2, 13)."""
    return tuple(int(number) for number in re.findall(r'\d+', version)[:2])


def dotted(numbers):
    return '.'.join(map(str, numbers))


def is_usable(seen):
    """Return whether packages can be installed there as it is."""
    return (seen is not None and OLDEST_PYTHON <= tuple(seen['python']) <= NEWEST_PYTHON
            and 'pip' in seen['versions'])


def misfit(seen):
    """Return why an active environment cannot be used, or None."""
    if seen is None:
        return f'its Python does not run on {dotted(OLDEST_PYTHON)} or later'
    if not OLDEST_PYTHON <= tuple(seen['python']) <= NEWEST_PYTHON:
        return (f'it has Python {dotted(seen["python"])}, and {dotted(OLDEST_PYTHON)} to '
                f'{dotted(NEWEST_PYTHON)} fit')
    torch = seen['versions'].get('torch')
    if torch is None:
        return 'it has no PyTorch'
    if leading_numbers(torch) < OLDEST_TORCH:
        return f'its PyTorch is {torch}, and {dotted(OLDEST_TORCH)} or later is needed'
    return None


def choose_environment(progress):
    """Choose the active environment if it fits, otherwise `.venv`; returns it and its looks.

    A `.venv` that a user made and put a PyTorch into is adopted like an active environment.
    """
    for variable in () if os.environ.get('PYTHON') else ('VIRTUAL_ENV', 'CONDA_PREFIX'):
        prefix = os.environ.get(variable)
        if not prefix or Path(prefix).resolve() == VENV.resolve():
            continue
        environment = Environment(prefix, adopted=True)
        seen = environment.look()
        reason = misfit(seen)
        if reason is None:
            return environment, seen
        progress.say(f'not used: {prefix} is active, but {reason}')
    environment = Environment(VENV, adopted=False)
    seen = environment.look()
    environment.adopted = not environment.is_own() and misfit(seen) is None
    return environment, seen


def drop_half_installed(environment, seen):
    """Remove what an interrupted run left, which pip would take for whole.

    pip writes RECORD last. In an adopted environment other installers may write none, so there
    only what is newer than the beginning of the interrupted run is ours.
    """
    oldest = 0.
    if environment.adopted:
        unfinished = environment.prefix / UNFINISHED
        oldest = unfinished.stat().st_mtime if unfinished.exists() else float('inf')
    for info in Path(seen['purelib']).glob('*.dist-info'):
        if not (info / 'RECORD').exists() and info.stat().st_mtime >= oldest:
            shutil.rmtree(info)
