"""What is VSSD's alone: mixers, BatchNorm, initial values, settings."""
import pytest
import torch
from torch import nn

from mmvssd.models import VSSD
from mmvssd.models.layers import Attention, NCSSDMixer

NANO = dict(embed_dims=16, depths=(1, 1, 2, 1), num_heads=(2, 2, 4, 4), d_state=8)


def test_initial_values():
    torch.manual_seed(0)
    model = VSSD('micro')
    mixer = model.stages[1][0].mixer
    assert mixer.in_proj.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert (model.stages[3][0].mixer.to_out.bias == 0).all()
    mixers = [m for m in model.modules() if isinstance(m, NCSSDMixer)]
    A = torch.cat([m.A_log.exp() for m in mixers])
    dt = torch.cat([nn.functional.softplus(m.dt_bias) for m in mixers])
    assert 1 <= A.min() < 5
    assert 12 < A.max() <= 16
    assert 1e-4 <= dt.min() < 5e-3
    assert 0.05 < dt.max() <= 0.1 + 1e-6
    assert all((m.D == 1).all() for m in mixers)


def test_norm_eval_keeps_running_statistics():
    model = VSSD(NANO, norm_eval=True).train()
    before = model.downsamples[0][2].norm.running_mean.clone()
    model(torch.randn(2, 3, 64, 64))
    assert torch.equal(model.downsamples[0][2].norm.running_mean, before)
    assert model.stages[0].training
    assert VSSD(NANO).train().stem.conv1.norm.training


def test_mixers_where_the_arch_says():
    model = VSSD(dict(NANO, mixers=('attention', 'nc_ssd', 'nc_ssd', 'nc_ssd')))
    kinds = [type(blocks[0].mixer) for blocks in model.stages]
    assert kinds == [Attention, NCSSDMixer, NCSSDMixer, NCSSDMixer]


def test_negative_decay_turns_the_sign_of_the_state():
    torch.manual_seed(0)
    plain, turned = NCSSDMixer(16, 2, 8), NCSSDMixer(16, 2, 8, negative_decay=True)
    turned.load_state_dict(plain.state_dict())
    plain.norm = turned.norm = nn.Identity()
    for mixer in (plain, turned):
        mixer.D.data.zero_()
    x = torch.randn(2, 5, 5, 16)
    torch.testing.assert_close(plain(x), -turned(x))


@pytest.mark.parametrize(('settings', 'message'), [
    (dict(num_heads=(2, 2)), 'num_heads has 2 entries .* expected 4'),
    (dict(d_state=(8, 8)), 'd_state has 2 entries'),
    (dict(d_state=(8, None, 8, 8)), 'd_state of stage 1 is None'),
    (dict(d_state=8.), 'd_state of stage 0 is 8.0, expected a positive mult'),
    (dict(d_state=6, normalize=True), 'd_state of stage 0 is 6, .* of 4'),
    (dict(n_groups=3), 'n_groups is 3, expected a divisor of 2 heads'),
    (dict(n_groups=2, normalize=True), 'n_groups is 2, expected 1'),
    (dict(num_heads=(3, 2, 4, 4)), 'num_heads of stage 0 is 3'),
    (dict(mixers=('nc_ssd', ) * 3 + ('conv', )), "mixers: unknown name 'conv'"),
    (dict(stem='fancy'), "stem: unknown name 'fancy'; known: residual"),
    (dict(downsample='fancy'), "downsample: unknown name 'fancy'"),
])
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        VSSD(dict(NANO, **settings))
