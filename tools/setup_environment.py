"""Make the environment that everything else here runs in: PyTorch, the hosts, this package.

tools/setup.sh starts this with a bare interpreter, before anything is installed. So it needs the
standard library only, and it is no part of ``mmvssd``, whose import needs PyTorch.
"""
import argparse
import collections
import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / 'requirements'
VENV = ROOT / '.venv'
COMPILE_MMCV = ROOT / 'tools' / 'compile_mmcv.py'

# Files in the environment.
STAMP = 'mmvssd-setup.stamp'  # what it was set up for
UNFINISHED = 'mmvssd-setup.unfinished'  # there while a set-up runs, and after an interrupted one
LOG = 'mmvssd-setup.log'

OLDEST_PYTHON, NEWEST_PYTHON = (3, 10), (3, 13)
OLDEST_TORCH = (2, 4)
OLDEST_PIP = (22, 3)
PYTORCH = ('torch', 'torchvision', 'triton')
OPENCV = ('opencv-python', 'opencv-python-headless')
#: What opencv-python links to and a machine without a display may lack.
DISPLAY_LIBRARIES = ('libGL.so.1', 'libgthread-2.0.so.0')
HOSTS = ('mmengine', 'mmdet', 'mmsegmentation', 'mmpretrain')

# GB of disk: the environment and what pip keeps; what pip downloads before it installs.
ENVIRONMENT_GB, DOWNLOADS_GB = 3, 1
CUDA_ENVIRONMENT_GB, CUDA_DOWNLOADS_GB = 10, 4  # with PyTorch's CUDA build
ADOPTED_GB = 2  # without PyTorch

#: The last proof; it also compiles the byte code that the first command of a user needs.
IMPORTS = ('import cv2, mmvssd, mmvssd_kernels, mmcv.ops; '
           'import mmdet.apis, mmseg.apis, mmpretrain.apis')

HELP = """
Installs PyTorch, MMDetection, MMSegmentation, MMPreTrain and this package; nothing is compiled.
The first time takes about two minutes on 2 cores, later runs a second. It may be interrupted: the
next run goes on from there.

Where to: into `.venv` in this checkout; but if a virtualenv or conda environment is active that
has PyTorch 2.4 or later on Python 3.10 to 3.13, into that one, and its PyTorch is left as it is.
"""

ENVIRONMENT_VARIABLES = """
environment variables:
  PYTHON    the interpreter, 3.10 to 3.13, to make `.venv` with; an active environment is then not
            used. Without it: the first that fits of python3, python3.11, 3.12, 3.13, 3.10.
  MAX_JOBS  processes that compile mmcv's ops, with --with-compiled-mmcv. Without it: as many as
            cores and memory allow.

pip's own settings hold, from its configuration file or as PIP_INDEX_URL, PIP_EXTRA_INDEX_URL and
PIP_FIND_LINKS. On Linux the default index has PyTorch's CUDA build, several GB. To have the small
CPU build on a machine without a GPU, point one of them to where PyTorch publishes it.
"""


class SetupError(Exception):
    """What is wrong in one line, then lines that say what to do."""

    def __str__(self):
        return '\n  '.join(self.args)


# ---- what the user sees


class Progress:
    """Lines with the seconds since the start; on a terminal a step is one line that changes."""

    def __init__(self, stream):
        self.stream = stream
        self.is_terminal = stream.isatty()
        self.started = time.monotonic()

    def say(self, text):
        self._erase()
        print(self._line(text), file=self.stream, flush=True)

    def show(self, text):
        """Replace the changing line; nothing unless on a terminal."""
        if self.is_terminal:
            self._erase()
            width = shutil.get_terminal_size().columns - 1
            print(self._line(text)[:width], end='', file=self.stream, flush=True)

    def _line(self, text):
        return f'[{time.monotonic() - self.started:3.0f} s] {text}'

    def _erase(self):
        if self.is_terminal:
            print('\r\033[K', end='', file=self.stream)


def telling(line):
    """What of a line of pip's or a compiler's output is worth showing, or None."""
    counter = re.match(r'\s*\[(\d+)/(\d+)\]', line)  # ninja's
    if counter:
        return '{} of {} files'.format(*counter.groups())
    found = re.match(r'\s*((Collecting|Downloading|Installing|Building) .*)', line)
    return found and found.group(1)


class Commands:
    """Runs commands for their effect; their output goes to a log.

    Args:
        progress (Progress): says which step runs.
        log (Path): grows by each command and its output.
        lock (int): an open file that the commands inherit. It stays locked while one of them runs,
            even if this process is killed.
    """

    def __init__(self, progress, log, lock):
        self.progress, self.log, self.lock = progress, log, lock

    def run(self, label, command):
        """Run one step; raises SetupError with the reason if it fails."""
        if not self.progress.is_terminal:
            self.progress.say(label)
        command = [str(part) for part in command]
        end = collections.deque(maxlen=300)
        with self.log.open('a') as log:
            log.write(f'\n$ {shlex.join(command)}\n')
            status = self._run(label, command, lambda line: (log.write(line), end.append(line)))
        if status:
            raise SetupError(f'it did not work: {label}', *explain(''.join(end), status),
                             f'The whole output is in {self.log}.')
        if self.progress.is_terminal:
            self.progress.say(f'{label}: done')

    def _run(self, label, command, keep):
        process, latest, started = None, '', time.monotonic()
        try:
            with held_interruption():
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT, env=pip_environment(), pass_fds=(self.lock,),
                    start_new_session=True)  # stop() reaches its children, such as compilers, too
            for line in timed_lines(process.stdout.fileno()):
                if line:
                    keep(line)
                    latest = telling(line) or latest
                self.progress.show(f'{label}, {time.monotonic() - started:.0f} s  {latest}')
            return process.wait()
        except BaseException:
            if process:
                stop(process)
            raise


