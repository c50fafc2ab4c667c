"""Counts against the published rows, and what a count must not depend on or change."""
import json
import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from mmvssd.analysis import operations
from mmvssd.analysis.complexity import build_model, count_model, count_recipe
from mmvssd.cli.launch import load_config
from mmvssd.errors import ConfigError
from mmvssd.models.layers import SS2D, linear
from mmvssd.registry import KERNELS

DOCS = Path(__file__).resolve().parents[2] / 'docs' / 'complexity.md'

MICRO = 'classification/vssd-micro_8xb128_in1k.py'
MICRO_DETECTOR = 'detection/mask-rcnn_vssd-micro_fpn_1x_coco.py'
MICRO_SEGMENTOR = 'segmentation/upernet_vssd-micro_4xb4-160k_ade20k-512x512.py'

#: recipe: parameters in millions, GFLOPs in full and as published, all digits that are given
CLASSIFIERS = {
    MICRO: ('13.51', '2.407', '2.306'),
    'classification/vssd-tiny_8xb128_in1k.py': ('24.27', '4.694', '4.475'),
    'classification/vssd-small_8xb128_in1k.py': ('40.08', '7.756', '7.366'),
    'classification/vssd-base_8xb256_in1k.py': ('88.82', '16.720', '16.066'),
    'classification/vssd-tiny-iccv2025_8xb128_in1k.py': ('28.19', '5.019', '4.983'),
    'classification/vssd-small-iccv2025_8xb128_in1k.py': ('50.42', '8.120', '8.056'),
    'classification/vssd-base-iccv2025_8xb256_in1k.py': ('88.82', '16.720', '16.066'),
}
DETECTORS = {
    MICRO_DETECTOR: ('33.22', '219.53'),
    'detection/mask-rcnn_vssd-tiny_fpn_1x_coco.py': ('43.91', '265.28'),
}
SEGMENTORS = {
    MICRO_SEGMENTOR: ('42.38', '892.85'),  # that of VSSD-T takes half a minute
}
#: VMamba: parameters in millions and GFLOPs, all digits that are published
VMAMBA_CLASSIFIERS = {
    'classification/vmamba-v0-tiny_8xb128_in1k.py': ('22.89', '5.6'),
    'classification/vmamba-v0-small_8xb128_in1k.py': ('44.42', '11.2'),
    'classification/vmamba-v0-base_8xb128_in1k.py': ('76.25', '18.0'),
    'classification/vmamba-tiny-s2l5_8xb128_in1k.py': ('30.71', '4.9'),
    'classification/vmamba-small-s2l15_8xb128_in1k.py': ('50.15', '8.7'),
    'classification/vmamba-base-s2l15_8xb128_in1k.py': ('88.56', '15.4'),
    'classification/vmamba-tiny-s1l8_8xb128_in1k.py': ('30.25', '4.9'),
    'classification/vmamba-small-s1l20_8xb128_in1k.py': ('49.01', '8.6'),
    'classification/vmamba-base-s1l20_8xb128_in1k.py': ('86.61', '15.2'),
}
#: one of each host, and of each version
VMAMBA_DENSE = {
    'detection/mask-rcnn_vmamba-v0-tiny_fpn_1x_coco.py': ('42', '286'),
    'segmentation/upernet_vmamba-tiny-s1l8_4xb4-160k_ade20k-512x512.py': ('62', '949'),
}


def larger_are_slow(recipes):
    """Of many alike the smallest do while writing."""
    return [pytest.param(recipe, marks=pytest.mark.slow if re.search('small|base', recipe) else ())
            for recipe in recipes]


def check_documented(recipe, found):
    row = (f'| `{recipe[:-len(".py")]}` | {found.params / 1e6:.2f} M | {found.full / 1e9:.3f} '
           f'| {found.published / 1e9:.3f} |')
    assert row in DOCS.read_text()


