"""VMamba's ladder of versions: every published pair of counts, and what is timed and written."""
import csv
import io
from dataclasses import asdict

import pytest
import torch
from PIL import Image

from mmvssd.analysis import result_files, vmamba_versions
from mmvssd.analysis.scan_patterns import Classifier, Cost, count
from mmvssd.analysis.throughput import Setting, Speed
from mmvssd.analysis.vmamba_versions import RUNGS, Row, compare, draw, reproduced, write_report
from mmvssd.errors import ConfigError
from mmvssd.models import VMamba

LATER = dict(embed_dims=96, depths=(2, 2, 5, 2))
DEEP = dict(embed_dims=96, depths=(2, 2, 8, 2), ssm_ratio=1)
#: Parameters and multiply-adds of an image of 224 x 224 pixels, as published, with the head.
PUBLISHED = [
    (dict(LATER, d_state=2), 30_802_600, 4_976_960_256),
    (dict(LATER, d_state=4), 30_996_136, 5_215_396_608),
    (dict(LATER, d_state=8, ssm_ratio=1.5), 28_640_008, 5_044_246_272),
    (dict(LATER, d_state=16, ssm_ratio=1), 26_283_880, 4_873_095_936),
    (dict(DEEP, conv=False), 30_202_408, 4_891_385_088),
    (dict(DEEP, conv_bias=True), 30_254_248, 4_905_609_984),
    (dict(DEEP, mlp_ratio=3, ssm_ratio=1.5), 28_485_640, 4_651_142_400),
    ('tiny-s1l8', 30_249_064, 4_905_609_984),
    *((rung.arch, rung.params, rung.multiply_adds) for rung in RUNGS.values()),
]
#: Published for the first version less than is counted here, of 5.6 G.
FIRST_VERSION = 7_488


@pytest.mark.parametrize(('arch', 'params', 'multiply_adds'), PUBLISHED, ids=str)
def test_published_counts(arch, params, multiply_adds):
    """To the unit, and both conventions count scans alike."""
    cost = count(arch, 224)
    first = isinstance(arch, dict) and arch.get('version') == 'v0'
    counted = multiply_adds + FIRST_VERSION * first
    assert cost == Cost(params, counted, counted)


def test_the_ends_of_the_ladder_are_archs():
    for rung, name in (('V0', 'v0-tiny'), ('V5', 'v0-tiny'), ('V9', 'tiny-s2l5')):
        given = asdict(VMamba.arch_type(**RUNGS[rung].arch))
        assert given == dict(asdict(VMamba.archs[name]), drop_path_rate=0.)


@pytest.fixture
def small(monkeypatch):
    """The ladder in 8 channels and a block a stage."""
    small = {name: rung._replace(arch=dict(rung.arch, embed_dims=8, depths=(1, 1, 1, 1)))
             for name, rung in RUNGS.items()}
    small['deeper'].arch['depths'] = (1, 1, 2, 1)  # nothing else sets it apart
    monkeypatch.setattr(vmamba_versions, 'RUNGS', small)
    return small


def test_each_network_is_counted_and_timed_once(small, monkeypatch):
    built = []

    class Recorder(Classifier):
        def __init__(self, arch):
            super().__init__(arch)
            built.append(arch)

    monkeypatch.setattr(vmamba_versions, 'Classifier', Recorder)
    rows = compare(size=32, batch=2, rounds=1)
    assert built == [rung.arch for name, rung in small.items() if name != 'V5']
    assert [row.name for row in rows] == list(small)
    first, same, *others = rows
    assert first.ratio == 1
    assert (same.speed, same.ratio, same.cost) == (None, None, first.cost)
    for row in (first, *others):
        assert row.speed.setting == Setting('infer', 2, 32)
        assert row.ratio == first.speed.seconds / row.speed.seconds
        assert row.cost == count(small[row.name].arch, 32)
    assert {row.difference for row in rows} == {None}


@pytest.fixture
def rows():
    """What a run gives; the first version differs from what is published, as it does."""
    speeds = {name: Speed(name, Setting('infer', 1, 224), 2. + i, 1 / (2. + i), 0.)
              for i, name in enumerate(RUNGS) if name != 'V5'}
    return [Row(name, Cost(rung.params, rung.multiply_adds, rung.multiply_adds),
                speeds.get(name), speeds[name].images_per_second / 2 if name in speeds else None,
                (0, FIRST_VERSION if name in ('V0', 'V5') else 0)) for name, rung in RUNGS.items()]


