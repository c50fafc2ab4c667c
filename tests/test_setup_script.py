"""tools/setup.sh: what stops it, what it says then, and that a second run is short; no network."""
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(ROOT.glob('tools/**/*.sh')) + [ROOT / '.ci' / 'run']
# what the script calls besides pip and Python; no compiler
TOOLS = ('awk', 'bash', 'cat', 'cp', 'cut', 'df', 'dirname', 'env', 'find', 'flock', 'getconf',
         'grep', 'head', 'mkdir', 'mktemp', 'mv', 'rm', 'sed', 'tail', 'uname')
QUICK = 60  # seconds for a check to stop the script; they take a few on an idle machine


class Sandbox:
    """A checkout in a folder with a space, a PATH of its own, an empty cache, and no network."""

    def __init__(self, folder):
        self.folder = folder
        self.checkout = folder / 'check out'
        self.cache = folder / 'cache' / 'mmvssd'
        self.bin = folder / 'bin'
        (self.checkout / 'tools').mkdir(parents=True)
        shutil.copy2(ROOT / 'tools' / 'setup.sh', self.checkout / 'tools')
        shutil.copy2(ROOT / 'setup.py', self.checkout)
        shutil.copytree(ROOT / 'requirements', self.checkout / 'requirements')
        self.bin.mkdir()
        for name in TOOLS:
            if shutil.which(name):
                (self.bin / name).symlink_to(shutil.which(name))
        self.env = {'PATH': str(self.bin), 'HOME': str(folder), 'PIP_NO_INDEX': '1',
                    'PIP_CONFIG_FILE': os.devnull, 'XDG_CACHE_HOME': str(self.cache.parent)}

    def stub(self, name, script):
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(f'#!{shutil.which("bash")}\n{script}\n')
        path.chmod(0o755)
        return path

    def keep_compiled_mmcv(self):
        """Make believe that a compiled mmcv is kept: then no compiler is needed."""
        tag = f'cp{sys.version_info.major}{sys.version_info.minor}'
        folder = self.cache / 'wheels' / f'{tag}-linux_x86_64-torch{pin("torch")}-cpu'
        folder.mkdir(parents=True)
        (folder / f'mmcv-{pin("mmcv")}-{tag}-{tag}-linux_x86_64.whl').touch()

    def run(self, *args, timeout=QUICK, **env):
        return subprocess.run(['bash', str(self.checkout / 'tools' / 'setup.sh'), *args],
                              cwd=self.folder, env={**self.env, **env}, capture_output=True,
                              text=True, timeout=timeout)

    def stops(self, *args, **env):
        """Run, expect a stop at a check, and return the message."""
        done = self.run(*args, **env)
        assert done.returncode == 1, done.stdout + done.stderr
        assert done.stderr.count('Set-up stopped: ') == 1, done.stderr
        return done.stderr.split('Set-up stopped: ')[1]


def pin(name):
    lines = (ROOT / 'requirements' / 'constraints.txt').read_text().splitlines()
    return next(line.split('==')[1] for line in lines if line.startswith(f'{name}=='))


@pytest.fixture
def sandbox(tmp_path):
    return Sandbox(tmp_path)


@pytest.fixture
def fitting(sandbox):
    """A sandbox whose PYTHON is one that fits, for the checks that follow the first."""
    if sys.version_info[:2] not in ((3, 11), (3, 12)):
        pytest.skip('.venv is made with Python 3.11 or 3.12 only')
    sandbox.env['PYTHON'] = sys.executable
    return sandbox


def fake_environment(folder, torch_version):
    """A virtualenv with nothing but a package that calls itself torch."""
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', str(folder)], check=True)
    site, = folder.glob('lib/python*/site-packages')
    (site / 'torch').mkdir()
    (site / 'torch' / '__init__.py').write_text(f'__version__ = {torch_version!r}\n')
    info = site / f'torch-{torch_version}.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text(f'Name: torch\nVersion: {torch_version}\n')
    return folder


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_syntax(script):
    subprocess.run(['bash', '-n', str(script)], check=True)


def test_help(sandbox):
    done = sandbox.run('--help')
    assert done.returncode == 0
    for word in ('PYTHON', 'MAX_JOBS', '--print-python', 'PIP_INDEX_URL', 'minutes'):
        assert word in done.stdout
    assert not sandbox.cache.exists()
    assert not (sandbox.checkout / '.venv').exists()


def test_unknown_option(sandbox):
    assert '--colour' in sandbox.stops('--colour')


def test_python_that_does_not_fit(sandbox):
    old = sandbox.stub('python3', 'echo 3.8')
    assert 'python3 is Python 3.8' in sandbox.stops()
    message = sandbox.stops(PYTHON=str(old))
    assert f'{old} is Python 3.8' in message
    assert 'apt install python3.11' in message
    assert 'dnf install python3.11' in message


def test_no_python(sandbox):
    message = sandbox.stops()
    assert 'Python 3.11 or 3.12 is needed' in message
    assert 'python3.12 does not run' in message


def test_no_venv_module(fitting):
    python = fitting.stub('python-without-venv', f'[[ "$*" != *ensurepip* ]] || exit 1\n'
                                                 f'exec "{sys.executable}" "$@"')
    message = fitting.stops(PYTHON=str(python))
    assert 'lacks the venv module' in message
    assert f'apt install python{sys.version_info.major}.{sys.version_info.minor}-venv' in message