@pytest.fixture
def zeros(monkeypatch):
    """Let convolutions and products on a CPU return zeros of their shape, and weights be zeros.

    A count is of shapes. At published sizes they take most of the time.
    """
    def convolve(images, weight, bias, padding, stride, dilation, groups):
        sides = [(side + 2 * pad - spread * (width - 1) - 1) // step + 1
                 for side, pad, spread, width, step in zip(
                     images.shape[2:], padding, dilation, weight.shape[2:], stride)]
        return images.new_zeros(len(images), len(weight), *sides)

    def multiply(a, b):
        return a.new_zeros(len(a), b.shape[1])

    def fill(t, *args, **options):
        return t.zero_()

    library = torch.library.Library('aten', 'IMPL')
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Warning only once for all operators')
        library.impl('mkldnn_convolution', convolve, 'CPU')
        library.impl('mm', multiply, 'CPU')
        library.impl('addmm', lambda bias, a, b, **scales: multiply(a, b), 'CPU')
    for draw in ('uniform_', 'normal_'):
        monkeypatch.setattr(torch.Tensor, draw, fill)
    yield
    del library  # takes it back
    ones = torch.ones(1, 8, 32, 32)
    assert (nn.functional.conv2d(ones, torch.ones(8, 8, 3, 3)) == 72).all()
    assert (torch.addmm(ones[0, 0], ones[0, 1], ones[0, 2]) == 33).all()
    assert (ones[0, 0] @ ones[0, 1] == 32).all()


@pytest.mark.parametrize('recipe', larger_are_slow(CLASSIFIERS))
def test_published_classifiers(recipe, zeros):
    pytest.importorskip('mmpretrain')
    found = count_recipe(load_config(recipe))
    assert (f'{found.params / 1e6:.2f}', f'{found.full / 1e9:.3f}',
            f'{found.published / 1e9:.3f}') == CLASSIFIERS[recipe]
    check_documented(recipe, found)


def check_dense(recipe, row):
    found = count_recipe(load_config(recipe))
    assert (f'{found.params / 1e6:.2f}', f'{found.published / 1e9:.2f}') == row
    check_documented(recipe, found)
    return found


@pytest.mark.slow
@pytest.mark.parametrize('recipe', DETECTORS)
def test_published_detectors(recipe, zeros):
    pytest.importorskip('mmdet')
    found = check_dense(recipe, DETECTORS[recipe])
    # as many proposals as are configured, each through the box head's layers
    assert {part.name: part.full for part in found.parts}['roi_head.bbox_head'] == 1000 * (
        256 * 7 * 7 * 1024 + 1024 * 1024 + 1024 * (81 + 80 * 4))
    assert found.uncounted['prim::PythonOp.NMSop'] == 1


@pytest.mark.slow
@pytest.mark.parametrize('recipe', SEGMENTORS)
def test_published_segmentors(recipe, zeros):
    pytest.importorskip('mmseg')
    check_dense(recipe, SEGMENTORS[recipe])


@pytest.mark.parametrize('recipe', larger_are_slow(VMAMBA_CLASSIFIERS))
def test_published_vmamba_classifiers(recipe, zeros):
    pytest.importorskip('mmpretrain')
    found = count_recipe(load_config(recipe))
    assert (f'{found.params / 1e6:.2f}', f'{found.published / 1e9:.1f}') == (
        VMAMBA_CLASSIFIERS[recipe])
    assert found.full == found.published
    check_documented(recipe, found)


@pytest.mark.slow
@pytest.mark.parametrize('recipe', VMAMBA_DENSE)
def test_published_dense_vmamba(recipe, zeros):
    pytest.importorskip('mmdet' if recipe.startswith('detection') else 'mmseg')
    found = count_recipe(load_config(recipe))
    assert (f'{found.params / 1e6:.0f}', f'{found.published / 1e9:.0f}') == VMAMBA_DENSE[recipe]
    check_documented(recipe, found)


@pytest.fixture(scope='module')
def classifier():
    pytest.importorskip('mmpretrain')
    return build_model(load_config(MICRO))


