"""When kernels for a CPU run, how compiled ones are kept, and how threads share their work."""
import fcntl
import importlib
import logging
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from mmvssd_kernels import dispatch, numba_support, selective_scan
from mmvssd_kernels.description import description_of
from mmvssd_kernels.numba_support import Kernel, NotCompiled

#: A kernel that adds 1 to each of its units; any thread takes the next.
KERNELS = '''
from numba import carray, from_dtype, types
import numpy as np
from mmvssd_kernels.numba_vectors import count_up

TABLE = np.dtype([('next', 'i8'), ('units', 'i8'), ('out', 'i8')])
SIGNATURE = types.void(types.CPointer(from_dtype(TABLE)))


def kernels(dtype):
    def forward(pointer):
        table = carray(pointer, 1)[0]
        while True:
            i = count_up(table.next)
            if i >= table.units:
                return
            count_up(table.out + 8 * i)

    return {'forward': forward}
'''
#: Runs it over 4 units in a process of its own.
RUN = '''
import logging, sys
import numpy as np
import torch
from mmvssd_kernels import numba_support
logging.basicConfig(format='%(message)s', stream=sys.stderr)
table, units = np.zeros(3, 'i8'), np.zeros(5, 'i8')
table[:] = units.ctypes.data, 4, units.ctypes.data + 8
kernel = numba_support.Kernel('tiny_kernels', 'forward', torch.float32)
numba_support.run(kernel, table.ctypes.data, 4, [])
print(units[1:].tolist(), 'numba' in sys.modules)
'''
KERNEL = Kernel('tiny_kernels', 'forward', torch.float32)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The kernel's module, and an empty cache; nothing that was loaded before is known."""
    pytest.importorskip('numba')
    folder = tmp_path / 'source'
    folder.mkdir()
    (folder / 'tiny_kernels.py').write_text(KERNELS)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(folder), *sys.path]))
    monkeypatch.setenv(numba_support.CACHE_VARIABLE, str(tmp_path / 'cache'))
    importlib.invalidate_caches()
    forget(monkeypatch)
    yield tmp_path / 'cache'
    sys.modules.pop('tiny_kernels', None)
    numba_support._found_obstacle.cache_clear()


@pytest.fixture(autouse=True)
def python_threads(monkeypatch):
    """Threads are Python's: those of OpenMP cannot be made to fail."""
    team = numba_support._openmp_team
    monkeypatch.setattr(numba_support, '_openmp_team', lambda: None)
    return lambda: monkeypatch.setattr(numba_support, '_openmp_team', team)


def forget(monkeypatch):
    """Have the next call load its kernel anew."""
    monkeypatch.setattr(numba_support, '_functions', {})
    numba_support._found_obstacle.cache_clear()
    numba_support._report_not_kept.cache_clear()


@pytest.fixture
def compilations(monkeypatch):
    """Counts how often a kernel is compiled."""
    found, compile_ = [], numba_support._compile
    monkeypatch.setattr(numba_support, '_compile',
                        lambda kernel: found.append(kernel) or compile_(kernel))
    return found


def run(units=4):
    """What became of each unit."""
    table, numbers = np.zeros(3, 'i8'), np.zeros(units + 1, 'i8')
    table[:] = numbers.ctypes.data, units, numbers.ctypes.data + 8
    numba_support.run(KERNEL, table.ctypes.data, numba_support.threads(units), [])
    return numbers[1:].tolist()


def test_compiled_once_and_kept(tiny, compilations, monkeypatch, caplog):
    with caplog.at_level(logging.WARNING, logger='mmvssd'):
        assert run() == [1] * 4
    assert caplog.messages == ['compiling a CPU kernel, once on this machine, in about 6 s: '
                               'forward of tiny_kernels, torch.float32']
    forget(monkeypatch)
    assert run() == [1] * 4
    assert compilations == [KERNEL]
    assert {path.suffix for path in tiny.iterdir()} == {'.o', '.lock'}
    assert tiny.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize('damage', [
    lambda whole: b'', lambda whole: whole[:-1], lambda whole: whole[:10],
    lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]), lambda whole: b'[]\n' + whole,
    lambda whole: b'{"symbol": "f"}\n' + whole, lambda whole: b'\xff\xfe\n',
    lambda whole: b'null\n'])
