"""tools/setup: what it decides and what it says; nothing is installed."""
import errno
import importlib
import importlib.util
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = [(3, 10), (3, 11), (3, 12), (3, 13)]


@pytest.fixture
def setup(monkeypatch):
    """The modules of the set-up, fresh, so that a test may change their constants.

    They import each other as its Python has it: their folder is on the path.
    """
    folder = ROOT / 'tools' / 'setup'
    names = ('commands', 'environments', 'packages', 'checks')
    monkeypatch.syspath_prepend(folder)
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    modules = {name: importlib.import_module(name) for name in names}
    spec = importlib.util.spec_from_file_location('setup_main', folder / '__main__.py')
    modules['main'] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(modules['main'])
    yield SimpleNamespace(**modules)
    for name in names:
        sys.modules.pop(name, None)


def looks(python=(3, 11), cv2=False, torchvision_requires=(), **versions):
    """What an environment looks like; a distribution's name with _ for -."""
    return dict(python=list(python), build='x', purelib='/nowhere',
                versions={name.replace('_', '-'): version for name, version in versions.items()},
                torchvision_requires=list(torchvision_requires),
                origins={'cv2': '/somewhere'} if cv2 else {})


@pytest.fixture
def commands(setup, tmp_path):
    """Runs commands; what the user sees is in ``seen``, and an open file stands for the lock."""
    with (tmp_path / 'lock').open('w') as lock:
        progress = setup.commands.Progress(io.StringIO())
        commands = setup.commands.Commands(progress, tmp_path / 'log', lock.fileno())
        commands.seen = progress.stream
        yield commands


# ---- which environment


