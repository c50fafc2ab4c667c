"""What is VMamba's alone: versions, initial values, settings."""
import math

import pytest
import torch
from torch import nn

from mmvssd.families import FAMILIES
from mmvssd.models import VMamba
from mmvssd.models.layers import SS2D

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


@pytest.mark.parametrize(('settings', 'message'), [
    (dict(version='v1'), "version: unknown name 'v1'; known: v0, v05_noz"),
    (dict(pattern='diagonal'),
     "pattern: unknown name 'diagonal'; known: cross, unidirectional, bidirectional, cascade"),
    (dict(d_state=0), 'd_state: got 0, expected an integer of 1'),
    (dict(d_state=1.5), 'd_state: got 1.5, expected an integer of 1'),
    (dict(ssm_ratio=0.05), r'ssm_ratio: got 0.05, expected an inner width ssm_ratio \* 16 of 1'),
    (dict(num_heads=(2, 2, 4, 4)), r"unknown keys \['num_heads'\].*known: embed_dims, depths"),
])
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        VMamba(dict(NANO, **settings))
