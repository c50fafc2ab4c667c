"""tools/setup.sh from beginning to end: with an index of tiny wheels on this machine, no network.

What its Python decides is in tests/tools/setup.
"""
import base64
import hashlib
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(ROOT.glob('tools/**/*.sh')) + [ROOT / '.ci' / 'run']
TOOLS = ('bash', 'cat', 'dirname', 'sleep')  # all that the script calls besides Python
QUICK = 60  # seconds for a check to stop the script; they take a few on an idle machine

#: Distribution -> version, code of the module of its name, requirements.
WHEELS = {
    'torch': ('2.13.0', '__version__ = "2.13.0"', ['typing-extensions']),
    'torchvision': ('0.28.0', '', ['torch==2.13.0']),
    'triton': ('3.7.1', '', []),
    'typing-extensions': ('4.16.0', '', []),
    'numpy': ('2.4.6', '', []),
    'mmengine': ('0.10.7', '', ['opencv-python>=3']),
    'mmcv-lite': ('2.1.0', '', ['mmengine', 'opencv-python>=3']),
    'mmdet': ('3.3.0', '', []),
    'mmsegmentation': ('1.2.2', '', []),
    'mmpretrain': ('1.2.0', '', []),
    'opencv-python': ('5.0.0.93', '', []),
    'opencv-python-headless': ('5.0.0.93', '', []),
}
OLDER = {  # of the index, but not pinned
    'torch': ('2.6.0', '__version__ = "2.6.0"', []),
    'torchvision': ('0.21.0', '', ['torch==2.6.0']),
    'mmcv': ('2.1.0', '', []),
}
#: What the set-up tries of a module; `_ext` stands for the compiled ops.
PARTS = dict(mmcv=('ops', '_ext'), mmdet=('apis',), mmseg=('apis',), mmpretrain=('apis',))
PYTORCH = {'torch', 'torchvision', 'triton'}
MODULES = {'mmcv-lite': 'mmcv', 'mmsegmentation': 'mmseg', 'opencv-python': 'cv2',
           'opencv-python-headless': 'cv2', 'typing-extensions': 'typing_extensions'}


def write_wheel(folder, name, version, files, metadata):
    """Write files as a wheel of any platform."""
    stem = f'{name.replace("-", "_")}-{version}'
    files = {**files, f'{stem}.dist-info/METADATA': metadata.encode(),
             f'{stem}.dist-info/WHEEL': b'Wheel-Version: 1.0\nRoot-Is-Purelib: true\n'
                                        b'Tag: py3-none-any\n'}
    record = ''
    for path, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b'=')
        record += f'{path},sha256={digest.decode()},{len(content)}\n'
    files[f'{stem}.dist-info/RECORD'] = f'{record}{stem}.dist-info/RECORD,,\n'.encode()
    with zipfile.ZipFile(folder / f'{stem}-py3-none-any.whl', 'w') as wheel:
        for path, content in files.items():
            wheel.writestr(path, content)


def write_tiny_wheel(folder, name, version, code, requires):
    metadata = f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n'
    metadata += ''.join(f'Requires-Dist: {requirement}\n' for requirement in requires)
    module = MODULES.get(name, name)
    files = {f'{module}/__init__.py': code.encode()}
    for part in PARTS.get(module, ()):
        if (name, part) != ('mmcv-lite', '_ext'):
            files[f'{module}/{part}.py'] = b''
    write_wheel(folder, name, version, files, metadata)


def pack_again(folder, name):
    """The wheel of a distribution that is installed here; returns its version."""
    found = distribution(name)
    files = {str(path): Path(found.locate_file(path)).read_bytes() for path in found.files
             if '..' not in path.parts and path.suffix != '.pyc'
             and path.parts[0].endswith('.dist-info') <= (path.name == 'entry_points.txt')}
    write_wheel(folder, name, found.version, files,
                f'Metadata-Version: 2.1\nName: {name}\nVersion: {found.version}\n')
    return found.version


