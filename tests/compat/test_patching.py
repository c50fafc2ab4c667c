"""Patches lie around a function, once, and come when their module does."""
import importlib
import sys
import types
from importlib.util import spec_from_file_location

import pytest

from mmvssd.compat import patching


def test_wraps_once_and_keeps_the_name():
    def add(a, b=1):
        """Add."""
        return a + b

    owner = types.SimpleNamespace(add=add)
    for _ in range(2):
        patching.wrap_once(owner, 'add', lambda original, *args, **kw: 10 * original(*args, **kw))
    assert owner.add(1, b=2) == 30
    assert owner.add.__doc__ == 'Add.'
    assert owner.add.__wrapped__ is add


def test_a_function_that_is_gone_raises():
    with pytest.raises(AttributeError):
        patching.wrap_once(types.SimpleNamespace(), 'gone', print)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Name of a module that fails to import as long as a file lies beside it."""
    name = 'mmvssd_test_module'
    (tmp_path / f'{name}.py').write_text(
        'from pathlib import Path\nassert not Path(__file__).with_name("broken").exists()\nx = 1\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, 'meta_path', list(sys.meta_path))
    yield name
    sys.modules.pop(name, None)


def test_patches_at_the_import_not_before(module):
    seen = []
    for _ in range(2):
        patching.when_imported(module, lambda m: seen.append(m.x))
    assert seen == []
    assert module not in sys.modules
    importlib.import_module(module)
    assert seen == [1]
    patching.when_imported(module, lambda m: seen.append(m.x + 1))
    assert seen == [1, 2]


def test_patches_after_an_import_that_failed_at_first(module, tmp_path):
    seen = []
    patching.when_imported(module, seen.append)
    (tmp_path / 'broken').touch()
    with pytest.raises(AssertionError):
        importlib.import_module(module)
    assert seen == []
    (tmp_path / 'broken').unlink()
    imported = importlib.import_module(module)
    assert seen == [imported]


def test_import_of_the_package_is_light(python):
    """It imports neither PyTorch nor MMEngine, no host and no OpenCV; then it asks no GPU."""
    done = python('-c', 'import sys, mmvssd; names = {name.split(".")[0] for name in sys.modules}; '
                        'import torch; print(torch.cuda.is_initialized(), *names)')
    initialized, *names = done.stdout.split()
    assert initialized == 'False', done.stderr
    heavy = {'torch', 'numpy', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'cv2',
             'torchvision', 'matplotlib'}
    assert 'mmvssd' in names
    assert not heavy.intersection(names)


class Finder:
    """A finder of an editable installation: it knows one module and where its file is."""

    def __init__(self, name, file):
        self.name, self.file = name, file

    def find_spec(self, name, path=None, target=None):
        return spec_from_file_location(name, self.file) if name == self.name else None


class OldFinder:
    """One from before Python 3.4."""


def test_patches_what_another_finder_finds(module, tmp_path):
    """As it finds a host that is installed editable."""
    file = tmp_path / 'elsewhere' / 'module.py'
    file.parent.mkdir()
    file.write_text('x = 2\n')
    (tmp_path / f'{module}.py').unlink()
    seen = []
    patching.when_imported(module, seen.append)
    sys.meta_path += [OldFinder(), Finder(module, file)]
    imported = importlib.import_module(module)
    assert seen == [imported]
    assert imported.x == 2


def test_a_module_that_is_not_there(module, tmp_path):
    (tmp_path / f'{module}.py').unlink()
    patching.when_imported(module, print)
    with pytest.raises(ModuleNotFoundError, match=module):
        importlib.import_module(module)


def test_every_patch_of_a_module_is_applied(module):
    """Not only that of whoever came first."""
    seen = []

    def one(module):
        seen.append('one')

    def other(module):
        seen.append('other')

    for patch in (one, other, one, other):
        patching.when_imported(module, patch)
    importlib.import_module(module)
    assert sorted(seen) == ['one', 'other']


def test_a_module_of_a_host_that_is_half_imported(python):
    """MMDetection's interfaces import MMEngine's inferencer, which imports the runner."""
    pytest.importorskip('mmdet')
    done = python('-c', 'import mmdet.apis, mmengine.infer.infer as infer\n'
                        'print(infer.BaseInferencer._init_model.__wrapped__.__name__)')
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == '_init_model'
    assert 'failed' not in done.stderr
