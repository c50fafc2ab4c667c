"""Rows of models and sizes: what is measured, kept, written, and refused."""
import csv
import errno
import json
import os
import re
from dataclasses import replace

import pytest
import torch
from PIL import Image

from mmvssd.analysis import resolution_scaling, result_files
from mmvssd.analysis.complexity import count_model
from mmvssd.analysis.named_models import ModelName, build_classifier
from mmvssd.analysis.published_comparison import (
    comparisons,
    gflops_at_224,
    gflops_table,
    points_table,
    speed_table,
)
from mmvssd.analysis.published_numbers import POINTS, SERIES, SIZES, published_top1, reproduced
from mmvssd.analysis.published_speed import Speed
from mmvssd.analysis.resolution_accuracy import check_accuracy, measure_top1, resized
from mmvssd.analysis.resolution_scaling import (
    MODELS,
    Count,
    Missing,
    Row,
    Settings,
    check,
    failures,
    measure,
    measured_nowhere,
    parse_size,
    spread_batches,
    swin_window,
)
from mmvssd.analysis.resolution_scaling_report import (
    FIELDS,
    as_markdown,
    draw,
    fields_of,
    notes,
    read_rows,
    write_report,
    write_rows,
)
from mmvssd.datasets import make_sample_data
from mmvssd.errors import CheckpointError, ConfigError
from mmvssd.models import VSSD, VMamba
from mmvssd.paths import configs_dir, project_root

PAGE = (project_root() / 'docs' / 'scaling.md').read_text()
NANO = dict(embed_dims=16, depths=(1, 1, 1, 1))
RECIPE = 'samples/vssd-nano_1xb64_digits.py'
ON_CPU = Settings(((32, 32), ), (2, ), warmup=0, steps=1, train_amp=None, device='cpu')
PROTOCOL = dict(mmvssd='1', machine='one', warmup=0)


@pytest.fixture
def nano(monkeypatch):
    """Archs of VMamba and VSSD that are small."""
    pytest.importorskip('mmpretrain')
    monkeypatch.setitem(VMamba.archs, 'nano', VMamba.arch_type(**NANO))
    monkeypatch.setitem(VSSD.archs, 'nano', VSSD.arch_type(**NANO, num_heads=(2, ) * 4, d_state=8))
    return [ModelName.parse('vmamba-nano'), ModelName.parse('vssd-nano')]


@pytest.fixture
def steps(monkeypatch):
    """Replaces the timing; has (class, shape of the images, mode) of each, and raises on demand."""

    class Steps(list):
        error = None

        def __call__(self, model, images, labels, mode, **settings):
            self.append((type(model.backbone).__name__, tuple(images.shape), mode, settings))
            if self.error and self.error(images, mode):
                raise self.error(images, mode)
            return Speed(100. * len(self), 2.5, len(images))

    steps = Steps()
    monkeypatch.setattr('mmvssd.analysis.published_speed.measure', steps)
    monkeypatch.setattr('mmvssd.analysis.published_speed.release', lambda model: None)  # slow here
    return steps


def memory_for(most):
    """Return an error for images with more pixels."""
    return lambda images, mode: (torch.cuda.OutOfMemoryError('CUDA out of memory')
                                 if len(images) * images[0, 0].numel() > most else None)


# Sizes, batches, names

def test_sizes():
    assert parse_size('224') == (224, 224)
    assert parse_size('800x1280') == (800, 1280)
    assert Row(None, (224, 224), 1).size == '224'
    assert Row(None, (800, 1280), 1).size == '800x1280'


@pytest.mark.parametrize('text', ['0', '-1', '', '2x', 'x2', '1x2x3', '2.5', '224px', '\u0662'])
def test_sizes_that_are_none(text):
    with pytest.raises(ConfigError, match='^--sizes: got'):
        parse_size(text)


def test_batches():
    shapes = [(32, 32), (64, 64)]
    assert spread_batches([4], shapes) == (4, 4)
    assert spread_batches([4, 2], shapes) == (4, 2)
    for batches in ([4, 2, 1], [0], [4, -1]):
        with pytest.raises(ConfigError, match='^--batch: got'):
            spread_batches(batches, shapes)


