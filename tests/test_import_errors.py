"""Who is to blame for an import that fails."""
import importlib
import sys

import pytest

from mmvssd import import_errors

OWN = {'a_host', 'torch'}


@pytest.fixture
def host(tmp_path, monkeypatch):
    """Import a module ``a_host`` of a line, beside a package ``helpful`` of another; its error."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(import_errors, 'distribution_of', dict(
        helpful='Helpful', numpy='numpy', pytest='pytest').get)
    monkeypatch.setattr(import_errors.metadata, 'version', lambda name: '1.2')

    def failure(line, helpful=''):
        (tmp_path / 'a_host.py').write_text(line)
        (tmp_path / 'helpful').mkdir()
        (tmp_path / 'helpful' / '__init__.py').write_text(helpful)
        importlib.invalidate_caches()
        try:
            importlib.import_module('a_host')
        except Exception as error:
            return error
        pytest.fail('it imports')

    yield failure
    for name in [name for name in sys.modules if name.partition('.')[0] in ('a_host', 'helpful')]:
        del sys.modules[name]


@pytest.mark.parametrize(('line', 'helpful', 'said'), [
    ('import no_such_one.part', '', "the package no_such_one is missing: pip install 'no_such_one'"
     ),
    ('import sklearn', '', "the package sklearn is missing: pip install 'scikit-learn'"),
    ('import helpful', 'import no_such_one', "no_such_one is missing: pip install 'no_such_one'"),
    ('from helpful import gone', '', 'Helpful 1.2 fails with ImportError: cannot import name '
                                     "'gone' from 'helpful'"),
    ('import helpful.gone', '', "Helpful 1.2 has no module helpful.gone; another version of it is "
                                "needed: pip install -c requirements/constraints.txt --upgrade "
                                "'Helpful'"),
    ('import helpful', 'raise ValueError("numpy.dtype size changed\\nmore")',
     'Helpful 1.2 fails with ValueError: numpy.dtype size changed; another version'),
    ('import helpful', 'import numpy; numpy.no_such_name',
     "Helpful 1.2 fails with AttributeError: module 'numpy' has no attribute 'no_such_name'"),
    ('import helpful', 'from numpy import no_such_name', "Helpful 1.2 fails with ImportError: "
                                                         "cannot import name 'no_such_name'"),
    ('import helpful', 'raise RuntimeError', 'fails with RuntimeError: no message; another'),
    ('try:\n    import helpful\nexcept OSError as error:\n    raise KeyError(1) from error',
     'raise OSError("libcudart")', 'Helpful 1.2 fails with OSError: libcudart;'),
])
def test_another_package(host, monkeypatch, line, helpful, said):
    monkeypatch.setitem(sys.modules, 'sklearn', None)
    assert said in import_errors.remedy(host(line, helpful), OWN)


@pytest.mark.parametrize('line', [
    '1 / 0',  # its own
    'class Model(None): pass',
    'import torch.no_such_part',  # has a row of its own
    'from torch import no_such_name',
    'raise ModuleNotFoundError("without a name")',
    'import json; json.loads("")',  # Python's own package, asked by the host
])
def test_no_other_package(host, line):
    assert import_errors.remedy(host(line), OWN) is None


def test_root_of_a_chain():
    first, second, third = OSError('1'), ValueError('2'), KeyError('3')
    second.__context__ = first
    third.__cause__ = second
    assert import_errors.root_of(third) is first
    second.__suppress_context__ = True  # as `from None` does
    assert import_errors.root_of(third) is second


def test_distributions():
    assert import_errors.with_version('_pytest').startswith('pytest ')
    assert import_errors.with_version('no_such_package') == 'no_such_package'
