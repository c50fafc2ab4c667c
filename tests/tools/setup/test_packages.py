"""tools/setup/packages.py: what it installs, and what it keeps."""
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PYTHONS = [(3, 10), (3, 11), (3, 12), (3, 13)]


@pytest.mark.parametrize('python', PYTHONS)
def test_pins_are_what_pip_reads_in_the_file(setup, python):
    from packaging.requirements import Requirement
    text = ''.join((ROOT / 'requirements' / name).read_text()
                   for name in ('constraints.txt', 'pytorch.txt'))
    pins = [Requirement(line) for line in text.splitlines() if not line.startswith('#')]
    scope = {'python_version': setup.environments.dotted(python)}
    expected = {pin.name: str(pin.specifier)[2:] for pin in pins
                if pin.marker is None or pin.marker.evaluate(scope)}
    assert setup.packages.read_pins(python) == expected


def test_an_own_environment_gets_the_whole_list(setup, monkeypatch, looks, own):
    monkeypatch.setattr(setup.packages, 'has_display_libraries', lambda: True)
    pins, wanted = setup.packages.plan(own, looks(), compiled=False)
    assert pins == setup.packages.read_pins((3, 11))
    assert set(pins) - set(wanted) == {'torch', 'torchvision', 'mmcv', 'ninja',
                                       'opencv-python-headless'}
    _, wanted = setup.packages.plan(own, looks(), compiled=True)
    assert 'mmcv-lite' not in wanted


def test_an_adopted_environment_keeps_its_pytorch(setup, looks, adopted):
    tested = setup.packages.read_pins((3, 11))
    kept = dict(torch='2.6.0+cu124', torchvision='0.21.0', triton='3.2.0')
    pins, wanted = setup.packages.plan(adopted, looks(**kept), compiled=False)
    assert {name: pins[name] for name in kept} == kept
    assert wanted['mmdet'] == tested['mmdet']
    assert not {'torch', 'torchvision'} & set(wanted)


@pytest.mark.parametrize(('triton', 'is_older'), [
    ('3.0.0', True), ('3.6.0', True), ('3.7.1', False), ('3.10.0', False)])
def test_numpy_that_tritons_interpreter_takes(setup, triton, is_older, looks, adopted):
    seen = looks((3, 12), torch='2.6.0', triton=triton)
    _, wanted = setup.packages.plan(adopted, seen, compiled=False)
    python = (3, 10) if is_older else (3, 12)
    assert wanted['numpy'] == setup.packages.read_pins(python)['numpy']


@pytest.mark.parametrize(('torch', 'brings_triton'), [('2.6.0', False), ('tested', True)])
def test_triton_is_added_only_to_the_pytorch_it_is_for(setup, torch, brings_triton, looks, adopted):
    tested = setup.packages.read_pins((3, 11))
    torch = tested['torch'] + '+cpu' if torch == 'tested' else torch
    pins, wanted = setup.packages.plan(adopted, looks(torch=torch), compiled=False)
    assert (wanted.get('triton') == tested['triton']) is brings_triton
    assert 'torchvision' not in pins  # pip chooses the one for this PyTorch


@pytest.mark.parametrize(('seen', 'display', 'expected'), [
    (dict(), True, 'opencv-python'),
    (dict(), False, 'opencv-python-headless'),
    (dict(opencv_python_headless='4.9', cv2=True), True, 'opencv-python-headless'),
    (dict(opencv_python='4.9', cv2=True), False, 'opencv-python'),
    (dict(opencv_contrib_python='4.9', cv2=True), True, None),
])
def test_one_opencv_only(setup, monkeypatch, looks, own, seen, display, expected):
    monkeypatch.setattr(setup.packages, 'has_display_libraries', lambda: display)
    _, wanted = setup.packages.plan(own, looks(**seen), compiled=False)
    assert set(setup.packages.OPENCV) & set(wanted) == ({expected} if expected else set())


def test_display_libraries_are_tried(setup, monkeypatch):
    monkeypatch.setattr(setup.packages, 'DISPLAY_LIBRARIES', ('libc.so.6',))
    assert setup.packages.has_display_libraries()
    monkeypatch.setattr(setup.packages, 'DISPLAY_LIBRARIES', ('libc.so.6', 'libNoSuchLibrary.so.1'))
    assert not setup.packages.has_display_libraries()


@pytest.mark.parametrize(('version', 'loads', 'keeps'), [
    ('2.1.0', True, True), ('2.0.1', True, True), ('2.1.0', False, False), ('2.2.0', True, False),
    ('1.7.2', True, False), (None, True, False)])
def test_which_compiled_mmcv_is_kept(setup, monkeypatch, version, loads, keeps, looks, own):
    monkeypatch.setattr(setup.environments.Environment, 'runs', lambda self, code: loads)
    seen = looks(mmcv=version) if version else looks(mmcv_lite='2.1.0')
    assert setup.packages.keeps_compiled_mmcv(own, seen) is keeps


@pytest.mark.parametrize(('ext', 'keeps'), [
    ('__file__ = "compiled.so"', True), ('raise ImportError', False), ('del __file__', False)])
def test_what_counts_as_compiled_ops(setup, tmp_path, ext, keeps, looks):
    """A module without a file is what mmvssd puts in the place of missing ops."""
    site = fake_environment(tmp_path, torch='', mmcv='')
    (site / 'mmcv' / '_ext.py').write_text(ext)
    environment = setup.environments.Environment(tmp_path, adopted=True)
    assert setup.packages.keeps_compiled_mmcv(environment, looks(mmcv='2.1.0')) is keeps


def fake_environment(folder, **packages):
    """A virtualenv without pip; returns the folder of its packages, name -> code."""
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', folder], check=True)
    site, = folder.glob('lib/python*/site-packages')
    for name, code in packages.items():
        (site / name).mkdir()
        (site / name / '__init__.py').write_text(code)
    return site


@pytest.mark.parametrize(('torch', 'expected'), [
    ('2.4.1', 'torchvision==0.19.*'), ('2.13.0+cpu', 'torchvision==0.28.*'),
    ('3.0.0', 'torchvision')])
def test_which_torchvision_pip_is_asked_for(setup, torch, expected):
    assert setup.packages.torchvision_for(torch) == expected
