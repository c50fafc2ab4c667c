"""Grad-CAM by hand, of our classifiers and of others; what is written, and what is refused."""
import json
import re

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from torch import nn

from mmvssd.analysis import class_activation, result_files
from mmvssd.analysis.class_activation import (
    Activations,
    Settings,
    Subject,
    category_of,
    check_settings,
    draw_all,
    explain,
    find_activations,
    find_subject,
    flatness,
    read_rows,
)
from mmvssd.analysis.named_models import IMAGENET, ModelName
from mmvssd.analysis.photographs import Picture, normalized, open_picture
from mmvssd.analysis.result_files import MOST_BYTES
from mmvssd.errors import CheckpointError, ConfigError, NumericalFault

RECIPE = 'samples/vssd-nano_1xb64_digits.py'
SMALL = Settings(size=64)


class Toy(nn.Module):
    """Channels of the image, their means over the grid, a linear head."""

    def __init__(self, *weights, backbone=None):
        super().__init__()
        self.backbone = backbone or nn.Identity()
        self.register_buffer('weights', torch.tensor(weights))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        features = self.backbone(inputs)
        return features[-1].mean((2, 3)) @ self.weights.T if isinstance(features, tuple) else (
            features.mean((2, 3)) @ self.weights.T)


def subject_of(model, rows=False, module=None, index=-1):
    return Subject(ModelName.parse('toy'), model,
                   Activations(module or model.backbone, index, rows, 'stage 3'), IMAGENET, ())


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_by_hand():
    """The gradient of a mean over the grid is 1 / (H W) times the head's weights."""
    x = noise(1, 2, 3, 5)
    found = explain(subject_of(Toy([1., -1.], [0., 0.])), x, 0)
    torch.testing.assert_close(found.map, ((x[0, 0] - x[0, 1]) / 15).relu())
    assert found.map.any()
    assert not found.map.all()
    other = explain(subject_of(Toy([1., -1.], [-2., 3.])), x, 1)
    torch.testing.assert_close(other.map, ((3 * x[0, 1] - 2 * x[0, 0]) / 15).relu())


def test_the_gradient_is_averaged_over_the_grid():
    class Squares(Toy):
        def forward(self, inputs, data_samples=None, mode='tensor'):
            return self.backbone(inputs).square().sum((2, 3)) @ self.weights.T

    x = noise(1, 2, 3, 5)
    found = explain(subject_of(Squares([1., 0.], [0., 1.])), x, 1)
    torch.testing.assert_close(found.map, (2 * x[0, 1].mean() * x[0, 1]).relu())


def test_the_best_class_is_the_default():
    x = noise(1, 2, 3, 5) + torch.tensor([1., 3.]).view(2, 1, 1)
    subject = subject_of(Toy([1., 0.], [0., 1.], [0., 0.5]))
    found = explain(subject, x)
    assert (found.category, found.predicted) == (1, 1)
    torch.testing.assert_close(found.map, (x[0, 1] / 15).relu())
    torch.testing.assert_close(found.scores, subject.model(x)[0].softmax(0))
    assert explain(subject, x, 2)[1:3] == (2, 1)


def test_rows_of_channels():
    class Rows(nn.Module):
        def forward(self, x):
            return x.permute(0, 2, 3, 1)

    class Mean(Toy):
        def forward(self, inputs, data_samples=None, mode='tensor'):
            return self.backbone(inputs).mean((1, 2)) @ self.weights.T

    x = noise(1, 2, 3, 5)
    found = explain(subject_of(Mean([1., -1.], backbone=Rows()), rows=True), x, 0)
    torch.testing.assert_close(found.map, ((x[0, 0] - x[0, 1]) / 15).relu())


def test_nothing_is_left_behind():
    model = Toy([1., -1.])
    x = noise(1, 2, 3, 5)
    explain(subject_of(model), x)
    assert not model.backbone._forward_hooks
    assert not x.requires_grad
    with pytest.raises(ConfigError):
        explain(subject_of(model), x, 1)
    assert not model.backbone._forward_hooks
    with torch.no_grad():  # whatever the caller has set
        assert explain(subject_of(model), x).map.any()


def written_out(subject, image, category):
    """Grad-CAM by perturbing: the slope of each channel's mean is a difference quotient."""
    backbone, head = subject.model.backbone, subject.model.head
    slopes = []

    def rest(features):
        return head((features.mean((2, 3)), ))[0, category]

    with torch.no_grad():
        activations, = backbone(image)
        for channel in range(activations.shape[1]):
            step = torch.zeros_like(activations)
            step[0, channel] = 1e-3 / activations[0, 0].numel()
            slopes.append((rest(activations + step) - rest(activations - step)) / 2e-3)
        return (torch.stack(slopes)[:, None, None] * activations[0]).sum(0).relu()