def test_a_damaged_file_is_made_anew(tiny, compilations, monkeypatch, damage):
    run()
    (path, ) = tiny.glob('*.o')
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    forget(monkeypatch)
    # what is compiled does not matter here
    symbol, code = numba_support._read(path) or (None, None)
    assert code is None
    compiled = []
    monkeypatch.setattr(numba_support, '_compile',
                        lambda kernel: compiled.append(kernel) or split(whole))
    assert run() == [1] * 4
    assert compiled == [KERNEL]
    assert numba_support._read(path) == split(whole)


def split(whole):
    """Symbol and object file of a whole file of the cache."""
    head, _, code = whole.partition(b'\n')
    return head.split(b'"')[3].decode(), code


def test_what_machine_code_follows_from(tiny, monkeypatch):
    """Another CPU, Numba, llvmlite, dtype or line of source is another file."""
    found = {numba_support._fingerprint(KERNEL)}

    def is_new():
        found.add(numba_support._fingerprint(KERNEL))
        return len(found)

    found.add(numba_support._fingerprint(KERNEL._replace(dtype=torch.float64)))
    found.add(numba_support._fingerprint(KERNEL._replace(name='backward')))
    assert len(found) == 3
    version = importlib.metadata.version
    for number, name in enumerate(('numba', 'llvmlite'), 4):
        with monkeypatch.context() as patch:
            patch.setattr(importlib.metadata, 'version',
                          lambda given, name=name: version(given) + '1' * (given == name))
            assert is_new() == number
    binding = numba_support._binding()
    with monkeypatch.context() as patch:
        patch.setattr(binding, 'get_host_cpu_name', lambda: 'z80')
        assert is_new() == 6
    source = tiny.parent / 'source' / 'numba_more.py'
    source.write_text('pass')
    assert is_new() == 7
    source.write_text('pass ')
    assert is_new() == 8


def test_a_folder_that_cannot_be_written_to(tiny, compilations, monkeypatch, caplog):
    file = tiny.with_name('file')
    file.touch()
    monkeypatch.setenv(numba_support.CACHE_VARIABLE, str(file / 'cache'))
    with caplog.at_level(logging.WARNING, logger='mmvssd'):
        assert run() == [1] * 4
    (message, ) = caplog.messages[1:]
    assert message.startswith(f'compiled CPU kernels cannot be kept in {file}/cache (')
    assert 'Set MMVSSD_KERNEL_CACHE to a folder' in message
    assert run() == [1] * 4
    assert compilations == [KERNEL]


def test_a_full_disk_leaves_nothing_behind(tiny, monkeypatch, caplog):
    def full(*args):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(numba_support.os, 'replace', full)
    with caplog.at_level(logging.WARNING, logger='mmvssd'):
        assert run() == [1] * 4
    assert 'No space left on device' in caplog.messages[1]
    assert [path.suffix for path in tiny.iterdir()] == ['.lock']


@pytest.mark.parametrize(('variables', 'expected'), [
    (dict(MMVSSD_KERNEL_CACHE='/a', XDG_CACHE_HOME='/b', HOME='/c'), '/a'),
    (dict(MMVSSD_KERNEL_CACHE='~/a', HOME='/c'), '/c/a'),
    (dict(XDG_CACHE_HOME='/b', HOME='/c'), '/b/mmvssd_kernels'),
    (dict(XDG_CACHE_HOME='b', HOME='/c'), '/c/.cache/mmvssd_kernels'),
    (dict(XDG_CACHE_HOME='', HOME='/c'), '/c/.cache/mmvssd_kernels'),
    (dict(HOME='~'), '/dev/null/mmvssd_kernels')])
def test_the_folder(monkeypatch, variables, expected):
    for name in ('MMVSSD_KERNEL_CACHE', 'XDG_CACHE_HOME', 'HOME'):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(numba_support._folder()) == expected