def test_parts_and_operations_add_up(classifier):
    found = count_model(classifier, (64, 96))
    parts = {part.name: part for part in found.parts}
    top = [part for name, part in parts.items() if '.' not in name]
    inner = [part for name, part in parts.items() if name.startswith('backbone.')]
    assert {'backbone.stem', 'backbone.stages.0', 'backbone.stages.3', 'backbone.downsamples.2',
            'neck', 'head'} <= set(parts)
    for measure in ('params', 'full', 'published'):
        total = getattr(found, measure)
        assert sum(getattr(part, measure) for part in top) == total
        assert sum(getattr(part, measure) for part in inner) == getattr(parts['backbone'], measure)
    assert sum(full for full, _ in found.operations.values()) == found.full
    assert sum(published for _, published in found.operations.values()) == found.published
    # depths 2, 2, 8; heads 2, 4, 8; S = P = 48
    tokens = 2 * 16 * 24, 2 * 8 * 12, 8 * 4 * 6
    assert found.operations['nc_ssd'] == (
        sum(2 * n * 48 * 48 * h for n, h in zip(tokens, (2, 4, 8))),
        sum(2 * n * 48 * 48 for n in tokens))
    # depth 4, 6 tokens, width 384
    assert found.operations['attention'] == (4 * 2 * 6 * 6 * 384, ) * 2


def test_what_is_not_counted_is_named(classifier):
    found = count_model(classifier, (64, 64))
    # 16 blocks, 12 of them with a state-space mixer
    assert found.uncounted['aten::gelu'] == 16
    assert found.uncounted['aten::softplus'] == 12
    assert 'aten::unflatten' not in found.uncounted
    assert 'skip' in found.left_out['nc_ssd']
    assert [(module.name, module.params) for module in found.uncalled] == [
        ('data_preprocessor', 0), ('head.loss_module', 0)]


def test_modules_that_were_not_called_are_named():
    pytest.importorskip('mmseg')
    found = count_recipe(load_config(MICRO_SEGMENTOR), (64, 64))
    (head, ) = [module for module in found.uncalled if module.name == 'auxiliary_head']
    # 3x3 from 192 to 256 channels, norm, 1x1 to 150 classes
    assert head.params == 192 * 256 * 9 + 2 * 256 + 256 * 150 + 150
    assert {part.name: part.full for part in found.parts}['auxiliary_head'] == 0


def test_count_grows_with_the_batch(classifier):
    one, three = (count_model(classifier, (64, 64), batch_size=n) for n in (1, 3))
    assert (three.full, three.published) == (3 * one.full, 3 * one.published)


@pytest.mark.parametrize('kernel', ['reference', 'triton'])
def test_count_is_independent_of_the_implementation(classifier, kernel, monkeypatch):
    expected = count_model(classifier, (64, 64))
    monkeypatch.setenv('MMVSSD_KERNEL', kernel)
    assert count_model(classifier, (64, 64)) == expected


class Layer(nn.Module):
    """Holds an op as the layers do, in a model with a tensor mode."""

    def __init__(self, op, **settings):
        super().__init__()
        self.op, self.settings = op, settings

    def forward(self, inputs, data_samples=None, mode='tensor'):
        N, _, H, W = inputs.shape
        x = inputs.new_ones(N, int(H) * int(W), 4, 6)
        return self.op(x, **{key: make(x) if callable(make) else make
                             for key, make in self.settings.items()})


def nc_ssd_layer(groups, mask):
    def state(x):
        return x.new_ones(*x.shape[:2], groups, 8)

    return Layer(KERNELS.get('nc_ssd'), dt=lambda x: x.new_ones(x.shape[:3]),
                 A=lambda x: -x.new_ones(4), B=state, C=state,
                 mask=(lambda x: x.new_zeros(x.shape[:2], dtype=torch.bool)) if mask else None)


@pytest.mark.parametrize(('groups', 'mask'), [(1, False), (2, False), (1, True), (4, True)])
def test_groups_and_masks_count_alike(groups, mask):
    found = count_model(nc_ssd_layer(groups, mask), (3, 5))
    assert found.operations == {'nc_ssd': (2 * 15 * 8 * 4 * 6, 2 * 15 * 8 * 6)}
    assert set(found.uncounted) == {'aten::new_ones', 'aten::neg'}  # the layer's own


