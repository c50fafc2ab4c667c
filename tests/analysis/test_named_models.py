"""Models by name: what a name means, which weights the model has, where its feature is read."""
import importlib.util

import pytest
import torch

from mmvssd.analysis import named_models
from mmvssd.analysis.named_models import (
    IMAGENET,
    ModelName,
    Normalization,
    backbones,
    build_named,
    check_models,
    classifier_config,
    last_feature,
    normalization_of,
    peer_settings,
)
from mmvssd.errors import CheckpointError, ConfigError
from mmvssd.models import VSSD, VMamba

SAMPLE = 'samples/vssd-nano_1xb64_digits.py'
NANO = dict(embed_dims=16, depths=(1, 1, 1, 1))


@pytest.fixture
def nano(monkeypatch):
    """An arch of VMamba that is small."""
    monkeypatch.setitem(VMamba.archs, 'nano', VMamba.arch_type(**NANO))
    return 'vmamba-nano'


@pytest.mark.parametrize(('text', 'name', 'checkpoint', 'label'), [
    ('vssd-tiny', 'vssd-tiny', None, 'vssd-tiny'),
    ('vssd-tiny@a/b.pth', 'vssd-tiny', 'a/b.pth', 'vssd-tiny@b'),
    ('vssd-tiny@a/b.pth=mine', 'vssd-tiny', 'a/b.pth', 'mine'),
    ('resnet-50=before', 'resnet-50', None, 'before'),
    ('a@b/c.py@d@e/f.pth', 'a@b/c.py', 'd@e/f.pth', 'c@f'),
    ('mmpretrain::resnet/resnet50_8xb32_in1k.py', 'mmpretrain::resnet/resnet50_8xb32_in1k.py',
     None, 'resnet50_8xb32_in1k'),
    ('x.py@lr=1/last.pth', 'x.py', 'lr=1/last.pth', 'x@last'),
    ('timm:resnet18', 'timm:resnet18', None, 'timm-resnet18'),
])
def test_names(text, name, checkpoint, label):
    assert ModelName.parse(text) == ModelName(name, checkpoint, label)


def test_an_equals_sign_of_a_file(tmp_path):
    file = tmp_path / 'acc=0.9.pth'
    file.touch()
    assert ModelName.parse(f'vssd-tiny@{file}').checkpoint == str(file)


@pytest.mark.parametrize('text', ['', ' ', '@a.pth', 'vssd-tiny@', 'vssd-tiny=', 'a=.x',
                                  'a=../c', 'a=b\n', 'a=' + 201 * 'b'])
def test_names_of_another_form(text):
    with pytest.raises(ConfigError, match='^model: got '):
        ModelName.parse(text)


@pytest.mark.parametrize(('texts', 'message'), [
    (['vssd-tinny'], 'convnext-tiny.*; did you mean vssd-tiny'),
    (['resnet-50', 'resnet-50'], 'resnet-50 stands there more than once'),
    (['samples/vssd-nono.py'], 'no such recipe'),
    (['nohost::a.py'], "no installed host is called 'nohost'"),
    (['mmpretrain::resnet/resnet50_8xb32_in2k.py'], 'similar: .*resnet50_8xb32_in1k.py'),
    (['_base_/backbones/vssd-nano.py'], 'no backbone'),
    (['deit-small'], 'takes multiples of 16'),
    (['timm:../x'], 'expected timm:NAME'),
])
def test_models_that_are_none(texts, message):
    with pytest.raises(ConfigError, match=message):
        check_models([ModelName.parse(text) for text in texts], size=100)


def test_timm_is_asked_for(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(named_models.importlib.util, 'find_spec',
                        lambda name: None if name == 'timm' else find(name))
    with pytest.raises(ConfigError, match='^timm:resnet18: timm is not installed: pip install'):
        check_models([ModelName.parse('timm:resnet18')])


def test_weights_come_from_the_seed(nano):
    name = ModelName.parse(nano)
    torch.manual_seed(1)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    first, second, other = (build_named(name, seed=seed).model.state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), drawn)  # nobody else's numbers are touched
    key = 'stages.0.0.mixer.in_proj.weight'
    assert torch.equal(first[key], second[key])
    assert not torch.equal(first[key], other[key])


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_weights_of_a_checkpoint(nano, tmp_path, prefix):
    file = tmp_path / 'weights.pth'
    weights = {name: torch.full_like(value, 0.5)
               for name, value in build_named(ModelName.parse(nano)).model.state_dict().items()}
    head = {'head.fc.weight': torch.ones(2, 128)} if prefix else {}
    torch.save(dict(state_dict={**{prefix + name: value for name, value in weights.items()},
                                **head}), file)
    name = ModelName.parse(f'{nano}@{file}')
    built = build_named(name)
    assert not built.model.training
    assert all((value == 0.5).all() for value in built.model.parameters())
    unread = build_named(name, fresh=True).model.state_dict()
    assert not all((value == 0.5).all() for value in unread.values())


