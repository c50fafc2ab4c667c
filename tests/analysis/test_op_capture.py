"""Recording an op from outside: what it holds, and that the mixer is as before afterwards."""
import pytest
import torch

from mmvssd.analysis.op_capture import recorded_maps, recording
from mmvssd.analysis.op_maps import self_check
from mmvssd.errors import ConfigError
from mmvssd.families import FAMILIES

IMAGE = (37, 53)


def build(family, **settings):
    torch.manual_seed(0)
    arch = dict(FAMILIES[family].nano, **settings)
    return FAMILIES[family].backbone(arch).double().eval()


@pytest.fixture(scope='module')
def image():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, *IMAGE, generator=generator, dtype=torch.float64)


BACKBONES = {
    'cross': ('vmamba', {}),
    'unidirectional': ('vmamba', dict(pattern='unidirectional')),
    'bidirectional': ('vmamba', dict(pattern='bidirectional', d_state=4)),
    'v0': ('vmamba', dict(version='v0', d_state=16)),
    'vssd': ('vssd', {}),
    'groups': ('vssd', dict(n_groups=2, negative_decay=True)),
    'iccv2025': ('vssd', dict(normalize=True, d_state=(4, 8, 12, None))),
    'causal': ('vssd', dict(mixers=('ssd', 'bi_ssd', 'bi_ssd', 'ssd'))),
    'causal groups': ('vssd', dict(mixers=('bi_ssd', 'ssd', 'bi_ssd', 'ssd'), n_groups=2)),
}


@pytest.mark.parametrize('name', BACKBONES)
def test_maps_of_every_mixer_give_its_output(name, image):
    family, settings = BACKBONES[name]
    backbone = build(family, **settings)
    for blocks in backbone.stages:
        mixer = blocks[0].mixer
        with torch.no_grad(), recording(mixer) as record:
            backbone(image)
        maps = recorded_maps(mixer, record)
        assert maps.grid == record.grid
        assert self_check(maps, range(maps.length)) <= 1e-12


@pytest.mark.parametrize('name', BACKBONES)
def test_recording_changes_nothing(name, image):
    backbone = build(*BACKBONES[name][:1], **BACKBONES[name][1])
    with torch.no_grad():
        before = backbone(image)
    mixers = [blocks[-1].mixer for blocks in backbone.stages]
    ops = [getattr(mixer, 'op', None) for mixer in mixers]
    for mixer in mixers:
        with torch.no_grad(), recording(mixer) as record:
            during = backbone(image)
        assert record.calls
        assert all(torch.equal(a, b) for a, b in zip(before, during))
    for mixer, op in zip(mixers, ops):
        assert getattr(mixer, 'op', None) is op
        assert not any(module._forward_hooks or module._forward_pre_hooks
                       for module in mixer.modules())
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(before, backbone(image)))


@pytest.mark.parametrize(('family', 'stage'), [('vmamba', 2), ('vssd', 2), ('vssd', 3)])
def test_put_back_after_an_exception(family, stage, image):
    backbone = build(family)
    mixer = backbone.stages[stage][0].mixer
    op = getattr(mixer, 'op', None)
    with pytest.raises(KeyError, match='of the block'), recording(mixer):
        raise KeyError('of the block')
    with pytest.raises(RuntimeError), recording(mixer):
        backbone(image.to(torch.complex128).real.float())  # weights are float64
    assert getattr(mixer, 'op', None) is op
    assert not any(module._forward_hooks or module._forward_pre_hooks
                   for module in mixer.modules())


def test_a_recording_is_detached_and_a_copy(image):
    backbone = build('vmamba')
    mixer = backbone.stages[2][0].mixer
    with recording(mixer) as record:
        backbone(image)
    (arguments, result), = record.calls
    assert set(arguments) == {'x', 'dt', 'dt_weight', 'A', 'B', 'C', 'D', 'dt_bias', 'pattern',
                              'mask', 'impl'}
    tensors = [value for value in (*arguments.values(), result) if torch.is_tensor(value)]
    assert len(tensors) == 9
    assert not any(t.requires_grad for t in tensors)
    weight = arguments['dt_weight'].clone()
    with torch.no_grad():
        mixer.dt_projs_weight.zero_()
    assert torch.equal(arguments['dt_weight'], weight)


def test_bi_ssd_is_recorded_twice(image):
    backbone = build('vssd', mixers=('bi_ssd', ) * 4)
    mixer = backbone.stages[1][0].mixer
    with torch.no_grad(), recording(mixer) as record:
        backbone(image)
    assert [call.arguments['reverse'] for call in record.calls] == [False, True]


def test_what_has_no_map():
    with pytest.raises(ConfigError, match="pattern='cascade' has no map"), recording(
            build('vmamba', pattern='cascade').stages[0][0].mixer):
        pass
    with pytest.raises(ConfigError, match='is not a mixer'), recording(torch.nn.Linear(2, 2)):
        pass


def test_only_one_image_without_padding(image):
    backbone = build('vmamba')
    mixer = backbone.stages[0][0].mixer
    with recording(mixer) as record:
        pass
    with pytest.raises(ValueError, match='did not run'):
        recorded_maps(mixer, record)
    with torch.no_grad(), recording(mixer) as record:
        backbone(image.repeat(2, 1, 1, 1))
    with pytest.raises(ValueError, match='got 2 images'):
        recorded_maps(mixer, record)
    with torch.no_grad(), recording(mixer) as record:
        backbone(image, sizes=[(20, 20)])
    with pytest.raises(ValueError, match='padding: True'):
        recorded_maps(mixer, record)