@pytest.mark.parametrize('recipe', [RECIPE, 'samples/vmamba-nano_1xb64_digits.py'])
def test_of_the_sample_recipes(recipe):
    pytest.importorskip('mmpretrain')
    subject = find_subject(ModelName.parse(recipe), SMALL)
    assert subject.activations.what == 'stage 3'
    subject.model.double()
    image = noise(1, 3, 64, 96).double()
    found = explain(subject, image, 4)
    assert found.map.shape == (2, 3)
    expected = written_out(subject, image, 4)
    torch.testing.assert_close(found.map, expected.float(), rtol=1e-4, atol=1e-9)


def test_an_earlier_stage_is_its_last_block():
    pytest.importorskip('mmpretrain')
    name = ModelName.parse(RECIPE)
    subject = find_subject(name, SMALL._replace(stage=1))
    backbone = subject.model.backbone
    assert subject.activations.module is backbone.stages[1][-1]
    image = noise(1, 3, 64, 96)
    found = explain(subject, image, 0)
    assert found.map.shape == (8, 12)
    kept = []
    hook = backbone.downsamples[1].register_forward_pre_hook(
        lambda _, inputs: kept.append(inputs[0]))
    with torch.enable_grad():
        score = subject.model(image.requires_grad_(), mode='tensor')[0, 0]
    hook.remove()
    slope, = torch.autograd.grad(score, kept[0])
    expected = torch.einsum('c,hwc->hw', slope.mean((0, 1, 2)), kept[0][0]).relu()
    torch.testing.assert_close(found.map, expected.detach())


def test_a_stage_that_is_returned_but_not_the_last():
    """No score depends on its norm, so its last block is read."""
    pytest.importorskip('mmpretrain')
    subject = find_subject(ModelName.parse(RECIPE), SMALL)
    model = subject.model
    model.backbone.out_indices = (0, 1, 2, 3)
    for i in range(3):
        model.backbone.add_module(f'norm{i}', nn.LayerNorm(model.backbone.dims[i]))
    place = find_activations(model, 'nano', 2)
    assert place.module is model.backbone.stages[2][-1]
    assert explain(subject._replace(activations=place), noise(1, 3, 64, 64)).map.shape == (4, 4)


def test_peers():
    pytest.importorskip('mmpretrain')
    subject = find_subject(ModelName.parse('resnet-50'), SMALL)
    assert explain(subject, noise(1, 3, 64, 64)).map.shape == (2, 2)
    assert len(explain(subject, noise(1, 3, 64, 64)).scores) == 1000
    with pytest.raises(ConfigError, match=r'--stage: got 1, and the ResNet of resnet-50 returns '
                                          r'\[3\]'):
        find_subject(ModelName.parse('resnet-50'), SMALL._replace(stage=1))
    with pytest.raises(ConfigError, match=r'the output of deit-small at .* the shape \(1, 384\), '
                                          'expected a map'):
        find_subject(ModelName.parse('deit-small'), SMALL)


@pytest.mark.parametrize(('changes', 'message'), [
    (dict(category=10), '--category: got 10, expected 0 to 9, the classes of vssd-nano'),
    (dict(stage=4), r'--stage: got 4, expected one of \[0, 1, 2, 3\]'),
])
def test_classes_and_stages_that_are_not_there(changes, message):
    pytest.importorskip('mmpretrain')
    with pytest.raises(ConfigError, match=message):
        find_subject(ModelName.parse(RECIPE), SMALL._replace(**changes))


def test_a_class_by_its_name(tmp_path):
    torch.save(dict(state_dict={}, meta=dict(dataset_meta=dict(classes=('red car', 'bowl')))),
               tmp_path / 'names.pth')
    name = ModelName.parse(f'{RECIPE}@{tmp_path}/names.pth')
    assert [category_of(text, name) for text in ('bowl', 'red car', '1', '-1')] == [1, 0, 1, -1]
    with pytest.raises(ConfigError, match=r"got 'Bowl', and the classes of .* are red car, bowl; "
                                          r'did you mean bowl\?'):
        category_of('Bowl', name)
    with pytest.raises(ConfigError, match="got 'bowl', and vssd-micro has no names of classes"):
        category_of('bowl', ModelName.parse('vssd-micro'))


