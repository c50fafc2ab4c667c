"""One table: what holds for a family holds for one that is added, and for the others beside it."""
import importlib
import importlib.metadata
import os
import re
import sys
import types
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmvssd import families
from mmvssd.analysis.throughput import backbones
from mmvssd.cli import doctor
from mmvssd.converters import fit, from_official
from mmvssd.converters.fit import candidates, closest_fit
from mmvssd.converters.rules import Rules
from mmvssd.families import FAMILIES, Family, every_arch, register_family
from mmvssd.models.backbones.base import BaseBackbone
from mmvssd.paths import configs_dir
from mmvssd.registry import MODELS

TESTS = Path(__file__).resolve().parent


@pytest.fixture
def toy(monkeypatch):
    """The row of the toy family, registered."""
    monkeypatch.syspath_prepend(TESTS)
    row = importlib.import_module('toy_family').TOY
    register_family(row)
    yield row
    del FAMILIES['toy']


@pytest.fixture
def register():
    """Register a row for the test's time."""
    names = list(FAMILIES)
    yield register_family
    for name in [name for name in FAMILIES if name not in names]:
        del FAMILIES[name]


@pytest.fixture
def installed(tmp_path):
    """Environment of a process in which the toy family's package is installed."""
    folder = tmp_path / 'site'
    info = folder / 'toy_family-1.0.dist-info'
    info.mkdir(parents=True)
    (folder / 'toy_family').symlink_to(TESTS / 'toy_family')
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: toy-family\nVersion: 1.0\n')
    (info / 'entry_points.txt').write_text('[mmvssd.families]\ntoy = toy_family\n')
    path = os.pathsep.join([str(folder), *filter(None, sys.path)])
    return dict(os.environ, PYTHONPATH=path)


def published_names(backbone):
    """What a file of the toy's published classifier would hold."""
    names = {'head.weight': torch.zeros(7, backbone.dims[-1]), 'head.bias': torch.zeros(7)}
    for name, value in backbone.state_dict().items():
        if not re.match('norm[012]', name):  # a classifier has the last norm only
            for ours, theirs in ((r'stem\.', 'embed.'), (r'norm3\.', 'norm.'),
                                 (r'stages\.(\d)\.(\d)\.', r'level\1.block\2.'),
                                 (r'downsamples\.(\d)\.', r'level\1.down.')):
                name = re.sub(f'^{ours}', theirs, name)
            names[name] = value
    return names


@pytest.mark.parametrize('name', FAMILIES)
def test_each_row(name):
    row = FAMILIES[name]
    assert row.name == name
    assert issubclass(row.backbone, BaseBackbone)
    assert MODELS.get(row.type) is row.backbone
    assert row.backbone(row.nano).dims == (16, 32, 64, 128)
    assert row.backbone.default_arch in row.backbone.archs
    assert [(family.name, arch) for family, arch in every_arch() if family is row] == [
        (name, arch) for arch in row.backbone.archs]
    assert row.rules.renamed


def test_each_file_of_a_backbone_is_of_an_arch():
    """`configs/_base_/backbones`: its name, its widths and its checkpoint say the same."""
    files = {file.stem: Config.fromfile(file)
             for file in (configs_dir() / '_base_' / 'backbones').glob('*.py')}
    named = {f'{family.name}-{arch}' for family, arch in every_arch()}
    assert named <= set(files)
    for name, cfg in files.items():
        family, _, arch = name.partition('-')
        with torch.device('meta'):
            backbone = MODELS.build(cfg.backbone)
        assert type(backbone) is FAMILIES[family].backbone
        assert list(backbone.dims) == cfg.dims
        if name in named:
            assert cfg.backbone.arch == arch
            assert cfg.checkpoint == f'checkpoints/{name}_in1k.pth'


@pytest.mark.slow
def test_a_new_family_passes_the_model_tests(installed, run_anew):
    """Two files and a row: the tests of all backbones run on it, and none needs an edit.

    It compiles in tests/models/test_kernels.py; the longer test with any sizes is left out.
    """
    done = run_anew(['-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-k',
                     'toy and not test_compiles_to_one_graph', TESTS / 'models'],
                    TESTS.parent, installed)
    assert done.returncode == 0, done.stdout[-5000:]
    assert int(re.search(r'(\d+) passed', done.stdout)[1]) >= 60


def test_the_converter_finds_it(toy):
    for arch in toy.backbone.archs:
        backbone = toy.backbone(arch)
        state = published_names(backbone)
        found = closest_fit(state, candidates())
        assert (found.family, found.arch, found.differences, found.twins) == ('toy', arch, 0, [])
        state = from_official(state, 'toy')
        assert torch.equal(state['backbone.stages.1.1.mixer.D'], backbone.stages[1][1].mixer.D)
    assert candidates('toy') == [('toy', 'mini'), ('toy', 'tiny')]
    assert candidates(arch='tiny') == [('vssd', 'tiny'), ('toy', 'tiny')]


@pytest.mark.slow
def test_a_command_sees_an_installed_package(toy, installed, run_tool, tmp_path):
    torch.save(dict(model=published_names(toy.backbone('mini'))), tmp_path / 'published.pth')
    out = run_tool('model_converters/convert_checkpoint.py', 'published.pth', 'ours.pth',
                   env=installed)
    assert 'ours.pth: written, toy mini\n' in out