def test_two_processes_start_at_once(tiny):
    """One compiles, the other waits and loads; a process that loads does not import Numba."""
    processes = [subprocess.Popen([sys.executable, '-c', RUN], text=True, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE) for _ in range(2)]
    told = [process.communicate(timeout=60) for process in processes]
    assert all(process.returncode == 0 for process in processes), told
    assert sorted(out for out, _ in told) == ['[1, 1, 1, 1] False\n',
                                               '[1, 1, 1, 1] True\n']
    assert ''.join(err for _, err in told).count('compiling') == 1


def test_a_child_process_does_not_keep_the_lock(tiny):
    path = tiny / 'x.o'
    with numba_support._alone(path):
        child = os.fork()
        if not child:
            time.sleep(30)
            os._exit(0)
    try:
        with path.with_suffix('.lock').open('w') as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_a_forked_process_has_threads_of_its_own(monkeypatch):
    began = []

    def work(table):
        began.append(threading.current_thread())
        time.sleep(0.1)

    monkeypatch.setattr(numba_support, '_function', lambda kernel: work)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 3)
    numba_support.run(KERNEL, np.zeros(1).ctypes.data, 3, [])
    child = os.fork()
    if not child:
        began.clear()
        numba_support.run(KERNEL, np.zeros(1).ctypes.data, 3, [])
        os._exit(len(began))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


def test_pytorch_s_openmp_is_found(python_threads):
    python_threads()
    loaded = 'libgomp' in Path('/proc/self/maps').read_text()
    assert (numba_support._openmp_team() is not None) == loaded


@pytest.mark.parametrize('text', [
    'declare void @numba_do_raise(ptr) local_unnamed_addr #1',
    '@PyExc_SystemError = external local_unnamed_addr global i8',
    'declare i32 @numba_gil_ensure()\n@_PyX = external global ptr\ndeclare void @NRT_Free(ptr)'])
def test_code_needs_nothing_of_numba_or_python(text):
    assert not re.search('^declare|external', numba_support._without_errors(text), re.MULTILINE)


@pytest.mark.parametrize('text', ['declare float @fmaf(float, float, float)',
                                  '@other = external global i8'])
def test_code_that_needs_something_else_is_refused(text):
    with pytest.raises(RuntimeError, match='the code needs (fmaf|other) from outside'):
        numba_support._without_errors('declare float @llvm.fma.f32(float)\n' + text)


@pytest.mark.parametrize('openmp', [False, True])
def test_each_unit_runs_once_for_any_number_of_threads(tiny, monkeypatch, python_threads, openmp):
    if openmp:
        python_threads()
    results, failures = [], []
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 7)

    def call():
        for _ in range(20):
            (results if run(100) == [1] * 100 else failures).append(1)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(results), failures) == (80, [])


@pytest.mark.parametrize('failing', [1, 2, 3])
def test_threads_that_cannot_be_started(monkeypatch, failing):
    """Those that could be are waited for: none works on when the results are taken."""
    main, start = threading.current_thread(), threading.Thread.start
    starts, began, ended = [], [], []

    def work(table):
        began.append(threading.current_thread())
        time.sleep(0.05 if threading.current_thread() is main else 0.2)
        ended.append(threading.current_thread())

    def fail(thread):
        starts.append(thread)
        if len(starts) >= failing:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(numba_support, '_function', lambda kernel: work)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 4)
    monkeypatch.setattr(threading.Thread, 'start', fail)
    monkeypatch.setattr(numba_support, '_threads', numba_support._Threads())
    numba_support.run(KERNEL, np.zeros(1).ctypes.data, 4, [])
    assert len(ended) == len(began) == failing
    time.sleep(0.05)
    assert len(began) == failing


def test_a_fault_of_a_helper_is_told(monkeypatch):
    main = threading.current_thread()

    def work(table):
        time.sleep(0.05)
        if threading.current_thread() is not main:
            raise MemoryError('none left')

    monkeypatch.setattr(numba_support, '_function', lambda kernel: work)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 2)
    with pytest.raises(MemoryError, match='none left'):
        numba_support.run(KERNEL, np.zeros(1).ctypes.data, 2, [])