def test_it_runs_on_the_standard_library_alone(tmp_path):
    """No package is there when it begins: -S hides them all."""
    done = subprocess.run([sys.executable, '-I', '-S', ROOT / 'tools' / 'setup',
                           '--help'], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for word in ('PYTHON', '--print-python', '--with-compiled-mmcv', 'PIP_INDEX_URL', 'minutes'):
        assert word in done.stdout


def test_description_of_this_environment(setup):
    seen = setup.environments.Environment(sys.prefix, adopted=True).look()
    assert tuple(seen['python']) == sys.version_info[:2]
    here = setup.environments.describe()['versions']
    assert seen['versions'] == {name: here[name] for name in seen['versions']}
    assert seen['versions']['mmengine'] == importlib.metadata.version('mmengine')


@pytest.mark.parametrize(('seen', 'reason'), [
    (looks(torch='2.4.0+cu121'), None),
    (looks((3, 10), torch='2.13.0'), None),
    (looks((3, 13), torch='2.6.0a0+ecf3bae'), None),
    (looks(torch='2.3.1'), 'its PyTorch is 2.3.1, and 2.4 or later is needed'),
    (looks(), 'it has no PyTorch'),
    (looks((3, 9), torch='2.6.0'), 'it has Python 3.9, and 3.10 to 3.13 fit'),
    (looks((3, 14), torch='2.13.0'), 'it has Python 3.14, and 3.10 to 3.13 fit'),
    (None, 'its Python does not run'),
])
def test_which_active_environment_fits(setup, seen, reason):
    found = setup.environments.misfit(seen)
    assert found is None if reason is None else reason in found


def test_an_active_environment_is_not_asked_beside_PYTHON(setup, monkeypatch, tmp_path):
    monkeypatch.setenv('VIRTUAL_ENV', str(tmp_path))  # the tests may run in `.venv` itself
    monkeypatch.setattr(setup.environments.Environment, 'look', lambda self: looks(torch='2.13.0'))
    progress = setup.commands.Progress(io.StringIO())
    monkeypatch.delenv('PYTHON', raising=False)
    assert setup.environments.choose_environment(progress)[0].adopted
    assert setup.environments.choose_environment(progress)[0].prefix == tmp_path
    monkeypatch.setenv('PYTHON', sys.executable)
    chosen = setup.environments.choose_environment(progress)[0]
    assert chosen.prefix == setup.environments.VENV
    assert chosen.adopted != chosen.is_own()


@pytest.mark.parametrize('change', ['torch', 'mmcv-lite', 'opencv-python', 'origin', 'pins'])
def test_a_change_needs_another_set_up(setup, monkeypatch, tmp_path, change):
    requirements = tmp_path / 'requirements'
    requirements.mkdir()
    (requirements / 'constraints.txt').write_text('numpy==2.4.6\n')
    monkeypatch.setattr(setup.environments, 'REQUIREMENTS', requirements)
    seen = looks(**dict.fromkeys(('torch', 'torchvision', 'mmcv_lite', 'opencv_python',
                                  *setup.environments.HOSTS), '1.0'))
    seen['origins'] = {'mmvssd': str(ROOT / 'mmvssd'),
                       'mmvssd_kernels': str(ROOT / 'kernels' / 'mmvssd_kernels')}
    environment = setup.environments.Environment(tmp_path, adopted=False)
    (tmp_path / setup.environments.STAMP).write_text(environment.stamp(seen))
    assert environment.is_set_up(seen, compiled=False)
    assert not environment.is_set_up(seen, compiled=True)
    if change == 'origin':
        seen['origins']['mmvssd'] = '/another/checkout/mmvssd'
    elif change == 'pins':
        (requirements / 'constraints.txt').write_text('numpy==2.4.7\n')
    else:
        seen['versions'][change] = '2.0'
    assert not environment.is_set_up(seen, compiled=False)


# ---- what to install


@pytest.mark.parametrize('python', PYTHONS)
def test_pins_are_what_pip_reads_in_the_file(setup, python):
    from packaging.requirements import Requirement
    text = ''.join((ROOT / 'requirements' / name).read_text()
                   for name in ('constraints.txt', 'pytorch.txt'))
    pins = [Requirement(line) for line in text.splitlines() if not line.startswith('#')]
    scope = {'python_version': setup.environments.dotted(python)}
    expected = {pin.name: str(pin.specifier)[2:] for pin in pins
                if pin.marker is None or pin.marker.evaluate(scope)}
    assert setup.packages.read_pins(python) == expected


def own(setup):
    return setup.environments.Environment('/nowhere', adopted=False)


def adopted(setup):
    return setup.environments.Environment('/nowhere', adopted=True)


def test_an_own_environment_gets_the_whole_list(setup, monkeypatch):
    monkeypatch.setattr(setup.packages, 'has_display_libraries', lambda: True)
    pins, wanted = setup.packages.plan(own(setup), looks(), compiled=False)
    assert pins == setup.packages.read_pins((3, 11))
    assert set(pins) - set(wanted) == {'torch', 'torchvision', 'mmcv', 'ninja', 'psutil',
                                       'opencv-python-headless'}
    _, wanted = setup.packages.plan(own(setup), looks(), compiled=True)
    assert 'mmcv-lite' not in wanted


def test_an_adopted_environment_keeps_its_pytorch(setup):
    tested = setup.packages.read_pins((3, 11))
    kept = dict(torch='2.6.0+cu124', torchvision='0.21.0', triton='3.2.0')
    pins, wanted = setup.packages.plan(adopted(setup), looks(**kept), compiled=False)
    assert {name: pins[name] for name in kept} == kept
    assert wanted['mmdet'] == tested['mmdet']
    assert not {'torch', 'torchvision'} & set(wanted)


@pytest.mark.parametrize(('triton', 'is_older'), [
    ('3.0.0', True), ('3.6.0', True), ('3.7.1', False), ('3.10.0', False)])
def test_numpy_that_tritons_interpreter_takes(setup, triton, is_older):
    seen = looks((3, 12), torch='2.6.0', triton=triton)
    _, wanted = setup.packages.plan(adopted(setup), seen, compiled=False)
    python = (3, 10) if is_older else (3, 12)
    assert wanted['numpy'] == setup.packages.read_pins(python)['numpy']


@pytest.mark.parametrize(('torch', 'brings_triton'), [('2.6.0', False), ('tested', True)])
def test_triton_is_added_only_to_the_pytorch_it_is_for(setup, torch, brings_triton):
    tested = setup.packages.read_pins((3, 11))
    torch = tested['torch'] + '+cpu' if torch == 'tested' else torch
    pins, wanted = setup.packages.plan(adopted(setup), looks(torch=torch), compiled=False)
    assert (wanted.get('triton') == tested['triton']) is brings_triton
    assert 'torchvision' not in pins  # pip chooses the one for this PyTorch


@pytest.mark.parametrize(('seen', 'display', 'expected'), [
    (looks(), True, 'opencv-python'),
    (looks(), False, 'opencv-python-headless'),
    (looks(opencv_python_headless='4.9', cv2=True), True, 'opencv-python-headless'),
    (looks(opencv_python='4.9', cv2=True), False, 'opencv-python'),
    (looks(opencv_contrib_python='4.9', cv2=True), True, None),
])
def test_one_opencv_only(setup, monkeypatch, seen, display, expected):
    monkeypatch.setattr(setup.packages, 'has_display_libraries', lambda: display)
    _, wanted = setup.packages.plan(own(setup), seen, compiled=False)
    assert set(setup.packages.OPENCV) & set(wanted) == ({expected} if expected else set())


def test_display_libraries_are_tried(setup, monkeypatch):
    monkeypatch.setattr(setup.packages, 'DISPLAY_LIBRARIES', ('libc.so.6',))
    assert setup.packages.has_display_libraries()
    monkeypatch.setattr(setup.packages, 'DISPLAY_LIBRARIES', ('libc.so.6', 'libNoSuchLibrary.so.1'))
    assert not setup.packages.has_display_libraries()


@pytest.mark.parametrize(('version', 'loads', 'keeps'), [
    ('2.1.0', True, True), ('2.0.1', True, True), ('2.1.0', False, False), ('2.2.0', True, False),
    ('1.7.2', True, False), (None, True, False)])
def test_which_compiled_mmcv_is_kept(setup, monkeypatch, version, loads, keeps):
    monkeypatch.setattr(setup.environments.Environment, 'runs', lambda self, code: loads)
    seen = looks(mmcv=version) if version else looks(mmcv_lite='2.1.0')
    assert setup.packages.keeps_compiled_mmcv(own(setup), seen) is keeps


@pytest.mark.parametrize(('ext', 'keeps'), [
    ('__file__ = "compiled.so"', True), ('raise ImportError', False), ('del __file__', False)])
def test_what_counts_as_compiled_ops(setup, tmp_path, ext, keeps):
    """A module without a file is what mmvssd puts in the place of missing ops."""
    site = fake_environment(tmp_path, torch='', mmcv='')
    (site / 'mmcv' / '_ext.py').write_text(ext)
    environment = setup.environments.Environment(tmp_path, adopted=True)
    assert setup.packages.keeps_compiled_mmcv(environment, looks(mmcv='2.1.0')) is keeps


def fake_environment(folder, **packages):
    """A virtualenv without pip; returns the folder of its packages, name -> code."""
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', folder], check=True)
    site, = folder.glob('lib/python*/site-packages')
    for name, code in packages.items():
        (site / name).mkdir()
        (site / name / '__init__.py').write_text(code)
    return site


# ---- checks


def test_a_full_disk(setup, monkeypatch, tmp_path):
    """Folders on one disk need their sum of it."""
    usage = namedtuple('usage', 'total used free')
    monkeypatch.setattr(setup.checks.shutil, 'disk_usage', lambda folder: usage(0, 0, 3.5e9))
    (tmp_path / 'tmp').mkdir()
    setup.checks.check_disk({tmp_path: 3})
    says = r'needs 4 GB .* 3\.5 GB are free'
    with pytest.raises(setup.commands.SetupError, match=says) as caught:
        setup.checks.check_disk({tmp_path: 3, tmp_path / 'tmp': 1})
    assert 'TMPDIR' in str(caught.value)
    assert str(tmp_path / 'tmp') in str(caught.value)


@pytest.mark.parametrize(('torch', 'requires'), [
    ('2.6.0+cu124', 'torch==2.6.0'), ('2.6.0', 'torch (==2.6.0)'), ('2.6.0', 'torch')])
def test_a_torchvision_that_fits(setup, torch, requires):
    seen = looks(torch=torch, torchvision='0.21.0', torchvision_requires=['numpy', requires])
    setup.checks.check_torchvision(adopted(setup), seen)


@pytest.mark.parametrize(('torch', 'requires'), [
    ('2.6.0', 'torch==2.5.1'), ('2.13.0+cpu', 'torch (==2.12.0)')])
def test_a_torchvision_for_another_pytorch(setup, torch, requires):
    seen = looks(torch=torch, torchvision='0.20.1', torchvision_requires=['numpy', requires])
    with pytest.raises(setup.commands.SetupError) as caught:
        setup.checks.check_torchvision(adopted(setup), seen)
    message = str(caught.value)
    assert 'torchvision 0.20.1' in message
    assert f'pip install torch=={torch.split("+")[0]} torchvision==0.' in message


@pytest.mark.parametrize(('torch', 'expected'), [
    ('2.4.1', 'torchvision==0.19.*'), ('2.13.0+cpu', 'torchvision==0.28.*'),
    ('3.0.0', 'torchvision')])
def test_which_torchvision_pip_is_asked_for(setup, torch, expected):
    assert setup.packages.torchvision_for(torch) == expected


@pytest.mark.parametrize('pip', [None, '21.3.1'])
def test_no_pip_or_an_old_one(setup, pip):
    seen = looks(torch='2.6.0', pip=pip) if pip else looks(torch='2.6.0')
    with pytest.raises(setup.commands.SetupError, match='ensurepip --upgrade'):
        setup.checks.check_pip(adopted(setup), seen)
    setup.checks.check_pip(adopted(setup), looks(pip='22.3'))


def test_no_venv_module(setup, monkeypatch):
    monkeypatch.setattr(setup.checks, 'find_spec', lambda name: None)
    with pytest.raises(setup.commands.SetupError, match='lacks the venv module') as caught:
        setup.checks.check_venv_module()
    version = f'{sys.version_info.major}.{sys.version_info.minor}'
    assert f'apt install python{version}-venv' in str(caught.value)


@pytest.mark.parametrize('option', ['--colour', '--print', 'x'])
def test_unknown_option(setup, capsys, option):
    assert setup.main.main([option]) == 1
    error = capsys.readouterr().err
    assert error.count('\n') == 2
    assert f'Set-up stopped: unrecognized arguments: {option}' in error


def test_half_installed_packages_are_dropped(setup, tmp_path):
    """pip writes RECORD last; in an adopted environment only what the interrupted run left."""
    site = tmp_path / 'site'
    for name in ('whole', 'half', 'of_conda'):
        (site / f'{name}-1.0.dist-info').mkdir(parents=True)
    (site / 'whole-1.0.dist-info' / 'RECORD').touch()
    os.utime(site / 'of_conda-1.0.dist-info', (1e9, 1e9))
    seen = {**looks(), 'purelib': str(site)}
    environment = setup.environments.Environment(tmp_path, adopted=True)
    setup.environments.drop_half_installed(environment, seen)
    assert len(list(site.iterdir())) == 3  # no set-up was interrupted
    (tmp_path / setup.environments.UNFINISHED).touch()
    os.utime(tmp_path / setup.environments.UNFINISHED, (1.5e9, 1.5e9))
    setup.environments.drop_half_installed(environment, seen)
    assert {path.name[:4] for path in site.iterdir()} == {'whol', 'of_c'}
    environment.adopted = False
    setup.environments.drop_half_installed(environment, seen)
    assert {path.name[:4] for path in site.iterdir()} == {'whol'}


# ---- running commands


@pytest.mark.parametrize(('output', 'says'), [
    ('ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device',
     ['The disk is full', 'TMPDIR']),
    ("WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError('"
     '[Errno 111] Connection refused)\nERROR: No matching distribution found for rich==15.0.0',
     ['does not reach its package index', 'HTTPS_PROXY']),
    ('ERROR: Could not find a version that satisfies the requirement rich==15.0.0\n'
     'ERROR: No matching distribution found for rich==15.0.0',
     ['has no rich==15.0.0', 'PIP_INDEX_URL']),
    ('one\ntwo\nsomething else', ['Its last lines:', 'something else']),
])
def test_why_a_step_failed(setup, output, says):
    lines = setup.commands.explain(output)
    assert len(lines) <= 5
    assert 'run it again' in lines[-1]
    for part in says:
        assert part in '\n'.join(lines)


def test_a_failed_step_is_one_message(setup, commands, tmp_path):
    code = 'import sys; print("[Errno 28] No space left on device", file=sys.stderr); sys.exit(2)'
    with pytest.raises(setup.commands.SetupError) as caught:
        commands.run('the hosts', [sys.executable, '-c', code])
    assert str(caught.value).startswith('it did not work: the hosts')
    assert 'The disk is full' in str(caught.value)
    assert str(tmp_path / 'log') in str(caught.value)
    assert 'No space left' in (tmp_path / 'log').read_text()


@pytest.mark.parametrize(('number', 'says'), [
    (errno.ENOSPC, 'The disk is full'), (errno.EACCES, 'Permission denied: .*log')])
def test_what_cannot_be_written_is_one_message(setup, monkeypatch, capsys, number, says):
    def choose(progress):
        raise OSError(number, os.strerror(number), '/somewhere/log')

    monkeypatch.setattr(setup.main, 'choose_environment', choose)
    assert setup.main.main([]) == 1
    error = capsys.readouterr().err
    assert error.count('Set-up stopped: ') == 1
    assert re.search(says, error)


def test_steps_are_lines_with_seconds(commands, tmp_path):
    commands.run('first', ['printf', '%s', 'no end of line \xff'])
    commands.run('second', ['true'])
    assert re.fullmatch(r'\[  \d s\] first\n\[  \d s\] second\n', commands.seen.getvalue())
    assert 'no end of line \xff\n' in (tmp_path / 'log').read_text()


def test_a_terminal_shows_the_last_telling_line(setup, commands):
    commands.seen.isatty = lambda: True
    commands.progress.is_terminal = True
    commands.run('compiling', ['printf', r'Collecting x\n  noise\n [3/12] c++ y.cpp\n'])
    seen = commands.seen.getvalue()
    assert 'Collecting x' in seen
    assert '3 of 12 files' in seen
    assert seen.endswith('compiling: done\n')


@pytest.mark.slow
def test_an_interruption_reaches_what_a_command_started(setup, commands, tmp_path):
    """As Ctrl-C does, sent to this process only: the grandchild ends too."""
    started = tmp_path / 'started'
    script = f'sleep 60 & echo $! >"{started}.tmp"; mv "{started}.tmp" "{started}"; wait'

    def interrupt():
        while not started.exists():
            pass
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        commands.run('waiting', ['bash', '-c', script])
    thread.join()
    with pytest.raises(ProcessLookupError):
        wait_until_gone(int(started.read_text()))


def wait_until_gone(pid):
    """Raise ProcessLookupError as soon as a process is gone or a zombie; return after 5 s."""
    for _ in range(50):
        os.kill(pid, 0)
        if Path(f'/proc/{pid}/stat').read_text().split()[2] == 'Z':
            raise ProcessLookupError
        time.sleep(0.1)


def test_two_set_ups_wait_for_each_other(setup, tmp_path):
    progress = setup.commands.Progress(io.StringIO())
    order = []

    def second():
        with setup.main.only_one(tmp_path, progress):
            order.append('second')

    with setup.main.only_one(tmp_path, progress):
        thread = threading.Thread(target=second)
        thread.start()
        while 'waiting for it' not in progress.stream.getvalue():
            pass
        order.append('first')
    thread.join()
    assert order == ['first', 'second']
