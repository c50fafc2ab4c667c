"""Renaming as a pure function, on the published names and shapes."""
import re

import pytest
import torch

from mmvssd.converters import convert, from_official
from mmvssd.converters.fit import candidates, closest_fit
from mmvssd.families import FAMILIES
from mmvssd.models import VSSD

#: One of each version whose names differ.
SOME = pytest.mark.parametrize('published', [
    ('vssd', 'tiny'), ('vssd', 'tiny-iccv2025'), ('vmamba', 'v0-tiny'), ('vmamba', 'tiny-s1l8'),
], ids='-'.join, indirect=True)
ICCV2025 = pytest.mark.parametrize('published', [('vssd', 'tiny-iccv2025')], indirect=True)
FIRST_VMAMBA = pytest.mark.parametrize('published', [
    ('vmamba', 'v0-tiny'), ('vmamba', 'v0-small'), ('vmamba', 'v0-base')], ids='-'.join,
    indirect=True)

#: Names of VMamba's first version -> its oldest ones.
OLDEST = {
    r'^patch_embed\.0\.': 'patch_embed.proj.', r'^patch_embed\.2\.': 'patch_embed.norm.',
    r'^(layers\.\d+\.blocks\.\d+)\.norm\.': r'\1.ln_1.',
    r'^(layers\.\d+\.blocks\.\d+)\.op\.': r'\1.self_attention.',
    r'^classifier\.(norm|head)\.': r'\1.',
}


def shapes(state):
    return {name: tuple(value.shape) for name, value in state.items()}


def expected_backbone(published):
    with torch.device('meta'):
        model = published.backbone(published.arch)
    return {f'backbone.{name}': shape for name, shape in shapes(model.state_dict()).items()}


def test_every_published_name_finds_its_place(published):
    state = from_official(published.names('backbone'), published.family)
    assert shapes(state) == expected_backbone(published)


def test_classifier(published):
    state = shapes(from_official(published.names('classifier'), published.family))
    expected = {name: shape for name, shape in expected_backbone(published).items()
                if not name.startswith(('backbone.norm0', 'backbone.norm1', 'backbone.norm2'))}
    width = expected['backbone.norm3.weight'][0]
    assert state == {**expected, 'head.fc.weight': (1000, width), 'head.fc.bias': (1000, )}


@FIRST_VMAMBA
@pytest.mark.parametrize('part', ['backbone', 'classifier'])
def test_oldest_names_are_those_of_the_same_places(published, part):
    newest = published.names(part)
    oldest = {}
    for name, value in newest.items():
        for pattern, old in OLDEST.items():
            name = re.sub(pattern, old, name)
        oldest[name] = value
    changed = [name for name in oldest if name not in newest]
    # of a block 2 of its norm and 11 of its mixer, 4 of the stem, 4 of a classifier's end
    blocks = sum(published.backbone.archs[published.arch].depths)
    assert len(changed) == 13 * blocks + (8 if part == 'classifier' else 4)
    assert from_official(oldest, published.family) == from_official(newest, published.family)


@SOME
@pytest.mark.parametrize('prefix', ['module.', 'backbone.', 'module.backbone.'])
def test_prefixes_make_no_difference(published, prefix):
    plain = published.names('backbone')
    prefixed = {prefix + name: value for name, value in plain.items()}
    assert (from_official(prefixed, published.family)
            == from_official(plain, published.family))


@SOME
def test_detector(published):
    """Of a detector's or segmentor's file the host's own parts keep their names."""
    names = {f'backbone.{name}': value for name, value in published.names('backbone').items()}
    assert sum(name.startswith('backbone.outnorm') for name in names) == 8
    own = ['neck.lateral_convs.0.conv.weight', 'rpn_head.rpn_cls.weight',
           'roi_head.bbox_head.fc_cls.weight', 'decode_head.conv_seg.bias',
           'auxiliary_head.conv_seg.bias', 'data_preprocessor.mean']
    state = from_official({**names, **dict.fromkeys(own, torch.zeros(1))}, published.family)
    assert {name for name in state if not name.startswith('backbone.')} == set(own)
    assert {name: shape for name, shape in shapes(state).items()
            if name not in own} == expected_backbone(published)


@pytest.mark.parametrize('family', FAMILIES)
def test_the_hosts_own_parts_keep_their_names(family):
    state = {'neck.lateral_convs.0.conv.weight': torch.zeros(1),
             'module.roi_head.bbox_head.fc_cls.weight': torch.zeros(1)}
    assert list(from_official(state, family)) == [
        'neck.lateral_convs.0.conv.weight', 'roi_head.bbox_head.fc_cls.weight']


@SOME
def test_linear_layers_come_as_pointwise_convolutions(published):
    """All of a model's, the head too; what is a convolution here stays one."""
    names = published.names('classifier')
    expected = from_official(names, published.family)
    turned = {name: value[..., None, None] if value.dim() == 2 and name.endswith('.weight')
              else value for name, value in names.items()}
    assert sum(value.dim() == 4 for value in turned.values()) > 20
    assert shapes(from_official(turned, published.family)) == shapes(expected)