def test_a_peer_takes_a_classifier(tmp_path):
    pytest.importorskip('mmpretrain')
    file = tmp_path / 'classifier.pth'
    model = backbones(64, out_indices=(3, ))['resnet-50']()
    torch.save(dict(state_dict={
        **{f'backbone.{name}': value.fill_(0.5) for name, value in model.state_dict().items()},
        'head.fc.weight': torch.ones(1000, 2048)}), file)
    built = build_named(ModelName.parse(f'resnet-50@{file}'))
    assert (built.model.conv1.weight == 0.5).all()
    with pytest.raises(CheckpointError, match='not the weights of this'):
        build_named(ModelName.parse(f'vssd-micro@{file}'))
    with pytest.raises(CheckpointError, match='not the weights of this model'):
        build_named(ModelName.parse(f'{SAMPLE}@{file}'))


def test_a_recipe_starts_from_nothing(tmp_path):
    pytest.importorskip('mmpretrain')
    recipe = tmp_path / 'mine.py'
    recipe.write_text("default_scope = 'mmpretrain'\n"
                      "model = dict(type='ImageClassifier', backbone=dict("
                      "type='mmvssd.VSSD', out_indices=(1, 2), init_cfg=dict(type='Pretrained', "
                      "checkpoint='nowhere.pth'), arch=dict(embed_dims=16, depths=(1, 1, 1), "
                      'num_heads=(2, 2, 2), d_state=8)))\n'
                      'data_preprocessor = dict(mean=[1, 2, 3], std=[4, 5, 6], to_rgb=False)')
    built = build_named(ModelName.parse(str(recipe)))
    assert isinstance(built.backbone, VSSD)
    assert built.model.backbone is built.backbone
    assert built.normalization == Normalization((1, 2, 3), (4, 5, 6), rgb=False)
    assert last_feature(built.backbone) == ('norm2', 'input', 'nhwc')


def test_normalizations():
    assert normalization_of(None) == normalization_of(dict(type='X')) == IMAGENET
    ones = (1., ) * 3
    assert normalization_of(dict(mean=list(ones), bgr_to_rgb=True)) == (ones, ones, True)


@pytest.mark.parametrize(('name', 'published', 'off'), [
    ('vmamba-nano', 'norm3', 'norm3'), ('resnet-50', '', ''), ('convnext-tiny', 'norm3', 'norm3'),
    ('swin-tiny', '', 'norm3'), ('deit-small', '', 'ln1'), ('hivit-tiny', '', '')])
def test_last_features(nano, name, published, off):
    pytest.importorskip('mmpretrain')
    built = build_named(ModelName.parse(name), size=64)
    assert last_feature(built.backbone).layer == published
    assert last_feature(built.backbone, 'off').layer == off
    assert last_feature(built.backbone, 'on') == ('', 'output', 'nchw')
    with torch.no_grad():
        y, = built.backbone(torch.zeros(1, 3, 64, 64))
    assert y.shape[2] == y.shape[3] in (2, 4)


def test_swins_windows():
    # the published net at 224 has a last map of one window and does not shift it
    assert not peer_settings('swin-tiny', 224)['pad_small_map']
    assert peer_settings('swin-tiny', 192)['pad_small_map']
    assert peer_settings('swin-tiny', 384, swin_window=12)['window_size'] == 12


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'params'), [
    ('vssd-micro', None), ('resnet-50', 25557032), ('convnext-tiny', 28589128),
    ('swin-tiny', 28288354), ('deit-small', 22050664)])
def test_classifiers_are_the_published_ones(name, params):
    pytest.importorskip('mmpretrain')
    from mmengine.registry import MODELS, init_default_scope
    init_default_scope('mmpretrain')
    model = MODELS.build(classifier_config(name)).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 224, 224), mode='tensor').shape == (1, 1000)
    assert params in (None, sum(p.numel() for p in model.parameters()))
