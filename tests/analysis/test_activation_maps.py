"""The maps of a model on photographs: the block, the numbers, the files; and what is refused."""
import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from mmvssd.analysis import activation_maps
from mmvssd.analysis.activation_maps import (
    Settings,
    check_settings,
    collect,
    constant,
    explore,
    find_peer,
    find_site,
    folder_names,
    observe,
)
from mmvssd.analysis.named_models import ModelName
from mmvssd.analysis.op_maps import scaled
from mmvssd.analysis.result_files import MOST_BYTES
from mmvssd.analysis.scan_maps import place_map
from mmvssd.errors import ConfigError
from mmvssd.families import FAMILIES
from mmvssd.models import VSSD, VMamba

SMALL = Settings(size=64)
ALL_ROUTES = {'routes.png', 'combined.png', 'scan.png', 'decay.png', 'route_outputs.png'}
FILES = {'maps.npz', 'maps.json', 'maps.md'}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Archs that run in no time: three stages of which have their maps drawn."""
    for backbone, name, settings in (
            (VMamba, 'nano', {}), (VMamba, 'cascade', dict(pattern='cascade')),
            (VSSD, 'nano', {}), (VSSD, 'normalized', dict(normalize=True)),
            (VSSD, 'causal', dict(mixers=('ssd', 'ssd', 'bi_ssd', 'ssd')))):
        family = 'vmamba' if backbone is VMamba else 'vssd'
        monkeypatch.setitem(backbone.archs, name,
                            backbone.arch_type(**dict(FAMILIES[family].nano, **settings)))


@pytest.fixture(scope='module')
def photograph(tmp_path_factory):
    """A picture of noise, 80 x 70."""
    file = tmp_path_factory.mktemp('pictures') / 'noise.png'
    pixels = np.random.default_rng(0).integers(0, 256, (70, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return file


def site_of(name, settings=SMALL):
    return find_site(ModelName.parse(name), settings)


def image(size=64):
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))


def collected(name, settings=SMALL):
    return collect(observe(site_of(name, settings), image(settings.size), settings), settings)


def test_the_default_is_the_published_block():
    site = site_of('vmamba-nano')
    assert site.mixer is site.named.backbone.stages[2][1].mixer
    assert site.title == 'vmamba-nano, stage 2, block 1'
    last = site_of('vmamba-nano', SMALL._replace(stage=2, block=-1))
    assert last.mixer is last.named.backbone.stages[2][1].mixer
    assert last.title == 'vmamba-nano, stage 2, block 1'
    assert Settings()[:3] == (512, 2, 1)


@pytest.mark.parametrize(('name', 'stage', 'arrays'), [
    ('vmamba-nano', 2, {'routes', 'decays', 'scan', 'route_outputs'}),
    ('vssd-causal', 2, {'routes', 'decays', 'scan', 'route_outputs'}),
    ('vssd-nano', 2, {'weights'}),
    ('vssd-normalized', 2, {'weights'}),
    ('vssd-nano', 3, set()),
])
def test_what_each_op_has(name, stage, arrays):
    settings = SMALL._replace(stage=stage, block=0)
    found = collected(name, settings)
    assert set(found.arrays) == arrays | {'rows', 'diagonal', 'full'}
    assert found.check < 1e-5
    assert found.grid == (64 // 2**(stage + 2), ) * 2
    L = found.grid[0]**2
    assert found.arrays['full'].shape == (L, L)
    assert all(values.dtype == torch.float32 for values in found.arrays.values())
    torch.testing.assert_close(found.arrays['full'].diagonal(), found.arrays['diagonal'])
    torch.testing.assert_close(found.arrays['full'][list(found.tokens)], found.arrays['rows'])


def test_maps_of_another_op_are_not_collected():
    maps = observe(site_of('vmamba-nano'), image(), SMALL)
    assert 0 < collect(maps, SMALL).check < 1e-5
    maps._result = maps._result * 1.01
    with pytest.raises(RuntimeError, match='the maps do not describe this op'):
        collect(maps, SMALL)


def test_queries_and_the_stages_of_a_scan():
    found = collected('vmamba-nano', SMALL._replace(queries=((0, 0), (1, 1), (0.5, 0.25)),
                                                    scan_stages=3, kind='operator'))
    assert found.tokens == (0, 15, 6)  # of 4 x 4 tokens
    assert found.positions == (5, 10, 15)
    # the first route reads row by row; its maps are those of the scan's panels
    assert torch.equal(found.arrays['scan'] != 0, torch.arange(16) <= torch.tensor(
        found.positions)[:, None])
    torch.testing.assert_close(found.arrays['scan'],
                               found.arrays['routes'][0][list(found.positions)])


def test_the_scan_of_attention_maps_is_the_operator():
    operator = collected('vmamba-nano', SMALL._replace(kind='operator'))
    assert torch.equal(collected('vmamba-nano').arrays['scan'], operator.arrays['scan'])


def test_mean_scales_each_route_first():
    settings = SMALL._replace(combine='mean', kind='operator')
    maps = observe(site_of('vmamba-nano'), image(), settings)
    found = collect(maps, settings)
    expected = sum(scaled(place_map(maps.route_map('operator', k), maps.route(k).tokens), 'minmax')
                   for k in range(4)) / 4
    torch.testing.assert_close(found.arrays['full'], expected.float())
    rows = sum(scaled(row, 'minmax') for row in maps.route_rows('operator', found.tokens)) / 4
    torch.testing.assert_close(found.arrays['rows'], rows.float())


def test_of_a_large_grid_no_map_is_made(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError('a whole map was computed')

    monkeypatch.setattr('mmvssd.analysis.scan_maps.full_map', refuse)
    found = collected('vmamba-nano', SMALL._replace(max_tokens=15))
    assert set(found.arrays) == {'rows', 'diagonal', 'scan', 'route_outputs'}
    with pytest.raises(AssertionError, match='a whole map'):
        collected('vmamba-nano', SMALL._replace(max_tokens=16))


@pytest.mark.parametrize(('name', 'stage', 'figures'), [
    ('vmamba-nano', 2, ALL_ROUTES),
    ('vssd-causal', 2, ALL_ROUTES),
    ('vssd-nano', 2, {'combined.png', 'weights.png'}),
    ('vssd-nano', 3, {'combined.png'}),
])
@pytest.mark.parametrize('scale', ['minmax', 'none'])
def test_files(name, stage, figures, scale, photograph, tmp_path):
    settings = SMALL._replace(stage=stage, block=0, scale=scale, queries=((0.2, 0.2), (0.8, 0.8)))
    (folder, found, _), = explore(site_of(name, settings), [photograph], settings, tmp_path,
                               protocol=dict(model=name), failures={})
    assert folder == tmp_path / 'noise'
    assert {file.name for file in folder.iterdir()} == figures | FILES
    for figure in figures:
        with Image.open(folder / figure) as drawn:
            assert drawn.width == 800
        assert (folder / figure).stat().st_size < MOST_BYTES
    with np.load(folder / 'maps.npz') as arrays:
        assert set(arrays) == set(found.arrays)
        assert all(arrays[key].dtype == np.float32 for key in arrays)
        np.testing.assert_array_equal(arrays['full'], found.arrays['full'])
    facts = json.loads((folder / 'maps.json').read_text())
    assert facts['model'] == name
    assert facts['map'] == 'attention'
    assert facts['queries'] == [[0.2, 0.2], [0.8, 0.8]]
    assert facts['self_check'] == dict(relative_error=found.check, tokens=found.checked)
    assert facts['grid'] == list(found.grid)
    assert facts['ranges']['full']['max'] == found.arrays['full'].max().item()
    page = (folder / 'maps.md').read_text()
    assert all(f']({figure})' in page for figure in figures)
    assert f'relative error {found.check:.0e}' in page


def test_a_constant_map_is_drawn(photograph, tmp_path, monkeypatch):
    """Zero weights give maps of zeros, whose scale would divide by 0."""
    site = site_of('vmamba-nano')
    with torch.no_grad():
        site.mixer.x_proj_weight.zero_()
    (folder, found, _), = explore(site, [photograph], SMALL, tmp_path, protocol={}, failures={})
    assert not found.arrays['full'].any()
    assert {'full', 'rows', 'diagonal', 'routes'} <= set(constant(found))
    assert constant(collected('vmamba-nano')) == []
    assert (folder / 'combined.png').is_file()


def test_a_transformer_beside(photograph, tmp_path):
    pytest.importorskip('mmpretrain')
    settings = SMALL._replace(kind='operator')
    peer = find_peer(ModelName.parse('deit-small'), -1, settings)
    assert peer.title == 'deit-small, layer 11'
    (folder, _, _), = explore(site_of('vmamba-nano'), [photograph], settings, tmp_path, protocol={},
                           failures={}, peer=peer)
    assert (folder / 'peer.png').is_file()
    facts = json.loads((folder / 'maps.json').read_text())['peer']
    assert facts['grid'] == [4, 4]
    assert facts['self_check']['relative_error'] < 1e-5
    with np.load(folder / 'maps.npz') as arrays:
        # without the class token, so that a row is less than all that is read
        assert arrays['peer_full'].shape == (16, 16)
        assert (arrays['peer_full'].sum(1) < 1).all()


def test_what_cannot_be_read_is_left_out(photograph, tmp_path):
    broken = tmp_path / 'broken.png'
    broken.write_bytes(b'nothing')
    failures = {}
    done = list(explore(site_of('vssd-nano'), [broken, photograph], SMALL, tmp_path / 'out',
                        protocol={}, failures=failures))
    assert [photograph.folder.name for photograph in done] == ['noise']
    assert list(failures) == [broken]


def test_no_room_for_the_output(photograph, tmp_path, monkeypatch):
    def full(file, content):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(activation_maps, 'write_whole', full)
    with pytest.raises(ConfigError, match='--out: .*noise cannot be written to .No space left'):
        list(explore(site_of('vssd-nano'), [photograph], SMALL, tmp_path, protocol={},
                     failures={}))


def test_pictures_of_one_name(tmp_path):
    files = [tmp_path / name for name in ('a/x.png', 'b/x.jpg', 'c/x-2.png', 'd/x.gif', 'y.png')]
    assert list(folder_names(files).values()) == ['x', 'x-2', 'x-2-2', 'x-3', 'y']


def test_a_name_that_is_no_utf_8(photograph, tmp_path):
    file = tmp_path / os.fsdecode(b'b\xff.png')
    shutil.copy(photograph, file)
    (folder, _, _), = explore(site_of('vssd-nano'), [file], SMALL, tmp_path / 'out', protocol={},
                           failures={})
    assert folder.name == file.stem
    assert (folder / 'maps.md').read_text().splitlines()[0].endswith(': b\\udcff.png')


def test_names_as_long_as_file_systems_take(tmp_path):
    files = [tmp_path / f'{"x" * 250}{end}.png' for end in 'ab']
    names = set(folder_names(files).values())
    assert len(names) == 2
    assert all(len(name) <= 200 and name.startswith('x' * 180) for name in names)


@pytest.mark.parametrize(('name', 'changes', 'message'), [
    ('vmamba-nano', dict(stage=4), '--stage: got 4, expected 0 to 3'),
    ('vmamba-nano', dict(stage=-1), '--stage: got -1'),
    ('vmamba-nano', dict(block=2), '--block: got 2, expected -2 to 1: stage 2 of vmamba-nano'),
    ('vmamba-nano', dict(block=-3), '--block: got -3'),
    ('vmamba-cascade', {}, "pattern='cascade' has no map"),
    ('vssd-nano', dict(kind='decay'), '--map: got .decay., and NCSSDMixer has no order'),
    ('vssd-normalized', dict(kind='decayed'), 'Causal mixers have a decay'),
    ('vssd-nano', dict(kind='decay', stage=3, block=0), 'and Attention has no order'),
    ('resnet-50', {}, 'resnet-50: its backbone is a ResNet, which has no op of ours'),
])
def test_what_has_no_map(name, changes, message):
    if name == 'resnet-50':
        pytest.importorskip('mmpretrain')
    with pytest.raises(ConfigError, match=message):
        site_of(name, SMALL._replace(**changes))


def test_a_model_of_other_than_three_channels(tmp_path):
    pytest.importorskip('mmpretrain')
    recipe = tmp_path / 'grey.py'
    recipe.write_text("default_scope = 'mmpretrain'\nmodel = dict(type='ImageClassifier', "
                      "backbone=dict(type='mmvssd.VSSD', arch='nano', in_channels=1))")
    with pytest.raises(ConfigError, match='grey.py: its backbone takes 1 channel; photographs'):
        site_of(str(recipe))


@pytest.mark.parametrize(('name', 'layer', 'message'), [
    ('deit-small', 12, '--peer-layer: got 12, expected -12 to 11'),
    ('resnet-50', 0, '--peer: resnet-50 has no attention over all tokens'),
    ('vssd-nano', 0, '--peer: vssd-nano has no attention over all tokens'),
])
def test_peers_that_have_none(name, layer, message):
    pytest.importorskip('mmpretrain')
    with pytest.raises(ConfigError, match=message):
        find_peer(ModelName.parse(name), layer, SMALL)


@pytest.mark.parametrize(('changes', 'message'), [
    (dict(queries=((0.5, 1.1), )), '--query: got 0.5 1.1, expected X and Y from 0 to 1'),
    (dict(queries=((-0.1, 0), )), '--query: got -0.1 0'),
    (dict(queries=((float('nan'), 0), )), '--query: got nan 0'),
    (dict(size=16), '--size: got 16'),
    (dict(kind='all'), "--map: got 'all', expected one of attention, decayed, decay, operator"),
    (dict(combine='max'), '--combine: got'),
    (dict(scale='log'), '--scale: got'),
    (dict(scan_stages=0), '--stages-of-scan: got 0, expected a positive number'),
    (dict(max_tokens=-1), '--max-tokens: got -1'),
])
def test_settings_that_do_not_fit(changes, message):
    check_settings(Settings())
    with pytest.raises(ConfigError, match=message):
        check_settings(Settings()._replace(**changes))


@pytest.mark.slow
def test_command(run_tool, tmp_path, photograph):
    pytest.importorskip('mmpretrain')
    out = run_tool('analysis_tools/activation_maps.py', 'samples/vmamba-nano_1xb64_digits.py',
                   '--images', photograph, '--size', 96, '--query', 0.1, 0.1, '--out', 'a/b',
                   '--device', 'cpu', '--map', 'decay')
    assert '6 x 6' in out
    assert '1 image is smaller than 96 pixels and was enlarged' in out
    assert 'without shades: diagonal' in out
    assert {file.name for file in (tmp_path / 'a/b/noise').iterdir()} == ALL_ROUTES | FILES
    out = run_tool('analysis_tools/activation_maps.py', 'vssd-micro', '--images', 'sklearn',
                   '--size', 64, '--out', 'c', '--device', 'cpu', '--max-tokens', 15)
    assert 'Without whole maps: 16 tokens are more than --max-tokens 15' in out
    assert {file.name for file in (tmp_path / 'c').iterdir()} == {'china', 'flower'}
    assert 'enlarged' not in out
    (tmp_path / 'file').touch()
    for arguments, message in (
            (['vssd-tini', '--out', 'o'], "got 'vssd-tini'"),
            (['vssd-micro', '--out', 'file'], 'ConfigError: --out: file cannot be made'),
            (['vssd-micro', '--out', 'o', '--images', 'none.png'], 'none.png: no such image'),
            (['vssd-micro', '--out', 'o', '--query', 2, 2], 'ConfigError: --query: got 2 2'),
            (['vssd-micro', '--out', 'o', '--map', 'decay'], 'ConfigError: --map: got'),
            (['vssd-micro', '--out', 'o', '--peer', 'deit-small', '--size', 100],
             'ConfigError: --size: got 100, and deit-small takes multiples of 16'),
            (['vssd-micro', '--out', 'o', '--device', 'cuda:99'], 'ConfigError: --device')):
        out = run_tool('analysis_tools/activation_maps.py', *arguments, expect=2)
        assert message in out
        assert 'Traceback' not in out
    assert not (tmp_path / 'o').exists()