def test_a_size_beyond_the_memory():
    pytest.importorskip('mmpretrain')
    with pytest.raises(ConfigError, match='does not run on 1000000 x 1000000 pixels .RuntimeError'):
        find_subject(ModelName.parse(RECIPE), SMALL._replace(size=10**6))


@pytest.mark.parametrize(('changes', 'message'), [
    (dict(size=31), '--size: got 31'), (dict(stage=-1), '--stage: got -1, expected 0 or more'),
    (dict(category=-1), '--category: got -1'),
])
def test_settings_that_do_not_fit(changes, message):
    check_settings(Settings())
    with pytest.raises(ConfigError, match=message):
        check_settings(Settings()._replace(**changes))


class Twice(Toy):
    """A head of two answers."""

    def forward(self, inputs, data_samples=None, mode='tensor'):
        scores = super().forward(inputs)
        return scores, scores


class Deaf(Toy):
    """Its scores do not depend on its backbone."""

    def forward(self, inputs, data_samples=None, mode='tensor'):
        self.backbone(inputs.exp())
        return inputs.mean((2, 3))


@pytest.mark.parametrize(('subject', 'message'), [
    (subject_of(Twice([1., 0.])), 'toy: its head gives tuple, expected scores'),
    (subject_of(Deaf([1., 0.], backbone=nn.Flatten(2))), r'has the shape \(1, 2, 15\), expected'),
    (subject_of(Deaf([1., 0.])), 'do not depend on the output of stage 3'),
    (subject_of(Toy([1., 0.]), module=nn.Identity()), 'is not run in a forward pass'),
])
def test_models_without_such_a_map(subject, message):
    with pytest.raises(ConfigError, match=message):
        explain(subject, noise(1, 2, 3, 5))


def test_a_model_without_a_backbone():
    with pytest.raises(ConfigError, match='its Linear has no backbone'):
        find_activations(nn.Linear(1, 1), 'x', None)


def test_numbers_that_are_not_finite():
    with pytest.raises(NumericalFault, match='toy: its scores or their gradient are not finite'):
        explain(subject_of(Toy([1., float('nan')])), noise(1, 2, 3, 5))


def test_a_detector_has_no_scores_of_classes():
    pytest.importorskip('mmdet')
    with pytest.raises(ConfigError, match='its MaskRCNN gives no scores of classes; give a recipe '
                       'of a classifier, or look at this model with activation_maps.py or rec'):
        find_subject(ModelName.parse('samples/mask-rcnn_vssd-nano_fpn_1xb8_digits.py'), SMALL)


# The whole

