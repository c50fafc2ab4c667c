"""The op's Triton kernels against its reference in float64."""
import pytest
import torch

from mmvssd_kernels import selective_scan
from mmvssd_kernels.parity import Case, errors, failures, results
from mmvssd_kernels.selective_scan import launch

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def make_case(N=1, K=1, D=12, S=1, L=33, *, skip=True, bias=True, masked=False, seed=0,
              **options):
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    # decays over three orders of magnitude: some states last over chunks, some a token
    A = -10 ** (3 * torch.rand(K * D, S, generator=random, dtype=torch.float64) - 2)
    delta = normal(N, K * D, L)
    tensors = dict(u=normal(N, K * D, L), delta=delta, A=A, B=normal(N, K, S, L),
                   C=normal(N, K, S, L), D=normal(K * D) if skip else None,
                   delta_bias=normal(K * D) if bias else None)
    if options.get('delta_softplus') is False:
        tensors.update(delta=delta.exp(), delta_bias=normal(K * D).abs() if bias else None)
    if masked:
        tensors['mask'] = torch.arange(L) % 7 != torch.arange(N)[:, None]
    return Case('selective_scan', tensors, options)


def draws(count=4, **kind):
    return [make_case(**kind, seed=seed) for seed in range(count)]


# small and the largest states, one chunk and several
COMPILED = [
    make_case(L=7, D=32, delta_softplus=False),
    make_case(L=196, D=32, K=2, masked=True),
    make_case(L=196, D=32, S=launch.LARGEST_STATE),
]
#: Tiles follow from the shape alone: one case shows that the halves' code compiles.
COMPILED_HALVES = COMPILED[1:2]


def options(case):
    return ' '.join(f'{key}={value}' for key, value in case.items())


@pytest.mark.parametrize('kind', [
    dict(L=2, D=24), dict(L=15, S=3), dict(L=16, D=24, K=2), dict(L=17, N=2, S=2),
    dict(L=63, D=48, S=4), dict(L=64, K=4), dict(L=65, S=5, D=20), dict(L=130, S=6),
    dict(L=70, skip=False, bias=False), dict(L=20, delta_softplus=False), dict(L=9, S=24, D=16),
    dict(N=2, L=70, masked=True), dict(L=20, S=5, masked=True, delta_softplus=False),
], ids=options)
def test_is_the_reference(kind, triton_device):
    assert failures(draws(**kind), torch.float32, triton_device) == ()


@pytest.mark.parametrize('dtype', DTYPES[1:])
@pytest.mark.parametrize('kind', [dict(L=70), dict(L=17, S=5)], ids=options)
def test_half_inputs(kind, dtype, triton_device):
    assert failures(draws(**kind), dtype, triton_device) == ()


def test_one_token(triton_device):
    # of many channels: of few numbers the reference may get each right by luck
    assert failures(draws(N=8, D=48, L=1, S=2), torch.float32, triton_device) == ()


@pytest.mark.parametrize('kind', [
    dict(L=1), dict(L=100, S=2, K=2, D=40), dict(L=150, S=16), dict(L=40, delta_softplus=False),
], ids=options)
def test_float64(kind, triton_device):
    if triton_device == 'cuda':
        pytest.skip('float64 is computed in the interpreter only')
    assert failures(make_case(**kind), torch.float64) == ()


def test_many_tokens(triton_device):
    assert failures(draws(1, L=801, D=8), torch.float32, triton_device) == ()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='takes minutes without a GPU')
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('S', [1, 16])
def test_a_detector_s_image(S, dtype):
    assert failures(draws(2, L=66_800, D=96, K=4, S=S), dtype, 'cuda') == ()


@pytest.mark.parametrize('programs', [1, 20, 10**6])
def test_chunks_channels_and_images_are_shared_out_in_any_way(monkeypatch, programs,
                                                              triton_device):
    for name, value in dict(PROGRAMS=programs, BACKWARD_PROGRAMS=programs, CHUNK=1).items():
        monkeypatch.setattr(launch, name, value)
    cases = draws(2, N=3, K=2, L=40, D=40)
    assert failures(cases, torch.float32, triton_device) == ()


@pytest.mark.parametrize('step', [1e-6, 1e-3, 1e3, 'mixed'])
@pytest.mark.parametrize('S', [1, 5])
def test_any_step_size(step, S, triton_device):
    torch.manual_seed(0)
    cases = draws(3, L=150, S=S, D=24, delta_softplus=False, bias=False)
    for case in cases:
        delta = case.tensors['delta']
        wanted = 10 ** (9 * torch.rand_like(delta) - 6) if step == 'mixed' else step
        # not all alike: the rounding of their decays would add up
        case.tensors['delta'] = (delta.log() / 4).exp() * wanted
    found = errors(cases, torch.float32, triton_device)
    # The bound of the reference's own tests: where all steps are alike, so are the roundings of
    # their decays, and the gradient of A had up to 2.4 times eager's error.
    assert found.pop('y').own_peak < 3e-6
    assert all(error.own_peak < 6e-6 for error in found.values()), found