def test_what_counts_as_reproduced(rows):
    assert [reproduced(row) for row in rows[:3]] == ['+7,488 multiply-adds'] * 2 + ['yes']
    assert reproduced(rows[0]._replace(difference=(-2, 0))) == '-2 parameters'
    assert reproduced(rows[0]._replace(difference=None)) == 'other size'
    assert rows[0].published_ratio == 1
    assert rows[1].published_ratio == 637 / 426
    assert rows[-3].published_ratio is None


def test_what_is_written(rows, tmp_path):
    write_report(rows, 'a machine', tmp_path / 'a' / 'b')
    assert {file.name for file in (tmp_path / 'a/b').iterdir()} == {
        'vmamba_versions.csv', 'vmamba_versions.md', 'vmamba_versions.png'}
    written = list(csv.DictReader((tmp_path / 'a/b/vmamba_versions.csv').open()))
    assert [entry['version'] for entry in written] == list(RUNGS)
    assert written[1]['images_per_second'] == written[1]['ratio'] == ''
    assert (written[-1]['images_per_second'], written[-1]['published_images_per_second'],
            written[-1]['published_top1']) == ('9.0', '1336', '82.5')
    assert written[-1]['counts_as_published'] == 'yes'
    page = (tmp_path / 'a/b/vmamba_versions.md').read_text().splitlines()
    assert page[0] == '# a machine'
    assert len([line for line in page if line.startswith('|')]) == 2 + len(RUNGS)
    assert '| V5 | the same network, faster code | 22.89 | 5.627 | +7,488 multiply-adds | - |' in (
        '\n'.join(page))
    with Image.open(io.BytesIO(draw(rows, 'a machine'))) as picture:
        assert picture.width == 800
    assert (tmp_path / 'a/b/vmamba_versions.png').stat().st_size < 300_000


def test_no_room(rows, tmp_path, monkeypatch):
    def fail(file, content):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(result_files, 'write_whole', fail)
    with pytest.raises(ConfigError, match='--out: .*csv cannot be written .No space left'):
        write_report(rows, 'a machine', tmp_path)


@pytest.mark.parametrize('option', ['size', 'batch', 'rounds'])
def test_numbers_that_are_none(option):
    with pytest.raises(ConfigError, match=f'--{option}: got 0, expected a positive number'):
        compare(**{option: 0})


@pytest.mark.slow
def test_command(run_tool, tmp_path):
    out = run_tool('benchmarks/vmamba_versions.py', '--size', 32, '--rounds', 1, '--device', 'cpu',
                   '--out', 'a/b')
    assert 'inference, batch 1 of 32 x 32 pixels' in ' '.join(out.split())
    for name in RUNGS:
        assert name in out
    assert {file.name for file in (tmp_path / 'a/b').iterdir()} == {
        'vmamba_versions.csv', 'vmamba_versions.md', 'vmamba_versions.png'}
    (tmp_path / 'file').touch()
    for arguments, message in ((['--out', 'file'], 'ConfigError: --out: file cannot be made'),
                               (['--out', 'o', '--batch', 0], 'ConfigError: --batch: got 0'),
                               (['--out', 'o', '--size', 'x'], 'argument --size: invalid int'),
                               (['--out', 'o', '--device', 'cuda:99'], 'ConfigError: --device')):
        out = run_tool('benchmarks/vmamba_versions.py', '--device', 'cpu', *arguments, expect=2)
        assert message in out
        assert 'Traceback' not in out
    assert not (tmp_path / 'o').exists()


def test_a_run_is_of_one_network_a_rung():
    """No two rungs but V0 and V5 are the same, or one would be timed for two."""
    models = {}
    for name, rung in RUNGS.items():
        with torch.device('meta'):
            shapes = {key: tuple(value.shape) for key, value in VMamba(rung.arch).state_dict(
            ).items()}
        models.setdefault(str(shapes), []).append(name)
    assert [names for names in models.values() if len(names) > 1] == [['V0', 'V5']]
