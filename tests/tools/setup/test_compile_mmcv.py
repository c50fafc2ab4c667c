"""tools/setup/compile_mmcv.py: what it asks for and exchanges; nothing is compiled."""
import importlib.util
import shutil
import sys
from pathlib import Path

import pytest
import torch

FILE = Path(__file__).resolve().parents[3] / 'tools' / 'setup' / 'compile_mmcv.py'
WORKING_COMPILER = shutil.which('true')


@pytest.fixture
def module(monkeypatch, tmp_path):
    """A fresh copy of the module, with a cache of its own."""
    spec = importlib.util.spec_from_file_location('compile_mmcv', FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, 'CACHE', tmp_path / 'cache')
    return module


def keep_wheel(module, machine):
    folder = module.CACHE / machine
    folder.mkdir(parents=True)
    wheel = folder / f'mmcv-{module.tested_version()}-x.whl'
    wheel.touch()
    return wheel


@pytest.mark.parametrize('compiler', ['no-such-compiler -v', 'false'])
def test_no_working_compiler(module, monkeypatch, compiler):
    monkeypatch.setenv('CXX', compiler)
    with pytest.raises(SystemExit) as caught:
        module.check()
    message = str(caught.value)
    assert message.startswith(f'no working C++ compiler ({compiler})')
    for way in ('apt install g++', 'dnf install gcc-c++', 'Without --with-compiled-mmcv'):
        assert way in message


def test_no_python_headers(module, monkeypatch):
    monkeypatch.setenv('CXX', WORKING_COMPILER)
    monkeypatch.setattr(module.sysconfig, 'get_path', lambda name: '/none')
    with pytest.raises(SystemExit, match=r'Python.h .* is not in /none') as caught:
        module.check()
    version = f'{sys.version_info.major}.{sys.version_info.minor}'
    assert f'apt install python{version}-dev' in str(caught.value)


def test_a_cache_that_cannot_be_written_to(module, monkeypatch, tmp_path):
    (tmp_path / 'file').touch()
    monkeypatch.setattr(module, 'CACHE', tmp_path / 'file' / 'wheels')
    with pytest.raises(SystemExit, match='XDG_CACHE_HOME'):
        module.check()


def test_a_kept_wheel_needs_no_compiler(module, monkeypatch):
    monkeypatch.setenv('CXX', 'false')
    keep_wheel(module, 'cp27-any')
    with pytest.raises(SystemExit, match='no working'):  # of another Python
        module.check()
    keep_wheel(module, f'{module.PYTHON_TAG}-any')
    module.check()


@pytest.fixture
def pip_calls(module, monkeypatch):
    calls = []
    monkeypatch.setattr(module, 'pip', lambda *args, **env: calls.append((*map(str, args), env)))
    return calls


@pytest.mark.parametrize('has_lite', [True, False])
def test_mmcv_lite_leaves_before_mmcv_comes(module, monkeypatch, pip_calls, has_lite):
    monkeypatch.setattr(module, 'installed', lambda name: has_lite and name == 'mmcv-lite')
    wheel = keep_wheel(module, 'here')
    module.install(wheel.parent)
    expected = [('install', '--no-deps', '--force-reinstall', str(wheel), {})]
    if has_lite:
        expected.insert(0, ('uninstall', '--yes', 'mmcv-lite', {}))
    assert pip_calls == expected


@pytest.mark.parametrize('gpu', [None, 'cuda13.0-sm_9.0'])
def test_how_it_is_compiled(module, monkeypatch, gpu):
    """The wheel is kept whole, and the settings tell mmcv's build which ops."""
    calls = []

    def pip(*args, **env):
        calls.append((args, env))
        if args[0] == 'wheel':
            folder = Path(args[args.index('--wheel-dir') + 1])
            (folder / f'mmcv-{module.tested_version()}-x.whl').touch()

    monkeypatch.setattr(module, 'pip', pip)
    monkeypatch.setenv('MAX_JOBS', '5')
    module.compile_wheel(gpu, module.CACHE / 'here')
    assert len(list((module.CACHE / 'here').iterdir())) == 1
    assert [path.name for path in module.CACHE.iterdir()] == ['here']
    env = calls[-1][1]
    assert env['MMCV_WITH_OPS'] == '1'
    assert env['MAX_JOBS'] == '5'
    assert env['FORCE_CUDA'] == ('1' if gpu else '0')
    assert ('CUDA_VISIBLE_DEVICES' in env) == (gpu is None)


def test_a_broken_kept_wheel_is_compiled_again(module, monkeypatch, pip_calls):
    monkeypatch.setattr(module.sys, 'argv', ['compile_mmcv.py'])
    monkeypatch.setattr(module, 'choose_gpu', lambda: (None, None))
    answers = iter([False, False, True])  # what is there, the kept one, the new one
    monkeypatch.setattr(module, 'works', lambda gpu: next(answers))
    monkeypatch.setattr(module, 'check_compiler', lambda: None)
    machine = f'{module.PYTHON_TAG}-{module.sysconfig.get_platform()}-torch{torch.__version__}-cpu'
    keep_wheel(module, machine)
    compiled = []
    monkeypatch.setattr(module, 'compile_wheel', lambda *args: compiled.append(args))
    assert module.main() == 0
    assert compiled == [(None, module.CACHE / machine)]


def test_a_gpu_without_its_compiler_is_told(module, monkeypatch, tmp_path):
    from torch.utils import cpp_extension
    monkeypatch.setattr(torch.version, 'cuda', '13.0')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda index: (9, index))
    monkeypatch.setattr(cpp_extension, 'CUDA_HOME', str(tmp_path))
    monkeypatch.delenv('TORCH_CUDA_ARCH_LIST', raising=False)
    gpu, note = module.choose_gpu()
    assert gpu is None
    assert 'the CUDA 13.0 toolkit with nvcc' in note

    nvcc = tmp_path / 'bin' / 'nvcc'
    nvcc.parent.mkdir()
    nvcc.write_text('#!/bin/sh\necho "Cuda compilation tools, release 13.2, V13.2.1"\n')
    nvcc.chmod(0o755)
    assert module.choose_gpu() == ('cuda13.0-sm_9.0_9.1', None)


def test_no_gpu(module, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert module.choose_gpu() == (None, None)


def test_processes_fit_into_memory(module):
    assert module.count_processes(10**6) == 1
    assert 1 <= module.count_processes(1) <= len(module.os.sched_getaffinity(0))