class Index(http.server.BaseHTTPRequestHandler):
    """An index of packages; of some it has none, with some it never answers."""

    folder, hidden, hanging, asked = None, set(), set(), set()

    def do_GET(self):
        name = self.path.strip('/').split('/')[-1]
        self.asked.add(name)
        if name.endswith('.whl'):
            return self.answer((self.folder / name).read_bytes())
        if name in self.hanging:
            time.sleep(QUICK)
        found = [file.name for file in self.folder.glob('*.whl')
                 if file.name.split('-')[0].replace('_', '-') == name and name not in self.hidden]
        links = [f'<a href="/files/{file}">{file}</a>' for file in found]
        return self.answer('\n'.join(links).encode())

    def answer(self, content):
        self.send_response(200)
        self.send_header('Content-Type', 'text/html')
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture(scope='module')
def wheels(tmp_path_factory):
    """Tiny wheels, and those that this package's build really needs; their pins."""
    folder = tmp_path_factory.mktemp('wheels')
    for name, (version, code, requires) in [*WHEELS.items(), *OLDER.items()]:
        write_tiny_wheel(folder, name, version, code, requires)
    pins = {name: version for name, (version, *_) in WHEELS.items()}
    pins['mmcv'] = OLDER['mmcv'][0]
    return folder, {**pins, **{name: pack_again(folder, name) for name in ('setuptools', 'wheel')}}


@pytest.fixture
def index(wheels):
    """The class that answers at ``index.url``, reset."""
    handler = type('Handler', (Index,), dict(folder=wheels[0], hidden=set(), hanging=set(),
                                             asked=set()))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    handler.url = f'http://127.0.0.1:{server.server_port}/simple'
    yield handler
    server.shutdown()
    server.server_close()


