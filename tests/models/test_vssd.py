"""The backbone: shapes, options, freezing, errors. Published numbers are in test_parity.py."""
import pytest
import torch
from torch import nn

from mmvssd.models import VSSD
from mmvssd.models.backbones.vssd import ARCHS
from mmvssd.models.layers import Attention, DropPath, NCSSDMixer

NANO = dict(embed_dims=16, depths=(1, 1, 2, 1), num_heads=(2, 2, 4, 4), d_state=8)
VARIANTS = {
    'arxiv': NANO,
    'iccv2025': dict(NANO, expansion=1, mlp_ratio=3, d_state=(4, 8, 12, None), normalize=True,
                     stem='plain', downsample='plain'),
    'simple': dict(NANO, stem='simple', downsample='simple'),
    'groups': dict(NANO, n_groups=2, negative_decay=True),
    'attention first': dict(NANO, mixers=('attention', 'nc_ssd', 'nc_ssd', 'nc_ssd')),
}


def half(side):
    return (side - 1) // 2 + 1


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('size', [(1, 1), (1, 31), (2, 3), (7, 5), (31, 17), (33, 64), (61, 83)])
def test_any_input_size(variant, size):
    model = VSSD(VARIANTS[variant]).eval()
    outputs = model(torch.randn(2, 3, *size))
    side = [half(half(s)) for s in size]
    if variant == 'simple':
        side = [max(1, s // 4) for s in size]
    for i, output in enumerate(outputs):
        assert output.shape == (2, 16 * 2**i, *side)
        assert output.isfinite().all()
        assert output.is_contiguous()  # the hosts' RoIAlign reads memory in this order
        side = [half(s) for s in side]


@pytest.mark.parametrize('arch', ARCHS)
def test_drop_path_grows_linearly(arch):
    with torch.device('meta'):
        model = VSSD(arch)
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    expected = [ARCHS[arch].drop_path_rate * i / (len(rates) - 1) for i in range(len(rates))]
    assert len(rates) == sum(ARCHS[arch].depths)
    assert rates == pytest.approx(expected)


def test_drop_path_drops_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    x = torch.ones(4000, 3)
    y = DropPath(0.25)(x)
    kept = y[:, 0] > 0
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.03)
    torch.testing.assert_close(y[kept], x[kept] / 0.75)
    assert torch.equal(DropPath(0.25).eval()(x), x)


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


@pytest.mark.parametrize('out_indices', [(0, ), (1, 3), (0, 1, 2, 3), (2, )])
def test_out_indices(out_indices):
    torch.manual_seed(0)
    whole = VSSD(NANO).eval()
    part = VSSD(NANO, out_indices=out_indices).eval()
    part.load_state_dict({name: value for name, value in whole.state_dict().items()
                          if name in part.state_dict()})
    x = torch.randn(1, 3, 40, 40)
    outputs, expected = part(x), whole(x)
    assert len(outputs) == len(out_indices)
    for i, output in zip(out_indices, outputs):
        assert torch.equal(output, expected[i])


def test_every_parameter_gets_a_gradient():
    for out_indices in ((3, ), (0, 2), (0, 1, 2, 3)):
        model = VSSD(NANO, out_indices=out_indices)
        sum(y.square().sum() for y in model(torch.randn(2, 3, 64, 64))).backward()
        without = [name for name, p in model.named_parameters() if p.grad is None]
        assert not without


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 3, 4])
def test_frozen_stages(frozen_stages):
    model = VSSD(NANO, frozen_stages=frozen_stages).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(list(model.parameters()), lr=0.1)
    loss = sum(y.square().sum() for y in model(torch.randn(2, 3, 64, 64)))
    if frozen_stages < 4:
        loss.backward()
        optimizer.step()
    else:
        assert not loss.requires_grad
    frozen = [f'{part}.{i}.' for part in ('stages', 'downsamples') for i in range(frozen_stages)]
    frozen += [f'norm{i}.' for i in range(frozen_stages)]
    frozen += ['stem.'] if frozen_stages >= 0 else []
    for name, value in model.state_dict().items():
        changed = not torch.equal(value, before[name])
        if name.startswith(tuple(frozen)):
            assert not changed, name
        elif name.endswith(('norm.weight', 'fc1.weight', 'running_mean')):
            assert changed, name


def test_norm_eval_keeps_running_statistics():
    model = VSSD(NANO, norm_eval=True).train()
    before = model.downsamples[0][2].norm.running_mean.clone()
    model(torch.randn(2, 3, 64, 64))
    assert torch.equal(model.downsamples[0][2].norm.running_mean, before)
    assert model.stages[0].training
    assert VSSD(NANO).train().stem.conv1.norm.training


def test_train_and_eval_can_be_chained():
    model = VSSD(NANO)
    assert model.train() is model
    assert model.eval() is model


