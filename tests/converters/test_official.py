"""Renaming as a pure function, on the published names and shapes."""
import pytest
import torch

from mmvssd.converters import convert, from_official
from mmvssd.models import VSSD

VARIANTS = ['vssd_micro', 'vssd_tiny', 'vssd_small', 'vssd_base', 'vssd_tiny_iccv2025',
            'vssd_small_iccv2025']


def published(golden, variant, part):
    """Every published entry as an empty tensor, rotary tables included."""
    return {name: torch.empty(shape, device='meta')
            for name, shape in golden.describe(variant)[part].items()}


def shapes(state):
    return {name: tuple(value.shape) for name, value in state.items()}


def expected_backbone(variant):
    with torch.device('meta'):
        model = VSSD(variant.removeprefix('vssd_').replace('_', '-'))
    return {f'backbone.{name}': shape for name, shape in shapes(model.state_dict()).items()}


@pytest.mark.parametrize('variant', VARIANTS)
def test_every_published_name_finds_its_place(golden, variant):
    state = from_official(published(golden, variant, 'backbone'), 'vssd')
    assert shapes(state) == expected_backbone(variant)


@pytest.mark.parametrize('variant', VARIANTS)
def test_classifier(golden, variant):
    state = shapes(from_official(published(golden, variant, 'classifier'), 'vssd'))
    expected = {name: shape for name, shape in expected_backbone(variant).items()
                if not name.startswith(('backbone.norm0', 'backbone.norm1', 'backbone.norm2'))}
    width = expected['backbone.norm3.weight'][0]
    assert state == {**expected, 'head.fc.weight': (1000, width), 'head.fc.bias': (1000, )}


@pytest.mark.parametrize('prefix', ['module.', 'backbone.', 'module.backbone.'])
def test_prefixes_make_no_difference(golden, prefix):
    plain = published(golden, 'vssd_tiny', 'backbone')
    prefixed = {prefix + name: value for name, value in plain.items()}
    assert from_official(prefixed, 'vssd') == from_official(plain, 'vssd')


def test_the_hosts_own_parts_keep_their_names():
    state = {'neck.lateral_convs.0.conv.weight': torch.zeros(1),
             'module.roi_head.bbox_head.fc_cls.weight': torch.zeros(1)}
    assert list(from_official(state, 'vssd')) == [
        'neck.lateral_convs.0.conv.weight', 'roi_head.bbox_head.fc_cls.weight']


def test_linear_layers_and_pointwise_convolutions_stand_for_each_other():
    state = from_official({
        'layers.0.blocks.0.mlp.fc1.weight': torch.arange(6.).view(3, 2, 1, 1),
        'patch_embed.conv3.1.conv.weight': torch.arange(6.).view(3, 2),
        'layers.0.blocks.0.cpe1.weight': torch.zeros(4, 1, 1, 1),  # depthwise: stays as it is
    }, 'vssd')
    assert state['backbone.stages.0.0.mlp.fc1.weight'].shape == (3, 2)
    assert state['backbone.stem.conv3.1.conv.weight'].shape == (3, 2, 1, 1)
    assert state['backbone.stages.0.0.cpe1.weight'].shape == (4, 1, 1, 1)


def test_the_input_is_left_alone(golden):
    plain = published(golden, 'vssd_tiny_iccv2025', 'backbone')
    before = dict(plain)
    from_official(plain, 'vssd')
    assert plain == before


def test_rotary_tables_are_dropped_and_reported(golden):
    conversion = convert(published(golden, 'vssd_tiny_iccv2025', 'backbone'), 'vssd')
    assert len(conversion.dropped) == 12
    assert all(name.endswith('rotations') and 'rotary' in reason
               for name, reason in conversion.dropped)


def test_unknown_names_are_all_listed():
    state = {'layers.0.blocks.0.cpe1.bias': torch.zeros(1), 'foo.weight': torch.zeros(1),
             'layers.0.blocks.0.attn.bar': torch.zeros(1)}
    with pytest.raises(ValueError, match=r'2 names .* foo.weight, layers.0.blocks.0.attn.bar'):
        from_official(state, 'vssd')


def test_unknown_family_lists_the_known():
    with pytest.raises(ValueError, match="unknown name 'swin'; known: vssd"):
        from_official({}, 'swin')