@pytest.mark.parametrize('step', [1e-6, 1e-3, 1e3])
def test_softplus_keeps_its_digits(step, triton_device):
    wanted = torch.tensor(step, dtype=torch.float64)
    cases = draws(L=40, D=16, bias=False)
    for case in cases:
        delta = case.tensors['delta']
        case.tensors['delta'] = (wanted if step > 30 else wanted.expm1().log()) + delta / 100
    assert failures(cases, torch.float32, triton_device) == ()


def test_a_step_of_minus_infinity_before_softplus_is_no_step(triton_device):
    case = make_case(L=70, D=8)
    case.tensors['delta'][..., 20:66] = -torch.inf
    y = results(case, case.cast(torch.float32, triton_device), 'triton')
    assert all(t.isfinite().all() for t in y.values())
    assert (y['delta'][..., 20:66] == 0).all()
    assert failures([case], torch.float32, triton_device) == ()


def test_strides_do_not_matter(triton_device, same):
    tensors = make_case(N=2, K=2, D=8, S=3, L=70).cast(torch.float32, triton_device)
    dense = {name: t.detach().clone().requires_grad_() for name, t in tensors.items()}
    tensors['B'] = tensors['B'].detach()[:, :1].expand(-1, 2, -1, -1).requires_grad_()
    dense['B'] = tensors['B'].detach().contiguous().requires_grad_()
    strided = {name: t.detach().transpose(-2, -1).contiguous().transpose(-2, -1)
               if t.dim() > 1 and name != 'B' else torch.stack([t.detach()] * 2, -1)[:, 0]
               if t.dim() == 1 else t for name, t in tensors.items()}
    strided = {name: t.requires_grad_() for name, t in strided.items()}
    expected, got = (results(Case('selective_scan', {}), t, 'triton') for t in (dense, strided))
    for name, t in expected.items():
        assert same(got[name], t), name


def in_nan(t, order):
    """The same numbers among NaN, which lies between them too; ``order`` is that in memory."""
    room = t.new_full([size + 2 for size in t.permute(order).shape], torch.nan)
    room[tuple(slice(1, -1) for _ in order)] = t.detach().permute(order)
    inner = room[tuple(slice(1, -1) for _ in order)]
    return inner.permute([order.index(dim) for dim in range(t.dim())]).requires_grad_()


@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('beside', ['tokens', 'channels', 'tokens of u', 'tokens of delta'])
def test_nothing_beside_the_inputs_is_read(beside, masked, triton_device, same):
    case = make_case(N=2, D=33, L=18, masked=masked)
    tensors = case.cast(torch.float32, triton_device)
    orders = {name: (0, 1, 2) if beside in ('tokens', f'tokens of {name}') else (0, 2, 1)
              for name in ('u', 'delta')}
    orders.update(B=(0, 1, 2, 3), C=(0, 3, 1, 2), A=(1, 0))
    expected, got = (results(case, {**tensors, **own}, 'triton') for own in (
        {}, {name: in_nan(tensors[name], order) for name, order in orders.items()}))
    for name, t in expected.items():
        assert same(got[name], t), name


def test_strides_of_the_gradient_do_not_matter(triton_device, same):
    tensors = make_case(L=40).cast(torch.float32, triton_device)
    y = selective_scan(**tensors, impl='triton')
    leaves = list(tensors.values())
    dense = torch.autograd.grad(y, leaves, torch.ones_like(y), retain_graph=True)
    expanded = torch.autograd.grad(y.sum(), leaves, retain_graph=True)
    permuted = torch.autograd.grad(y, leaves, torch.ones_like(y.mT.contiguous()).mT)
    for a, b, c in zip(dense, expanded, permuted):
        assert same(a, b)
        assert same(a, c)


def test_offsets_beyond_31_bits(triton_device):
    """A channel of a wide tensor whose other channels nobody touches."""
    if triton_device == 'cuda':
        pytest.skip('a GPU has no memory that is reserved and not used')
    tensors = make_case(N=2, D=2, L=20).cast(torch.float32)
    # a view of 17 GB of which 40 numbers are used: the system gives pages when they are written
    memory = torch.empty(2**32 + 2**20, dtype=torch.int32).view(torch.float32)
    u = memory.as_strided((2, 2, 20), (2**31, 2**31, 2**10))
    u.copy_(tensors['u'].detach())
    expected = selective_scan(**tensors, impl='triton')
    # images share memory, so that both are the last one written
    assert torch.equal(selective_scan(**{**tensors, 'u': u}, impl='triton')[1, 1], expected[1, 1])