@pytest.fixture
def photographs(tmp_path):
    """Two pictures of noise, and a file that is none, in a folder."""
    folder = tmp_path / 'photographs'
    folder.mkdir()
    for seed, name in enumerate('ac'):
        pixels = np.random.default_rng(seed).integers(0, 256, (50, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f'{name}.png')
    (folder / 'b.png').write_bytes(b'nothing')
    return sorted(folder.iterdir())


@pytest.fixture
def checkpoint(tmp_path):
    """Weights of the sample recipe's classifier that know their classes."""
    pytest.importorskip('mmpretrain')
    model = find_subject(ModelName.parse(RECIPE), SMALL._replace(seed=3)).model
    file = tmp_path / 'weights.pth'
    torch.save(dict(state_dict=model.state_dict(), meta=dict(
        dataset_meta=dict(classes=[f'digit [/{i}]' for i in range(10)]))), file)
    return file


def test_files(photographs, checkpoint, tmp_path):
    subject = find_subject(ModelName.parse(f'{RECIPE}@{checkpoint}=mine'), SMALL)
    failures, seen = {}, []
    for row in draw_all(subject, photographs, SMALL._replace(category=7), tmp_path / 'a' / 'b',
                        protocol=dict(model='x'), failures=failures):
        written = json.loads((tmp_path / 'a/b/class_activation.json').read_text())
        seen.append(len(written['images']))
        picture = tmp_path / 'a' / 'b' / row['picture']
        with Image.open(picture) as opened:
            assert opened.width == 800
        assert picture.stat().st_size < MOST_BYTES
        values = np.load(picture.with_suffix('.npy'))
        assert row['enlarged']
    assert seen == [1, 2]
    assert [file.name for file in failures] == ['b.png']
    assert {file.name for file in (tmp_path / 'a/b').iterdir()} == {
        'a.png', 'a.npy', 'c.png', 'c.npy', 'class_activation.json'}
    assert written['model'] == 'x'
    assert written['settings']['category'] == 7
    entry = written['images'][1]
    assert entry == row
    assert (entry['category'], entry['category_name']) == (7, 'digit [/7] (7)')
    assert entry['grid'] == [2, 2] == list(values.shape)
    image = normalized(open_picture(photographs[2], 64).image, IMAGENET)
    found = explain(subject, image, 7)
    np.testing.assert_allclose(values, found.map, rtol=1e-5)
    assert entry['max'] == values.max()
    assert entry['predicted_score'] == pytest.approx(found.scores.max().item(), rel=1e-5)
    assert entry['predicted'] == int(found.scores.argmax())


def test_a_run_goes_on(photographs, tmp_path, capsys):
    pytest.importorskip('mmpretrain')
    subject = find_subject(ModelName.parse(RECIPE), SMALL)
    protocol, failures = dict(model='x', checkpoint=None), {}

    def draw_to_the_end(done=(), files=photographs):
        return list(draw_all(subject, files, SMALL, tmp_path / 'o', protocol=protocol,
                             failures=failures, done=done))

    assert read_rows(tmp_path / 'o', SMALL, protocol) == []
    first, = draw_to_the_end(files=photographs[:1])
    done = read_rows(tmp_path / 'o', SMALL, protocol)
    assert done == [first]
    (tmp_path / 'o' / 'a.npy').write_bytes(b'kept')
    rows = draw_to_the_end(done)
    assert [row['picture'] for row in rows] == ['a.png', 'c.png']
    assert (tmp_path / 'o' / 'a.npy').read_bytes() == b'kept'  # not drawn again
    assert read_rows(tmp_path / 'o', SMALL, protocol) == rows
    assert [file.name for file in failures] == ['b.png']
    assert read_rows(tmp_path / 'o', SMALL._replace(category=1), protocol) == []
    assert read_rows(tmp_path / 'o', SMALL, dict(protocol, checkpoint='y')) == []
    assert 'is of another model, checkpoint, setting' in capsys.readouterr().out
    (tmp_path / 'o' / 'a.png').unlink()
    assert read_rows(tmp_path / 'o', SMALL, protocol) == rows[1:]
    for content in ('{', '[]', '{}', '{"images": [1]}', '{"images": 3}'):
        (tmp_path / 'o' / 'class_activation.json').write_text(content)
        with pytest.raises(ConfigError, match='--continue: .*json cannot be read'):
            read_rows(tmp_path / 'o', SMALL, protocol)


def test_the_recipes_normalization(tmp_path):
    pytest.importorskip('mmpretrain')
    subject = find_subject(ModelName.parse(RECIPE), SMALL)
    assert subject.classes == ()
    assert subject.class_name(3) == 'class 3'
    recipe = tmp_path / 'mine.py'
    cfg = Config(dict(default_scope='mmpretrain', model=dict(
        type='ImageClassifier', backbone=dict(type='ResNet', depth=18, out_indices=(3, )),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=3, in_channels=512),
        data_preprocessor=dict(mean=[1., 2., 3.], std=[4., 5., 6.], to_rgb=False))))
    cfg.dump(recipe)
    mine = find_subject(ModelName.parse(str(recipe)), SMALL)
    assert mine.normalization == ((1., 2., 3.), (4., 5., 6.), False)


def test_maps_without_shades():
    x = noise(1, 2, 3, 5)
    flat = explain(subject_of(Toy([1., -1.])), -torch.stack([x[:, 0].abs(), x[:, 0] * 0], 1))
    assert flatness(flat) == 'The map is zero everywhere: no place speaks for the class.'
    assert 'one value' in flatness(flat._replace(map=torch.ones(2, 2)))
    assert not flatness(explain(subject_of(Toy([1., -1.])), x))
    picture = Picture(np.zeros((64, 64, 3), np.uint8), False)
    assert class_activation.draw(subject_of(Toy([1., -1.])), picture, flat).startswith(b'\x89PNG')


def test_a_photograph_is_not_replaced(photographs):
    pytest.importorskip('mmpretrain')
    subject = find_subject(ModelName.parse(RECIPE), SMALL)
    folder = photographs[0].parent
    before = photographs[0].read_bytes()
    with pytest.raises(ConfigError, match='--out: .*a.png is one of the photographs'):
        list(draw_all(subject, photographs, SMALL, folder / '..' / folder.name, protocol={},
                      failures={}))
    assert photographs[0].read_bytes() == before
    assert len(list(folder.iterdir())) == len(photographs)


