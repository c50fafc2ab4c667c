"""tools/setup/environments.py: which environment it takes, and whether that is set up."""
import importlib.metadata
import io
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def test_description_of_this_environment(setup):
    seen = setup.environments.Environment(sys.prefix, adopted=True).look()
    assert tuple(seen['python']) == sys.version_info[:2]
    here = setup.environments.describe()['versions']
    assert seen['versions'] == {name: here[name] for name in seen['versions']}
    assert seen['versions']['mmengine'] == importlib.metadata.version('mmengine')


@pytest.mark.parametrize(('seen', 'reason'), [
    (dict(torch='2.4.0+cu121'), None),
    (dict(python=(3, 10), torch='2.13.0'), None),
    (dict(python=(3, 13), torch='2.6.0a0+ecf3bae'), None),
    (dict(torch='2.3.1'), 'its PyTorch is 2.3.1, and 2.4 or later is needed'),
    (dict(), 'it has no PyTorch'),
    (dict(python=(3, 9), torch='2.6.0'), 'it has Python 3.9, and 3.10 to 3.13 fit'),
    (dict(python=(3, 14), torch='2.13.0'), 'it has Python 3.14, and 3.10 to 3.13 fit'),
    (None, 'its Python does not run'),
])
def test_which_active_environment_fits(setup, looks, seen, reason):
    found = setup.environments.misfit(seen if seen is None else looks(**seen))
    assert found is None if reason is None else reason in found


def test_an_active_environment_is_not_asked_beside_PYTHON(setup, monkeypatch, tmp_path, looks):
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
def test_a_change_needs_another_set_up(setup, monkeypatch, tmp_path, change, looks):
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


def test_half_installed_packages_are_dropped(setup, tmp_path, looks):
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