def test_swins_windows():
    assert [swin_window('swin-tiny', (size, size)) for size in SIZES] == [7, 12, 16, 20, 24, 32]
    assert swin_window('swin-tiny', (800, 1280)) == 7


@pytest.mark.parametrize(('text', 'changes', 'message'), [
    ('swin-tiny', dict(shapes=((200, 200), )), 'got 200, and swin-tiny takes multiples of 32'),
    ('deit-small', dict(shapes=((224, 232), )), 'got 232, and deit-small takes multiples of 16'),
    ('hivit-tiny', dict(shapes=((224, 256), )), 'got 224x256, and hivit-tiny takes squares'),
    ('vssd-tinny', {}, 'did you mean vssd-tiny'),
    ('samples/mask-rcnn_vssd-nano_fpn_1xb8_digits.py', {}, 'not a classifier; .*backbone_speed.py'),
    ('mmpretrain::mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py', {},
     'its MAEPretrainHead has no number of classes'),
    ('vssd-tiny', dict(shapes=((32, 32), ) * 2), '--sizes: 32x32 stands there more than once'),
    ('vssd-tiny', dict(batches=(1, 2)), '--batch: got 1 2'),
    ('vssd-tiny', dict(steps=0), '--steps: got 0, expected 1 or more'),
    ('vssd-tiny', dict(warmup=-1), '--warmup: got -1, expected 0 or more'),
    ('vssd-tiny', dict(modes=('test', )), 'got modes test'),
])
def test_what_does_not_fit(text, changes, message):
    pytest.importorskip('mmdet')
    pytest.importorskip('mmpretrain')
    with pytest.raises(ConfigError, match=message):
        check([ModelName.parse(text)], ON_CPU._replace(**changes))


def test_a_recipe_of_another_host_with_a_head(tmp_path):
    pytest.importorskip('mmpretrain')
    (tmp_path / 'mine.py').write_text(
        f"_base_ = '{configs_dir()}/{RECIPE}'\ndefault_scope = 'mmdet'\n")
    with pytest.raises(ConfigError, match='its ImageClassifier is not a classifier'):
        check([ModelName.parse(f'{tmp_path}/mine.py')], ON_CPU)


def test_labels_once(nano):
    with pytest.raises(ConfigError, match='vmamba-nano stands there more than once'):
        measure([nano[0]] * 2, ON_CPU)


def test_a_checkpoint_of_another_model(nano, steps, tmp_path):
    torch.save(dict(state_dict=build_classifier(nano[1]).state_dict()), tmp_path / 'vssd.pth')
    with pytest.raises(CheckpointError, match='not the weights of this model'):
        measure([nano[0], ModelName.parse(f'vmamba-nano@{tmp_path}/vssd.pth')], ON_CPU)
    assert not steps  # nor is the good one measured


# Classifiers

