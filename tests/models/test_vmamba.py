"""What is VMamba's alone: versions, initial values, settings."""
import math
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from mmvssd.families import FAMILIES
from mmvssd.models import VMamba
from mmvssd.models.backbones.vmamba import VERSIONS
from mmvssd.models.layers import DOWNSAMPLES, SS2D, STEMS

NANO = FAMILIES['vmamba'].nano


def test_default_arch():
    assert VMamba.default_arch == 'tiny-s1l8'


@pytest.mark.parametrize('arch', ['v0-tiny', 'tiny-s2l5', 'tiny-s1l8'])
def test_initial_values(arch):
    torch.manual_seed(0)
    model = VMamba(arch)
    state = VMamba.archs[arch].d_state
    mixers = [m for m in model.modules() if isinstance(m, SS2D)]
    assert len(mixers) == sum(VMamba.archs[arch].depths)
    for mixer in mixers:
        assert (mixer.Ds == 1).all()
        expected = torch.arange(1., state + 1).log().expand(4 * mixer.d_inner, state)
        torch.testing.assert_close(mixer.A_logs, expected)
        assert_uniform(mixer.dt_projs_weight, mixer.dt_rank**-0.5)
        assert_uniform(mixer.x_proj_weight, mixer.d_inner**-0.5)  # as nn.Linear draws
    dt = torch.cat([nn.functional.softplus(m.dt_projs_bias).flatten() for m in mixers])
    assert 1e-4 <= dt.min() < 1.1e-3
    assert 0.09 < dt.max() <= 0.1 + 1e-6
    assert dt.log().mean().item() == pytest.approx((math.log(1e-3) + math.log(1e-1)) / 2, rel=0.01)
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    for linear in linears:
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert linear.bias is None or (linear.bias == 0).all()


def assert_uniform(weight, bound):
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_first_version_has_a_gate_and_no_mlp():
    """What the counts of parameters in test_parity.py cannot tell: what the gate does."""
    first, later = VMamba(dict(NANO, version='v0')), VMamba(NANO)
    for model, gated in ((first, True), (later, False)):
        for block in (block for blocks in model.stages for block in blocks):
            assert (block.mlp is None) == gated
            assert block.mixer.gated == gated
            assert (block.mixer.conv.bias is not None) == gated


def parts_of(model):
    """What each of the settings that a version couples has made, one entry a part."""
    mixers = [block.mixer for blocks in model.stages for block in blocks]
    return dict(
        stem={type(model.stem)}, downsample={type(part) for part in model.downsamples},
        gated={mixer.gated for mixer in mixers},
        conv={mixer.conv is not None for mixer in mixers},
        conv_bias={mixer.conv is not None and mixer.conv.bias is not None for mixer in mixers},
        mlp_ratio={block.mlp and block.mlp.fc1.out_features / block.mlp.fc1.in_features
                   for blocks in model.stages for block in blocks})


@pytest.mark.parametrize('version', VERSIONS)
@pytest.mark.parametrize(('name', 'value', 'made'), [
    ('gated', True, True), ('gated', False, False), ('conv_bias', True, True),
    ('conv_bias', False, False), ('conv', False, False), ('mlp_ratio', 0, None),
    ('mlp_ratio', 3, 3), ('mlp_ratio', 2.5, 2.5), ('stem', 'plain', STEMS['plain']),
    ('stem', 'patch', STEMS['patch']), ('downsample', 'inverted', DOWNSAMPLES['inverted']),
    ('downsample', 'norm', DOWNSAMPLES['norm'])])
def test_a_setting_replaces_the_versions_own(version, name, value, made):
    """And no other, but the bias of a convolution that is not there."""
    own = parts_of(VMamba(dict(NANO, version=version)))
    expected = dict(own, **{name: {made}})
    if name == 'conv':
        expected['conv_bias'] = {False}
    assert parts_of(VMamba(dict(NANO, version=version, **{name: value}))) == expected