class Sandbox:
    """A checkout in a folder with a space, and a PATH of its own; no network unless an index."""

    def __init__(self, folder):
        self.folder = folder
        self.checkout = folder / 'check out'
        self.venv = self.checkout / '.venv'
        self.bin = folder / 'bin'
        (self.checkout / 'tools').mkdir(parents=True)
        shutil.copy2(ROOT / 'tools' / 'setup.sh', self.checkout / 'tools')
        shutil.copytree(ROOT / 'tools' / 'setup', self.checkout / 'tools' / 'setup',
                        ignore=shutil.ignore_patterns('__pycache__'))
        shutil.copytree(ROOT / 'requirements', self.checkout / 'requirements')
        self.bin.mkdir()
        for name in TOOLS:
            (self.bin / name).symlink_to(shutil.which(name))
        self.env = {'PATH': str(self.bin), 'HOME': str(folder), 'PIP_NO_INDEX': '1',
                    'PIP_CONFIG_FILE': os.devnull, 'XDG_CACHE_HOME': str(folder / 'cache')}

    def use(self, index, pins):
        """Fill the checkout with a package that needs little, pinned to what the index has."""
        del self.env['PIP_NO_INDEX']
        self.env.update(PIP_INDEX_URL=index.url, PYTHON=sys.executable)
        for file, held in (('constraints', pins.keys() - PYTORCH), ('pytorch', PYTORCH)):
            (self.checkout / 'requirements' / f'{file}.txt').write_text(
                ''.join(f'{name}=={pins[name]}\n' for name in sorted(held)))
        for file in ROOT.glob('*.*'):
            if file.is_file():
                shutil.copy2(file, self.checkout)
        for package in ('mmvssd', 'kernels/mmvssd_kernels'):
            (self.checkout / package).mkdir(parents=True)
            (self.checkout / package / '__init__.py').touch()
        shutil.copy2(ROOT / 'mmvssd' / 'version.py', self.checkout / 'mmvssd')
        return self

    def stub(self, name, script):
        path = self.bin / name
        path.write_text(f'#!{shutil.which("bash")}\n{script}\n')
        path.chmod(0o755)
        return path

    def start(self, *args, **env):
        return subprocess.Popen(['bash', str(self.checkout / 'tools' / 'setup.sh'), *args],
                                cwd=self.folder, env={**self.env, **env}, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def run(self, *args, timeout=QUICK, **env):
        process = self.start(*args, **env)
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess(args, process.returncode, stdout, stderr)

    def stops(self, *args, **env):
        """Run, expect a stop with one message, and return it."""
        done = self.run(*args, **env)
        assert done.returncode == 1, done.stdout + done.stderr
        assert done.stderr.count('Set-up stopped: ') == 1, done.stderr
        assert 'Traceback' not in done.stderr
        return done.stderr.split('Set-up stopped: ')[1]

    def installed(self, environment=None):
        """Distribution -> version."""
        found = {}
        for info in (environment or self.venv).glob('lib/python*/site-packages/*.dist-info'):
            name, version = info.name[:-len('.dist-info')].split('-')
            found[name.replace('_', '-').lower()] = version
        return found


@pytest.fixture
def sandbox(tmp_path):
    return Sandbox(tmp_path)


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_syntax(script):
    subprocess.run(['bash', '-n', str(script)], check=True)


def test_python_that_does_not_fit(sandbox):
    old = sandbox.stub('python3', 'echo 3.9')
    assert 'python3 is Python 3.9' in sandbox.stops()
    message = sandbox.stops(PYTHON=str(old))
    assert f'{old} is Python 3.9' in message
    assert 'apt install python3' in message
    assert 'dnf install python3' in message


def test_no_python(sandbox):
    message = sandbox.stops()
    assert 'Python 3.10, 3.11, 3.12 or 3.13 is needed' in message
    assert 'python3.12 does not run' in message


def test_the_first_python_that_fits(sandbox):
    sandbox.stub('python3', 'echo 3.14')
    sandbox.stub('python3.12', 'case $3 in import*) echo 3.12 ;; *) echo "ran $@" ;; esac')
    ran = sandbox.run('--print-python').stdout
    assert ran == f'ran -I {sandbox.checkout}/tools/setup --print-python\n'


@pytest.mark.usefixtures('usual_signals')
@pytest.mark.slow
def test_from_nothing_stopped_three_times(sandbox, index, wheels):
    """No network, a package that the index lacks, an interruption: each run goes on from there."""
    sandbox.use(index, wheels[1])
    message = sandbox.stops(PIP_INDEX_URL='http://127.0.0.1:9/simple')
    assert 'pip cannot get torch==2.13.0' in message
    assert 'does not reach its package index' in message
    assert 'HTTPS_PROXY' in message

    index.hidden.add('mmdet')
    message = sandbox.stops()
    assert 'has no mmdet==3.3.0' in message
    assert 'PIP_INDEX_URL' in message
    assert sandbox.installed()['torch'] == '2.13.0'

    index.hidden.clear()
    index.asked.clear()
    index.hanging.add('mmdet')
    site, = sandbox.venv.glob('lib/python*/site-packages')
    (site / 'half-1.0.dist-info').mkdir()  # without the RECORD, which pip writes last
    stdout, stderr = interrupt(sandbox, lambda: 'mmdet' in index.asked)
    assert stderr == '\nInterrupted; run it again to go on from here.\n'
    assert 'making' not in stdout
    assert not (site / 'half-1.0.dist-info').exists()

    index.hanging.clear()
    done = sandbox.run('--print-python', timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f'{sandbox.venv}/bin/python\n'
    assert re.search(r'\[ *\d+ s\] this checkout\n', done.stderr)
    assert 'making' not in done.stderr
    assert 'PyTorch 2.13.0' not in done.stderr  # is there already
    found, pins = sandbox.installed(), wheels[1]
    for name in pins.keys() - {'mmcv', 'opencv-python', 'opencv-python-headless'}:
        assert found.get(name) == pins[name]
    assert 'mmcv' not in found
    assert len({'opencv-python', 'opencv-python-headless'} & set(found)) == 1
    runs_again(sandbox, index)


def interrupt(sandbox, is_time):
    """Send SIGINT to a set-up as soon as it is time; returns what it printed."""
    process = sandbox.start()
    deadline = time.monotonic() + QUICK
    while not is_time() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    printed = process.communicate(timeout=QUICK)
    assert process.returncode == 130
    return printed


def runs_again(sandbox, index):
    """A second run is short and asks no index; one after an edit is not."""
    started = time.monotonic()
    index.asked.clear()
    second = sandbox.run('--print-python')
    assert time.monotonic() - started < 10
    assert second.stdout == f'{sandbox.venv}/bin/python\n'
    assert second.stderr.count('\n') == 1
    assert 'already set up' in second.stderr
    assert not index.asked

    with (sandbox.checkout / 'requirements' / 'constraints.txt').open('a') as file:
        file.write('# edited\n')
    third = sandbox.run()
    assert third.returncode == 0, third.stderr
    assert 'making' not in third.stdout
    assert 'ready' in third.stdout


def folder_of_that_name(venv):
    (venv / 'bin').mkdir(parents=True)
    (venv / 'notes.txt').write_text('mine')


def environment_of_another_python(venv):
    """Its interpreter runs, and says that it is 3.9."""
    folder_of_that_name(venv)
    seen = dict(python=[3, 9], build='3.9', purelib=str(venv), versions=dict(pip='24.0'),
                torchvision_requires=[], origins={})
    python = venv / 'bin' / 'python'
    python.write_text(f"#!{shutil.which('bash')}\necho '{json.dumps(seen)}'\n")
    python.chmod(0o755)


def environment_without_pip(venv):
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', str(venv)], check=True)


def folder_behind_a_link(venv):
    folder_of_that_name(venv.parent / 'elsewhere')
    venv.symlink_to(venv.parent / 'elsewhere')


def file_of_that_name(venv):
    venv.write_text('mine')


def link_to_nothing(venv):
    venv.symlink_to(venv.parent / 'nothing')


def contents(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob('*')
            if '__pycache__' not in path.parts}


@pytest.mark.parametrize('active', [False, True])
@pytest.mark.parametrize(('make', 'reason'), [
    (folder_of_that_name, 'it has no Python that runs'),
    (folder_behind_a_link, 'it has no Python that runs'),
    (environment_of_another_python, 'it has Python 3.9'),
    (environment_without_pip, 'has no pip'),
    (file_of_that_name, 'is not a folder'), (link_to_nothing, 'is not a folder'),
])
def test_what_it_did_not_make_stays(sandbox, make, reason, active):
    make(sandbox.venv)
    before = contents(sandbox.checkout)
    message = sandbox.stops(PYTHON=sys.executable,
                            **(dict(VIRTUAL_ENV=str(sandbox.venv)) if active else {}))
    assert str(sandbox.venv) in message
    assert reason in message
    assert contents(sandbox.checkout) == before


@pytest.mark.slow
def test_its_own_is_made_anew(sandbox, index, wheels):
    """An empty folder is nobody's; what an interrupted set-up left is the set-up's."""
    sandbox.use(index, wheels[1])
    index.hidden.add('torch')
    sandbox.venv.mkdir()
    assert 'has no torch' in sandbox.stops()
    python = sandbox.venv / 'bin' / 'python'
    assert python.exists()
    python.unlink()
    (sandbox.venv / 'leftover').touch()
    assert 'has no torch' in sandbox.stops()
    assert python.exists()
    assert not (sandbox.venv / 'leftover').exists()


@pytest.fixture(scope='module')
def environment(tmp_path_factory):
    """An environment with pip, to be copied: making one takes seconds."""
    folder = tmp_path_factory.mktemp('environment') / 'venv'
    subprocess.run([sys.executable, '-m', 'venv', str(folder)], check=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize('place', ['elsewhere', '.venv'])
def test_an_active_environment(sandbox, index, wheels, environment, place):
    """Its PyTorch and its compiled mmcv stay; a mmcv whose ops do not load is exchanged."""
    sandbox.use(index, wheels[1])
    del sandbox.env['PYTHON']
    active = sandbox.checkout / place
    shutil.copytree(environment, active, symlinks=True)
    subprocess.run([active / 'bin' / 'python', '-m', 'pip', 'install', '--quiet', 'torch==2.6.0',
                    'mmcv'], env=sandbox.env, check=True)
    for expected in ('mmcv', 'mmcv-lite'):
        done = sandbox.run('--print-python', VIRTUAL_ENV=str(active), timeout=300)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f'{active}/bin/python\n'
        found = sandbox.installed(active)
        assert (found['torch'], found['torchvision']) == ('2.6.0', '0.21.0')
        assert 'triton' not in found  # each PyTorch works with one of them
        assert {'mmcv', 'mmcv-lite'} & set(found) == {expected}
        site, = active.glob('lib/python*/site-packages')
        assert (site / 'mmcv' / '__init__.py').is_file()
        # as after another PyTorch was installed
        (site / 'mmcv' / '_ext.py').write_text('raise ImportError')
        (active / 'mmvssd-setup.stamp').unlink()
    assert sandbox.venv.exists() == (place == '.venv')
