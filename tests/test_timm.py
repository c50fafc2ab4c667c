"""The backbones as models of timm: what timm asks of a model, and the weights that one takes."""
import copy
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.registry import DefaultScope

from mmvssd.errors import CheckpointError
from mmvssd.families import FAMILIES, every_arch
from mmvssd.models.layers import DropPath

timm = pytest.importorskip('timm')
optim = importlib.import_module('timm.optim')
plugin = importlib.import_module('mmvssd.timm')

TESTS = Path(__file__).resolve().parent
SIZE = 64
EVERY = {plugin.model_name(family.name, arch): (family.name, arch) for family, arch in every_arch()}


def smallest(family):
    """Name of a family's smallest arch."""
    archs = family.backbone.archs
    return plugin.model_name(family.name, min(
        archs, key=lambda name: archs[name].embed_dims * sum(archs[name].depths)))


#: One of each family. With the variable, every one: `MMVSSD_TIMM=every pytest tests/test_timm.py`.
NAMES = (list(EVERY) if os.environ.get('MMVSSD_TIMM') == 'every' else
         [smallest(family) for family in FAMILIES.values()])


# of a module: all tests of a model run one after the other, so that its weights are drawn once
@pytest.fixture(scope='module', params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope='module')
def weights(name):
    """Weights of a model of ten classes; no test changes them."""
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=10).state_dict()


@pytest.fixture
def model(name, weights):
    """The model with these weights, in evaluation mode."""
    return build(name, weights)


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.randn(2, 3, SIZE, SIZE)


def build(name, weights, **options):
    """A model that borrows weights; a training of it would change them."""
    with torch.device('meta'):
        model = timm.create_model(name, num_classes=10, **options)
    model.load_state_dict(weights, assign=True)
    return model.eval()


