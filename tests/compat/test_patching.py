"""Patches lie around a function, once, and come when their module does."""
import importlib
import sys
import types

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
    """It imports no host and no OpenCV, and asks no GPU: a plain backbone needs none of them."""
    done = python('-c', 'import sys, mmvssd, torch; print(torch.cuda.is_initialized(), '
                        '*{name.split(".")[0] for name in sys.modules})')
    initialized, *names = done.stdout.split()
    assert initialized == 'False', done.stderr
    heavy = {'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'cv2', 'torchvision', 'matplotlib'}
    assert not heavy.intersection(names)


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
