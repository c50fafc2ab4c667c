"""What the tests share: recorded outputs, real photographs, fresh processes."""
import functools
import gc
import html
import importlib.util
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import types
import venv
import zlib
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    # before anything imports Triton: where there is no GPU, its kernels run on CPU tensors
    os.environ['TRITON_INTERPRET'] = '1'

from mmengine.config import config as config_module
from mmengine.config import utils as config_utils
from mmengine.dataset import base_dataset
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from torch.distributed import run as launcher

from mmvssd.converters import from_official
from mmvssd.families import FAMILIES, every_arch

ROOT = Path(__file__).resolve().parent.parent
#: Folder of recorded outputs and real photographs; it is no part of the project.
SHARED = Path(os.environ.get('MMVSSD_TEST_DATA', ROOT.parent / 'shared'))


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items):
    """Of the cases of a test all but the first are slow: the fast lane runs one of each."""
    seen = set()
    for item in items:
        function = (item.path, item.parent.name, getattr(item, 'originalname', item.name))
        if function in seen:
            item.add_marker(pytest.mark.slow)
        elif not item.get_closest_marker('slow'):
            seen.add(function)


def pytest_collection_finish():
    """Let the garbage collector pass over what imports and collection have made.

    It is never garbage.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


#: What an interpreter of an older Triton says of what it does not do; kernels on a GPU do it.
NOT_INTERPRETED = ('Unsupported lhs dtype fp64', 'interpreter writes nothing with NumPy 2')


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    """Skip a test at what the Triton at hand does not interpret."""
    try:
        return (yield)
    except Exception as error:
        reason = next((reason for reason in NOT_INTERPRETED if reason in str(error)), None)
        if reason:
            pytest.skip(f'this Triton: {reason}')
        raise


#: The same in fixtures.
pytest_runtest_setup = pytest_runtest_call


@pytest.fixture(scope='session', autouse=True)
def quick_mmengine():
    """Let MMEngine look for a host and read the lists of its configs once, and lay out no config.

    For each config of a host's that another inherits it does, which takes nine tenths of the time
    that loading a recipe takes. Each Runner lays out its config three times, which takes
    a second. Fresh processes do both, as users' processes do.

    After each data set that it reads it collects garbage, which looks through the objects of three
    hosts and takes most of the time of building a small training.

    A Runner's scope has a name of the second. The next Runner of the same recipe would not make its
    own scope the current one, now that two fit into a second.
    """
    find = DefaultScope.get_instance.__func__

    def get_instance(cls, name, **options):
        cls._instance_dict.pop(name, None)
        return find(cls, name, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DefaultScope, 'get_instance', classmethod(get_instance))
        patch.setattr(config_utils, 'load', functools.cache(config_utils.load))
        for name in ('is_installed', 'get_installed_path'):
            patch.setattr(config_module, name, functools.cache(getattr(config_module, name)))
        patch.setattr(base_dataset, 'gc', types.SimpleNamespace(collect=lambda: 0))
        patch.setattr(config_module, 'FormatCode', lambda text, **style: (text, True))
        yield


@pytest.fixture(autouse=True)
def own_loggers():
    """Close and forget the loggers that a test has made, so that none is current in the next.

    MMEngine's models write to the files of the current logger, whether they are open or not.
    """
    before = set(MMLogger._instance_dict)
    yield
    for name in [name for name in MMLogger._instance_dict if name not in before]:
        for handler in MMLogger._instance_dict.pop(name).handlers:
            handler.close()


@pytest.fixture
def usual_signals():
    """Handle signals as in a terminal, though the tests may run under nohup or in a background.

    There Python, and all that it starts, ignores them, and a test of one waits in vain.
    """
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    # PyTorch's, which a signal that ends a run switches off
    before[signal.SIGCHLD] = signal.getsignal(signal.SIGCHLD)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def locked():
    """A folder with an image, and what its user may not read: an image, a folder and hidden ones.

    Root may read all, so a test that root starts runs as another user.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        closed = [folder / name for name in ('locked', 'lost+found', '.trash')]
        for place in closed:
            place.mkdir()
            (place / 'inside.png').touch()
        for name in ('open.png', 'locked.png'):
            (folder / name).write_bytes(b'pixels')
        (folder / 'locked.png').chmod(0)
        before, nobody = os.getresuid(), 65534
        folder.chmod(0o755)
        try:
            for place in closed:
                place.chmod(0)
            if before[1] == 0:
                os.chown(folder, nobody, nobody)
                os.setresuid(nobody, nobody, 0)
            yield folder
        finally:
            os.setresuid(*before)
            for place in closed:
                place.chmod(0o700)