@pytest.mark.parametrize('variant', ['arxiv', 'iccv2025'])
def test_activation_checkpointing_changes_nothing_but_memory(variant):
    torch.manual_seed(0)
    plain = VSSD(VARIANTS[variant], drop_path_rate=0.3)
    lean = VSSD(VARIANTS[variant], drop_path_rate=0.3, with_cp=True)
    lean.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 48, 48)
    stored = {}
    for name, model in (('plain', plain), ('lean', lean)):
        torch.manual_seed(1)
        sizes = []
        pack = lambda t: (sizes.append(t.numel()), t)[1]  # noqa: B023, E731
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            loss = sum(y.square().sum() for y in model(x))
        stored[name] = sum(sizes)
        loss.backward()
    for (name, p), q in zip(plain.named_parameters(), lean.parameters()):
        torch.testing.assert_close(p.grad, q.grad, msg=name)
    assert stored['lean'] < stored['plain'] / 2


@pytest.mark.parametrize('variant', ['arxiv', 'iccv2025'])
def test_autocast(variant):
    torch.manual_seed(0)
    model = VSSD(VARIANTS[variant]).eval()
    x = torch.randn(1, 3, 64, 64)
    exact = model(x)
    with torch.autocast('cpu', torch.bfloat16):
        cast = model(x)
    for y, z in zip(exact, cast):
        assert (y - z).abs().mean() < 0.02


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('variant', ['arxiv', 'iccv2025'])
def test_compiles_to_one_graph(variant, training):
    torch.manual_seed(0)
    model = VSSD(VARIANTS[variant], drop_path_rate=0.).train(training)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend='aot_eager', fullgraph=True)
    with torch.set_grad_enabled(training):
        for size in ((48, 64), (64, 80), (50, 70)):  # from the second on with open sizes
            x = torch.randn(2, 3, *size)
            for y, expected in zip(compiled(x), model(x)):
                torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)


def test_mixers_where_the_arch_says():
    model = VSSD(VARIANTS['attention first'])
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


@pytest.mark.parametrize(('arguments', 'message'), [
    (dict(arch='huge'), "arch: unknown name 'huge'; known: micro, tiny, small, base, tiny-iccv"),
    (dict(arch=dict(NANO, depth=3)), r"unknown keys \['depth'\].*known: embed_dims, depths"),
    (dict(arch=dict(embed_dims=8)), r"missing keys \['depths', 'num_heads'\]"),
    (dict(arch=dict(NANO, num_heads=(2, 2))), 'num_heads has 2 entries .* expected 4'),
    (dict(arch=dict(NANO, d_state=(8, 8))), 'd_state has 2 entries'),
    (dict(arch=dict(NANO, d_state=(8, None, 8, 8))), 'd_state of stage 1 is None'),
    (dict(arch=dict(NANO, d_state=8.)), 'd_state of stage 0 is 8.0, expected a positive mult'),
    (dict(arch=dict(NANO, d_state=6, normalize=True)), 'd_state of stage 0 is 6, .* of 4'),
    (dict(arch=dict(NANO, n_groups=3)), 'n_groups is 3, expected a divisor of 2 heads'),
    (dict(arch=dict(NANO, n_groups=2, normalize=True)), 'n_groups is 2, expected 1'),
    (dict(init_cfg=[dict(type='Constant'), dict(type='Pretrained')]), 'init_cfg: got 2 entries'),
    (dict(out_indices=3), 'out_indices: got 3'),
    (dict(arch=dict(NANO, num_heads=(3, 2, 4, 4))), 'num_heads of stage 0 is 3'),
    (dict(arch=dict(NANO, mixers=('nc_ssd', ) * 3 + ('conv', ))), "mixers: unknown name 'conv'"),
    (dict(arch=dict(NANO, stem='fancy')), "stem: unknown name 'fancy'; known: residual"),
    (dict(arch=dict(NANO, downsample='fancy')), "downsample: unknown name 'fancy'"),
    (dict(out_indices=(0, 4)), r'out_indices: got \(0, 4\), expected .* 0 to 3'),
    (dict(out_indices=(2, 1)), r'out_indices: got \(2, 1\)'),
    (dict(out_indices=()), r'out_indices: got \(\)'),
    (dict(frozen_stages=5), 'frozen_stages: got 5, expected -1'),
    (dict(drop_path_rate=1.5), 'drop_path_rate: got 1.5'),
])
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        VSSD(**{'arch': NANO, **arguments})


def test_misspelt_argument():
    with pytest.raises(TypeError, match='drop_path'):
        VSSD(NANO, drop_path=0.1)


@pytest.mark.parametrize('shape', [(3, 32, 32), (1, 1, 32, 32), (1, 4, 32, 32)])
def test_bad_image(shape):
    with pytest.raises(ValueError, match=r'VSSD: got an input of shape .* \(N, 3, H, W\)'):
        VSSD(NANO)(torch.zeros(shape))


def test_other_number_of_channels():
    assert VSSD(NANO, in_channels=4)(torch.zeros(2, 4, 64, 64))[0].shape == (2, 16, 16, 16)
