"""What ``mmvssd.pth`` does to a Python process, from nothing at all to all patches."""
import re
import subprocess
from pathlib import Path

import pytest

import mmvssd_startup

#: Prints what a process has after it has asked for packages, without importing them.
ASK = """
import sys
from importlib.util import find_spec
before = set(sys.modules)
for name in {names}:
    find_spec(name)
print('mmvssd' in before, 'mmvssd' in sys.modules, 'torch' in sys.modules)
"""


@pytest.fixture
def python(run_installed, tmp_path):
    """Run a line in a fresh process of the environment, in an empty folder."""
    return lambda code, *options, **kwargs: run_installed(*options, '-c', code, cwd=tmp_path,
                                                          **kwargs)


@pytest.fixture
def broken(tmp_path):
    """A folder for PYTHONPATH with an mmvssd of this content."""

    def make(content):
        package = tmp_path / 'broken' / 'mmvssd'
        package.mkdir(parents=True)
        (package / '__init__.py').write_text(content)
        return str(package.parent)

    return make


def test_a_process_that_needs_none_of_it_loads_one_small_module(python):
    """Nothing that Python has not loaded by itself."""
    folder = Path(mmvssd_startup.__file__).parent
    out = python('import os, sys\nbefore = set(sys.modules)\n'
                 f'sys.path.append({str(folder)!r})\n'
                 'import mmvssd_startup\nmmvssd_startup.install()\n'
                 'print(set(sys.modules) - before)', '-S')
    assert out == "{'mmvssd_startup'}\n"
    assert python('import sys; print("mmvssd_startup" in sys.modules, "mmvssd" in sys.modules)'
                  ) == 'True False\n'


@pytest.mark.parametrize('name', sorted(mmvssd_startup.PACKAGES))
def test_each_package_brings_the_patches(python, name):
    """The patches themselves import nothing heavy."""
    assert python(ASK.format(names=[name])).split() == ['False', 'True', 'False']


def test_other_packages_do_not(python):
    assert python(ASK.format(names=['json', 'numpy', 'mmdet'])).split() == ['False'] * 3


def test_off(python):
    code = ASK.format(names=['torch', 'mmengine'])
    out = python(code + 'print(any("mmvssd" in type(f).__module__ for f in sys.meta_path))',
                 env={'MMVSSD_PATCHES': 'off'})
    assert out.split() == ['False'] * 4


@pytest.mark.parametrize('module', ['mmengine', 'mmcv'])
def test_the_module_that_brings_the_patches_is_patched_too(python, module):
    """Its import is under way when the patches put their finder in front."""
    pytest.importorskip('mmcv')
    out = python(f'import {module}\nfrom mmvssd import compat\n'
                 'print(sorted(name for name, patch in compat._wanted.items()'
                 f' if patch.module == {module!r} and patch._file))')
    expected = {'mmengine': ['deprecations', 'optional_packages'],
                'mmcv': ['mmcv_ops', 'negative_hue']}
    assert out.split('\n')[-2] == str(expected[module])


@pytest.mark.parametrize(('content', 'said'), [
    ('raise RuntimeError("first\\nsecond")', 'RuntimeError: first '),
    ('from mmvssd import compat', 'ImportError: cannot import name'),  # half installed
    ('raise Exception', 'Exception: no message'),
    ('def (', 'SyntaxError: invalid syntax'),
    ('import no_such_torch', "ModuleNotFoundError: No module named 'no_such_torch'"),
])
def test_a_broken_mmvssd_costs_one_line(python, broken, content, said):
    out = python('import mmengine, importlib.util; importlib.util.find_spec("torch"); print("on")',
                 '-W', 'error', env={'PYTHONPATH': broken(content)})
    warning, last = out.splitlines()
    assert last == 'on'
    assert said in warning
    assert 'MMVSSD_PATCHES=off' in warning


def test_a_setting_that_is_not_understood_costs_one_line(python):
    out = python('import mmengine; print("on")', env={'MMVSSD_PATCHES': 'of'})
    warning, last = out.splitlines()
    assert last == 'on'
    assert "MMVSSD_PATCHES: got 'of', expected off, or a list such as" in warning


def test_without_a_place_to_warn(installed_python, broken):
    """As under a service manager that closes stderr."""
    done = subprocess.run(['bash', '-c', f'{installed_python} -c "import mmengine; print(1)" 2>&-'],
                          env={'PYTHONPATH': broken('1 / 0')}, capture_output=True, check=True)
    assert done.stdout == b'1\n'


@pytest.mark.parametrize('content', ['', 'def (', 'raise SystemError'])
def test_a_broken_startup_module_costs_nothing(python, tmp_path, content):
    """One that is empty, as a disk that was full leaves it; Python starts without a word."""
    (tmp_path / 'mmvssd_startup.py').write_text(content)
    assert python('print(1)', env={'PYTHONPATH': str(tmp_path)}) == '1\n'


def test_a_checkout_that_is_gone(installed_python, tmp_path):
    """The path file stays behind if the folder of an editable installation is deleted."""
    site = next(installed_python.parents[1].glob('lib/*/site-packages'))
    lines = (site / 'mmvssd.pth').read_text().splitlines()
    assert len(lines) == 1
    out = subprocess.run([installed_python, '-S', '-c', lines[0] + '; print(1)'], check=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
    assert out == '1\n'


def test_isolated_and_without_site(python):
    assert python('import mmengine, sys; print("mmvssd" in sys.modules)', '-I') == 'True\n'
    assert python('import sys; print("mmvssd_startup" in sys.modules)', '-S') == 'False\n'


def test_threads_that_import_at_once(python):
    """Whoever comes second waits for the patches; nobody waits forever."""
    pytest.importorskip('torchvision')
    out = python('''
import importlib, sys, threading
sys.setswitchinterval(1e-5)
names = ['torchvision', 'mmengine', 'mmvssd', 'torch', 'mmengine.optim', 'mmvssd', 'mmengine.dist']
failures = []
def load(name):
    try:
        importlib.import_module(name)
    except BaseException as error:
        failures.append((name, error))
threads = [threading.Thread(target=load, args=(name, )) for name in names]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(100)
from mmvssd import compat
print(failures, {'amp', 'checkpoint', 'deprecations', 'distributed'} - set(compat.in_effect()))
''', env={'CUDA_VISIBLE_DEVICES': '-1'})
    assert out.splitlines()[-1] == '[] set()'


def test_spawned_processes_are_patched_too(python):
    """As a data loader's workers are."""
    out = python('''
from multiprocessing import get_context
code = '[__import__("mmengine"), "mmvssd" in __import__("sys").modules][1]'
if __name__ == '__main__':
    with get_context('spawn').Pool(1) as pool:
        print(pool.apply(eval, (code, )))
''')
    assert out == 'True\n'


def test_reload(python):
    """A package, and mmvssd itself; nothing is patched twice."""
    out = python('''
import importlib, mmengine, mmvssd
from mmengine.fileio import LocalBackend
importlib.reload(mmengine)
importlib.reload(mmvssd)
importlib.reload(mmvssd.compat)
stock = LocalBackend.put.__wrapped__
print(hasattr(stock, '__wrapped__'))
''')
    assert out == 'False\n'


def test_under_pytest(run_installed, tmp_path):
    """It has an import hook of its own, and its plugins import things first."""
    (tmp_path / 'test_it.py').write_text(
        'import mmengine\ndef test(): from mmvssd import compat; '
        'assert "atomic_files" in compat.in_effect()\n')
    out = run_installed('-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-p', 'no:xdist',
                        'test_it.py', cwd=tmp_path)
    assert re.search('1 passed', out)