@pytest.mark.parametrize('reverse', [False, True])
def test_causal_ops_count_as_the_recurrence(reverse):
    def state(x):
        return x.new_ones(*x.shape[:2], 2, 8)

    layer = Layer(KERNELS.get('ssd'), dt=lambda x: x.new_ones(x.shape[:3]),
                  A=lambda x: -x.new_ones(4), B=state, C=state, chunk_size=4, reverse=reverse)
    found = count_model(layer, (3, 5))
    assert found.operations == {'ssd': (2 * 15 * 8 * 4 * 6, ) * 2}
    assert 'skip' in found.left_out['ssd']


class Mixer(nn.Module):
    """A token mixer over a grid of random values, in a model with a tensor mode."""

    def __init__(self, mixer, dim):
        super().__init__()
        self.mixer, self.dim = mixer, dim

    def forward(self, inputs, data_samples=None, mode='tensor'):
        N, _, H, W = inputs.shape
        return self.mixer(inputs.new_ones(N, int(H), int(W), self.dim))


@pytest.mark.parametrize('convolves', [False, True])
@pytest.mark.parametrize('pattern', ['cross', 'unidirectional', 'bidirectional', 'cascade'])
def test_ss2d_by_hand(pattern, convolves, monkeypatch):
    """On 2 grids of 4 x 6 tokens: width 40, 60 inside, R = ceil(40 / 16) = 3, S = 5.

    Whichever form a CPU runs linear layers in.
    """
    monkeypatch.setattr(linear, 'convolves_faster', lambda: convolves)
    found = count_model(Mixer(SS2D(40, ssm_ratio=1.5, d_state=5, pattern=pattern), 40), (4, 6),
                        batch_size=2)
    tokens, sequences = 2 * 4 * 6, 4
    scans = tokens * sequences * 60 * (9 * 5 + 1)
    widening = tokens * sequences * 60 * 3
    products = tokens * (40 * 60 + 60 * sequences * (3 + 2 * 5) + 60 * 40)
    expected = {'linear': products, 'conv': tokens * 60 * 9, 'layer_norm': tokens * 60 * 5,
                'selective_scan_2d': scans + widening}
    if pattern == 'cascade':
        del expected['selective_scan_2d']
        # two norms more, without affine
        expected.update(selective_scan=scans, einsum=widening, layer_norm=tokens * 60 * (5 + 2 * 4))
    assert found.operations == {op: (n, n) for op, n in expected.items()}
    assert set(found.uncounted) <= {'aten::add', 'aten::exp', 'aten::mul', 'aten::neg',
                                    'aten::new_ones', 'aten::silu', 'aten::softplus'}
    assert found.left_out.keys() == expected.keys() & {'selective_scan', 'selective_scan_2d'}


class Scans(nn.Module):
    """A selective scan between the ops that lay out its sequences and add them up."""

    def __init__(self):
        super().__init__()
        self.cross_scan, self.scan, self.cross_merge = map(
            KERNELS.get, ('cross_scan', 'selective_scan', 'cross_merge'))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        N, D, H, W = map(int, inputs.shape)
        u = self.cross_scan(inputs).flatten(1, 2)
        B = u.new_ones(N, 4, 7, H * W)
        y = self.scan(u, u, -u.new_ones(4 * D, 7), B, B)
        return self.cross_merge(y.view(N, 4, D, H * W), (H, W))


def test_laying_out_sequences_counts_nothing():
    found = count_model(Scans(), (4, 5), batch_size=2)
    assert found.operations == {'selective_scan': (2 * 20 * 4 * 3 * (9 * 7 + 1), ) * 2}


class Einsum(nn.Module):
    def forward(self, inputs, data_samples=None, mode='tensor'):
        x = inputs.new_ones(11, 13, 17)
        pair = torch.einsum('abc, dbc -> abd', x, inputs.new_ones(19, 13, 17))
        return pair, torch.einsum('ab,bc,cd->ad', *inputs.new_ones(3, 10, 10))


def test_products_by_einsum():
    # the chain as two products
    assert count_model(Einsum(), (4, 4)).full == 11 * 13 * 17 * 19 + 2 * 10 * 10 * 10


def test_a_later_op_is_one_entry(monkeypatch):
    def scan(u, A):
        raise AssertionError('the op itself is not run')

    monkeypatch.setitem(KERNELS.module_dict, 'scan', scan)
    monkeypatch.setitem(operations.FORMULAS, 'scan', operations.OpFormula(
        lambda s: 9 * s['u'][1] * s['A'][1], lambda s: 0, ''))
    found = count_model(Layer(scan, A=lambda x: x.new_ones(4, 7)), (3, 5))
    assert found.operations == {'scan': (9 * 15 * 7, 0)}


