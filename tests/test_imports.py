"""Imports go one way, and the backbones need none of the hosts."""
import ast
import importlib
import os
import subprocess
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HOSTS = {'mmdet', 'mmseg', 'mmpretrain'}


def imported(file):
    """Full names of the modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{file}: a relative import hides where it goes'
            yield node.module
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


def offenders(folder, forbidden):
    files = list((ROOT / folder).rglob('*.py'))
    assert files, folder
    return [(str(file.relative_to(ROOT)), name) for file in files for name in imported(file)
            if any(name == bad or name.startswith(bad + '.') for bad in forbidden)]


@pytest.mark.parametrize(('folder', 'forbidden'), [
    ('kernels', {'mmvssd', 'mmengine', 'mmcv', *HOSTS}),
    ('mmvssd/models/layers', {'mmvssd_kernels', 'mmvssd.models.backbones', 'mmcv', *HOSTS}),
    ('mmvssd/models/backbones', {'mmvssd_kernels', 'mmcv', *HOSTS}),
    ('mmvssd', {'tools', 'tests'}),
])
def test_direction(folder, forbidden):
    assert not offenders(folder, forbidden)


@pytest.mark.slow
def test_backbones_need_no_host(tmp_path):
    """In a process where importing a host, or mmcv, fails."""
    script = """
import sys
for name in ('mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'torchvision', 'triton'):
    sys.modules[name] = None
import torch
from mmvssd.models import VSSD
from mmvssd.registry import MODELS
settings = dict(arch=dict(embed_dims=16, depths=(1, 1), num_heads=(2, 2)), out_indices=(1, ))
for model in (VSSD(**settings), MODELS.build(dict(type='mmvssd.VSSD', **settings))):
    print(model(torch.zeros(2, 3, 32, 32))[0].shape)
"""
    done = subprocess.run([sys.executable, '-c', script], cwd=tmp_path, text=True,
                          capture_output=True, check=False)
    assert done.stdout.count('torch.Size([2, 32, 4, 4])') == 2, done.stderr


#: Builds models in the scope of a host.
FIND = """
import importlib, sys
import mmvssd  # what the hosts need on this PyTorch
MODELS = importlib.import_module(f'{sys.argv[1]}.registry').MODELS
with MODELS.switch_scope_and_registry(sys.argv[1]) as registry:
    dims = registry.build(dict(type='mmvssd.VSSD', arch='micro')).dims
    print(dims, type(registry.build(dict(
        type='mmvssd.MESAClassifier', mesa_weight=1.,
        backbone=dict(type='mmvssd.VSSD', arch='micro'),
        data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor'),
        head=dict(type='mmpretrain.LinearClsHead', num_classes=2, in_channels=384,
                  loss=dict(type='mmpretrain.CrossEntropyLoss'))))).__name__)
"""


@pytest.mark.slow
def test_found_from_a_hosts_scope(tmp_path, run_anew):
    """Each in a process and a foreign folder of its own, where nobody has imported a host."""
    pytest.importorskip('mmpretrain')
    for scope in sorted(host for host in HOSTS if find_spec(host)):
        done = run_anew(['-c', FIND, scope], tmp_path, dict(os.environ))
        assert done.stdout.endswith('(48, 96, 192, 384) MESAClassifier\n'), done.stdout


@pytest.mark.slow
def test_what_is_run_anew_has_imported_neither_hosts_nor_project(tmp_path, run_anew):
    """Otherwise a tool that misses an import of its own would run in the tests."""
    (tmp_path / 'of_a_folder.py').touch()
    done = run_anew(['-c', 'import sys; print(*sys.modules, sep="\\n"); import of_a_folder'],
                    tmp_path, {**os.environ, 'PYTHONPATH': str(tmp_path)})
    assert done.returncode == 0, done.stdout
    found = {tuple(name.split('.')[:2]) for name in done.stdout.splitlines()}
    assert ('torch', 'nn') in found
    assert not {name for name, *_ in found} & {*HOSTS, 'mmengine', 'mmcv', 'mmvssd_kernels'}
    # an installed project brings its patches before PyTorch
    assert {part for name, *part in found if name == 'mmvssd' for part in part} <= {
        'compat', 'errors', 'import_errors', 'version'}


def test_models_for_timm_say_what_is_missing(monkeypatch):
    """Whether timm is there, is too old, or not."""
    monkeypatch.delitem(sys.modules, 'mmvssd.timm', raising=False)
    for installed in (None, types.SimpleNamespace(__version__='0.9.16')):
        monkeypatch.setitem(sys.modules, 'timm', installed)
        with pytest.raises(ImportError, match="needs timm .*: pip install 'timm>=1.0.31'"):
            importlib.import_module('mmvssd.timm')