def test_channels_of_a_tile_far_apart(triton_device):
    """Neighbours are less than 2**31 elements apart, a tile's first and last channel more."""
    if triton_device == 'cuda':
        pytest.skip('a GPU has no memory that is reserved and not used')
    case = make_case(D=20, L=20)
    tensors = case.cast(torch.float32)
    memory = torch.empty(2**32 + 2**20, dtype=torch.int32).view(torch.float32)
    far = memory.as_strided((1, 20, 20), (0, 2**27, 1))
    far.copy_(tensors['u'].detach())
    expected, got = (results(case, t, 'triton')
                     for t in (tensors, {**tensors, 'u': far.requires_grad_()}))
    for result, t in expected.items():
        assert torch.equal(got[result], t), result


@pytest.mark.parametrize(('name', 'shape', 'strides'), [
    ('B', (1, 1, 4, 5), (0, 0, 2**30, 1)), ('A', (3, 4), (1, 2**30))])
def test_entries_of_the_state_far_apart(name, shape, strides, triton_device):
    """Their number times their distance takes more than 31 bits, though each takes fewer."""
    if triton_device == 'cuda':
        pytest.skip('a GPU has no memory that is reserved and not used')
    tensors = make_case(D=3, L=5, S=4).cast(torch.float32)
    memory = torch.empty(2**32 + 2**20, dtype=torch.int32).view(torch.float32)
    far = memory.as_strided(shape, strides)
    far.copy_(tensors[name].detach())
    expected, got = (results(Case('selective_scan', {}), t, 'triton')
                     for t in (tensors, {**tensors, name: far.requires_grad_()}))
    for result, t in expected.items():
        assert torch.equal(got[result], t), result


@pytest.mark.parametrize('chunk', [1, 10**6])
def test_a_decay_of_minus_infinity_forgets(chunk, monkeypatch, triton_device):
    """Each output is that of its token alone, in chunks too."""
    monkeypatch.setattr(launch, 'CHUNK', chunk)
    tensors = make_case(D=2, L=70).cast(torch.float32, triton_device)
    tensors = {name: t.detach() for name, t in tensors.items()}
    tensors['A'][1] = -torch.inf
    alone = {name: t[..., -1:] if name in ('u', 'delta', 'B', 'C') else t
             for name, t in tensors.items()}
    y = selective_scan(**tensors, impl='triton')
    torch.testing.assert_close(y[:, 1, -1:], selective_scan(**alone, impl='reference')[:, 1])
    assert y.isfinite().all()


def test_every_number_is_written(poisoned_memory, triton_device):
    for kind in (dict(L=70), dict(L=5, S=6)):
        assert failures(draws(**kind), torch.float32, triton_device) == ()


