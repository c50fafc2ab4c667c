"""``import torchvision`` beside a PyTorch that its wheel was not built for."""
import importlib.util

import pytest

from mmvssd.compat import torchvision_ops

# Prints whether torchvision imports, and what its nms does; ``{}`` comes first.
PROBE = """
{}
try:
    import torchvision
except RuntimeError as error:
    raise SystemExit(f'import: {{error}}')
import torch
try:
    kept = torchvision.ops.nms(torch.tensor([[0., 0., 1., 1.]] * 2), torch.tensor([.9, .8]), 0.5)
    print('nms', kept.tolist())
except RuntimeError as error:
    print('nms error', error)
"""

needs_torchvision = pytest.mark.skipif(
    importlib.util.find_spec('torchvision') is None, reason='torchvision is not installed')


@needs_torchvision
def test_imports_and_nms_is_right_or_says_why(python):
    done = python('-c', PROBE.format('import mmvssd'))
    assert done.returncode == 0, done.stderr
    stock = python('-c', PROBE.format(''))
    if stock.returncode == 0:
        assert done.stdout == stock.stdout
    else:
        assert 'torchvision::nms does not exist' in stock.stderr
        assert "nms error Couldn't load custom C++ ops" in done.stdout


@pytest.fixture
def declared(monkeypatch):
    """The schemas that ``apply`` declares, without declaring them."""
    schemas = []

    class Library:
        def __init__(self, namespace, kind):
            assert (namespace, kind) == ('torchvision', 'FRAGMENT')

        def define(self, schema):
            schemas.append(schema)

    monkeypatch.setattr(torchvision_ops.torch.library, 'Library', Library)
    monkeypatch.setattr(torchvision_ops, '_libraries', [])
    monkeypatch.delitem(torchvision_ops.sys.modules, 'torchvision', raising=False)
    return schemas


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A folder that is taken for torchvision's: it names the op and its library does not load."""
    (tmp_path / '_meta_registrations.py').write_text('register_fake("torchvision::nms")')
    (tmp_path / '_C.so').write_text('not a library')
    monkeypatch.setattr(torchvision_ops, '_package_folder', lambda: tmp_path)
    return tmp_path


def test_declares_once_where_the_ops_do_not_load(declared, package):
    torchvision_ops.apply()
    torchvision_ops.apply()
    assert declared == list(torchvision_ops.SCHEMAS)


def test_declares_where_torchvision_was_built_without_ops(declared, package):
    (package / '_C.so').unlink()
    torchvision_ops.apply()
    assert len(declared) == 2


def test_nothing_where_the_ops_load(declared, package, monkeypatch):
    loaded = []
    monkeypatch.setattr(torchvision_ops.torch.ops, 'load_library', loaded.append)
    torchvision_ops.apply()
    assert loaded == [str(package / '_C.so')]
    assert declared == []


def test_nothing_for_an_old_torchvision(declared, package):
    (package / '_meta_registrations.py').write_text('')
    torchvision_ops.apply()
    assert declared == []


def test_nothing_without_torchvision(declared, monkeypatch):
    monkeypatch.setattr(torchvision_ops.importlib.util, 'find_spec', lambda name: None)
    torchvision_ops.apply()
    assert declared == []
