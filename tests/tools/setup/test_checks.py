"""tools/setup/checks.py: what has to be there before it begins."""
import sys
from collections import namedtuple

import pytest


def test_a_full_disk(setup, monkeypatch, tmp_path):
    """Folders on one disk need their sum of it."""
    usage = namedtuple('usage', 'total used free')
    monkeypatch.setattr(setup.checks.shutil, 'disk_usage', lambda folder: usage(0, 0, 3.5e9))
    (tmp_path / 'tmp').mkdir()
    setup.checks.check_disk({tmp_path: 3})
    says = r'needs 4 GB .* 3\.5 GB are free'
    with pytest.raises(setup.commands.SetupError, match=says) as caught:
        setup.checks.check_disk({tmp_path: 3, tmp_path / 'tmp': 1})
    assert 'TMPDIR' in str(caught.value)
    assert str(tmp_path / 'tmp') in str(caught.value)


@pytest.mark.parametrize(('torch', 'requires'), [
    ('2.6.0+cu124', 'torch==2.6.0'), ('2.6.0', 'torch (==2.6.0)'), ('2.6.0', 'torch')])
def test_a_torchvision_that_fits(setup, torch, requires, looks, adopted):
    seen = looks(torch=torch, torchvision='0.21.0', torchvision_requires=['numpy', requires])
    setup.checks.check_torchvision(adopted, seen)


@pytest.mark.parametrize(('torch', 'requires'), [
    ('2.6.0', 'torch==2.5.1'), ('2.13.0+cpu', 'torch (==2.12.0)')])
def test_a_torchvision_for_another_pytorch(setup, torch, requires, looks, adopted):
    seen = looks(torch=torch, torchvision='0.20.1', torchvision_requires=['numpy', requires])
    with pytest.raises(setup.commands.SetupError) as caught:
        setup.checks.check_torchvision(adopted, seen)
    message = str(caught.value)
    assert 'torchvision 0.20.1' in message
    assert f'pip install torch=={torch.split("+")[0]} torchvision==0.' in message


@pytest.mark.parametrize('pip', [None, '21.3.1'])
def test_no_pip_or_an_old_one(setup, pip, looks, adopted):
    seen = looks(torch='2.6.0', pip=pip) if pip else looks(torch='2.6.0')
    with pytest.raises(setup.commands.SetupError, match='ensurepip --upgrade'):
        setup.checks.check_pip(adopted, seen)
    setup.checks.check_pip(adopted, looks(pip='22.3'))


def test_no_venv_module(setup, monkeypatch):
    monkeypatch.setattr(setup.checks, 'find_spec', lambda name: None)
    with pytest.raises(setup.commands.SetupError, match='lacks the venv module') as caught:
        setup.checks.check_venv_module()
    version = f'{sys.version_info.major}.{sys.version_info.minor}'
    assert f'apt install python{version}-venv' in str(caught.value)