def test_two_runs_are_equal_bit_for_bit(triton_device):
    case = make_case(N=2, K=2, L=50, D=40, S=2)
    first, second = (results(case, case.cast(torch.bfloat16, triton_device), 'triton')
                     for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize('empty', [dict(N=0), dict(L=0), dict(D=0)], ids=str)
def test_nothing_in_nothing_out(empty, triton_device):
    case = make_case(**empty)
    tensors = case.cast(torch.float32, triton_device)
    for name, t in results(case, tensors, 'triton').items():
        assert t.shape == tensors['u' if name == 'y' else name].shape
        assert (t == 0).all()


@pytest.mark.parametrize('softplus', [False, True])
def test_gradcheck(softplus, triton_device):
    if triton_device == 'cuda':
        pytest.skip('float64 is computed in the interpreter only')
    case = make_case(D=2, S=2, L=5, delta_softplus=softplus)
    tensors = case.cast(torch.float64)

    def run(*args):
        return case.run(dict(zip(tensors, args)), 'triton')

    assert torch.autograd.gradcheck(run, tuple(tensors.values()), fast_mode=True)


def test_a_second_gradient_is_refused(triton_device):
    tensors = make_case(L=3).cast(torch.float32, triton_device)
    y = selective_scan(**tensors, impl='triton')
    (du, ) = torch.autograd.grad(y.square().sum(), [tensors['u']], create_graph=True)
    with pytest.raises(RuntimeError, match='selective_scan_triton_backward has no gradient'):
        du.sum().backward()


@pytest.mark.parametrize('only', ['u', 'A', 'D'])
def test_one_input_alone_may_need_a_gradient(only, triton_device):
    case = make_case(L=20)
    expected = results(case, case.cast(torch.float32, triton_device), 'triton')[only]
    tensors = {name: t.detach() for name, t in case.cast(torch.float32, triton_device).items()}
    tensors[only].requires_grad_()
    assert torch.equal(results(case, tensors, 'triton')[only], expected)


@pytest.mark.parametrize('dtype', DTYPES)
def test_half_inputs_beside_float32_parameters(dtype, triton_device):
    wide = {name: t.detach().to(dtype).float().requires_grad_()
            for name, t in make_case(L=70, S=2).cast(torch.float32, triton_device).items()}
    mixed = {name: t.detach().to(dtype if name in ('u', 'delta', 'B', 'C') else t.dtype)
             .requires_grad_() for name, t in wide.items()}
    expected, got = (results(Case('selective_scan', {}), t, 'triton') for t in (wide, mixed))
    assert torch.equal(got['y'], expected['y'])
    for name, t in mixed.items():
        assert got[name].dtype == t.dtype
        assert torch.equal(got[name], expected[name].to(t.dtype))


@pytest.mark.parametrize('dtypes', [
    (torch.bfloat16, torch.float16), (torch.float32, torch.bfloat16)], ids=str)
@pytest.mark.parametrize('D', [12, 33])
def test_projections_may_have_a_dtype_each(D, dtypes, triton_device):
    wide = make_case(D=D, L=20, S=2).cast(torch.float32, triton_device)
    for name, dtype in zip('BC', dtypes):
        wide[name] = wide[name].detach().to(dtype).float().requires_grad_()
    mixed = {**wide, **{name: wide[name].detach().to(dtype).requires_grad_()
                        for name, dtype in zip('BC', dtypes)}}
    expected, got = (results(Case('selective_scan', {}), t, 'triton') for t in (wide, mixed))
    assert torch.equal(got['y'], expected['y'])
    for name, t in mixed.items():
        assert got[name].dtype == t.dtype
        assert torch.equal(got[name], expected[name].to(t.dtype)), name


@pytest.mark.parametrize('kind', [dict(L=0), dict(L=1), dict(L=20, S=3)], ids=options)
def test_operators_are_what_their_schemas_say(kind, triton_device):
    for dtype in (torch.float32, torch.bfloat16):
        inputs = tuple(make_case(**kind).cast(dtype, triton_device).values())
        forward, backward = (getattr(torch.ops.mmvssd_kernels, 'selective_scan_triton' + suffix)
                             for suffix in ('', '_backward'))
        torch.library.opcheck(forward, (*inputs, None, True))
        y, states = forward(*inputs, None, True)
        inputs = [t.detach() for t in inputs]
        torch.library.opcheck(backward, (y.detach().cos(), *inputs, None, states, True))


def test_compiles_as_one_graph(triton_device):
    def run(*args):
        return selective_scan(*args, impl='triton').square()

    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, backend='aot_eager')
    tensors = tuple(make_case(L=20).cast(torch.float32, triton_device).values())
    for a, b in zip(*(torch.autograd.grad(f(*tensors).sum(), tensors) for f in (compiled, run))):
        assert torch.equal(a, b)


def test_autocast_does_not_touch_the_scan(triton_device):
    case = make_case(L=20)
    plain = results(case, case.cast(torch.float32, triton_device), 'triton')
    with torch.autocast(triton_device, torch.bfloat16):
        cast = results(case, case.cast(torch.float32, triton_device), 'triton')
    assert all(torch.equal(cast[name], t) for name, t in plain.items())


def test_a_state_that_is_too_large(triton_device):
    tensors = make_case(L=2, D=1, S=launch.LARGEST_STATE + 1).cast(torch.float32, triton_device)
    with pytest.raises(RuntimeError, match='the state size is 65, and the kernels take at most 64'):
        selective_scan(**tensors, impl='triton')


def test_a_wrong_shape_raises_before_any_launch(monkeypatch, triton_device):
    monkeypatch.setattr(launch.Scan, '__init__', None)
    tensors = make_case(L=5).cast(torch.float32, triton_device)
    tensors['delta'] = tensors['delta'][..., :4]
    with pytest.raises(ValueError, match='delta: got shape'):
        selective_scan(**tensors, impl='triton')


def test_the_interpreter_s_own_scan(monkeypatch, triton_device):
    """What the other tests put in its place is the same."""
    monkeypatch.undo()
    assert failures(draws(L=5, D=4, S=2), torch.bfloat16, triton_device) == ()