@pytest.mark.slow
def test_a_config_finds_an_installed_package(installed, tmp_path, run_anew):
    script = "from mmengine.registry import MODELS; print(MODELS.get('mmvssd.Toy').default_arch)"
    done = run_anew(['-c', script], tmp_path, installed)
    assert done.stdout.endswith('mini\n'), done.stdout


def test_the_throughput_table_and_the_doctor_see_it(toy):
    assert backbones()['toy-tiny']().dims == (48, 96, 192, 384)
    pytest.importorskip('mmpretrain')
    assert doctor._look_up('mmpretrain') == 'imports, finds mmvssd.VSSD, mmvssd.VMamba, mmvssd.Toy'


#: Rows that could come between other families and their files.
RIVALS = {
    'takes every name': ('toy_family.backbone:Toy', 'greedy_rules:RULES'),
    'broken package': ('nowhere.backbone:Toy', 'nowhere.rules:RULES'),
    'misspelt class': ('mmvssd.models.backbones.vssd:VSDD', 'mmvssd.converters.vssd:RULES'),
    'misspelt rules': ('mmvssd.models.backbones.vssd:VSSD', 'mmvssd.converters.vssd:RULE'),
    'nothing published': ('mmvssd.models.backbones.vssd:VSSD', None),
    "another's copy": ('mmvssd.models.backbones.vmamba:VMamba', 'mmvssd.converters.vmamba:RULES'),
}


@pytest.fixture(params=RIVALS)
def rival(request, toy, monkeypatch):
    """Each of these rows, registered beside the toy's."""
    greedy = types.SimpleNamespace(RULES=Rules(renamed=((r'(.+)', r'stages.\1'), )))
    monkeypatch.setitem(sys.modules, 'greedy_rules', greedy)
    row = Family('rival', *RIVALS[request.param], nano={})
    register_family(row)
    yield row
    del FAMILIES['rival']


@pytest.mark.parametrize('published', [('vssd', 'micro'), ('vmamba', 'v0-tiny')], ids='-'.join,
                         indirect=True)
def test_it_breaks_no_others_conversion(rival, published):
    for part in ('backbone', 'classifier'):
        names = published.names(part)
        found = closest_fit(names, candidates())
        assert (found.family, found.arch) == (published.family, published.arch)
        assert found.differences == 0
        # a damaged one is compared with what it was
        names.pop(next(name for name in names if name.startswith('layers.1')))
        names['layers.9.surprise'] = torch.zeros(1)
        found = closest_fit(names, candidates())
        assert (found.family, found.arch) == (published.family, published.arch)
        assert found.differences == 2


def test_a_family_that_cannot_be_imported_is_named(register, monkeypatch):
    register(Family('broken', 'nowhere.backbone:Toy', 'nowhere.rules:RULES', {}))
    said = []
    monkeypatch.setattr(fit, 'print_log', lambda text, **_: said.append(text))
    assert 'broken' not in dict(candidates())
    assert said == ["family broken: nowhere.rules:RULES leads nowhere (No module named 'nowhere'); "
                    'its checkpoints are not looked for']
    with pytest.raises(ImportError, match='family broken: nowhere.rules:RULES leads nowhere'):
        candidates('broken')


def test_a_family_without_published_files(register):
    register(Family('fresh', 'mmvssd.models.backbones.vssd:VSSD', None, {}))
    assert FAMILIES['fresh'].rules is None
    with pytest.raises(ValueError, match="unknown name 'fresh'; known: vssd, vmamba$"):
        candidates('fresh')


@pytest.mark.parametrize(('name', 'backbone', 'rules', 'message'), [
    ('vssd', 'toy.backbone:Toy', None, 'vssd: the name is taken by mmvssd.models.*:VSSD; choose'),
    ('toy-net', 'toy.backbone:Toy', None, "'toy-net', expected lower-case letters and digits"),
    ('Toy', 'toy.backbone:Toy', None, "'Toy', expected lower-case"),
    ('toy', 'toy.backbone.Toy', None, "'toy.backbone.Toy', expected 'package.module:Name'"),
    ('toy', 'toy.backbone:Toy', 'toy.rules', "the path 'toy.rules', expected"),
])
def test_bad_rows(name, backbone, rules, message):
    with pytest.raises(ValueError, match=message):
        register_family(Family(name, backbone, rules, nano={}))
    assert list(FAMILIES) == ['vssd', 'vmamba']
    assert FAMILIES['vssd'].nano


def test_a_row_may_be_registered_twice():
    register_family(FAMILIES['vssd'])
    assert list(FAMILIES) == ['vssd', 'vmamba']


def test_a_broken_plugin_is_left_out_with_a_warning(monkeypatch):
    entry = importlib.metadata.EntryPoint('toy', 'nowhere', 'mmvssd.families')
    monkeypatch.setattr(importlib.metadata, 'entry_points', lambda group: [entry])
    said = []
    monkeypatch.setattr(families, 'print_log', lambda text, **_: said.append(text))
    families.import_plugins()
    assert said == ['nowhere, an entry point of mmvssd.families, is left out: '
                    "No module named 'nowhere'"]