def test_classifiers_by_name(nano, tmp_path):
    fresh = build_classifier(nano[0], seed=3)
    assert not fresh.training
    assert fresh.num_classes == 1000
    assert fresh(torch.zeros(2, 3, 32, 32)).shape == (2, 1000)
    torch.save(dict(state_dict=fresh.state_dict()), tmp_path / 'weights.pth')
    loaded = build_classifier(ModelName.parse(f'vmamba-nano@{tmp_path}/weights.pth'))
    for name, value in fresh.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value)
    recipe = build_classifier(ModelName.parse(RECIPE))
    assert recipe.num_classes == 10
    assert recipe(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.slow
def test_a_checkpoint_of_swin_at_another_window(tmp_path):
    pytest.importorskip('mmpretrain')
    published = build_classifier(ModelName.parse('swin-tiny'), seed=3)
    torch.save(dict(state_dict=published.state_dict()), tmp_path / 'swin.pth')
    name = ModelName.parse(f'swin-tiny@{tmp_path}/swin.pth')
    larger = build_classifier(name, size=384, swin_window=12)
    table = 'backbone.stages.0.blocks.0.attn.w_msa.relative_position_bias_table'
    assert published.state_dict()[table].shape == (13**2, 3)
    assert larger.state_dict()[table].shape == (23**2, 3)
    torch.testing.assert_close(larger.head.fc.weight, published.head.fc.weight)
    # the middle of the table is the bias of a token to itself
    torch.testing.assert_close(larger.state_dict()[table][23**2 // 2],
                               published.state_dict()[table][13**2 // 2])
    torch.save(dict(state_dict={'head.fc.weight': torch.zeros(1)}), tmp_path / 'other.pth')
    with pytest.raises(CheckpointError):
        build_classifier(ModelName.parse(f'swin-tiny@{tmp_path}/other.pth'), swin_window=12)


def test_a_classifier_of_timm():
    pytest.importorskip('mmpretrain')
    pytest.importorskip('timm')
    model = build_classifier(ModelName.parse('timm:resnet10t'), seed=3)
    assert model.num_classes == 1000
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 1000)
    assert count_model(model, (64, 64)).full > 1e6


# Counts

def test_vmamba_is_linear_in_pixels(nano):
    model = build_classifier(nano[0])
    counts = {size: count_model(model, (size, size)) for size in (64, 128)}
    head = next(part.full for part in counts[64].parts if part.name == 'head')
    assert head == 128 * 1000
    pool, = (part.full for part in counts[64].parts if part.name == 'neck')
    assert counts[128].full - head == 4 * (counts[64].full - head)
    assert pool == 2 * 2 * 128


#: Side, and 1e9 multiply-adds as published that are counted to every digit.
COUNTED = [(series.name, size, gflops) for series in SERIES for size, gflops in zip(
    SIZES, series.gflops)]
DIFFERENT = {('convnext-tiny', 512), ('convnext-tiny', 1024), ('swin-tiny', 384, 14.5),
             *(('vssd-tiny-iccv2025', size) for size in SIZES[1:]),
             *(('vmamba-tiny-s1l8', size) for size in SIZES[2:])}


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'size', 'gflops'), [
    case for case in dict.fromkeys(COUNTED) if case[1] <= 384])
def test_published_counts(name, size, gflops):
    pytest.importorskip('mmpretrain')
    model = build_classifier(ModelName.parse(name), size=size, swin_window=size // 32)
    found = count_model(model, (size, size)).published / 1e9
    known = {(name, size), (name, size, gflops)} & DIFFERENT
    assert reproduced(found, gflops) != bool(known), found
    columns = [line.split(' | ') for line in PAGE.splitlines() if f'| `{name}` | counted |' in line]
    assert columns
    for line in columns:
        assert line[SIZES.index(size) + 4].strip(' |') == f'{found:.3f}'


def test_the_pages_tables():
    rows = {}  # as the page has them
    for line in PAGE.splitlines():
        found = re.match(r'\| \| `([\w-]+)` \| counted \| ([\d.]+) \|(.*)\|$', line)
        for size, text in zip(SIZES, found[3].split('|') if found else ()):
            giga = round(1e9 * float(text))
            rows[found[1], size] = made_up(found[1], size, 1, None, count=Count(
                round(1e6 * float(found[2])), giga, giga))
    assert len(rows) == 8 * 6
    at_224 = re.findall(r'\| `([\w:-]+)` \| \d+ \| ([\d.]+) \| [\d.]+ \| ([\d.]+) \|', PAGE)
    table = gflops_at_224([made_up(name, 224, 1, None, count=Count(
        round(1e6 * float(params)), 0, round(1e9 * float(gflops))))
        for name, params, gflops in at_224])
    assert len(table.splitlines()) == 2 + 3 + 9
    assert table in PAGE
    # each mark follows from the two numbers above it
    expected = [line for line in gflops_table(rows.values()).splitlines() if 'counted' not in line]
    assert set(expected) <= set(PAGE.splitlines())


def test_reproduced():
    assert reproduced(4.8577, 4.9)
    assert reproduced(25.56, 26)
    assert reproduced(44.999, 45.0)
    assert not reproduced(14.049, 14.5)
    assert not reproduced(23.353, 23.3)


# Rows

def test_rows_grow(nano, steps):
    seen = []
    rows = measure(nano, ON_CPU._replace(shapes=((32, 32), (32, 64)), batches=(4, 2)),
                   each=lambda rows: seen.append(len(rows)))
    assert seen == [1, 2, 3, 4]
    assert [(row.model.label, row.size, row.batch) for row in rows] == [
        (model.label, *of) for model in nano for of in (('32', 4), ('32x64', 2))]
    assert [step[:3] for step in steps] == [
        (kind, shape, mode) for kind in ('VMamba', 'VSSD')
        for shape in ((4, 3, 32, 32), (2, 3, 32, 64)) for mode in ('infer', 'train')]
    assert steps[0][3] == dict(warmup=0, steps=1, amp=None)
    assert rows[0].speeds == dict(infer=Speed(100., 2.5, 4), train=Speed(200., 2.5, 4))
    found = count_model(build_classifier(nano[0]), (32, 64))
    assert rows[1].count == (found.params, found.full, found.published)


def test_only_what_is_asked_for(nano, steps):
    row, = measure(nano[:1], ON_CPU._replace(count=False, modes=('train', )))
    assert (row.count, list(row.speeds), row.top1) == (None, ['train'], None)
    row, = measure(nano[:1], ON_CPU._replace(modes=()), score=lambda model, shape: 50.)
    assert (len(steps), row.top1) == (1, 50.)
    assert isinstance(row.count, Count)


def test_memory_that_does_not_suffice(nano, steps):
    settings = ON_CPU._replace(shapes=((32, 32), (64, 64)), batches=(8, ), count=False)
    steps.error = memory_for(8 * 32 * 32)
    rows = measure(nano, settings)
    assert [isinstance(row.speeds['infer'], Missing) for row in rows] == [False, True] * 2
    assert rows[1].speeds['train'] == ('out of memory', 'OOM', True)
    assert not failures(rows)
    assert measure(nano, settings, done=rows)[1] == rows[1]  # it is a result
    assert len(steps) == 8
    assert measured_nowhere(rows) == []
    halved = measure(nano[:1], settings._replace(halve=True))
    assert [step[1][0] for step in steps[8:]] == [8, 8, 8, 4, 2, 8, 4, 2]
    assert halved[1].speeds['infer'].batch == 2
    steps.error = memory_for(0)
    assert measure(nano[:1], settings._replace(halve=True))[0].speeds['infer'] == (
        'out of memory, also with one image', 'OOM', True)
    assert measured_nowhere(measure(nano, settings._replace(count=True, modes=('train', )))) == [
        'train: out of memory']


def test_a_failure_leaves_the_others(nano, steps, tmp_path):
    wrong = ValueError('no such thing\nmore')
    steps.error = lambda images, mode: wrong if mode == 'infer' else None
    rows = measure(nano, ON_CPU)
    assert failures(rows) == [f'{name.label} at 32, infer: ValueError: no such thing'
                              for name in nano]
    assert rows[0].speeds['train'] == Speed(200., 2.5, 2)
    steps.clear()
    steps.error = None
    again = measure(nano, ON_CPU, done=rows)
    assert [step[2] for step in steps] == ['infer'] * 2
    assert not failures(again)


def test_a_test_that_fails_leaves_the_others(nano, steps):
    def score(name, shape):
        if name is nano[0]:
            raise RuntimeError('the data loader died')
        return 50.

    rows = measure(nano, ON_CPU, score=score)
    assert failures(rows) == [f'{nano[0].label} at 32, top-1: RuntimeError: the data loader died']
    assert rows[1].top1 == 50


# Files

def write_to(folder, protocol=PROTOCOL):
    return lambda rows: write_rows(rows, protocol, folder)


def test_a_run_goes_on(nano, steps, tmp_path, capsys):
    settings = ON_CPU._replace(shapes=((32, 32), (64, 64)))

    def stop(rows):
        write_rows(rows, PROTOCOL, tmp_path)
        if len(rows) == 3:
            raise KeyboardInterrupt

    assert read_rows(PROTOCOL, tmp_path) == []
    with pytest.raises(KeyboardInterrupt):
        measure(nano, settings, each=stop)
    done = read_rows(PROTOCOL, tmp_path)
    assert [(row.model, row.size) for row in done] == [(nano[0], '32'), (nano[0], '64'),
                                                       (nano[1], '32')]
    steps.clear()
    rows = measure(nano, settings, done=done, each=write_to(tmp_path))
    assert [step[:3] for step in steps] == [('VSSD', (2, 3, 64, 64), mode)
                                            for mode in ('infer', 'train')]
    assert rows[:3] == done
    assert read_rows(PROTOCOL, tmp_path) == rows
    # of another model or batch: the rows that are there stay
    more = measure(nano[:1], settings._replace(batches=(4, )), done=rows)
    assert [(row.model.label, row.size, row.batch) for row in more] == [
        ('vmamba-nano', '32', 4), ('vmamba-nano', '64', 4), ('vmamba-nano', '32', 2),
        ('vmamba-nano', '64', 2), ('vssd-nano', '32', 2), ('vssd-nano', '64', 2)]
    assert more[0].count is rows[0].count
    assert 'other' not in capsys.readouterr().out


def test_counts_of_another_machine(nano, steps, tmp_path, monkeypatch, capsys):
    measure(nano, ON_CPU, each=write_to(tmp_path))
    done = read_rows(dict(PROTOCOL, machine='two'), tmp_path)
    assert 'only the counts are kept' in capsys.readouterr().out
    assert [(isinstance(row.count, Count), row.speeds) for row in done] == [(True, {})] * 2
    monkeypatch.setattr(resolution_scaling, 'count_model', None)  # not called
    steps.clear()
    rows = measure(nano, ON_CPU._replace(batches=(8, )), done=done)
    assert [(row.model, row.batch) for row in rows] == [(nano[0], 8), (nano[1], 8)]
    assert len(steps) == 4
    assert read_rows(dict(PROTOCOL, mmvssd='2'), tmp_path) == []


def test_a_checkpoint_written_since(nano, steps, tmp_path):
    file = tmp_path / 'weights.pth'
    torch.save(dict(state_dict=build_classifier(nano[0]).state_dict()), file)
    measure([ModelName.parse(f'vmamba-nano@{file}'), nano[1]], ON_CPU, each=write_to(tmp_path))
    assert len(read_rows(PROTOCOL, tmp_path)) == 2
    os.utime(file, ns=(0, 0))
    assert [row.model for row in read_rows(PROTOCOL, tmp_path)] == [nano[1]]


@pytest.mark.parametrize('text', ['', '{', '[]', '{"rows": []}', '{"rows": [1], "protocol": {}}',
                                  '{"rows": [{"model": "a"}], "protocol": {}}'])
def test_files_that_are_none(text, tmp_path):
    (tmp_path / 'resolution_scaling.json').write_text(text)
    with pytest.raises(ConfigError, match='^--continue: .*cannot be read'):
        read_rows(PROTOCOL, tmp_path)


def made_up(name, size, batch, infer, train=None, count=None, top1=None):
    speeds = {mode: value for mode, value in (('infer', infer), ('train', train))
              if value is not None}
    return Row(ModelName.parse(name), (size, size), batch, count, speeds, top1)


@pytest.fixture
def rows():
    """Rows of two models, one with a batch that was halved, an OOM and a failure."""
    return [
        made_up('vssd-tiny', 224, 32, Speed(1000., 1500., 32), Speed(400., 5000., 32),
                Count(24_000_000, 4_700_000_000, 4_500_000_000), 71.5),
        made_up('vssd-tiny', 384, 32, Speed(300., 4000., 32), Speed(100., 6000., 8),
                Count(24_000_000, 14_000_000_000, 13_000_000_000), 70.),
        made_up('swin-tiny', 224, 32, Missing('out of memory', 'OOM'),
                Missing('ValueError: no', 'failed', False),
                Count(28_000_000, 4_500_000_000, 4_500_000_000),
                Missing('accuracy takes RECIPE@CHECKPOINT'))]


def test_what_is_written(rows, tmp_path):
    write_report(rows, 'Resolution scaling: a machine', tmp_path)
    lines = (tmp_path / 'resolution_scaling.md').read_text().splitlines()
    assert '| vssd-tiny | 384 | 32 | 24.00 | 14.000 | 13.000 | 300.0 | 4000 | 100.0 (batch 8) | ' \
           '6000 (batch 8) | 70.00 | 1.13 | 1.36 (batch 8) |' in lines
    assert '| swin-tiny | 224 | 32 | 28.00 | 4.500 | 4.500 | OOM | OOM | failed | failed | - ' \
           '| OOM | failed |' \
        in lines
    assert '- ValueError: no: swin-tiny 224 train' in lines
    assert notes([rows[2]] * 2)[0] == 'out of memory: swin-tiny 224 infer, swin-tiny 224 infer'
    table = list(csv.DictReader((tmp_path / 'resolution_scaling.csv').open()))
    assert (table[1]['images/s'], table[1]['train batch']) == ('300.0', '8')
    assert table[2]['images/s'] == table[2]['time a pixel'] == 'out of memory'
    # readers of older files find theirs where they were
    assert list(table[0])[-4:] == ['infer batch', 'train batch', 'time a pixel',
                                   'train time a pixel']
    with Image.open(tmp_path / 'resolution_scaling.png') as figure:
        assert figure.width >= 800
    assert (tmp_path / 'resolution_scaling.png').stat().st_size < 300_000


def test_the_figures_panels(rows, monkeypatch):
    drawn = []
    monkeypatch.setattr('mmvssd.analysis.resolution_scaling_report.compressed', drawn.append)
    draw(rows, 'Resolution scaling: a machine')
    draw([rows[2]], 'Resolution scaling: a machine')
    panels = {axes.get_title(): axes for axes in drawn[0].axes if axes.get_title()}
    assert list(panels) == ['GFLOPs in full', 'inference, images/s', 'inference, peak MiB',
                            'training, images/s', 'training, peak MiB', 'top-1 (%)',
                            'inference, time a pixel', 'training, time a pixel']
    line, other = panels['inference, images/s'].get_lines()
    assert line.get_xydata().tolist() == [[224, 1000], [384, 300]]
    assert len(other.get_xydata()) == 0
    assert panels['inference, images/s'].get_yscale() == 'log'
    assert panels['top-1 (%)'].get_yscale() == 'linear'
    assert panels['inference, time a pixel'].get_yscale() == 'linear'
    assert [axes.get_title() for axes in drawn[1].axes] == ['GFLOPs in full']


def test_time_a_pixel():
    def at(name, size, speed, batch=1):
        return made_up(name, size, 1, speed and Speed(speed, 1., batch))

    rows = [at('vssd-tiny', 512, 1), at('vssd-tiny', 256, 8), at('vssd-tiny', 128, 16),
            made_up('swin-tiny', 128, 1, Missing('out of memory', 'OOM')),
            at('swin-tiny', 256, 4), at('swin-tiny', 512, 0.5), at('resnet-50', 128, None)]
    infer, train = fields_of(rows)[len(FIELDS):]
    # each over the smallest size that was timed, wherever it stands
    assert [infer.value(row) for row in rows] == [1, 0.5, 1, rows[3].speeds['infer'], 1, 2, None]
    assert {train.value(row) for row in rows} == {None}
    wide = [at('vssd-tiny', 128, 16), replace(at('vssd-tiny', 128, 4), shape=(128, 256))]
    assert fields_of(wide)[-2].value(wide[1]) == 2
    assert fields_of(rows[:1])[-2].value(rows[0]) is None  # of one size: nothing to compare
    lines = as_markdown(rows, 'a machine').splitlines()
    assert '| model | size | batch | images/s | peak MiB | time a pixel |' in lines
    assert '| vssd-tiny | 256 | 1 | 8.0 | 1 | 0.50 |' in lines
    assert 'time a pixel' not in as_markdown(rows[:1], 'a machine')


def test_no_room(rows, tmp_path, monkeypatch):
    def fail(file, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(result_files, 'write_whole', fail)
    with pytest.raises(ConfigError, match='--out: .*json cannot be written .No space left'):
        write_rows(rows, PROTOCOL, tmp_path)
    assert not list(tmp_path.iterdir())


# Beside the published numbers

def test_published_numbers_are_whole():
    for series in SERIES:
        for numbers in (series.gflops, series.top1, series.batches, series.images_per_second,
                        series.train_images_per_second, series.peak_mib):
            assert numbers is None or len(numbers) == len(SIZES)
    names = {series.name for series in SERIES} | {point.name for point in POINTS} - {None}
    for name in (name for name in names if not name.startswith('timm:')):
        check([ModelName.parse(name)], ON_CPU._replace(shapes=((224, 224), )))
    assert set(MODELS) <= names
    assert published_top1('deit-small', 1024) == 46.9
    assert published_top1('vssd-micro', 224) == 82.5
    assert published_top1('classification/vssd-tiny_8xb128_mesa_in1k.py', 224) == 84.1
    assert published_top1('vssd-micro', 384) is None
    assert published_top1('vssd-nano', 224) is None


def test_beside_the_published_numbers(rows):
    table = gflops_table([made_up('swin-tiny', 384, 1, None, None, Count(
        28_338_034, 14_048_606_208, 14_048_606_208))])
    assert '| VMamba, Table 4 | Swin-T | published | 28 | 4.5 | 14.5 |' in table
    assert '| | | reproduced | yes | - | **no** | - |' in table
    assert '| | | reproduced | yes | - | yes | - |' in table  # the appendix'
    assert table.count('14.049') == 2
    pair = [made_up('resnet-50', 224, 32, Speed(4000., 1., 32)),
            made_up('resnet-50', 384, 32, Speed(4000., 1., 32)),
            made_up('vmamba-tiny-s2l5', 224, 32, Speed(1000., 3000., 32)),
            made_up('vmamba-tiny-s2l5', 384, 32, Speed(1000., 3000., 16))]
    lines = speed_table(pair, 'images_per_second').splitlines()
    assert lines[2].startswith('| VMamba-T | published | 0.41 | 0.38 |')
    assert lines[3].startswith('| `vmamba-tiny-s2l5` | measured | 0.25 | - |')
    assert not speed_table(pair, 'train_images_per_second')
    assert 'Peak MiB' not in comparisons(pair)
    assert not speed_table([replace(row, batch=1) for row in pair], 'images_per_second')
    at_128 = [made_up('convnext-tiny', 224, 128, Speed(2000., 1., 128), Speed(500., 1., 128)),
              made_up('vmamba-tiny-s2l5', 224, 128, Speed(1000., 3000., 128))]
    assert not points_table([replace(row, batch=32) for row in at_128])
    assert points_table(at_128).splitlines()[2:] == ['| VMamba-T | 1.12 | 0.50 | 0.66 | - |']
    memory = comparisons([made_up('vssd-tiny-iccv2025', 224, 128, Speed(1., 1900.4, 128)),
                          made_up('vssd-tiny-iccv2025', 384, 32, Speed(1., 1900.4, 32))])
    assert '| VSSD-T | published | 1946 | 5537 |' in memory
    assert '| `vssd-tiny-iccv2025` | measured | 1900 | - |' in memory
    assert comparisons(rows[:2]) == ''
    point = made_up('timm:maxvit_base_tf_224', 224, 1, None,
                    count=Count(119_470_000, 1, 24_039_000_000))
    assert ('| `timm:maxvit_base_tf_224` | 120 | 119.47 | 23.4 | 24.039 | **no** |'
            in comparisons([point]))


# Accuracy

def kinds(pipeline):
    return [step['type'] for step in pipeline]


def test_pipelines():
    own = [dict(type='LoadImageFromFile'), dict(type='ResizeEdge', scale=256),
           dict(type='mmpretrain.CenterCrop', crop_size=224), dict(type='PackInputs')]
    new = resized(own, 384)
    assert new[1:3] == [
        dict(type='ResizeEdge', scale=438, edge='short', backend='pillow',
             interpolation='bicubic'), dict(type='CenterCrop', crop_size=384)]
    assert kinds(new) == ['LoadImageFromFile', 'ResizeEdge', 'CenterCrop', 'PackInputs']
    assert own[1]['scale'] == 256
    new = resized([own[0], own[3]], 96)
    assert kinds(new) == ['LoadImageFromFile', 'Resize', 'PackInputs']
    assert new[1]['scale'] == (96, 96)


def test_without_accuracy(nano, tmp_path):
    assert isinstance(measure_top1(nano[0], (64, 64), tmp_path), Missing)
    assert isinstance(measure_top1(ModelName.parse(RECIPE), (64, 64), tmp_path), Missing)
    assert 'squares' in measure_top1(ModelName.parse(RECIPE), (64, 96), tmp_path).reason


def test_recipes_without_a_test(tmp_path):
    pytest.importorskip('mmpretrain')
    (tmp_path / 'mine.py').write_text(
        f"_base_ = '{configs_dir()}/{RECIPE}'\ntest_evaluator = None\n")
    check_accuracy([ModelName.parse(f'{tmp_path}/mine.py')])  # it is not tested
    with pytest.raises(ConfigError, match='has no test_evaluator'):
        check_accuracy([ModelName.parse(f'{tmp_path}/mine.py@weights.pth')])


@pytest.mark.slow
def test_accuracy(nano, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(dict(state_dict=build_classifier(ModelName.parse(RECIPE)).state_dict()),
               tmp_path / 'weights.pth')
    name = ModelName.parse(f'{RECIPE}@weights.pth')
    missing = measure_top1(name, (32, 32), tmp_path / 'top1' / 'a')
    assert missing.reason.startswith('no data: ')
    assert not missing.final  # they may come
    assert not failures([made_up(RECIPE, 32, 1, None, top1=missing)])
    make_sample_data(tmp_path / 'data' / 'sample_digits', num_scenes=(1, 1), num_crops=(2, 2),
                     progress=False)
    seen = []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0]) if isinstance(module, VSSD) else None)
    try:
        top1 = measure_top1(name, (32, 32), tmp_path / 'top1' / 'b')
    finally:
        hook.remove()
    assert 0 <= top1 <= 100
    assert {tuple(images.shape[1:]) for images in seen} == {(3, 32, 32)}
    assert {images.dtype for images in seen} == {torch.float32}


# The tools

@pytest.mark.slow
def test_the_tools(run_tool, tmp_path):
    pytest.importorskip('mmpretrain')
    out = tmp_path / 'out'
    run_tool('benchmarks/resolution_scaling.py', RECIPE, '--sizes', 64, '--no-speed', '--out', out,
             '--device', 'cpu')
    printed = run_tool('benchmarks/resolution_scaling.py', RECIPE, '--sizes', 64, '64x96',
                       '--accuracy', '--steps', 1, '--out', out, '--continue', '--device', 'cpu')
    assert 'training in float32' in ' '.join(printed.split())
    entries = json.loads((out / 'resolution_scaling.json').read_text())['rows']
    assert [(entry['height'], entry['width'], sorted(entry['speeds'])) for entry in entries] == [
        (64, 64, ['infer', 'train']), (64, 96, ['infer', 'train'])]
    for arguments, message in (
            (['vssd-tinny'], 'did you mean vssd-tiny'),
            (['swin-tiny', '--sizes', '200'], 'takes multiples of 32'),
            ([RECIPE, '--sizes', '0'], "--sizes: got '0'"),
            ([RECIPE, '--device', 'cuda:77'], '--device: got cuda:77'),
            ([RECIPE, f'{RECIPE}@missing.pth'], 'missing.pth')):
        last = run_tool('benchmarks/resolution_scaling.py', *arguments, '--out', tmp_path / 'new',
                        expect=2)
        assert message in last.strip().splitlines()[-1]
        assert not (tmp_path / 'new').exists()
    (tmp_path / 'file').touch()
    assert '--out: ' in run_tool('benchmarks/resolution_scaling.py', RECIPE, '--out',
                                 tmp_path / 'file', expect=2)
    figure = run_tool('analysis_tools/plot_efficiency.py', out / 'resolution_scaling.json',
                      '--size', '64', '--out', tmp_path / 'e.png', expect=2)
    assert 'has no published top-1' in figure
    assert not (tmp_path / 'e.png').exists()