def test_logits(model, images):
    with torch.no_grad():
        logits = model(images)
        features = model.forward_features(images)
        pooled = model.forward_head(features, pre_logits=True)
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()
    assert features.shape == (2, model.num_features, SIZE // 32, SIZE // 32)
    torch.testing.assert_close(pooled, features.mean((2, 3)))
    torch.testing.assert_close(model.get_classifier()(pooled), logits)
    assert torch.equal(model.forward_head(features), logits)


def test_gradients_with_and_without_checkpointing(name, weights, images):
    """Every parameter has one, and recomputing activations changes none."""
    found = []
    for recomputes in (False, True):
        model = build(name, {key: value.clone() for key, value in weights.items()})
        model.train().set_grad_checkpointing(recomputes)
        assert model.backbone.with_cp is recomputes
        torch.manual_seed(2)
        model(images).square().mean().backward()
        found.append({key: p.grad for key, p in model.named_parameters()})
        assert not [key for key, gradient in found[-1].items() if gradient is None]
    for key, gradient in found[0].items():
        torch.testing.assert_close(found[1][key], gradient, msg=key)


def test_the_configuration_names_two_layers(model):
    config = model.pretrained_cfg
    assert config['architecture'] in EVERY
    assert config['input_size'] == (3, 224, 224)
    assert config['num_classes'] == 1000
    assert model.state_dict()[f'{config["first_conv"]}.weight'].shape[1] == 3
    assert model.state_dict()[f'{config["classifier"]}.weight'].shape[0] == 10
    assert model.get_submodule(config['classifier']) is model.get_classifier()
    data = timm.data.resolve_model_data_config(model)
    assert (data['mean'], data['crop_pct'], data['interpolation']) == (
        (0.485, 0.456, 0.406), 0.875, 'bicubic')


def test_a_new_classifier(model, images):
    with torch.no_grad():
        features = model.forward_features(images)
        for classes, pool, shape in [
                (0, None, (2, model.num_features)), (0, '', features.shape), (7, 'max', (2, 7)),
                (5, None, (2, 5)), (6, 'catavgmax', (2, 6)), (4, 'avg', (2, 4))]:
            model.reset_classifier(classes, pool)
            assert model(images).shape == shape
            assert model.num_classes == classes
            assert model.forward_head(features, pre_logits=True).shape[1] == model.head_hidden_size
            assert not model.head.training
    assert model.head_hidden_size == model.num_features
    model.reset_classifier(0)
    assert 'head.fc.weight' not in model.state_dict()
    assert isinstance(model.get_classifier(), torch.nn.Identity)


def test_a_new_classifier_lies_where_the_model_does(name):
    with torch.device('meta'):
        model = timm.create_model(name).to(torch.float64)
    model.reset_classifier(3)
    assert model.head.fc.weight.is_meta
    assert model.head.fc.weight.dtype == torch.float64


def test_options(name):
    with torch.device('meta'):
        model = timm.create_model(name, num_classes=0, global_pool='', in_chans=5, drop_rate=0.3,
                                  drop_path_rate=0.25)
        assert model(torch.zeros(1, 5, SIZE, SIZE)).shape == (1, model.num_features, 2, 2)
        own = timm.create_model(name)
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    assert (rates[0], rates[-1]) == (0, 0.25)
    assert model.head.drop.p == 0.3
    assert model.in_chans == 5
    family, arch = EVERY[name]
    assert own.backbone.stages[-1][-1].drop_path.drop_prob == pytest.approx(
        FAMILIES[family].backbone.archs[arch].drop_path_rate)
    half = timm.create_model(name, device='meta', dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in half.parameters()} == {('meta', torch.bfloat16)}


@pytest.mark.parametrize(('out_indices', 'stages'), [
    (None, [0, 1, 2, 3]), ((0, 1, 2, 3), [0, 1, 2, 3]), ((0, 2), [0, 2]), ((-1, ), [3]),
    ((-3, -1), [1, 3]), (2, [2, 3]), ((1, ), [1])])
def test_features_only(name, weights, images, out_indices, stages):
    model = build(name, weights)
    net = timm.create_model(name, features_only=True, out_indices=out_indices).eval()
    used = net.model.state_dict()
    assert used.keys() == {
        key for key in weights
        if not re.match(r'head\.|backbone\.norm', key)
        and not any(key.startswith(f'backbone.stages.{i}.')
                    for i in range(max(stages) + 1, 4))
        and not any(key.startswith(f'backbone.downsamples.{i}.') for i in range(max(stages), 3))}
    net.model.load_state_dict({key: weights[key] for key in used})
    with torch.no_grad():
        features = net(images)
        expected = model.forward_intermediates(images, intermediates_only=True)
    assert len(features) == len(stages)
    assert net.feature_info.channels() == [feature.shape[1] for feature in features]
    assert net.feature_info.reduction() == [SIZE // feature.shape[2] for feature in features]
    for feature, i in zip(features, stages):
        assert torch.equal(feature, expected[i])
        assert feature.is_contiguous()


def test_the_kind_of_extractor(name):
    """Of the one that there is, each of timm's ways to name it."""
    from timm.models._features import FeatureGetterNet
    for kind in ('getter', 'Getter', FeatureGetterNet):
        with torch.device('meta'):
            net = timm.create_model(name, features_only=True, feature_cls=kind)
        assert type(net) is FeatureGetterNet


def test_features_train(name, images):
    torch.manual_seed(0)
    net = timm.create_model(name, features_only=True, out_indices=(0, 1), drop_path_rate=0.)
    sum(feature.square().mean() for feature in net(images)).backward()
    assert not [key for key, p in net.named_parameters() if p.grad is None]


def test_intermediates(model, images):
    with torch.no_grad():
        last = model.forward_features(images)
        final, every = model.forward_intermediates(images)
        assert torch.equal(final, last)
        assert [tuple(x.shape[1:]) for x in every] == [
            (info['num_chs'], SIZE // info['reduction'], SIZE // info['reduction'])
            for info in model.feature_info]
        final, (one, normed) = model.forward_intermediates(images, [1, -1], norm=True)
        assert torch.equal(one, every[1])
        assert torch.equal(normed, last)
        assert not torch.equal(normed, every[-1])
        early, (zero, ) = model.forward_intermediates(images, [0], stop_early=True)
        assert torch.equal(zero, every[0])
        assert torch.equal(early, every[0])
        two = model.forward_intermediates(images, 2, output_fmt='NHWC', intermediates_only=True)
        for x, expected in zip(two, every[2:]):
            assert torch.equal(x, expected.permute(0, 2, 3, 1))


def test_pruning(name, weights, images):
    model = build(name, dict(weights))
    with torch.no_grad():
        last, every = model.forward_intermediates(images)
        assert model.prune_intermediate_layers([-1, 0], prune_head=False) == [3, 0]
        assert torch.equal(model.forward_features(images), last)
        assert model(images).shape == (2, 10)
        model.prune_intermediate_layers(4, prune_norm=True)
        assert torch.equal(model.forward_features(images), every[-1])
        model.prune_intermediate_layers([1])
        assert torch.equal(model.forward_features(images), every[1])
        model.reset_classifier(3, 'avg')
        assert model(images).shape == (2, 3)


def test_layers_of_parameters_are_those_of_the_backbone(name, model):
    """Stem, blocks with the downsamples behind them, and the rest."""
    layers = timm.models.group_parameters(model, model.group_matcher(), reverse=True)
    assert layers == {key: model.backbone.get_layer_depth(key, 'backbone.')[0]
                      for key, _ in model.named_parameters()}
    groups = optim.param_groups_layer_decay(model, layer_decay=0.5)
    scales = {id(p): group['lr_scale'] for group in groups for p in group['params']}
    assert scales[id(model.head.fc.weight)] == 1
    assert scales[id(model.backbone.stages[3][-1].norm1.weight)] == 0.5
    coarse = timm.models.group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert {coarse[key] for key in coarse if key.startswith('backbone.stem.')} == {0}
    for key, layer in coarse.items():
        if key.startswith(('backbone.stages.', 'backbone.downsamples.')):
            assert layer == int(key.split('.')[2]) + 1
    assert coarse['head.fc.weight'] == coarse['backbone.norm3.weight'] == 5


def test_weight_decay(model):
    """timm's optimizers leave vectors and the ops' own parameters without it."""
    names = model.no_weight_decay()
    assert names <= {key for key, _ in model.named_parameters()}
    groups = optim.create_optimizer_v2(model, 'adamw', lr=1e-3, weight_decay=0.05).param_groups
    decayed = {id(p) for group in groups if group['weight_decay'] for p in group['params']}
    assert id(model.get_classifier().weight) in decayed
    for key, p in model.named_parameters():
        assert (id(p) in decayed) is (key.endswith('weight') and p.dim() > 1), key


def test_copies(model, images):
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(model)(images), model(images))


def test_bad_arguments():
    for options, message in [
            (dict(num_classes=-1), 'num_classes: got -1'), (dict(in_chans=0), 'in_chans: got 0'),
            (dict(global_pool='mean'), "global_pool: unknown name 'mean'; known: avg, max"),
            (dict(drop_rate=1.), 'drop_rate: got 1.0'), (dict(drop_path_rate=2), 'drop_path_rate'),
            (dict(features_only=True, out_indices=(0, 4)), 'indices: got 4'),
            (dict(features_only=True, out_indices=()), 'indices: got an empty list'),
            (dict(features_only=True, out_indices=5), 'indices: got 5'),
            (dict(features_only=True, feature_cls='hook'), "feature_cls: got 'hook', expected 'ge"),
    ]:
        with torch.device('meta'), pytest.raises(ValueError, match=message):
            timm.create_model('vssd_micro', **options)
    with torch.device('meta'), pytest.raises(TypeError, match='output_stride'):
        timm.create_model('vssd_micro', output_stride=16)
    with pytest.raises(ValueError, match=r'expected \(N, 3, H, W\)'):
        timm.create_model('vssd_micro', device='meta')(torch.zeros(1, 4, 32, 32))


@pytest.mark.parametrize(('name', 'hint'), [
    ('in_channels', 'timm calls it in_chans'), ('with_cp', 'call set_grad_checkpointing()'),
    ('drop_pathrate', 'did you mean drop_path_rate')])
def test_names_of_the_backbones(name, hint):
    with pytest.raises(TypeError, match=f'there is no argument {name}; ') as error:
        timm.create_model('vssd_micro', **{name: 4})
    assert hint in str(error.value)


def test_names():
    """Each arch has one, and timm has none of them itself."""
    assert len(EVERY) == len(list(every_arch()))
    assert set(EVERY) <= set(timm.list_models())
    for entry in EVERY:
        assert re.fullmatch(r'[a-z0-9_]+', entry)
        assert timm.models.model_entrypoint(entry).__module__ == 'mmvssd.timm'


def test_a_name_that_timm_has_stays_its_own(monkeypatch):
    said = []
    monkeypatch.setattr(plugin, 'print_log', lambda text, **_: said.append(text))
    monkeypatch.setattr(plugin, 'model_name', lambda family, arch: 'resnet18')
    plugin._register('vssd', 'micro')
    assert said == ['timm has a model resnet18 of its own: that of mmvssd is not registered']
    assert timm.models.model_entrypoint('resnet18').__module__ == 'timm.models.resnet'


@pytest.mark.slow
def test_in_a_fresh_process(tmp_path):
    """A family that is added is there too, and no host is imported."""
    script = """
import sys
import toy_family  # adds its row
import mmvssd.timm, timm, torch
print(sorted({name.partition('.')[0] for name in sys.modules}
             & {'mmcv', 'mmdet', 'mmseg', 'mmpretrain'}))
print(timm.create_model('toy_mini', num_classes=3)(torch.zeros(2, 3, 32, 32)).shape)
"""
    path = os.pathsep.join([str(TESTS), *filter(None, sys.path)])
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', script], cwd=tmp_path, text=True,
                          env=dict(os.environ, PYTHONPATH=path), capture_output=True, check=False)
    assert done.stdout == '[]\ntorch.Size([2, 3])\n', done.stderr


def classifier_of(name, weights):
    """MMPreTrain's classifier with these weights, in evaluation mode."""
    models = pytest.importorskip('mmpretrain.models')
    family, arch = EVERY[name]
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = models.ImageClassifier(
            dict(type=FAMILIES[family].type, arch=arch, out_indices=(3, )),
            neck=dict(type='GlobalAveragePooling'), head=dict(
                type='LinearClsHead', num_classes=10,
                in_channels=weights['head.fc.weight'].shape[1]))
    model.load_state_dict(weights, assign=True)
    return model.eval()


@pytest.fixture
def save(tmp_path):
    """Write a checkpoint as MMEngine's Runner does; return its path."""

    def write(state, **entries):
        # a history of the log makes the file one that PyTorch's safe reader has to be told of
        history = HistoryBuffer([1., 2.], [1, 1])
        torch.save(dict(state_dict=state, meta=dict(epoch=3), **entries, message_hub=dict(
            log_scalars={'train/loss': history})), tmp_path / 'epoch_3.pth')
        return str(tmp_path / 'epoch_3.pth')

    return write


def test_a_hosts_classifier(name, weights, images, save):
    """By each of timm's ways to load a file, strict; the logits are the host's."""
    host = classifier_of(name, weights)
    with torch.no_grad():
        logits = host(images, mode='tensor')
    file = save(host.state_dict(), ema_state_dict={'module.head.fc.bias': torch.ones(10)})
    for options in (dict(checkpoint_path=file),
                    dict(pretrained=True, pretrained_cfg=dict(file=file)),
                    dict(pretrained=True, pretrained_cfg_overlay=dict(file=file))):
        model = timm.create_model(name, num_classes=10, **options).eval()
        with torch.no_grad():
            torch.testing.assert_close(model(images), logits, rtol=1e-5, atol=1e-6)
    host.load_state_dict(model.state_dict())  # and back


@pytest.mark.parametrize('published', [('vssd', 'micro'), ('vmamba', 'v0-tiny')], ids='-'.join,
                         indirect=True)
def test_a_published_checkpoint(golden, published, tmp_path):
    """By its own names, strict; the logits are the recorded ones."""
    torch.save(dict(model=published.weights('classifier')), tmp_path / 'published.pth')
    cases = {case: values for case, values in published.load_cases().items()
             if 'logits' in values}
    name = plugin.model_name(published.family, published.arch)
    for options in (dict(checkpoint_path=tmp_path / 'published.pth'),
                    dict(pretrained=True,
                         pretrained_cfg=dict(file=str(tmp_path / 'published.pth')))):
        model = timm.create_model(name, **options).eval()
        assert cases
        for case in cases.values():
            image = torch.from_numpy(golden.image(tuple(case['input_shape'])))
            recorded = torch.from_numpy(case['logits'])
            with torch.no_grad():
                logits = model(image)
            assert (logits - recorded).abs().max() < 1e-4 * recorded.abs().max()


def test_other_names_for_the_weights(name, weights, save):
    """Of a compiled or distributed model, of a backbone without a model, of a dense model."""
    model = build(name, weights)
    backbone = {key.removeprefix('backbone.'): value for key, value in weights.items()
                if key.startswith('backbone.')}
    dense = {**weights, 'backbone.norm0.weight': torch.ones(3), 'neck.conv.weight': torch.ones(1),
             'data_preprocessor.mean': torch.ones(3)}
    for state in ({f'_orig_mod.{key}': value for key, value in weights.items()},
                  {f'module._orig_mod.{key}': value for key, value in weights.items()},
                  {key.replace('backbone.', 'backbone._orig_mod.'): value
                   for key, value in weights.items()}, dense):
        with torch.device('meta'):
            loaded = timm.create_model(name, num_classes=10)
        assert not any(loaded.load_state_dict(state, assign=True))
        for key, value in loaded.state_dict().items():
            assert torch.equal(value, weights[key])
    net = timm.create_model(name, features_only=True, pretrained=True,
                            pretrained_cfg_overlay=dict(file=save(backbone)))
    assert torch.equal(net.model.backbone.stages[3][0].norm1.weight,
                       model.backbone.stages[3][0].norm1.weight)


def test_features_of_a_file(name, weights, images, save):
    net = timm.create_model(name, features_only=True, pretrained=True, out_indices=(1, 3),
                            pretrained_cfg=dict(file=save(weights))).eval()
    with torch.no_grad():
        expected = build(name, weights).forward_intermediates(images, [1, 3],
                                                              intermediates_only=True)
        for feature, other in zip(net(images), expected):
            assert torch.equal(feature, other)


def test_another_number_of_classes_or_channels(name, weights, save):
    """timm adapts the two layers; what the file has, the file says."""
    file = dict(file=save(weights))
    first = plugin._layers(FAMILIES[EVERY[name][0]].backbone.archs[EVERY[name][1]].stem)[
        'first_conv'] + '.weight'
    for channels in (1, 4, 6):
        model = timm.create_model(name, pretrained=True, pretrained_cfg=file, num_classes=10,
                                  in_chans=channels)
        assert torch.equal(model.head.fc.weight, weights['head.fc.weight'])
        adapted = model.state_dict()[first]
        # a grey image gives what it gave
        torch.testing.assert_close(adapted.sum(1) if channels != 4 else adapted[:, :2],
                                   weights[first].sum(1) if channels != 4
                                   else weights[first][:, :2] * 0.75)
    bare = timm.create_model(name, pretrained=True, pretrained_cfg=file, num_classes=0)
    assert 'head.fc.weight' not in bare.state_dict()
    assert torch.equal(bare.backbone.norm3.weight, weights['backbone.norm3.weight'])
    four = dict(model.state_dict(), **{first: torch.randn(*weights[first].shape[:1], 4,
                                                          *weights[first].shape[2:])})
    model = timm.create_model(name, pretrained=True, in_chans=4, num_classes=7,
                              pretrained_cfg=dict(file=save(four)))
    assert torch.equal(model.state_dict()[first], four[first])
    assert model.head.fc.weight.shape[0] == 7
    assert torch.equal(model.backbone.norm3.weight, weights['backbone.norm3.weight'])


@pytest.mark.filterwarnings('ignore:for .*copying from a non-meta parameter')
def test_weights_of_another_model(weights, name, save):
    other = next(entry for entry in EVERY if EVERY[entry][0] != EVERY[name][0])
    with torch.device('meta'), pytest.raises(
            CheckpointError, match=rf'(?s)epoch_3.pth: not the weights of a {other}\n.*missing: '
                                   r'backbone.*unknown: backbone.*trained as'):
        timm.create_model(other, pretrained=True, features_only=True,
                          pretrained_cfg=dict(file=save(weights)))
    part = {key: value for key, value in weights.items() if 'stages.2.1.' not in key}
    with torch.device('meta'), pytest.raises(
            CheckpointError, match=r'missing: backbone.stages.2.1'):
        timm.create_model(name, pretrained=True, pretrained_cfg=dict(file=save(part)))
    with torch.device('meta'), pytest.raises(RuntimeError, match='Missing key'):
        timm.create_model(name, num_classes=10, checkpoint_path=save(part))
    with torch.device('meta'), pytest.raises(ValueError, match='1 name is not of the'):
        timm.create_model(name, checkpoint_path=save({'conv1.weight': torch.zeros(1)}))


def test_an_encoder_of_segmentation_models(name, weights, save):
    """The `tu-` encoders, with weights of a file, other channels, and a backward pass."""
    smp = pytest.importorskip('segmentation_models_pytorch')
    model = smp.Unet(f'tu-{name}', encoder_weights=None, in_channels=4, classes=5)
    masks = model(torch.randn(2, 4, SIZE, SIZE))
    assert masks.shape == (2, 5, SIZE, SIZE)
    masks.square().mean().backward()
    assert not [key for key, p in model.named_parameters() if p.grad is None]
    encoder = smp.encoders.get_encoder(f'tu-{name}', weights='imagenet', depth=5,
                                       pretrained_cfg_overlay=dict(file=save(weights)))
    features = encoder.eval()(torch.zeros(1, 3, SIZE, SIZE))
    assert [feature.shape[2] for feature in features] == [SIZE // 2**i for i in range(6)]
    assert encoder.out_channels[2:] == list(encoder.model.model.backbone.dims)
    assert torch.equal(encoder.model.model.backbone.stages[0][0].norm1.weight,
                       weights['backbone.stages.0.0.norm1.weight'])
