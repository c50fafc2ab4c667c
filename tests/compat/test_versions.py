"""The table of versions, and what an import says about one that does not fit."""
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from mmvssd.compat import versions


@pytest.mark.parametrize(('name', 'version'), [
    ('torch', '2.4.0'), ('torch', '2.13.0+cpu'), ('torch', '2.14.0.dev20260101+cu130'),
    ('mmengine', '0.10.7'), ('mmcv', '2.0.0'), ('mmcv', '2.1.0'), ('mmdet', '3.3.0'),
    ('mmcv-lite', '2.1.0'), ('triton', '3.0.0'), ('triton', '3.7.1'), ('triton', None),
    ('mmsegmentation', '1.2.2'), ('mmpretrain', '1.2.0'), ('mmcv', None)])
def test_fits(name, version):
    assert versions.misfit(name, version) is None


@pytest.mark.parametrize(('name', 'version'), [
    ('torch', '2.3.1'), ('triton', '2.3.1'), ('mmengine', '0.9.1'), ('mmengine', '1.0.0'),
    ('mmcv', '1.7.2'), ('mmcv', '2.2.0'), ('mmcv-lite', '2.2.0'), ('mmdet', '2.28.2'),
    ('mmsegmentation', '0.30.0'), ('mmpretrain', '1.3.0')])
def test_does_not_fit(name, version):
    message = versions.misfit(name, version)
    assert f'{name} {version} is installed' in message
    assert f"pip install '{name}{versions.RANGES[name]}'" in message


def installed_are(monkeypatch, **found):
    monkeypatch.setattr(versions, 'installed', found.get)
    monkeypatch.setattr(versions, '_warned', set())


@pytest.mark.parametrize(('name', 'version'), [('torch', '2.3.1'), ('mmengine', '0.7.0')])
def test_what_is_required_raises(monkeypatch, name, version):
    installed_are(monkeypatch, **{name: version})
    with pytest.raises(ImportError, match=rf'{name} {version} is installed'):
        versions.apply()


def test_a_host_warns_once(monkeypatch, recwarn):
    installed_are(monkeypatch, torch='2.13.0', mmengine='0.10.7', mmcv='2.2.0', mmdet='2.28.2')
    versions.apply()
    versions.apply()
    assert [str(w.message).split(' is')[0] for w in recwarn] == ['mmcv 2.2.0', 'mmdet 2.28.2']


def test_absent_hosts_are_fine(monkeypatch, recwarn):
    installed_are(monkeypatch, torch='2.4.0', mmengine='0.10.7')
    versions.apply()
    assert not recwarn


def test_an_old_triton_warns(monkeypatch):
    """Rather than to fail inside an op."""
    installed_are(monkeypatch, torch='2.4.0', mmengine='0.10.7', triton='2.3.1')
    with pytest.warns(UserWarning, match=r"triton 2\.3\.1 is installed.*'triton>=3\.0'"):
        versions.apply()


def test_two_mmcvs_warn(monkeypatch):
    installed_are(monkeypatch, **{'mmcv': '2.1.0', 'mmcv-lite': '2.1.0'})
    with pytest.warns(UserWarning, match='mmcv and mmcv-lite are both installed'):
        versions.apply()


@pytest.mark.parametrize(('needed', 'fits'), [
    ('torch==2.6.0', True), ('torch (==2.6.0)', True), ('torch', True), ('torch==2.5.1', False)])
def test_a_torchvision_for_another_pytorch(monkeypatch, needed, fits):
    installed_are(monkeypatch, torch='2.6.0+cu124', torchvision='0.20.1')
    monkeypatch.setattr(versions.metadata, 'requires', lambda name: ['numpy', needed])
    message = versions.problems().get('torchvision')
    if fits:
        assert message is None
    else:
        assert 'torchvision 0.20.1 is installed, which is for PyTorch ==2.5.1' in message
        assert 'pip install torch==2.6.0 torchvision' in message


def test_import_of_the_package_judges(python, tmp_path):
    """In a fresh process whose metadata names another MMEngine and another MMDetection."""
    def put(name, version):
        folder = tmp_path / f'{name}-{version}.dist-info'
        folder.mkdir()
        (folder / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}')

    code = f'import sys; sys.path.insert(0, {str(tmp_path)!r}); import mmvssd; print("imported")'
    put('mmdet', '2.28.2')
    done = python('-c', code)
    assert 'imported' in done.stdout, done.stderr
    assert done.stderr.count('mmdet 2.28.2 is installed') == 1
    put('mmengine', '0.7.0')
    done = python('-c', code)
    assert 'imported' not in done.stdout
    assert 'ImportError: mmengine 0.7.0 is installed' in done.stderr


@pytest.mark.parametrize(('host', 'distribution'), [
    ('mmdet', 'mmdet'), ('mmseg', 'mmsegmentation'), ('mmpretrain', 'mmpretrain')])
def test_the_hosts_own_checks_agree(host, distribution):
    """What the table takes of mmcv and MMEngine, the installed host takes too."""
    if versions.installed(distribution) is None:
        pytest.skip(f'{distribution} is not installed')
    from importlib import util
    text = Path(util.find_spec(host).origin).read_text()
    bounds = dict(re.findall(r"^(mmcv_m\w+_version|MMCV_M\w+|mmengine_m\w+_version|MMENGINE_M\w+)"
                             r" = '([\w.]+)'", text, flags=re.MULTILINE))
    for name in ('mmcv', 'mmengine'):
        own = {key.lower()[len(name) + 1:][:3]: value
               for key, value in bounds.items() if key.lower().startswith(name)}
        ours = {s.operator: s.version for s in SpecifierSet(versions.RANGES[name])}
        assert SpecifierSet(f'>={own["min"]}').contains(ours['>='], prereleases=True)
        assert SpecifierSet(f'<={own["max"]}').contains(ours['<'], prereleases=True)


@pytest.mark.parametrize('name', versions.RANGES)
def test_what_pip_installs_fits(name):
    """The requirements beside the package ask for the same versions."""
    folder = Path(__file__).parents[2] / 'requirements'
    lines = [line.split('#')[0].split(';')[0].strip() for path in ('runtime', 'hosts', 'optional')
             for line in (folder / f'{path}.txt').read_text().splitlines()]
    wheel = {'mmcv': 'mmcv-lite'}.get(name, name)  # setup.py writes the one from the other
    (asked,) = [Requirement(line) for line in lines if line and Requirement(line).name == wheel]
    assert asked.specifier == SpecifierSet(versions.RANGES[name])
