"""The published models' recorded outputs and parameter counts."""
import pytest
import torch
from mmengine.registry import DefaultScope

from mmvssd.converters import from_official
from mmvssd.models import VSSD

VARIANTS = ['vssd_micro', 'vssd_tiny', 'vssd_small', 'vssd_base', 'vssd_tiny_iccv2025',
            'vssd_small_iccv2025']
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}


def arch_of(variant):
    return variant.removeprefix('vssd_').replace('_', '-')


def converted(golden, variant, part):
    official = golden.official_state_dict(variant, part)
    return from_official({name: torch.from_numpy(value) for name, value in official.items()},
                         'vssd')


def backbone_of(state):
    return {name.removeprefix('backbone.'): value for name, value in state.items()
            if name.startswith('backbone.')}


def relative_error(given, recorded):
    recorded = torch.from_numpy(recorded).to(given.dtype)
    return ((given - recorded).abs().max() / recorded.abs().max()).item()


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('variant', VARIANTS)
def test_stages(golden, variant, dtype):
    model = VSSD(arch_of(variant))
    model.load_state_dict(backbone_of(converted(golden, variant, 'backbone')))
    model.eval().to(dtype)
    cases = {name: case for name, case in golden.load_cases(variant).items() if 'stage0' in case}
    assert len(cases) >= 3
    for name, case in cases.items():
        image = torch.from_numpy(golden.image(tuple(case['input_shape']))).to(dtype)
        with torch.no_grad():
            outputs = model(image)
        for i, output in enumerate(outputs):
            assert relative_error(output, case[f'stage{i}']) < TOLERANCE[dtype], (name, i)


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('variant', VARIANTS)
def test_logits_and_parameters(golden, variant, dtype):
    pytest.importorskip('mmpretrain')
    from mmpretrain.registry import MODELS
    dims = VSSD(arch_of(variant)).dims
    # whichever scope another test left behind
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(
            type='mmpretrain.ImageClassifier',
            backbone=dict(type='mmvssd.VSSD', arch=arch_of(variant), out_indices=(3, )),
            neck=dict(type='mmpretrain.GlobalAveragePooling'),
            head=dict(type='mmpretrain.LinearClsHead', num_classes=1000, in_channels=dims[-1])))
    model.load_state_dict(converted(golden, variant, 'classifier'))
    model.eval()
    model.to(dtype)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == golden.describe(variant)['params']
    case = golden.load_cases(variant)['classify']
    image = torch.from_numpy(golden.image(tuple(case['input_shape']))).to(dtype)
    with torch.no_grad():
        logits = model(image, mode='tensor')
        logits = logits[0] if isinstance(logits, (tuple, list)) else logits
        logits = model.head.fc(logits) if logits.shape[1] != 1000 else logits
    assert relative_error(logits, case['logits']) < TOLERANCE[dtype]


def test_base_of_both_versions_is_one_model():
    with torch.device('meta'):
        shapes = [{name: value.shape for name, value in VSSD(arch).state_dict().items()}
                  for arch in ('base', 'base-iccv2025')]
    assert shapes[0] == shapes[1]