def test_no_compiler(fitting):
    message = fitting.stops()
    assert 'no working C++ compiler (c++)' in message
    assert 'apt install g++' in message
    assert 'dnf install gcc-c++' in message
    assert not (fitting.checkout / '.venv').exists()


def test_compiler_that_does_not_work(fitting):
    fitting.stub('broken-c++', 'exit 1')
    assert 'no working C++ compiler (broken-c++ -v)' in fitting.stops(CXX='broken-c++ -v')


def test_no_python_headers(fitting):
    fitting.stub('c++', 'exit 0')
    python = fitting.stub('python-without-headers',
                          '[[ "$*" != *include* ]] || { echo /none; exit; }\n'
                          f'exec "{sys.executable}" "$@"')
    message = fitting.stops(PYTHON=str(python))
    assert 'Python.h' in message
    assert f'apt install python{sys.version_info.major}.{sys.version_info.minor}-dev' in message


def test_full_disk(fitting):
    fitting.stub('df', 'printf "Filesystem 1024-blocks Used Available\\n/dev/x 9 9 900000\\n"')
    message = fitting.stops()
    assert '0 GB are free' in message
    assert 'TMPDIR' in message


def test_cache_that_cannot_be_written_to(fitting):
    (fitting.folder / 'file').touch()
    assert 'XDG_CACHE_HOME' in fitting.stops(XDG_CACHE_HOME=str(fitting.folder / 'file'))


@pytest.mark.slow
def test_no_package_index_and_an_environment_half_made(fitting):
    fitting.keep_compiled_mmcv()
    unreachable = {'PIP_NO_INDEX': '0', 'PIP_INDEX_URL': 'http://127.0.0.1:9/simple'}
    message = fitting.stops(**unreachable)
    assert f'pip cannot get torch=={pin("torch")}' in message
    assert 'HTTPS_PROXY' in message
    assert not list(fitting.cache.glob('tmp.*'))

    site, = fitting.checkout.glob('.venv/lib/python*/site-packages')
    half_installed = site / 'half-1.0.dist-info'  # without the RECORD, which pip writes last
    half_installed.mkdir()
    assert 'making' not in fitting.run(**unreachable).stdout  # it goes on with what is there
    assert not half_installed.exists()
    (fitting.checkout / '.venv' / 'bin' / 'python').unlink()
    assert 'making' in fitting.run(**unreachable).stdout


def test_active_environment_is_used_only_where_its_torch_fits(sandbox):
    old = fake_environment(sandbox.folder / 'old', '2.0.1')
    done = sandbox.run(VIRTUAL_ENV=str(old))
    assert f'not used: {old}' in done.stdout
    assert 'Python 3.11 or 3.12 is needed' in done.stderr  # to make .venv

    new = fake_environment(sandbox.folder / 'new', '2.4.0+cu121')
    assert 'has no pip' in sandbox.stops(VIRTUAL_ENV=str(new))
    (next(new.glob('lib/python*/site-packages')) / 'pip.py').write_text('__version__ = "23.0"')
    for variable in ('VIRTUAL_ENV', 'CONDA_PREFIX'):
        done = sandbox.run(**{variable: str(new)})
        assert f'setting up {new}' in done.stdout
        assert 'no working C++ compiler' in done.stderr
    assert not (sandbox.checkout / '.venv').exists()


def differing_from_constraints():
    """What of the requirement files is not here in its tested version, as in an adopted one."""
    text = '\n'.join((ROOT / 'requirements' / f'{name}.txt').read_text()
                     for name in ('build', 'hosts', 'hosts_deps', 'optional', 'runtime'))
    lines = [line.split('#')[0].strip() for line in text.splitlines()]
    names = {Requirement(line).name for line in lines if line}
    found = {canonicalize_name(dist.name): dist.version.split('+')[0] for dist in distributions()}
    return sorted(name for name in names if found.get(name) != pin(name))


@pytest.mark.slow
def test_second_run_is_short(tmp_path):
    """Set up an environment in which all is there already, without a network, three times."""
    if differing_from_constraints():
        pytest.skip(f'not at the tested versions: {", ".join(differing_from_constraints())}')
    sandbox = Sandbox(tmp_path)
    for name in ('mmvssd', 'kernels', 'configs'):
        shutil.copytree(ROOT / name, sandbox.checkout / name,
                        ignore=shutil.ignore_patterns('__pycache__', '*.egg-info'))
    for path in ROOT.glob('*.*'):
        if path.is_file():
            shutil.copy2(path, sandbox.checkout)
    venv = sandbox.checkout / '.venv'
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', str(venv)], check=True)
    site, = venv.glob('lib/python*/site-packages')
    # lends it this environment's packages, but not its editable checkout
    (site / 'lent.pth').write_text(sysconfig.get_path('purelib') + '\n')

    first = sandbox.run('--print-python', timeout=600)
    assert first.returncode == 0, first.stderr
    assert first.stdout == f'{venv}/bin/python\n'
    assert 'this checkout' in first.stderr

    started = time.monotonic()
    second = sandbox.run('--print-python')
    assert time.monotonic() - started < 10
    assert second.stdout == first.stdout
    assert second.stderr.count('\n') == 1
    assert 'already set up' in second.stderr

    with (sandbox.checkout / 'requirements' / 'constraints.txt').open('a') as file:
        file.write('# edited\n')
    third = sandbox.run(timeout=600)
    assert third.returncode == 0, third.stderr
    assert 'already set up' not in third.stdout
