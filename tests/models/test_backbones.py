"""What every backbone does: shapes, options, freezing, errors. Published numbers are in
test_parity.py, what sets a family apart in test_vssd.py and test_vmamba.py.
"""
import numpy as np
import pytest
import torch

from mmvssd.families import FAMILIES, every_arch
from mmvssd.models.layers import DropPath

ARCHS = [pytest.param(family.backbone, arch, id=f'{family.name}-{arch}')
         for family, arch in every_arch()]


def half(side):
    return (side - 1) // 2 + 1


@pytest.mark.parametrize('size', [(1, 1), (1, 31), (2, 3), (7, 5), (31, 17), (33, 64), (61, 83)])
def test_any_input_size(variant, size):
    model = variant.build().eval()
    outputs = model(torch.randn(2, 3, *size))
    side = [max(1, s // 4) if variant.rounds_down else half(half(s)) for s in size]
    for i, output in enumerate(outputs):
        assert output.shape == (2, 16 * 2**i, *side)
        assert output.isfinite().all()
        assert output.is_contiguous()  # the hosts' RoIAlign reads memory in this order
        side = [half(s) for s in side]


@pytest.mark.parametrize(('family', 'arch'), ARCHS)
def test_drop_path_grows_linearly(family, arch):
    with torch.device('meta'):
        model = family(arch)
    arch = family.archs[arch]
    rates = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
    expected = [arch.drop_path_rate * i / (len(rates) - 1) for i in range(len(rates))]
    assert len(rates) == sum(arch.depths)
    assert rates == pytest.approx(expected)


def test_drop_path_drops_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    x = torch.ones(4000, 3)
    y = DropPath(0.25)(x)
    kept = y[:, 0] > 0
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.03)
    torch.testing.assert_close(y[kept], x[kept] / 0.75)
    assert torch.equal(DropPath(0.25).eval()(x), x)


def test_both_branches_of_a_block_drop(variant):
    """At a rate of almost 1 a block gives back what the convolutions before its branches made."""
    torch.manual_seed(0)
    block = variant.build().stages[2][1].train()
    block.drop_path.drop_prob = 1 - 1e-9
    block.cpe1 = block.cpe2 = None
    x = torch.randn(2, 3, 5, 64)
    assert torch.equal(block(x), x)
    assert not torch.allclose(block.eval()(x), x)


@pytest.mark.parametrize('out_indices', [(0, ), (1, 3), (0, 1, 2, 3), (2, )])
def test_out_indices(nano, out_indices):
    torch.manual_seed(0)
    whole = nano.build().eval()
    part = nano.build(out_indices=out_indices).eval()
    part.load_state_dict({name: value for name, value in whole.state_dict().items()
                          if name in part.state_dict()})
    x = torch.randn(1, 3, 40, 40)
    outputs, expected = part(x), whole(x)
    assert len(outputs) == len(out_indices)
    for i, output in zip(out_indices, outputs):
        assert torch.equal(output, expected[i])


@pytest.mark.parametrize(('given', 'meant'), [
    (3, (3, )), (-1, (3, )), (0, (0, )), ((-1, ), (3, )), ([0, -2], (0, 2)),
    (range(-4, 0), (0, 1, 2, 3)), (np.array([1, -1]), (1, 3)), (np.int64(-2), (2, ))])
def test_out_indices_from_the_last_or_of_one(nano, given, meant):
    with torch.device('meta'):
        model = nano.build(out_indices=given)
    assert model.out_indices == meant
    assert len(model.stages) == meant[-1] + 1
    assert hasattr(model, f'norm{meant[-1]}')


@pytest.mark.parametrize('out_indices', [(3, ), (0, 2), (0, 1, 2, 3)])
def test_every_parameter_gets_a_gradient(variant, out_indices):
    model = variant.build(out_indices=out_indices)
    sum(y.square().sum() for y in model(torch.randn(2, 3, 64, 64))).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert not without


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 3, 4])
def test_frozen_stages(version, frozen_stages):
    model = version.build(frozen_stages=frozen_stages).train()
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
        elif name.endswith(('norm.weight', 'out_proj.weight', 'running_mean')):
            assert changed, name


def test_what_is_frozen_stays_in_evaluation_mode(nano):
    model = nano.build(frozen_stages=2).train()
    frozen = [model.stem, *model.stages[:2], *model.downsamples[:2], model.norm0, model.norm1]
    assert not any(module.training for part in frozen for module in part.modules())
    assert all(module.training for module in model.stages[2].modules())
    assert model.norm2.training


def test_train_and_eval_can_be_chained(nano):
    model = nano.build()
    assert model.train() is model
    assert model.eval() is model


def test_activation_checkpointing_changes_nothing_but_memory(version):
    torch.manual_seed(0)
    plain = version.build(drop_path_rate=0.3)
    lean = version.build(drop_path_rate=0.3, with_cp=True)
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


def test_autocast(variant):
    torch.manual_seed(0)
    model = variant.build().eval()
    x = torch.randn(1, 3, 64, 64)
    exact = model(x)
    with torch.autocast('cpu', torch.bfloat16):
        cast = model(x)
    for y, z in zip(exact, cast):
        assert (y - z).abs().mean() < 0.02