class Broadcast(nn.Module):
    def forward(self, inputs, data_samples=None, mode='tensor'):
        # (5, 3) x (N, 2, 3, 7)
        return inputs.new_ones(5, 3) @ inputs.new_ones(len(inputs), 2, 3, 7)


def test_products_that_broadcast_count_in_full():
    found = count_model(Broadcast(), (4, 4), batch_size=2)
    assert (found.full, found.published) == (2 * 2 * 5 * 3 * 7, 5 * 3 * 7)


def state_of(model):
    modules = [(module.training, len(module._forward_hooks), len(module._forward_pre_hooks),
                getattr(module, 'op', None)) for module in model.modules()]
    return modules, {name: value.clone() for name, value in model.state_dict().items()}


def test_the_model_stays_as_it_was(classifier):
    classifier.train()
    modules, weights = state_of(classifier)
    random = torch.get_rng_state()
    count_model(classifier, (64, 64))
    now, weights_now = state_of(classifier)
    assert now == modules
    assert all(torch.equal(weights[name], value) for name, value in weights_now.items())
    assert torch.equal(torch.get_rng_state(), random)


def test_weights_are_not_asked_for():
    """The detection recipes name a checkpoint that is not there."""
    pytest.importorskip('mmdet')
    cfg = load_config(MICRO_DETECTOR)
    assert not Path(cfg.model.backbone.init_cfg.checkpoint).exists()
    assert build_model(cfg).backbone.dims == (48, 96, 192, 384)


class NoTensorMode(nn.Module):
    def forward(self, inputs, data_samples=None, mode='loss'):
        raise RuntimeError(f'Invalid mode "{mode}".')


@pytest.mark.parametrize(('model', 'message'), [
    (nn.Conv2d(3, 3, 1), 'Conv2d: its forward has no mode'),
    (NoTensorMode(), 'NoTensorMode: has no tensor mode'),
])
def test_no_tensor_mode(model, message):
    with pytest.raises(ConfigError, match=message):
        count_model(model, (32, 32))
    # an error in a trace leaves no trace open
    assert count_model(Broadcast(), (4, 4)).full == 2 * 5 * 3 * 7


@pytest.mark.parametrize('shape', [(0, 224), (224, -1), (224, ), (224., 224)])
def test_no_shape(shape):
    with pytest.raises(ConfigError, match='expected two positive numbers'):
        count_model(Broadcast(), shape)


def test_no_recipe():
    with pytest.raises(ConfigError, match='has no model'):
        count_recipe(load_config('_base_/schedules/coco_1x.py'), (32, 32))
    with pytest.raises(ConfigError, match='give the size with --shape'):
        count_recipe(load_config('_base_/schedules/coco_1x.py'))


@pytest.mark.slow
def test_command(run_tool, tmp_path):
    pytest.importorskip('mmpretrain')
    text = run_tool('analysis_tools/get_flops.py', MICRO, '--out', 'a/b.json',
                    '--cfg-options', 'model.backbone.arch=tiny', 'model.head.in_channels=512')
    assert f'{MICRO}: GFLOPs over one image of 224 x 224 (height x width)' in text
    assert [line.split() for line in text.splitlines() if ' total ' in line] == [
        ['total', '24.271', '4.694', '4.475']]
    assert 'aten::gelu x 18' in text
    assert 'Never called: data_preprocessor' in text
    written = json.loads((tmp_path / 'a' / 'b.json').read_text())
    assert written['params'] == 24270724
    assert written['parts'][0]['name'] == 'backbone'
    assert written['uncalled'][0]['kind'] == 'ClsDataPreprocessor'


@pytest.mark.slow
def test_command_refuses(run_tool):
    text = run_tool('analysis_tools/get_flops.py', MICRO, '--shape', 64, 0, expect=2)
    assert 'ConfigError: --shape: got 64 0, expected two positive numbers' in text
    assert 'Traceback' not in text