@pytest.fixture
def scan(monkeypatch):
    """Runs a scan with nothing known of Numba; gives 'auto's warnings."""
    monkeypatch.delenv(dispatch.ENVIRONMENT_VARIABLE, raising=False)
    forget(monkeypatch)
    dispatch._log_fallback.cache_clear()
    inputs = {name: t.float() for name, t in description_of('selective_scan').tensors(0).items()}
    yield lambda **options: selective_scan(**{**inputs, **options})
    numba_support._found_obstacle.cache_clear()


def broken(monkeypatch, how):
    version = importlib.metadata.version
    find_spec = importlib.util.find_spec
    import_module = importlib.import_module

    def no_metadata(name, of):
        if name == of:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    def refuse(name):
        if name == how:
            raise ImportError('it is broken\nand more')
        return import_module(name)

    monkeypatch.setattr(numba_support.importlib, 'import_module', refuse)
    if how in ('no numba', 'no llvmlite'):
        monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *args: None if name == how[3:]
                            else find_spec(name, *args))
    elif how.startswith('metadata of '):
        monkeypatch.setattr(importlib.metadata, 'version',
                            lambda name: no_metadata(name, how[12:]))
    elif how[0].isdigit():
        monkeypatch.setattr(importlib.metadata, 'version',
                            lambda name: how if name == 'numba' else version(name))


@pytest.mark.parametrize(('how', 'told'), [
    ('no numba', 'numba is not installed'),
    ('no llvmlite', 'llvmlite is not installed'),
    ('0.60.0', 'Numba 0.60.0 is installed, 0.61 is needed'),
    ('numba', r'Numba does not work here \(ImportError: it is broken\)'),
    ('llvmlite.binding', r'Numba does not work here \(ImportError: it is broken\)'),
    ('metadata of numba', r'Numba does not work here \(PackageNotFoundError'),
    ('metadata of llvmlite', r'Numba does not work here \(PackageNotFoundError')])
def test_numba_missing_too_old_or_broken(scan, tmp_path, monkeypatch, caplog, how, told):
    monkeypatch.setenv(numba_support.CACHE_VARIABLE, str(tmp_path))
    numba_support._binding.cache_clear()
    broken(monkeypatch, how)
    expected = scan(impl='reference')
    with caplog.at_level(logging.WARNING, logger='mmvssd'):
        for _ in range(2):
            assert torch.equal(scan(), expected)
    (message, ) = [one for one in caplog.messages if 'not using numba' in one]
    assert "pip install 'numba>=0.61'" in message
    with pytest.raises(dispatch.CannotRun, match=f"impl='numba' cannot run: {told}.*pip install"):
        scan(impl='numba')
    monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, 'numba')
    with pytest.raises(dispatch.CannotRun, match=f"MMVSSD_KERNEL='numba' cannot run: {told}"):
        scan()


def test_backward_is_asked_for_only_if_a_gradient_is_needed(scan, monkeypatch):
    """A training whose backward cannot be compiled runs in the reference from its first step on."""
    def only_forward(kernel):
        if kernel.name == 'backward':
            raise NotCompiled('no backward')
        return None, None

    monkeypatch.setattr(numba_support, '_made', only_forward)
    leaf = torch.zeros(4 * 8, requires_grad=True)
    numba = dispatch._implementations['selective_scan']['numba']
    taken = []
    monkeypatch.setitem(dispatch._implementations['selective_scan'], 'numba', numba._replace(
        run=lambda *args, **options: taken.append(1)))
    scan()
    with torch.no_grad():
        scan(D=leaf)
    assert taken == [1, 1]
    scan(D=leaf).sum().backward()
    assert leaf.grad.any()
    assert taken == [1, 1]
    with pytest.raises(dispatch.CannotRun, match="impl='numba' cannot run: no backward"):
        scan(D=leaf, impl='numba')


def test_other_devices(scan):
    assert 'x is on meta' in numba_support.obstacle(torch.empty(1, device='meta'), 'tiny_kernels')