@SOME
def test_pointwise_convolutions_come_as_linear_layers(published):
    names = published.names('classifier')
    expected = from_official(names, published.family)
    turned = {name: value.flatten(1) if value.shape[2:] == (1, 1) and value.shape[1] > 1 else value
              for name, value in names.items()}
    assert shapes(from_official(turned, published.family)) == shapes(expected)


def test_values_keep_their_order():
    values = torch.arange(6.)
    state = from_official({
        'layers.0.blocks.0.mlp.fc1.weight': values.view(3, 2, 1, 1),
        'patch_embed.conv3.1.conv.weight': values.view(3, 2),
        'layers.0.blocks.0.cpe1.weight': torch.zeros(4, 1, 1, 1),  # depthwise: stays as it is
    }, 'vssd')
    assert torch.equal(state['backbone.stages.0.0.mlp.fc1.weight'], values.view(3, 2))
    assert torch.equal(state['backbone.stem.conv3.1.conv.weight'], values.view(3, 2, 1, 1))
    assert state['backbone.stages.0.0.cpe1.weight'].shape == (4, 1, 1, 1)


@SOME
def test_the_input_is_left_alone(published):
    plain = published.names('backbone')
    before = dict(plain)
    from_official(plain, published.family)
    assert plain == before


@ICCV2025
def test_rotary_tables_are_dropped_and_reported(published):
    conversion = convert(published.names('backbone'), published.family)
    assert len(conversion.dropped) == 12
    assert all(name.endswith('rotations') and 'rotary' in reason
               for name, reason in conversion.dropped)


@pytest.mark.parametrize(('family', 'known'), [
    ('vssd', 'layers.0.blocks.0.cpe1.bias'), ('vmamba', 'layers.0.blocks.0.op.Ds')])
def test_unknown_names_are_all_listed(family, known):
    state = {known: torch.zeros(1), 'foo.weight': torch.zeros(1),
             'layers.0.blocks.0.attn.bar': torch.zeros(1)}
    with pytest.raises(ValueError, match=r'2 names .* foo.weight, layers.0.blocks.0.attn.bar'):
        from_official(state, family)


def test_unknown_family_lists_the_known():
    with pytest.raises(ValueError, match="unknown name 'swin'; known: vssd, vmamba"):
        from_official({}, 'swin')


def published_simple(stem=True, downsample=True, arch='micro'):
    """A VSSD with the simple parts, and its state dict under the published code's names."""
    settings = dict(vars(VSSD.archs[arch]), **(dict(stem='simple') if stem else {}),
                    **(dict(downsample='simple') if downsample else {}))
    with torch.device('meta'):
        model = VSSD(settings)
    names = [(r'^stages\.(\d+)\.(\d+)\.mixer\.conv\.', r'layers.\1.blocks.\2.attn.conv2d.'),
             (r'^stages\.(\d+)\.(\d+)\.mixer\.', r'layers.\1.blocks.\2.attn.'),
             (r'^stages\.(\d+)\.(\d+)\.', r'layers.\1.blocks.\2.'),
             (r'^norm(\d)\.', r'outnorm\1.')]
    names += [(r'^stem\.conv\.', 'patch_embed.conv1.conv.'),
              (r'^stem\.bn\.', 'patch_embed.conv1.norm.'),
              (r'^stem\.norm\.', 'patch_embed.norm.')] if stem else [
                  (r'^stem\.', 'patch_embed.')]
    names += [(r'^downsamples\.(\d)\.conv\.conv\.', r'layers.\1.downsample.conv.0.conv.'),
              (r'^downsamples\.(\d)\.norm\.', r'layers.\1.downsample.norm.')] if downsample else [
                  (r'^downsamples\.(\d)\.', r'layers.\1.downsample.conv.')]
    state = {}
    for name, value in model.state_dict().items():
        for pattern, published in names:
            if re.match(pattern, name):
                name = re.sub(pattern, published, name)
                break
        state[name] = value
    return settings, model, state


@pytest.mark.parametrize(('stem', 'downsample'), [(True, True), (True, False), (False, True),
                                                  (False, False)])
def test_simple_parts(stem, downsample):
    """Published options that no published arch has."""
    _, model, state = published_simple(stem, downsample)
    assert ('patch_embed.norm.weight' in state) == stem
    assert shapes(from_official(state, 'vssd')) == {
        f'backbone.{name}': shape for name, shape in shapes(model.state_dict()).items()}
    conversion = convert({f'module.{name}': value for name, value in state.items()}, 'vssd')
    assert conversion.settings == {name: 'simple' for name, is_simple in (
        ('stem', stem), ('downsample', downsample)) if is_simple}
    fit = closest_fit(state, candidates('vssd'))
    assert (fit.arch, fit.differences) == ('micro', 0)


def test_names_of_a_compiled_model():
    _, _, state = published_simple(False, False)
    compiled = {f'_orig_mod.{name}': value for name, value in state.items()}
    assert from_official(compiled, 'vssd') == from_official(state, 'vssd')
