"""Receptive fields against toys whose fields are known."""
import csv
import errno
import json
import os
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mmvssd.analysis import receptive_field, result_files
from mmvssd.analysis.named_models import Feature, ModelName, build_named, last_feature
from mmvssd.analysis.receptive_field import (
    DISPLAYS,
    Settings,
    check_settings,
    coverage,
    cross_share,
    feature_reader,
    find_feature,
    gradient_map,
    mean_map,
    measure,
    numbers,
    square_sides,
)
from mmvssd.analysis.receptive_field_report import (
    draw,
    print_rows,
    read_rows,
    write_report,
    write_rows,
)
from mmvssd.errors import CheckpointError, ConfigError, DataError
from mmvssd.models import VSSD, VMamba

NANO = dict(embed_dims=16, depths=(1, 1, 1, 1))


def ones(H, W, C=3):
    return torch.ones(1, C, H, W, dtype=torch.float64)


def convolution(weight=1., channels=3, kernel=3, **settings):
    """A convolution to one channel whose taps are all ``weight``."""
    conv = nn.Conv2d(channels, 1, kernel, bias=False, dtype=torch.float64, **settings)
    nn.init.constant_(conv.weight, weight)
    return conv


def spread_mean(x):
    return x.mean((2, 3), keepdim=True).expand_as(x)


# Maps

def test_identity():
    field, grid = gradient_map(nn.Identity(), ones(8, 7))
    assert grid == (8, 7)
    expected = np.zeros((8, 7))
    expected[4, 3] = 3
    np.testing.assert_array_equal(field, expected)
    assert square_sides(field) == [1] * 4


@pytest.mark.parametrize('depth', [1, 2, 4])
def test_convolutions_in_a_row(depth):
    net = nn.Sequential(convolution(padding=1),
                        *(convolution(channels=1, padding=1) for _ in range(depth - 1)))
    field, _ = gradient_map(net, ones(15, 15))
    box = np.ones(1)
    for _ in range(depth):
        box = np.convolve(box, np.ones(3))
    expected = np.zeros((15, 15))
    expected[7 - depth:8 + depth, 7 - depth:8 + depth] = 3 * np.outer(box, box)
    np.testing.assert_array_equal(field, expected)
    # the whole support; smaller shares take smaller squares
    assert square_sides(field, [0.999999]) == [2 * depth + 1]


def test_dilation():
    field, _ = gradient_map(convolution(padding=2, dilation=2), ones(9, 9))
    assert [tuple(place) for place in np.argwhere(field)] == [
        (i, j) for i in (2, 4, 6) for j in (2, 4, 6)]


def test_stride():
    field, grid = gradient_map(convolution(padding=1, stride=2), ones(9, 11))
    assert grid == (5, 6)
    rows, columns = np.nonzero(field)
    assert (min(rows), max(rows), min(columns), max(columns)) == (3, 5, 5, 7)


def test_negative_influence():
    net = convolution(kernel=1, channels=2)
    with torch.no_grad():
        net.weight[0, :, 0, 0] = torch.tensor([2., -1.])
    assert gradient_map(net, ones(5, 5, 2), 'relu')[0].sum() == 2
    assert gradient_map(net, ones(5, 5, 2), 'abs')[0].sum() == 3


def test_row_major_sums():
    field, _ = gradient_map(lambda x: x.flatten(2).cumsum(2).view_as(x), ones(5, 6))
    np.testing.assert_array_equal(field.flatten(), [3] * (2 * 6 + 3 + 1) + [0] * 14)


def without_neighbours(block):
    """The block with a depthwise convolution of the centre's tap only."""
    conv = block.mixer.conv
    with torch.no_grad():
        centre = conv.weight[:, :, 1, 1].clone()
        conv.weight.zero_()
        conv.weight[:, :, 1, 1] = centre
    return block


