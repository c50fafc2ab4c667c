"""Packages that the hosts can do without, and that are broken."""
import ast
import importlib
import importlib.util
import logging
import sys
from pathlib import Path

import pytest

from mmvssd.compat import optional_packages, patching

HOSTS = ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain')

#: Guarded in one place of the hosts, imported without a guard in another.
REQUIRED = {'PIL', 'cv2', 'prettytable', 'psutil', 'pycocotools', 'scipy', 'yaml'}


def folder_of(package):
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(f'{package} is not installed')
    return Path(spec.submodule_search_locations[0])


def outside_functions(node):
    """The statements below a node that an import of its file runs."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.ClassDef)):
            yield child
            yield from outside_functions(child)


def guarded(file):
    """The packages that a file imports as it is imported, and lacks without an error."""
    text = file.read_text()
    if 'ImportError' not in text:
        return
    for attempt in outside_functions(ast.parse(text)):
        if isinstance(attempt, ast.Try) and any(
                'ImportError' in ast.unparse(handler.type) for handler in attempt.handlers
                if handler.type):
            for node in outside_functions(ast.Module(attempt.body)):
                if isinstance(node, ast.ImportFrom) and node.level == 0:
                    yield node.module.partition('.')[0]
                elif isinstance(node, ast.Import):
                    yield from (alias.name.partition('.')[0] for alias in node.names)


def test_every_optional_package_of_the_hosts_is_listed():
    files = [file for host in HOSTS for file in folder_of(host).rglob('*.py')
             if '.mim' not in file.parts]
    found = {package for file in files for package in guarded(file)}
    assert {'albumentations', 'transformers', 'timm'} <= found
    others = found - REQUIRED - set(HOSTS) - set(sys.stdlib_module_names) - {'torch'}
    assert others <= set(optional_packages.PACKAGES)


@pytest.fixture
def packages(make_package, monkeypatch):
    """Make a package of files, by name; none is watched and none has failed yet."""
    monkeypatch.setattr(sys, 'meta_path', list(sys.meta_path))
    monkeypatch.setattr(patching, '_failing', patching._FailingImports())
    monkeypatch.setattr(optional_packages, '_failures', {})
    return make_package


@pytest.mark.parametrize('statement', [
    'raise ValueError("numpy.dtype size changed\\nmore")', 'import sys; sys.nothing',
    'class A(None): pass', '1 / 0', 'raise OSError("libcudart.so.12: cannot open")'])
def test_an_error_becomes_an_import_error_and_is_said_once(packages, caplog, statement):
    packages('seaborn', __init__=statement)
    optional_packages.apply()
    with caplog.at_level(logging.WARNING, 'mmvssd'):
        for _ in range(2):
            with pytest.raises(ImportError) as caught:
                importlib.import_module('seaborn')
    cause = caught.value.__cause__
    assert type(cause) in (ValueError, AttributeError, TypeError, ZeroDivisionError, OSError)
    said, = (record.getMessage() for record in caplog.records)
    assert f'does not import ({type(cause).__name__}: ' in said
    assert 'more' not in said
    assert optional_packages.idle() is None
    assert optional_packages.notice() == said


@pytest.mark.parametrize('statement', ['raise ImportError("as it is")', 'import no_such_package'])
def test_an_import_error_stays_and_nothing_is_said(packages, caplog, statement):
    packages('seaborn', __init__=statement)
    optional_packages.apply()
    with pytest.raises(ImportError) as caught:
        importlib.import_module('seaborn')
    assert caught.value.__cause__ is None
    assert not caplog.records
    assert optional_packages.notice() is None


def test_a_package_that_forgives_its_own_module(packages, caplog):
    """It sees the error that it expects, and it imports."""
    packages('timm', fast='raise OSError("no CUDA")', __init__='''
try:
    from timm import fast
except OSError:
    fast = None
''')
    optional_packages.apply()
    assert importlib.import_module('timm').fast is None
    assert not caplog.records
    with pytest.raises(ImportError, match='OSError: no CUDA'):
        importlib.import_module('timm.fast')
    assert [record.name for record in caplog.records] == ['mmvssd']


def test_other_packages_keep_their_errors(packages):
    packages('of_the_user', __init__='1 / 0')
    optional_packages.apply()
    with pytest.raises(ZeroDivisionError):
        importlib.import_module('of_the_user')


def test_a_lazy_module_of_transformers(packages, caplog):
    """It raises a RuntimeError as a name of a module that does not import is asked for."""
    class Lazy:
        def _get_module(self, name):
            try:
                return importlib.import_module(name)
            except Exception as error:
                raise RuntimeError('Failed, look up\nand here') from error

    packages('timm', __init__='1 / 0')
    optional_packages._watch_transformers(type(sys)('without lazy modules'))
    module = type(sys)('lazy')
    module._LazyModule = Lazy
    optional_packages._watch_transformers(module)
    assert Lazy()._get_module('json').dumps
    with pytest.raises(ImportError, match='RuntimeError: Failed, look up$'):
        Lazy()._get_module('timm')
    assert 'transformers' in caplog.text
    assert '(ZeroDivisionError: division by zero)' in caplog.text


@pytest.mark.slow
def test_the_hosts_import_beside_broken_packages(run_installed, tmp_path):
    """As with a transformers of another time, and a scikit-learn for another NumPy."""
    pytest.importorskip('mmdet')
    pytest.importorskip('mmpretrain')
    for name, text in dict(transformers='', sklearn='raise ValueError("numpy.dtype size changed")',
                           albumentations='import numpy; numpy.no_such_name').items():
        (tmp_path / name).mkdir()
        (tmp_path / name / '__init__.py').write_text(text)
    metadata = tmp_path / 'transformers-5.24.0.dist-info'
    metadata.mkdir()
    (metadata / 'METADATA').write_text('Name: transformers\nVersion: 5.24.0\n')
    (metadata / 'top_level.txt').write_text('transformers\n')
    out = run_installed('-c', 'import mmpretrain.models, mmdet.models, mmseg.models\n'
                        'from mmvssd import compat\nprint(*compat.notices())',
                        env={'PYTHONPATH': str(tmp_path)})
    assert out.splitlines()[-1] == 'multimodal optional_packages'
    assert out.count('transformers 5.24.0 has no ') == 1
    assert out.count('ValueError: numpy.dtype size changed') == 1
    assert out.count("has no attribute 'no_such_name'") == 1
