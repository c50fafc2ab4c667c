"""The published models' recorded outputs and parameter counts."""
import math

import pytest
import torch
from mmengine.registry import DefaultScope

from mmvssd.models import VSSD

# VSSD's recordings were computed in float64 and stored in float32, VMamba's computed in float32:
# in float64 all that is left of a difference is the recording's own rounding
TOLERANCE = {
    ('vssd', torch.float32): 1e-4, ('vssd', torch.float64): 1e-6,
    ('vmamba', torch.float32): 1e-4, ('vmamba', torch.float64): 1e-5,
}
DTYPES = pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)


def image_of(golden, case, dtype):
    return torch.from_numpy(golden.image(tuple(case['input_shape']))).to(dtype)


def relative_error(given, recorded):
    recorded = torch.from_numpy(recorded).to(given.dtype)
    return ((given - recorded).abs().max() / recorded.abs().max()).item()


@DTYPES
def test_stages(golden, published, dtype):
    with torch.device('meta'):  # draws no weights
        model = published.backbone(published.arch)
    state = {name.removeprefix('backbone.'): value
             for name, value in published.converted('backbone').items()}
    model.load_state_dict(state, assign=True)
    model.eval().to(dtype)
    cases = {name: case for name, case in published.load_cases().items() if 'stage0' in case}
    assert len(cases) >= 3
    for name, case in cases.items():
        with torch.no_grad():
            outputs = model(image_of(golden, case, dtype))
        for i, output in enumerate(outputs):
            error = relative_error(output, case[f'stage{i}'])
            assert error < TOLERANCE[published.family, dtype], (name, i)


# one of each op and state size
@pytest.mark.slow
@pytest.mark.parametrize('published', [
    ('vssd', 'micro'), ('vssd', 'tiny-iccv2025'), ('vmamba', 'tiny-s1l8'), ('vmamba', 'v0-tiny'),
], ids='-'.join, indirect=True)
def test_stages_by_the_kernels(golden, published, gpu_arithmetic, monkeypatch):
    """As :func:`test_stages`, through Triton; where there is no GPU a small image, interpreted."""
    pytest.importorskip('triton')
    if published.family == 'vmamba' and not torch.cuda.is_available():
        pytest.skip('interpreted, the scans of a whole VMamba take many minutes')
    monkeypatch.setenv('MMVSSD_KERNEL', 'triton')
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    model = published.backbone(published.arch)
    model.load_state_dict({name.removeprefix('backbone.'): value
                           for name, value in published.converted('backbone').items()})
    model.eval().to(device)
    cases = [case for case in published.load_cases().values() if 'stage0' in case]
    if device == 'cpu':
        cases = [min(cases, key=lambda case: math.prod(case['input_shape']))]
    for case in cases:
        with torch.no_grad():
            outputs = model(image_of(golden, case, torch.float32).to(device))
        for i, output in enumerate(outputs):
            error = relative_error(output.cpu(), case[f'stage{i}'])
            assert error < TOLERANCE[published.family, torch.float32], i


@DTYPES
def test_logits_and_parameters(golden, published, dtype):
    pytest.importorskip('mmpretrain')
    from mmpretrain.registry import MODELS
    dims = published.backbone.archs[published.arch].dims
    # whichever scope another test left behind
    with DefaultScope.overwrite_default_scope('mmpretrain'), torch.device('meta'):
        model = MODELS.build(dict(
            type='mmpretrain.ImageClassifier',
            backbone=dict(type=f'mmvssd.{published.backbone.__name__}', arch=published.arch,
                          out_indices=(3, )),
            neck=dict(type='mmpretrain.GlobalAveragePooling'),
            head=dict(type='mmpretrain.LinearClsHead', num_classes=1000, in_channels=dims[-1])))
    model.load_state_dict(published.converted('classifier'), assign=True)
    model.eval()
    model.to(dtype)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == published.description['params']
    case = published.load_cases()['classify']
    with torch.no_grad():
        logits = model(image_of(golden, case, dtype), mode='tensor')
        logits = logits[0] if isinstance(logits, (tuple, list)) else logits
        logits = model.head.fc(logits) if logits.shape[1] != 1000 else logits
    assert relative_error(logits, case['logits']) < TOLERANCE[published.family, dtype]


def test_base_of_both_versions_is_one_model():
    with torch.device('meta'):
        shapes = [{name: value.shape for name, value in VSSD(arch).state_dict().items()}
                  for arch in ('base', 'base-iccv2025')]
    assert shapes[0] == shapes[1]