def test_links_in_a_circle_are_left_out(tmp_path):
    pytest.importorskip('mmpretrain')
    (tmp_path / 'loop.png').symlink_to('loop.png')
    failures = {}
    assert not list(draw_all(find_subject(ModelName.parse(RECIPE), SMALL), [tmp_path / 'loop.png'],
                             SMALL, tmp_path / 'out', protocol={}, failures=failures))
    assert 'leads to no file' in ''.join(failures.values())


def test_names_of_any_characters(photographs, tmp_path):
    """No name is taken for a formula of a figure, or for a format of a table."""
    pytest.importorskip('mmpretrain')
    subject = find_subject(ModelName.parse(f'{RECIPE}=$x_{{$'), SMALL)
    subject = subject._replace(classes=[r'$\frac$ [/red] %s {}'] * 10)
    done = list(draw_all(subject, photographs[:1], SMALL, tmp_path, protocol={}, failures={}))
    assert (tmp_path / done[0]['picture']).stat().st_size


def test_no_room(photographs, tmp_path, monkeypatch):
    pytest.importorskip('mmpretrain')

    def fail(file, content):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(result_files, 'write_whole', fail)
    subject = find_subject(ModelName.parse(RECIPE), SMALL)
    with pytest.raises(ConfigError, match='--out: .*a.png cannot be written .No space left'):
        list(draw_all(subject, photographs, SMALL, tmp_path / 'o', protocol={}, failures={}))


def test_a_wrong_checkpoint(tmp_path):
    pytest.importorskip('mmpretrain')
    torch.save(dict(state_dict={'a': torch.ones(2)}), tmp_path / 'other.pth')
    with pytest.raises(CheckpointError):
        find_subject(ModelName.parse(f'{RECIPE}@{tmp_path}/other.pth'), SMALL)


@pytest.mark.slow
def test_command(run_tool, photographs, checkpoint, tmp_path):
    arguments = ['analysis_tools/class_activation.py', RECIPE, '--device', 'cpu', 'weights.pth',
                 '--size', 64]
    out = run_tool(*arguments, '--images', 'photographs', '--out', 'a/b', expect=2)
    assert '1 of 3 images was left out:' in out
    assert 'digit [/' in out
    assert {file.name for file in (tmp_path / 'a/b').iterdir()} == {
        'a.png', 'a.npy', 'c.png', 'c.npy', 'class_activation.json'}
    out = run_tool('analysis_tools/class_activation.py', 'vssd-micro', '--images', 'sklearn',
                   '--size', 64, '--out', 'c', '--device', 'cpu', '--stage', 1, '--category', 999)
    assert 'the weights are random' in out
    assert 'class 999' in out
    before = (tmp_path / 'a/b/a.png').stat().st_mtime_ns
    run_tool(*arguments, '--images', 'photographs', '--out', 'a/b', '--continue', expect=2)
    assert (tmp_path / 'a/b/a.png').stat().st_mtime_ns == before
    (tmp_path / 'file').touch()
    for extra, message in (
            (['--category', 10], 'ConfigError: --category: got 10, expected 0 to 9'),
            (['--category', 'ten'], "ConfigError: --category: got 'ten', and the classes of"),
            (['--category', -1], 'ConfigError: --category: got -1, expected 0 or more'),
            (['--out', 'file'], 'ConfigError: --out: file cannot be made'),
            (['--images', 'none.png'], 'none.png: no such image'),
            (['--stage', -1], 'ConfigError: --stage: got -1'),
            (['--seed', -1], 'ConfigError: --seed: got -1'),
            (['--device', 'cuda:99'], 'ConfigError: --device'),
            (['--size', 0], 'ConfigError: --size: got 0')):
        out = run_tool(*arguments, '--out', 'o', *extra, expect=2)
        assert message in out
        assert 'Traceback' not in out
    for model, message in ((['vssd-mikro'], 'did you mean vssd-micro'),
                           ([RECIPE, 'no.pth'], 'no.pth: no such checkpoint file'),
                           ([f'{RECIPE}@weights.pth', 'weights.pth'], 'names one already'),
                           (['vssd-micro', 'weights.pth'], 'CheckpointError')):
        out = run_tool('analysis_tools/class_activation.py', *model, '--out', 'o', '--device',
                       'cpu', expect=2)
        assert re.search(message, out), out
        assert 'Traceback' not in out
    assert not (tmp_path / 'o').exists()