def test_settings_that_are_left_open_are_the_versions():
    """So that what was built by an arch's name or by a dict, or is stored, stays what it is."""
    for name, arch in VMamba.archs.items():
        own = VERSIONS[arch.version]
        given = replace(arch, **own._asdict())
        assert given == arch, name
        assert arch.conv
        assert VMamba.arch_type(**asdict(arch)) == arch
        left_open = dict(asdict(arch), **dict.fromkeys(own._fields))
        assert VMamba.arch_type(**left_open) == arch
    without = VMamba.arch_type(embed_dims=16, depths=(1, ), version='v0', conv=False)
    assert not without.conv_bias
    assert VMamba.arch_type(**asdict(without)) == without


def test_no_convolution():
    """No parameter of it, all others as before; what it would have done is left out."""
    names = {key: set(VMamba(dict(NANO, **settings)).state_dict()) for key, settings in
             (('with', {}), ('without', dict(conv=False)))}
    convolutions = {name for name in names['with'] if '.mixer.conv.' in name}
    assert len(convolutions) == sum(NANO['depths'])
    assert names['without'] == names['with'] - convolutions
    torch.manual_seed(0)
    with_one = SS2D(8, gated=True).double()
    without = SS2D(8, gated=True, conv=False).double()
    state = with_one.state_dict()
    kernel = state.pop('conv.weight')
    without.load_state_dict(state)
    with torch.no_grad():
        kernel.zero_()[:, :, 1, 1] = 1  # takes each token as it is
        x = torch.randn(2, 3, 5, 8, dtype=torch.float64)
        torch.testing.assert_close(without(x), with_one(x), rtol=1e-12, atol=1e-12)


def test_silu_without_a_convolution_leaves_its_input():
    """Without gradients SiLU works in its input's memory: the layer's input stays."""
    torch.manual_seed(0)
    mixer = SS2D(8, gated=True, conv=False)
    x = torch.randn(2, 3, 5, 8)
    kept = x.clone()
    with torch.no_grad():
        y = mixer(x)
    assert torch.equal(x, kept)
    torch.testing.assert_close(mixer(x), y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(('settings', 'message'), [
    (dict(version='v1'), "version: unknown name 'v1'; known: v0, v05_noz"),
    (dict(pattern='diagonal'),
     "pattern: unknown name 'diagonal'; known: cross, unidirectional, bidirectional, cascade"),
    (dict(d_state=0), 'd_state: got 0, expected an integer of 1'),
    (dict(d_state=1.5), 'd_state: got 1.5, expected an integer of 1'),
    (dict(ssm_ratio=0.05), r'ssm_ratio: got 0.05, expected an inner width ssm_ratio \* 16 of 1'),
    (dict(gated=1), 'arch: gated: got 1, expected True or False'),
    (dict(gated='yes'), "arch: gated: got 'yes', expected True or False"),
    (dict(conv=None), 'arch: conv: got None, expected True or False'),
    (dict(conv=3), 'arch: conv: got 3, expected True or False'),
    (dict(conv_bias='False'), "arch: conv_bias: got 'False', expected True or False"),
    (dict(conv=False, conv_bias=True), 'arch: conv_bias is set, and conv is not'),
    (dict(mlp_ratio=-1), 'arch: mlp_ratio: got -1, expected 0 for no MLP, or a number above'),
    (dict(mlp_ratio=True), 'arch: mlp_ratio: got True'),
    (dict(mlp_ratio='4'), "arch: mlp_ratio: got '4'"),
    (dict(mlp_ratio=float('nan')), 'arch: mlp_ratio: got nan'),
    (dict(mlp_ratio=0.05), r'mlp_ratio: got 0.05, expected a hidden width mlp_ratio \* 16 of 1'),
    (dict(stem='overlapp'), "stem: unknown name 'overlapp'.*did you mean overlap"),
    (dict(stem=False), 'stem: unknown name False'),
    (dict(downsample='merge'), "downsample: unknown name 'merge'.*did you mean merging"),
    (dict(downsample=['norm']), r"downsample: unknown name \['norm'\]"),
    (dict(gate=True), r"unknown keys \['gate'\].*did you mean gated"),
    (dict(mlp_ration=4), r"unknown keys \['mlp_ration'\].*did you mean mlp_ratio"),
    (dict(num_heads=(2, 2, 4, 4)), r"unknown keys \['num_heads'\].*known: embed_dims, depths"),
])
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        VMamba(dict(NANO, **settings))
