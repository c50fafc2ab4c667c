"""What a comparison of scan patterns counts, times and writes, not how fast they are."""
import csv

import pytest

from mmvssd.analysis import scan_patterns
from mmvssd.analysis.scan_patterns import Cost, compare, count, patterns_of
from mmvssd.errors import ConfigError
from mmvssd.models import VMamba
from mmvssd.models.layers.ss2d import PATTERNS


def test_patterns_differ_in_nothing_else():
    archs = patterns_of('tiny-s2l5')
    assert list(archs) == ['cross', 'unidirectional', 'bidirectional', 'cascade'] == list(PATTERNS)
    assert {pattern: arch.pop('pattern') for pattern, arch in archs.items()} == {
        pattern: pattern for pattern in PATTERNS}
    assert all(arch == archs['cross'] for arch in archs.values())
    assert archs['cross']['depths'] == (2, 2, 5, 2)


@pytest.mark.slow
def test_published_cost():
    costs = {pattern: count(arch, 224) for pattern, arch in patterns_of('tiny-s2l5').items()}
    assert len({cost.params for cost in costs.values()}) == 1
    assert [(f'{cost.params / 1e6:.2f}', f'{cost.published / 1e9:.1f}')
            for cost in costs.values()] == [('30.71', '4.9')] * 4
    # a scan costs the same in each order; the cascade's norms are its own: 4 an element, two a
    # block, of 2, 2, 5 and 2 blocks with 192 * 2**i channels on 56 / 2**i x 56 / 2**i tokens
    norms = sum(2 * 4 * depth * 56 * 56 * 192 // 2**i for i, depth in enumerate((2, 2, 5, 2)))
    assert costs['unidirectional'] == costs['bidirectional'] == costs['cross']
    assert costs['cascade'] == costs['cross']._replace(full=costs['cross'].full + norms,
                                                       published=costs['cross'].published + norms)


@pytest.fixture
def nano(monkeypatch):
    """A VMamba that counts and runs in no time."""
    arch = VMamba.arch_type(embed_dims=8, depths=(1, 1, 1, 1))
    monkeypatch.setattr(VMamba, 'archs', {'nano': arch})


def test_each_pattern_is_counted_and_timed(nano, monkeypatch):
    built = []

    class Recorder(VMamba):
        def __init__(self, arch, **settings):
            super().__init__(arch, **settings)
            built.append((self.out_indices, arch['pattern'], self.stages[0][0].mixer.pattern))

    monkeypatch.setattr(scan_patterns, 'VMamba', Recorder)
    costs, speeds = compare('nano', size=32, batch=2, rounds=2)
    assert list(costs) == list(PATTERNS)
    assert all(isinstance(cost, Cost) and cost.full > 0 for cost in costs.values())
    assert [(row.model, str(row.setting)) for row in speeds] == [
        (pattern, f'{mode}:2x32') for mode in ('infer', 'train') for pattern in PATTERNS]
    assert all(row.seconds > 0 for row in speeds)
    # classifiers once, and all outputs of the backbone in either mode
    classifiers, backbones = ([(outputs, pattern, pattern) for pattern in PATTERNS]
                              for outputs in ((3, ), (0, 1, 2, 3)))
    assert built == classifiers + 2 * backbones


@pytest.mark.parametrize(('name', 'message'), [
    ('tiny', '--arch: tiny is an arch of VSSD, which has no scan pattern; known: v0-tiny, .*s1l20'),
    ('tiny-s2', '--arch: tiny-s2 is not an arch of VMamba; known: v0-tiny, .*tiny-s2l5'),
])
def test_unknown_archs(name, message):
    with pytest.raises(ConfigError, match=message):
        compare(name)


@pytest.mark.parametrize('option', ['size', 'batch', 'rounds'])
def test_numbers_that_are_none(option):
    with pytest.raises(ConfigError, match=f'--{option}: got 0, expected a positive number'):
        compare('tiny-s2l5', **{option: 0})


@pytest.mark.slow
def test_command(run_tool, tmp_path):
    out = run_tool('analysis_tools/compare_scans.py', '--arch', 'tiny-s1l8', '--size', 32,
                   '--batch', 1, '--rounds', 1, '--device', 'cpu', '--out', 'a/b')
    rows = [[cell.strip() for cell in line.split('│')[1:-1]] for line in out.splitlines()
            if line.startswith('│')]
    counts, speeds = rows[:4], rows[4:]
    assert [(row[0], row[1]) for row in counts] == [(pattern, '30.249') for pattern in PATTERNS]
    assert [row[:2] for row in speeds] == [[setting, pattern] for setting in
                                           ('infer:1x32', 'train:1x32') for pattern in PATTERNS]
    assert [row[4] for row in speeds[::4]] == ['1.00', '1.00']
    with open(tmp_path / 'a/b/scan_patterns.csv') as file:
        written = list(csv.DictReader(file))
    assert [[row['setting'], row['model']] for row in written] == [row[:2] for row in speeds]
    assert {row['params'] for row in written} == {'30249064'}
    assert all(None not in row.values() and float(row['full']) == float(row['published']) > 0
               for row in written)
    assert (tmp_path / 'a/b/scan_patterns.png').read_bytes()[:4] == b'\x89PNG'
    assert sorted(file.name for file in (tmp_path / 'a/b').iterdir()) == [
        'scan_patterns.csv', 'scan_patterns.png']


@pytest.mark.slow
def test_command_refuses(run_tool, tmp_path):
    (tmp_path / 'file').touch()
    out = run_tool('analysis_tools/compare_scans.py', '--out', 'file', expect=2)
    assert 'ConfigError: --out: file cannot be made or written to' in out
    out = run_tool('analysis_tools/compare_scans.py', '--arch', 'tiny', '--out', 'o', expect=2)
    assert 'ConfigError: --arch: tiny is an arch of VSSD' in out
    assert 'Traceback' not in out