@pytest.fixture(scope='session')
def golden():
    """The loader of the published models' recorded outputs."""
    file = SHARED / 'golden' / 'golden.py'
    if not file.is_file():
        pytest.skip(f'the recorded outputs of the published models are not at {file.parent}; '
                    'set MMVSSD_TEST_DATA to the folder that holds golden/')
    spec = importlib.util.spec_from_file_location('golden', file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _of_the_kernels():
    """The fixtures in tests/kernels, which on a GPU machine have to do without these."""
    file = ROOT / 'tests' / 'kernels' / 'conftest.py'
    spec = importlib.util.spec_from_file_location('fixtures_of_kernels', file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


gpu_arithmetic = _of_the_kernels().gpu_arithmetic


class Published:
    """A published model: its names and shapes, its weights as filled, what it made of an image."""

    def __init__(self, golden, family, arch):
        self.family, self.arch, self.backbone = family, arch, FAMILIES[family].backbone
        self.variant = f'{family}_{arch}'.replace('-', '_')
        if self.variant not in golden.variants():
            pytest.skip(f'no outputs of {family}-{arch} are recorded')
        self.description = golden.describe(self.variant)
        self.load_cases = functools.partial(golden.load_cases, self.variant)
        self._fill, self._weights = golden.fill, {}

    def names(self, part):
        """Every published entry of 'backbone' or 'classifier' as an empty tensor."""
        return {name: torch.empty(shape, device='meta')
                for name, shape in self.description[part].items()}

    def weights(self, part):
        """The entries of 'backbone' or 'classifier' filled with numbers; most are in both."""
        # rotations are buffers, which a model computes itself
        names = [name for name in self.description[part] if not name.endswith('rotations')]
        for name in names:
            if name not in self._weights:  # drawing a large model's takes seconds
                value = self._fill(name, self.description[part][name])
                self._weights[name] = torch.from_numpy(value)
        return {name: self._weights[name] for name in names}

    def converted(self, part):
        """The same under our names."""
        return from_official(self.weights(part), self.family)


def published_archs():
    """Every arch with published weights, once: VSSD's two versions share their Base."""
    seen = []
    for family, arch in every_arch():
        settings = family.name, family.backbone.archs[arch]
        if family.rules_path and settings not in seen:
            seen.append(settings)
            # of many alike the smallest do while writing
            larger = arch.startswith(('small', 'base')) or arch.endswith(('small', 'base'))
            yield pytest.param((family.name, arch), id=f'{family.name}-{arch}',
                               marks=pytest.mark.slow if larger else ())


# of a module: all tests of a model run one after the other, so that its weights are drawn once
@pytest.fixture(scope='module', params=published_archs())
def published(request, golden):
    """Each published model; parametrise it with ``indirect=True`` for some of them."""
    return Published(golden, *request.param)


@pytest.fixture(scope='session')
def tiny_coco():
    """Folder of real photographs in COCO's layout."""
    folder = SHARED / 'data' / 'tiny_coco'
    if not folder.is_dir():
        pytest.skip(f'no photographs at {folder}; set MMVSSD_TEST_DATA to the folder that holds '
                    'data/tiny_coco')
    return folder


@pytest.fixture(scope='session')
def installed_python(tmp_path_factory):
    """Python of an environment with the project installed, and whatever this one has.

    The first path file does what an editable installation does. Python reads no path file of the
    folders that it names, so what is installed in this environment beside packages does not count.
    """
    folder = tmp_path_factory.mktemp('installed')
    venv.create(folder, symlinks=True)
    paths = {kind: sysconfig.get_path(kind) for kind in ('purelib', 'platlib')}
    site, = {path.replace(sys.prefix, str(folder), 1) for path in paths.values()}
    lent = [ROOT, ROOT / 'kernels', *sorted(set(paths.values()))]
    Path(site, 'lent.pth').write_text('\n'.join(map(str, lent)))
    shutil.copy2(ROOT / 'mmvssd.pth', site)
    return folder / 'bin' / 'python'


@pytest.fixture(scope='session')
def run_installed(installed_python):
    """Run it, without this process's import path: ``run_installed(*arguments, cwd=..., ...)``.

    ``expect`` is the exit status. Returns stdout and stderr together.
    """

    def run(*arguments, cwd=None, env=None, expect=0, timeout=600):
        environment = {name: value for name, value in os.environ.items()
                       if not name.startswith(('PYTHON', 'MMVSSD_PATCHES'))}
        done = subprocess.run([installed_python, *map(str, arguments)], cwd=cwd, text=True,
                              env={**environment, **(env or {})}, timeout=timeout,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        assert done.returncode == expect, done.stdout[-5000:]
        return done.stdout

    return run


@pytest.fixture(scope='session')
def without_mmdet(tmp_path_factory):
    """The variable of an import path on which there is no MMDetection.

    Its import is a third of what a process takes that trains a classifier.
    """
    folder = tmp_path_factory.mktemp('without')
    (folder / 'mmdet.py').write_text('raise ModuleNotFoundError(name=__name__)\n')
    paths = [str(folder), *filter(None, [os.environ.get('PYTHONPATH')])]
    return dict(PYTHONPATH=os.pathsep.join(paths))


class ToolServer:
    """Runs Python tools in forks of a process that has done their imports; see tool_server.py.

    Args:
        preloaded: Modules that it imports; none are all that tools of the project need. Of
            ``--libraries`` it imports what the hosts and the project import of others.
        env: Its environment while it imports them, by default that of the tests.
    """

    def __init__(self, *preloaded, env=None):
        self.preloaded, self.env, self.process = preloaded, env, None

    def run(self, command, folder, environment, timeout):
        """Run a tool; returns a completed process, as ``subprocess.run`` does."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, ROOT / 'tests' / 'tool_server.py', *self.preloaded],
                env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                start_new_session=True)
        with tempfile.NamedTemporaryFile('r') as output:
            request = dict(command=command, folder=str(folder), environment=environment,
                           output=output.name)
            self.process.stdin.write(json.dumps(request).encode() + b'\n')
            self.process.stdin.flush()
            if not select.select([self.process.stdout], [], [], timeout)[0]:
                self.stop()
                raise subprocess.TimeoutExpired(command, timeout, output.read())
            status = int(self.process.stdout.readline())
            return subprocess.CompletedProcess(command, status, output.read())

    def stop(self):
        """End the process, and a run that is under way."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()
            self.process = None


@pytest.fixture(scope='module')
def tool_server():
    """Make a :class:`ToolServer` for a module's tests: ``tool_server(*preloaded, env=None)``."""
    servers = []

    def start(*preloaded, env=None):
        servers.append(ToolServer(*preloaded, env=env))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope='module')
def forking_python(tmp_path_factory):
    """Make a folder for ``PATH``, whose ``python`` is a fork of a process that has done imports.

    ``forking_python(*preloaded, env)``: the names of modules, and the variables while it imports
    them. There are as many such Pythons at a time as a job starts.
    """
    servers = []

    def start(*preloaded, env):
        folder = tmp_path_factory.mktemp('forking')
        servers.append(subprocess.Popen(
            [sys.executable, ROOT / 'tests' / 'tool_server.py', '--socket', folder / 'socket',
             *preloaded], env=env, stdin=subprocess.DEVNULL, start_new_session=True))
        client = ROOT / 'tests' / 'forked_python.py'
        (folder / 'python').write_text(
            f"#!/bin/sh\nexec '{sys.executable}' -IS '{client}' '{folder / 'socket'}' \"$@\"\n")
        (folder / 'python').chmod(0o755)
        return folder

    yield start
    for server in servers:
        server.kill()
        server.wait()


@pytest.fixture(scope='session')
def run_anew():
    """Run ``python *command`` where neither the project nor a host is imported: in a fork.

    ``run_anew(command, folder, environment, timeout)`` returns a completed process, with stdout and
    stderr together in its ``stdout``. The process that forks has imported what these import of
    others, so that their own imports take a second. Python starts really anew if a variable says
    what it reads as it starts, or if there is a GPU, which works in no fork.
    """
    server = ToolServer('--libraries')

    def run(command, folder, environment, timeout=600):
        command = [str(part) for part in command]
        if torch.cuda.is_available() or read_at_start(environment, but='PYTHONPATH'):
            return subprocess.run([sys.executable, *command], cwd=folder, env=environment,
                                  timeout=timeout, text=True, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, check=False)
        return server.run(command, folder, environment, timeout)

    yield run
    server.stop()


def read_at_start(environment, but=None):
    """Of the variables that differ here, list those that a fork is past the time of reading."""
    return [name for name in {*environment, *os.environ}
            if environment.get(name) != os.environ.get(name) and name != but
            and name.startswith(('PYTHON', 'OMP_', 'TRITON_', 'MMVSSD_PATCHES'))]


@pytest.fixture(scope='session')
def tool_runner(tmp_path_factory, run_anew):
    """Run ``python tool *arguments``: each tool first by ``run_anew``, then where all is imported.

    The first is that of all processes that share the tests. A tool of the tests' own is in a fork
    that has imported all from the first.
    """
    server, started = ToolServer(), tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        started = started.parent

    def is_first(tool):
        mark = f'started_{zlib.crc32(tool.encode()):x}_{Path(tool).name}'
        try:
            (started / mark).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def run(command, folder, environment, timeout, of_tests=False):
        anew = (torch.cuda.is_available() or read_at_start(environment)
                or (not of_tests and is_first(command[0])))
        return (run_anew if anew else server.run)(command, folder, environment, timeout)

    yield run
    server.stop()


@pytest.fixture(scope='session')
def run_script(tool_runner):
    """Run a script of the tests' own on the CPU: ``run_script(script, *arguments, processes=1)``.

    Returns a completed process, with stdout and stderr together in its ``stdout``.
    """

    def run(script, *arguments, processes=1, timeout=240):
        command = [script, *arguments]
        if processes > 1:
            command = [launcher.__file__, '--standalone', f'--nproc-per-node={processes}', *command]
        return tool_runner([*map(str, command)], os.getcwd(),
                           {**os.environ, 'CUDA_VISIBLE_DEVICES': '-1'}, timeout, of_tests=True)

    return run


#: In the place of Python it writes down what it was to run, and in which environment.
RECORDER = """#!/bin/sh
exec '{python}' -IS -c '
import json, os, sys
with open("{record}", "w") as file:
    json.dump([sys.argv[1:], dict(os.environ)], file)
' "$@"
"""


@pytest.fixture(scope='session')
def run_job(tmp_path_factory, tool_runner):
    """Run a script that ends by Python taking its place, and that Python as a tool."""
    bin_folder = tmp_path_factory.mktemp('recorder')
    record, python = bin_folder / 'record.json', bin_folder / 'python'
    python.write_text(RECORDER.format(python=sys.executable, record=record))
    python.chmod(0o755)

    def run(command, folder, environment, timeout):
        record.unlink(missing_ok=True)
        path = os.pathsep.join([str(bin_folder), environment['PATH']])
        done = subprocess.run(['bash', *command], cwd=folder, env={**environment, 'PATH': path},
                              timeout=timeout, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, check=False)
        if not record.exists():
            return done
        command, variables = json.loads(record.read_text())
        return tool_runner(command, folder, {**variables, 'PATH': environment['PATH']}, timeout)

    return run


@pytest.fixture
def run_tool(tmp_path, tool_runner, run_job):
    """Run a tool of the project in a process of its own, in a foreign folder."""

    def run(tool, *arguments, expect=0, env=None, timeout=600):
        # the scripts run the `python` of the environment that is active
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])
        environment = {**os.environ, 'PATH': path, **(env or {})}
        command = [str(ROOT / 'tools' / tool), *map(str, arguments)]
        if tool.startswith('dist_'):
            done = run_job(command, tmp_path, environment, timeout)
        elif tool.endswith('.sh'):
            done = subprocess.run(['bash', *command], cwd=tmp_path, env=environment,
                                  timeout=timeout, text=True, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, check=False)
        else:
            done = tool_runner(command, tmp_path, environment, timeout)
        assert done.returncode == expect, done.stdout[-5000:]
        return done.stdout

    return run


#: Writes down, in a page, what the pages in its frames tell it.
COLLECT = """<script>
addEventListener('message', event => {
  const line = document.createElement('pre'); line.textContent = event.data;
  document.body.append(line);
});
</script>"""


@pytest.fixture
def browse(tmp_path):
    """Return a function of an address, which opens it in a browser: what is there then, the log."""
    browser = shutil.which('chromium')
    if browser is None:
        pytest.skip("no chromium here; Debian's package has it")

    def run(address):
        done = subprocess.run(
            [browser, '--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage',
             '--enable-logging=stderr', f'--user-data-dir={tmp_path / "profile"}',
             '--virtual-time-budget=20000', '--window-size=1400,1000', '--dump-dom', address],
            capture_output=True, text=True, timeout=120, check=True)
        return done.stdout, done.stderr

    return run


@pytest.fixture
def browse_frames(browse):
    """Return a function that writes frames into a page: what the pages in them tell it, the log."""
    def run(page, frames):
        page.write_text(f'<!DOCTYPE html><body>{COLLECT}{frames}</body>')
        shown, log = browse(page.as_uri())
        lines = re.findall(r'<pre>(\{.*?\})</pre>', shown)
        return [json.loads(html.unescape(line)) for line in lines], log

    return run