@contextlib.contextmanager
def held_interruption():
    """Raise KeyboardInterrupt at the end only, so that a process that starts is not lost."""
    arrived = []
    kept = {number: signal.signal(number, lambda *_: arrived.append(True))
            for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    if arrived:
        raise KeyboardInterrupt


def timed_lines(pipe):
    """Yield each line of a pipe, and an empty string for each second without one."""
    rest = b''
    while True:
        if not select.select([pipe], [], [], 1)[0]:
            yield ''
            continue
        part = os.read(pipe, 1 << 16)
        *lines, rest = (rest + part).split(b'\n')
        yield from (line.decode(errors='replace') + '\n' for line in lines)
        if not part:
            if rest:
                yield rest.decode(errors='replace') + '\n'
            return


def stop(process):
    """Interrupt a process and what it started; kill what is left of them."""
    for sent in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sent)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)


def pip_environment():
    return {**os.environ, 'PIP_DISABLE_PIP_VERSION_CHECK': '1', 'PIP_USER': '0',
            'PIP_NO_INPUT': '1'}


UNREACHABLE = (r'NewConnectionError|NameResolutionError|Name or service not known|'
               r'name resolution|Connection refused|Network is unreachable|ProxyError|SSLError|'
               r'CERTIFICATE_VERIFY_FAILED|ConnectTimeout|[Rr]ead timed out|HTTP error \d+')


def explain(output, status=1):
    """Turn the output of a failed step into what is wrong and what to do, as lines."""
    network = ('Check the network (behind a proxy: HTTPS_PROXY) and the settings of pip, which '
               '`pip config list` shows.')
    again = 'Then run it again: it goes on from here.'
    if re.search('No space left on device', output):
        return ('The disk is full. Free some space, or use another disk: for the checkout, or '
                '(TMPDIR) for downloads.', again)
    if re.search(UNREACHABLE, output):
        return ('pip does not reach its package index.', network, again)
    missing = re.search(r'No matching distribution found for (\S+)', output)
    if missing:
        return (f'The package index of pip has no {missing[1]} that fits this Python and machine.',
                'Point pip to one that has it (PIP_INDEX_URL, or PIP_EXTRA_INDEX_URL beside it).',
                again)
    if status == -signal.SIGKILL:
        return ('It was killed, as the system does if memory is short.', again)
    return ('Its last lines:', *(line[:300] for line in output.splitlines()[-20:]), again)


# ---- which environment


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
            done = subprocess.run([self.python, '-I', __file__, '--describe'], capture_output=True,
                                  text=True, check=True)
            return json.loads(done.stdout)
        except (OSError, ValueError, subprocess.CalledProcessError):
            return None

    def runs(self, code):
        return subprocess.run([self.python, '-I', '-c', code], capture_output=True,
                              check=False).returncode == 0

    def stamp(self, seen):
        """A digest of what a set-up follows from, or None if it is not whole."""
        versions = seen['versions']
        origins = {'mmvssd': ROOT / 'mmvssd', 'mmvssd_kernels': ROOT / 'kernels/mmvssd_kernels'}
        if not ({'torch', 'torchvision', *HOSTS} <= set(versions)
                and {'mmcv', 'mmcv-lite'} & set(versions)
                and all(seen['origins'].get(name) == str(path) for name, path in origins.items())):
            return None
        followed = (*PYTORCH, *HOSTS, *OPENCV, 'mmcv', 'mmcv-lite')
        digest = hashlib.sha256(
            repr((seen['build'], [versions.get(name) for name in followed])).encode())
        for path in (*sorted(REQUIREMENTS.glob('*.txt')), ROOT / 'setup.py', Path(__file__)):
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def is_set_up(self, seen, compiled):
        """Whether nothing is left to do, for an own or an adopted environment alike."""
        file = self.prefix / STAMP
        return (seen is not None and file.is_file() and file.read_text() == self.stamp(seen)
                and (not compiled or 'mmcv' in seen['versions']))


def leading_numbers(version):
    """The first two numbers of a version, for comparison: (2, 13)."""
    return tuple(int(number) for number in re.findall(r'\d+', version)[:2])


def dotted(numbers):
    return '.'.join(map(str, numbers))


def misfit(seen):
    """Why an active environment cannot be used, or None."""
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
    """Choose the active environment if it fits, otherwise `.venv`; returns it and its looks."""
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
    return environment, environment.look()


# ---- what to install


