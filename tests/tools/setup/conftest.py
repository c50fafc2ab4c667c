"""The modules of tools/setup, and what an environment looks like to them."""
import importlib
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[3]


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


@pytest.fixture(scope='session')
def looks():
    """Make a description of an environment: see :func:`look_of`."""
    return look_of


def look_of(python=(3, 11), cv2=False, torchvision_requires=(), **versions):
    """What an environment looks like; a distribution's name with _ for -."""
    return dict(python=list(python), build='x', purelib='/nowhere',
                versions={name.replace('_', '-'): version for name, version in versions.items()},
                torchvision_requires=list(torchvision_requires),
                origins={'cv2': '/somewhere'} if cv2 else {})


@pytest.fixture
def own(setup):
    """An environment that the set-up has made itself."""
    return setup.environments.Environment('/nowhere', adopted=False)


@pytest.fixture
def adopted(setup):
    """An environment that was there before."""
    return setup.environments.Environment('/nowhere', adopted=True)