def field_of_block(block):
    torch.manual_seed(0)
    block = block.double().eval()
    return gradient_map(lambda x: block(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
                        torch.randn(1, 16, 5, 7, dtype=torch.float64), 'abs')[0]


def test_one_direction_sees_nothing_behind():
    block = without_neighbours(VMamba(dict(NANO, pattern='unidirectional')).stages[0][0])
    field = field_of_block(block).flatten()
    centre = 2 * 7 + 3
    assert (field[:centre + 1] > 0).all()
    assert not field[centre + 1:].any()


def test_no_memory():
    block = without_neighbours(VMamba(dict(NANO, pattern='cross')).stages[0][0])
    assert (field_of_block(block) > 0).all()
    nn.init.constant_(block.mixer.A_logs, 30)
    field = field_of_block(block)
    assert field[2, 3] > 0
    field[2, 3] = 0
    assert not field.any()


def test_nc_ssd_sees_everything():
    arch = dict(NANO, num_heads=(2, ) * 4, d_state=8)
    assert (field_of_block(VSSD(arch).stages[0][0]) > 0).all()


# Means

def test_images_without_a_map():
    def net(x):
        return convolution(padding=1)(x).sqrt()  # its slope at 0 is not finite

    images = {'good': ones(5, 5), 'zero': -ones(5, 5), 'none': 0 * ones(5, 5)}
    net_of_zero = mean_map(lambda x: convolution(padding=1)(x), images.items())
    assert (net_of_zero.used, list(net_of_zero.left_out)) == (1, ['zero', 'none'])
    assert 'zero everywhere' in net_of_zero.left_out['zero']
    field = mean_map(net, [('one', ones(5, 5)), ('nan', 0 * ones(5, 5)), ('two', 4 * ones(5, 5))])
    first, second = (gradient_map(net, scale * ones(5, 5))[0] for scale in (1, 4))
    np.testing.assert_array_equal(field.map, (first + second) / 2)
    assert field.left_out == {'nan': 'its gradient is not finite'}
    assert field.used == 2


def test_no_image_has_a_map():
    with pytest.raises(DataError, match='no image has a map: a: its gradient is zero everywhere'):
        mean_map(convolution(-1., padding=1), [('a', ones(5, 5))])


# Numbers

def test_uniform_fields():
    field, _ = gradient_map(spread_mean, ones(12, 10))
    np.testing.assert_allclose(field, 3 / 120, rtol=1e-12)
    # the smallest odd s with s^2 > t H W: 24, 36, 60, 118.8
    assert square_sides(field) == [5, 7, 9, None]
    assert square_sides(np.ones((4, 4)), [0.5, 0.99]) == [3, None]
    assert square_sides(np.ones((4, 4)), [9 / 16]) == [None]  # more than, not as much as
    assert coverage(field) == 1


def test_a_scale_changes_no_raw_side():
    rows, columns = np.ogrid[:32, :32]
    values = np.exp(-np.hypot(rows - 16, columns - 16) / 3)
    one, larger = (numbers(mean_of(scale * values)) for scale in (1, 1024))
    assert one['sides']['raw'] == larger['sides']['raw']
    assert one['sides']['power'] == larger['sides']['power']
    assert one['sides']['log']['0.5'] < larger['sides']['log']['0.5']  # as the published one
    assert one['areas']['raw']['0.5'] == one['sides']['raw']['0.5']**2 / 1024


def mean_of(values):
    """A field with that map."""
    return mean_map(lambda x: (x * torch.from_numpy(values)).sum((2, 3), keepdim=True),
                    [('a', ones(*values.shape, 1))])


def test_displays():
    values = np.zeros((9, 9))
    values[4, 4], values[4, 5] = 9, 9e-5
    assert numbers(mean_of(values))['coverage'] == 1 / 81
    # 1 and 0.1, of which the centre has 1 / 1.1; log10(10) and almost nothing
    assert square_sides(DISPLAYS['power'](values), [0.909, 0.91]) == [1, 3]
    assert DISPLAYS['log'](values)[4, 4] == 1
    assert numbers(mean_of(values))['sides']['power']['0.99'] == 3


def test_crosses():
    # the centre's cell of a grid of 4 x 3 on 8 x 9 pixels: rows 4 and 5, columns 3 to 5
    inside = 2 * 9 + 8 * 3 - 2 * 3
    assert cross_share(np.ones((8, 9)), (4, 3)) == inside / 72
    values = np.zeros((8, 9))
    values[4:6], values[:, 3:6] = 1, 1
    assert cross_share(values, (4, 3)) == 1
    values = np.zeros((8, 9))
    values[3], values[6:], values[:4, :3] = 1, 1, 1
    assert cross_share(values, (4, 3)) == (3 + 6) / values.sum()


# Features of models

@pytest.fixture
def nano(monkeypatch):
    """An arch of VMamba that is small."""
    monkeypatch.setitem(VMamba.archs, 'nano', VMamba.arch_type(**NANO))
    return 'vmamba-nano'


def reader_of(name, **settings):
    named = build_named(ModelName.parse(name), size=64)
    return named, feature_reader(*find_feature(named, Settings(size=64, **settings)))


def test_the_last_norms_sides(nano):
    x = torch.randn(1, 3, 64, 64)
    named, off = reader_of(nano)
    _, on = reader_of(nano, final_norm='on')
    with torch.no_grad():
        y, norm = off(x), named.backbone.norm3
        torch.testing.assert_close(norm(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), on(x))
        torch.testing.assert_close(on(x), named.backbone(x)[-1])
    assert not norm._forward_pre_hooks


@pytest.mark.parametrize(('layer', 'shape'), [
    ('stages.2.0', (1, 64, 4, 4)), ('stages.0.0.mixer', (1, 16, 16, 16)), ('stem', (1, 16, 16, 16)),
    ('downsamples.1', (1, 64, 4, 4)), ('norm3', (1, 128, 2, 2))])
def test_layers_of_ours(nano, layer, shape):
    _, reader = reader_of(nano, layer=layer)
    assert reader(torch.randn(1, 3, 64, 64)).shape == shape


def test_layers_of_others():
    pytest.importorskip('mmpretrain')
    x = torch.randn(1, 3, 64, 64)
    _, reader = reader_of('deit-small', layer='layers.3', layout='tokens')
    assert reader(x).shape == (1, 384, 4, 4)
    _, reader = reader_of('deit-small', layer='ln1', layout='tokens')
    _, whole = reader_of('deit-small')
    with torch.no_grad():  # the class token is no cell
        torch.testing.assert_close(reader(x), whole(x))
    _, reader = reader_of('resnet-50', layer='layer1', layout='nchw')
    assert reader(x).shape == (1, 256, 16, 16)
    _, reader = reader_of('resnet-50', layer='layer1')
    with pytest.raises(ConfigError, match=r'has the shape \(1, 256, 16, 16\); expected --layout'):
        reader(x)


@pytest.mark.parametrize(('facts', 'shape'), [
    (dict(), (1, 5, 2, 2)), (dict(output_fmt='NHWC'), (1, 2, 2, 5)),
    (dict(num_prefix_tokens=1), (1, 5, 5))])
def test_models_of_timm(facts, shape):
    class TIMMBackbone(nn.Module):
        def forward(self, x):
            y = torch.arange(20.).view(1, 5, 2, 2)
            if 'output_fmt' in facts:
                y = y.permute(0, 2, 3, 1)
            elif facts:
                y = torch.cat([torch.zeros(1, 1, 5), y.flatten(2).mT], 1)
            assert y.shape == shape
            return (y, )

    backbone = TIMMBackbone()
    backbone.timm_model = nn.Module()
    for name, value in facts.items():
        setattr(backbone.timm_model, name, value)
    y = feature_reader(backbone, last_feature(backbone))(None)
    torch.testing.assert_close(y, torch.arange(20.).view(1, 5, 2, 2))


def test_a_size_that_another_does_not_take(photographs, tmp_path):
    pytest.importorskip('mmpretrain')
    recipe = tmp_path / 'hivit.py'
    recipe.write_text("_base_ = 'mmpretrain::hivit/hivit-tiny-p16_16xb64_in1k.py'")
    with pytest.raises(ConfigError, match='^hivit: does not run on 100 x 100 pixels'):
        measure([ModelName.parse(str(recipe))], photographs, Settings(size=100))


def test_layers_of_a_detector():
    pytest.importorskip('mmdet')
    recipe = 'samples/mask-rcnn_vssd-nano_fpn_1xb8_digits.py'
    x = torch.randn(1, 3, 64, 64)
    _, reader = reader_of(recipe, layer='neck.fpn_convs.0', layout='nchw')
    assert reader(x).shape[2:] == (16, 16)
    _, reader = reader_of(recipe, layer='backbone.stages.1')
    with pytest.raises(ConfigError, match='is not called in a forward pass'):
        reader(x)  # a list of blocks
    _, reader = reader_of(recipe, layer='backbone.stages.1.0')
    assert reader(x).shape[2:] == (8, 8)


@pytest.mark.parametrize(('layer', 'message'), [
    ('stages.0.7', "has no 'stages.0.7'; similar: stages.0.0"), ('stages', 'is not called')])
def test_layers_that_are_none(nano, photographs, layer, message):
    with pytest.raises(ConfigError, match=message):
        measure([ModelName.parse(nano)], photographs, Settings(size=64, layer=layer))


@pytest.mark.parametrize(('value', 'layout', 'message'), [
    ((torch.zeros(1), torch.zeros(1)), 'nchw', 'is a tuple, expected one tensor'),
    (torch.zeros(1, 9), 'nchw', r'has the shape \(1, 9\) .*a layer that gives a map'),
    (torch.zeros(1, 9, 4), 'nchw', '--layout tokens'),
    (torch.zeros(1, 8, 4), 'tokens', 'fills no square')])
def test_outputs_that_are_no_map(value, layout, message):
    class Toy(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = nn.Identity()

        def forward(self, x):
            return self.part(value)

    with pytest.raises(ConfigError, match=message):
        feature_reader(Toy(), Feature('part', 'output', layout))(None)


# The whole

@pytest.fixture
def photographs(tmp_path):
    """Two pictures of noise."""
    files = [tmp_path / f'{name}.png' for name in 'ab']
    for seed, file in enumerate(files):
        pixels = np.random.default_rng(seed).integers(0, 256, (70, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
    return files


def test_before_and_after(nano, photographs, tmp_path):
    file = tmp_path / 'weights.pth'
    torch.save(dict(state_dict=build_named(ModelName.parse(nano)).model.state_dict()), file)
    model = ModelName.parse(f'{nano}@{file}=mine')
    seen = []
    rows = measure([model], photographs, Settings(size=64), before=True,
                   each=lambda rows: seen.append(len(rows)))
    assert [(row.title, row.state) for row in rows] == [('mine before', 'before'),
                                                        ('mine', 'trained')]
    assert seen == [1, 2]
    assert (rows[0].field.grid, rows[0].field.used) == ((2, 2), 2)
    np.testing.assert_array_equal(rows[0].field.map, rows[1].field.map)  # the same weights
    other = measure([model], photographs, Settings(size=64, seed=1), before=True)
    assert (rows[0].field.map != other[0].field.map).any()
    np.testing.assert_array_equal(rows[1].field.map, other[1].field.map)


def test_what_is_written(nano, photographs, tmp_path):
    rows = measure([ModelName.parse(nano)], photographs, Settings(size=64))
    write_rows(rows, dict(seed=0), tmp_path)
    write_report(rows, tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / f'{nano}.npy'),
                                  rows[0].field.map.astype(np.float32))
    written = json.loads((tmp_path / 'receptive_field.json').read_text())
    assert written['protocol'] == dict(seed=0)
    entry, = written['models']
    assert entry['sides'] == numbers(rows[0].field)['sides']
    row, = csv.DictReader((tmp_path / 'receptive_field.csv').open())
    assert (row['model'], row['images'], row['grid']) == (nano, '2', '2 x 2')
    assert row['raw 0.5 side'] == str(entry['sides']['raw']['0.5'])
    assert len((tmp_path / 'receptive_field.md').read_text().splitlines()) == 3
    with Image.open(tmp_path / 'receptive_field.png') as figure:
        assert figure.width >= 800
    assert (tmp_path / 'receptive_field.png').stat().st_size < 300_000


def test_a_run_goes_on(nano, photographs, tmp_path, monkeypatch, capsys):
    file = tmp_path / 'weights.pth'
    torch.save(dict(state_dict=build_named(ModelName.parse(nano)).model.state_dict()), file)
    models = [ModelName.parse(nano), ModelName.parse(f'{nano}@{file}')]
    protocol = dict(seed=0, display='power')
    assert read_rows(models, protocol, tmp_path) == []

    def stop(rows):
        write_rows(rows, protocol, tmp_path)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(models, photographs, Settings(size=64), each=stop)
    done = read_rows(models, dict(protocol, display='log'), tmp_path)
    assert [row.title for row in done] == [nano]
    calls = []
    monkeypatch.setattr(receptive_field, 'mean_map',
                        lambda *args: calls.append(args) or mean_map(*args))
    rows = measure(models, photographs, Settings(size=64), done=done,
                   each=lambda rows: write_rows(rows, protocol, tmp_path))
    assert len(calls) == 1
    assert numbers(rows[0].field) == numbers(rows[1].field)  # read, and measured
    assert len(read_rows(models, protocol, tmp_path)) == 2
    os.utime(file, ns=(0, 0))  # another checkpoint
    assert [row.title for row in read_rows(models, protocol, tmp_path)] == [nano]
    assert read_rows(models, dict(protocol, seed=1), tmp_path) == []
    assert 'is of other settings' in capsys.readouterr().out
    (tmp_path / f'{nano}.npy').write_bytes(b'')
    with pytest.raises(ConfigError, match='--continue: .*start anew'):
        read_rows(models, protocol, tmp_path)


def test_no_room(nano, photographs, tmp_path, monkeypatch):
    def fail(file, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(result_files, 'write_whole', fail)
    with pytest.raises(ConfigError, match='--out: .*npy cannot be written .No space left'):
        measure([ModelName.parse(nano)], photographs, Settings(size=64),
                each=lambda rows: write_rows(rows, {}, tmp_path))


@pytest.mark.parametrize('display', ['power', 'log', 'linear'])
def test_figures(nano, photographs, display):
    rows = measure([ModelName.parse(nano)], photographs[:1], Settings(size=64))
    assert draw(rows, display).startswith(b'\x89PNG')


def test_labels_of_any_characters(nano, photographs, capsys):
    """None is taken for a formula of the figure, or for a format of the table."""
    name = ModelName.parse(f'{nano}=$x_{{$ [red] %s')
    rows = measure([name], photographs[:1], Settings(size=64))
    assert draw(rows).startswith(b'\x89PNG')
    print_rows(rows, 'title')
    assert '$x_{$ [red] %s' in capsys.readouterr().out


@pytest.mark.parametrize('settings', [
    dict(size=31), dict(size=64.), dict(resize='x'), dict(gradient='x'), dict(final_norm='x'),
    dict(layout='x'), dict(layout='nchw')])
def test_settings_that_do_not_fit(settings):
    with pytest.raises(ConfigError, match='^--'):
        check_settings(Settings(**settings))


def test_before_without_a_checkpoint(nano, photographs):
    with pytest.raises(ConfigError, match='--before: no model has a checkpoint'):
        measure([ModelName.parse(nano)], photographs, Settings(size=64), before=True)


def test_nothing_begins_with_a_wrong_checkpoint(nano, photographs, tmp_path):
    file = tmp_path / 'other.pth'
    torch.save(dict(state_dict={'a': torch.ones(2)}), file)
    seen = []
    with pytest.raises(CheckpointError, match='not the weights of this VMamba'):
        measure([ModelName.parse(nano), ModelName.parse(f'{nano}@{file}')], photographs,
                Settings(size=64), each=seen.append)
    assert not seen


@pytest.mark.slow
def test_command(run_tool, photographs, tmp_path):
    pytest.importorskip('mmpretrain')
    (tmp_path / 'c.png').write_bytes(b'')
    output = run_tool('analysis_tools/receptive_field.py', 'vssd-micro', 'resnet-50', '--images',
                      tmp_path, '--size', '96', '--out', 'field', '--device', 'cpu', expect=2)
    assert '1 of 3 images was left out:' in output
    assert 'c.png: is empty' in output
    assert {file.name for file in (tmp_path / 'field').iterdir()} == {
        'receptive_field.png', 'receptive_field.md', 'receptive_field.csv', 'receptive_field.json',
        'vssd-micro.npy', 'resnet-50.npy'}
    for line in (tmp_path / 'field' / 'receptive_field.csv').read_text().splitlines()[1:]:
        assert '-' not in line.split(',')[1:]


@pytest.mark.slow
@pytest.mark.parametrize(('arguments', 'message'), [
    (['vssd-mikro'], 'ConfigError: model: got .*did you mean vssd-micro'),
    (['vssd-micro@no.pth'], 'CheckpointError: no.pth: no such checkpoint file'),
    (['vssd-micro', 'vssd-micro'], 'ConfigError: model: vssd-micro stands there more than once'),
    (['vssd-micro', '--size', '0'], 'ConfigError: --size: got 0'),
    (['vssd-micro', '--size', 'x'], "argument --size: invalid int value: 'x'"),
    (['vssd-micro', '--num-images', '0'], 'ConfigError: --num-images: got 0'),
    (['vssd-micro', '--seed', '-1'], 'ConfigError: --seed: got -1'),
    (['vssd-micro', '--images', 'nowhere'], 'DataError: nowhere: no such image or folder'),
    (['vssd-micro', '--layer', 'stage', '--size', '64'], "has no 'stage'; similar: stages"),
    (['vssd-micro', '--device', 'xpu:9'], 'ConfigError: --device: got xpu:9'),
    (['vssd-micro', '--out', 'a.png'], 'ConfigError: --out: a.png cannot be made'),
])
def test_command_on_bad_input(run_tool, photographs, tmp_path, arguments, message):
    output = run_tool('analysis_tools/receptive_field.py', '--images', 'a.png', '--device', 'cpu',
                      '--out', 'field', *arguments, expect=2)
    assert re.search(message, output), output
    assert 'Traceback' not in output
    assert not list(tmp_path.glob('field/*'))