def test_autocast_leaves_states_in_float32(variant):
    """Parameters reach the ops in float32, and an op's result is rounded once, at its end."""
    torch.manual_seed(0)
    model = variant.build().eval()
    mixers = [module for module in model.modules() if hasattr(module, 'op')]
    if not mixers and variant.family.name not in ('vssd', 'vmamba'):
        pytest.skip('a family whose layers call no op')
    calls = []
    for mixer in mixers:

        def op(*arguments, own=mixer.op, **options):
            calls.append((own, arguments, options, own(*arguments, **options)))
            return calls[-1][-1]

        mixer.op = op
    with torch.autocast('cpu', torch.bfloat16), torch.no_grad():
        model(torch.randn(1, 3, 64, 64))
    assert calls
    for op, arguments, options, result in calls:
        parameters = [t for t in arguments if t.dim() < 3]  # A, D and biases
        assert {t.dtype for t in parameters} == {torch.float32}
        assert arguments[0].dtype == torch.bfloat16
        exact = op(*(t.double() for t in arguments), **options)
        rounding = (exact.to(result.dtype).double() - exact).abs().max()
        assert (result.double() - exact).abs().max() <= rounding + 1e-5 * exact.abs().max()


@pytest.mark.parametrize('variant', ['vssd', 'iccv2025', 'causal'], indirect=True)
def test_autocast_leaves_steps_in_float32(variant):
    """A step of 0.001 beside a bias of -7: bfloat16 would keep 8 bits of their sum."""
    torch.manual_seed(0)
    model = variant.build().eval()
    steps = []
    for mixer in (module for module in model.modules() if hasattr(module, 'op')):
        mixer.op = lambda x, dt, *others, own=mixer.op, **options: (
            steps.append(dt), own(x, dt, *others, **options))[1]
    with torch.autocast('cpu', torch.bfloat16), torch.no_grad():
        model(torch.randn(1, 3, 64, 64))
    assert {dt.dtype for dt in steps} == {torch.float32}
    assert any((dt != dt.bfloat16()).any() for dt in steps)


@pytest.mark.slow
@pytest.mark.parametrize(('variant', 'training', 'sizes'), [
    ('vssd', False, 'one, then any'), *((name, True, 'one, then any') for name in FAMILIES),
    *((name, True, 'any') for name in ('attention first', 'iccv2025', 'v0', 'cascade', 'no conv'))],
    indirect=['variant'])
def test_compiles_to_one_graph(variant, training, sizes):
    """Forward, and backward in training, of a stem, a block, a downsample and two norms."""
    torch.manual_seed(0)
    variant = variant._replace(arch=dict(variant.arch, depths=(1, 0, 0, 0)))
    model = variant.build(drop_path_rate=0., out_indices=(0, 1)).train(training)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend='aot_eager', fullgraph=True)
    with torch.set_grad_enabled(training):
        # PyTorch leaves sizes open from the second on, or where it is told to
        for size in ((48, 64), (64, 80), (50, 70))[sizes == 'any':]:
            x = torch.randn(2, 3, *size)
            if sizes == 'any':
                torch._dynamo.mark_dynamic(x, (2, 3))
            results = [outputs_and_gradients(run, model, x, training) for run in (compiled, model)]
            for y, expected in zip(*results):
                torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)


def outputs_and_gradients(run, model, x, training):
    outputs = run(x)
    if not training:
        return outputs
    loss = sum(y.square().mean() for y in outputs)
    return [*outputs, *torch.autograd.grad(loss, list(model.parameters()))]


@pytest.mark.parametrize(('arguments', 'message'), [
    (dict(init_cfg=[dict(type='Constant'), dict(type='Pretrained')]), r"keys \['checkpoint'\]"),
    (dict(init_cfg=[dict(type='Constant', val=1), 3]), 'init_cfg: got 3, expected dict'),
    (dict(init_cfg=dict(type='Pretrained', checkpoint='x.pth', adapt_stem='mean')),
     "adapt_stem: unknown name 'mean'; known: average, repeat, extend"),
    (dict(out_indices=4), 'out_indices: got 4, expected a stage or .* 0 to 3, or from -4 to -1'),
    (dict(out_indices=-5), 'out_indices: got -5'),
    (dict(out_indices=True), 'out_indices: got True'),
    (dict(out_indices='3'), "out_indices: got '3'"),
    (dict(out_indices=(0, 4)), r'out_indices: got \(0, 4\), expected .* 0 to 3'),
    (dict(out_indices=(3, -1)), r'out_indices: got \(3, -1\)'),
    (dict(out_indices=(-1, 0)), r'out_indices: got \(-1, 0\)'),
    (dict(out_indices=(2, 1)), r'out_indices: got \(2, 1\)'),
    (dict(out_indices=()), r'out_indices: got \(\)'),
    (dict(frozen_stages=5), 'frozen_stages: got 5, expected an integer from -1 to 4'),
    (dict(drop_path_rate=1.5), 'drop_path_rate: got 1.5'),
])
def test_bad_settings(nano, arguments, message):
    with pytest.raises(ValueError, match=message):
        nano.build(**arguments)


def test_unknown_arch(family):
    known = ', '.join(family.archs)
    with pytest.raises(ValueError, match=f"arch: unknown name 'huge'; known: {known}$"):
        family('huge')


def test_bad_dict(family):
    with pytest.raises(ValueError, match=r"unknown keys \['depth'\], missing keys \['embed_dims', "
                                         r"'depths'.*known: embed_dims, depths"):
        family(dict(depth=3))


def test_misspelt_argument(family):
    with pytest.raises(TypeError, match='drop_path'):
        family(drop_path=0.1)


def test_default_arch(family):
    with torch.device('meta'):
        assert family().dims == family.archs[family.default_arch].dims


@pytest.mark.parametrize('shape', [(3, 32, 32), (1, 1, 32, 32), (1, 4, 32, 32)])
def test_bad_image(nano, shape):
    name = nano.family.backbone.__name__
    with pytest.raises(ValueError, match=rf'{name}: got an input of shape .* \(N, 3, H, W\)'):
        nano.build()(torch.zeros(shape))


def test_other_number_of_channels(variant):
    model = variant.build(in_channels=4)
    assert model(torch.zeros(2, 4, 64, 64))[0].shape == (2, 16, 16, 16)