def read_pins(python):
    """The tested versions for a Python such as (3, 11): distribution -> version."""
    pins = {}
    text = ''.join((REQUIREMENTS / name).read_text() for name in ('pytorch.txt', 'constraints.txt'))
    for name, version, operator, bound in re.findall(
            r'^([\w.-]+)==([^\s;]+)(?:; python_version (<|>=) "([\d.]+)")?', text, re.MULTILINE):
        if not bound or (operator == '<') == (tuple(python) < leading_numbers(bound)):
            pins[name] = version
    return pins


def has_display_libraries():
    try:
        for name in DISPLAY_LIBRARIES:
            ctypes.CDLL(name)
    except OSError:
        return False
    return True


def choose_opencv(seen):
    """The distribution that brings cv2: that which is there. None if another one brings it.

    opencv-python is what the hosts ask for by name. It does not import without a few libraries of
    a display, which servers and containers may lack; opencv-python-headless does.
    """
    for name in OPENCV:
        if name in seen['versions']:
            return name
    if 'cv2' in seen['origins']:
        return None
    return OPENCV[0] if has_display_libraries() else OPENCV[1]


def keep_pytorch(pins, versions):
    """The pins with an adopted environment's PyTorch in place of the tested one."""
    pins = {name: version for name, version in pins.items() if name not in PYTORCH}
    return {**pins, **{name: versions[name] for name in PYTORCH if name in versions}}


def plan(environment, seen, *, compiled):
    """What pip is held to, and what it installs without dependencies, all by exact version.

    Args:
        compiled (bool): the environment has or gets mmcv with its compiled ops.

    Returns:
        tuple[dict, dict]: distribution -> version, of the constraints and of the installation.
    """
    pins = read_pins(seen['python'])
    versions = seen['versions']
    tested_torch = pins['torch']
    if environment.adopted:
        tested_triton = pins['triton']
        pins = keep_pytorch(pins, versions)
        # each PyTorch works with one release of Triton
        if 'triton' not in versions and has_torch(versions, tested_torch):
            pins['triton'] = tested_triton
    left_out = {'torch', 'torchvision', 'mmcv', 'ninja', 'psutil', *OPENCV}
    left_out -= {choose_opencv(seen)}
    if compiled:
        left_out.add('mmcv-lite')
    return pins, {name: pins[name] for name in pins if name not in left_out}


def has_torch(versions, wanted):
    """Whether PyTorch is there in a version, in whichever build."""
    return versions.get('torch', '').split('+')[0] == wanted.split('+')[0]


def write_pins(file, pins):
    file.write_text(''.join(f'{name}=={version}\n' for name, version in pins.items()))
    return file


# ---- what must be there before anything is begun


def check_venv_module():
    if find_spec('ensurepip') is None or find_spec('venv') is None:
        version = dotted(sys.version_info[:2])
        raise SetupError(
            f'{sys.executable} (Python {version}) lacks the venv module, which makes the '
            'environment.',
            f'Debian, Ubuntu: sudo apt install python{version}-venv',
            'Fedora:         sudo dnf install python3-libs',
            'Elsewhere:      PYTHON=/path/to/another/python3.11 bash tools/setup.sh')


def check_pip(environment, seen):
    """Environments that uv makes have no pip."""
    if leading_numbers(seen['versions'].get('pip', '0')) < OLDEST_PIP:
        python = environment.python
        raise SetupError(
            f'the active environment {environment.prefix} has no pip, or one older than '
            f'{dotted(OLDEST_PIP)}.',
            f'Run: {python} -m ensurepip --upgrade && {python} -m pip install --upgrade pip')


def torchvision_for(torch):
    """What pip needs to know to find the torchvision for a PyTorch without trying them all."""
    major, minor = leading_numbers(torch)
    return f'torchvision==0.{15 + minor}.*' if major == 2 else 'torchvision'


def check_torchvision(environment, seen):
    """An adopted environment's torchvision must be the one for its PyTorch."""
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


# ---- the steps


def make_venv(progress):
    check_venv_module()
    progress.say(f'making {VENV} with Python {dotted(sys.version_info[:2])}')
    # --clear: what lies there without a working Python and pip is left of an interrupted attempt
    done = subprocess.run([sys.executable, '-I', '-m', 'venv', '--clear', VENV],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise SetupError(f'could not make {VENV}.', *explain(done.stdout))


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


def keeps_compiled_mmcv(environment, seen):
    """Whether an mmcv is there whose compiled ops load, in a version that the hosts take."""
    version = seen['versions'].get('mmcv')
    return (version is not None and (2, 0) <= leading_numbers(version) < (2, 2)
            # a file: mmvssd puts a module without one in the place of missing ops
            and environment.runs('import torch, mmcv._ext; mmcv._ext.__file__'))


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
    elif seen is None or not OLDEST_PYTHON <= tuple(seen['python']) <= NEWEST_PYTHON \
            or 'pip' not in seen['versions']:
        check_venv_module()
        check_disk({ROOT: ENVIRONMENT_GB, tmp: DOWNLOADS_GB})
        if compiled:
            check_compiler(sys.executable)
        make_venv(progress)
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
