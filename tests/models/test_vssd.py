"""What is VSSD's alone: mixers, BatchNorm, initial values, settings."""
import pytest
import torch
from torch import nn

from mmvssd.families import FAMILIES
from mmvssd.models import VSSD
from mmvssd.models.layers import Attention, NCSSDMixer, Padding, SSDMixer

NANO = FAMILIES['vssd'].nano


def test_default_arch():
    assert VSSD.default_arch == 'tiny'


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


def test_causal_mixers_where_the_arch_says():
    model = VSSD(dict(NANO, mixers=('ssd', 'bi_ssd', 'nc_ssd', 'bi_ssd')))
    mixers = [blocks[0].mixer for blocks in model.stages]
    assert [type(mixer) for mixer in mixers] == [SSDMixer, SSDMixer, NCSSDMixer, SSDMixer]
    assert [mixers[i].bidirectional for i in (0, 1, 3)] == [False, True, True]
    assert mixers[0].state_dict().keys() == mixers[2].state_dict().keys()


def causal_parts(mixer, H, W):
    """The mixer up to its op, and from it on, for one image."""
    torch.manual_seed(0)
    x = torch.randn(1, H, W, 16, dtype=torch.float64)
    z, xBC, dt = mixer.in_proj(x)
    xBC = nn.functional.silu(mixer.conv(xBC)).flatten(1, 2)[0]
    u, B, C = xBC.split([mixer.d_inner, mixer.d_bc, mixer.d_bc], dim=-1)
    dt = nn.functional.softplus(dt.flatten(1, 2)[0] + mixer.dt_bias)
    end = lambda y: mixer.out_proj(mixer.norm(y.view(1, H, W, -1)) * z)  # noqa: E731
    return x, u, dt, B, C, end


@pytest.mark.parametrize(('bidirectional', 'G'), [(False, 1), (False, 2), (True, 1), (True, 2),
                                                  (True, 4)])
def test_causal_mixers_are_the_recurrence(bidirectional, G):
    torch.manual_seed(1)
    h, P, S, L = 4, 8, 3, 20
    mixer = SSDMixer(16, h, S, n_groups=G, bidirectional=bidirectional).double()
    mixer.D.data.normal_()
    x, u, dt, B, C, end = causal_parts(mixer, 4, 5)
    y = torch.zeros(L, h, P, dtype=torch.float64)
    for j in range(h):
        group = j // (h // G)
        backward = bidirectional and j >= h // 2
        state = torch.zeros(S, P, dtype=torch.float64)
        for t in reversed(range(L)) if backward else range(L):
            u_t = u[t].view(h, P)[j]
            B_t, C_t = (v[t].view(G, S)[group] for v in (B, C))
            decay = (-dt[t, j] * mixer.A_log[j].exp()).exp()
            state = decay * state + torch.outer(dt[t, j] * B_t, u_t)
            y[t, j] = C_t @ state + mixer.D[j] * u_t
    torch.testing.assert_close(mixer(x), end(y))


@pytest.mark.parametrize('bidirectional', [False, True])
def test_causal_states_pass_padding(bidirectional):
    """An image of 3 x 4 tokens in a grid of 5 x 6, whose padding holds NaN."""
    torch.manual_seed(0)
    mixer = SSDMixer(16, 4, 3, bidirectional=bidirectional).double()
    mixer.norm = nn.Identity()
    image = torch.randn(1, 3, 4, 16, dtype=torch.float64)
    padded = torch.full((1, 5, 6, 16), float('nan'), dtype=torch.float64)
    padded[:, :3, :4] = image
    padding = Padding(torch.tensor([[3, 4]]), (5, 6))
    seen = []
    mixer.norm.register_forward_hook(lambda module, args, output: seen.append(output))
    alone, shared = mixer(image), mixer(padded, padding)
    torch.testing.assert_close(shared[:, :3, :4], alone)
    assert (seen[1][:, 3:] == 0).all()
    assert (seen[1][:, :, 4:] == 0).all()


@pytest.mark.parametrize(('settings', 'message'), [
    (dict(num_heads=(2, 2)), 'num_heads has 2 entries .* expected 4'),
    (dict(d_state=(8, 8)), 'd_state has 2 entries'),
    (dict(d_state=(8, None, 8, 8)), 'd_state of stage 1: got None'),
    (dict(d_state=8.), 'd_state of stage 0: got 8.0, expected an integer'),
    (dict(d_state=6, normalize=True), 'd_state of stage 0: got 6, .* of 4'),
    (dict(n_groups=3), 'n_groups is 3, expected a divisor of 2 heads'),
    (dict(n_groups=2, normalize=True), 'n_groups is 2, expected 1'),
    (dict(num_heads=(3, 2, 4, 4)), 'num_heads of stage 0 is 3'),
    (dict(mixers=('nc_ssd', ) * 3 + ('conv', )), "mixers: unknown name 'conv'"),
    (dict(mixers=('nc_ssd', 'ssd', 'nc_ssd', 'attention'), normalize=True),
     "normalize is set, and stage 1 has the mixer 'ssd'"),
    (dict(mixers=('bi_ssd', ) * 4, negative_decay=True),
     "negative_decay is set, and stage 0 has the mixer 'bi_ssd'"),
    (dict(mixers=('ssd', ) * 4, d_state=(8, 8, None, 8)), 'd_state of stage 2: got None'),
    (dict(mixers=('bi_ssd', ) * 4, num_heads=(2, 1, 4, 4)),
     'stage 1 has bi_ssd: num_heads is 1, expected an even number'),
    (dict(mixers=('bi_ssd', ) * 4, num_heads=(6, 6, 6, 6), embed_dims=24, n_groups=3),
     'stage 0 has bi_ssd: n_groups is 3, expected 1 or an even number'),
    (dict(stem='fancy'), "stem: unknown name 'fancy'; known: residual"),
    (dict(downsample='fancy'), "downsample: unknown name 'fancy'"),
])
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        VSSD(dict(NANO, **settings))
