"""The op's Triton kernels against its reference in float64."""
import pytest
import torch

from mmvssd_kernels import selective_scan_2d, triton_support
from mmvssd_kernels.cross_scan import ORDERS, PATTERNS
from mmvssd_kernels.parity import Case, errors, failures, results
from mmvssd_kernels.selective_scan import launch
from mmvssd_kernels.selective_scan_2d import autograd

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
#: A line of five tiles in two chunks, of rows and of columns: fewer tiles than a grid as large has.
LINE = (1, 70)
#: Inputs that have a place on the grid.
LOCAL = ('x', 'dt', 'B', 'C')
patterns = pytest.mark.parametrize('pattern', PATTERNS)


def make_case(N=1, grid=(3, 5), D=24, R=2, S=1, *, skip=True, bias=True, masked=False, seed=0,
              **options):
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    # decays over three orders of magnitude: some states last over rows, some a token
    A = -10 ** (3 * torch.rand(4 * D, S, generator=random, dtype=torch.float64) - 2)
    tensors = dict(x=normal(N, *grid, D), dt=normal(N, *grid, 4, R),
                   dt_weight=normal(4, D, R) / max(R, 1)**0.5, A=A, B=normal(N, *grid, 4, S),
                   C=normal(N, *grid, 4, S), D=normal(4 * D) if skip else None,
                   dt_bias=normal(4 * D) if bias else None)
    if masked:
        # the last column is padding, and of the last image all
        mask = torch.ones(N, *grid, dtype=torch.bool)
        mask[:, :, -1] = False
        mask[-1] = N == 1 and mask[-1]
        tensors['mask'] = mask
        for name, poison in zip(LOCAL, (torch.nan, torch.inf, torch.nan, -torch.inf)):
            tensors[name][~mask] = poison
    return Case('selective_scan_2d', tensors, options)


def draws(count=2, **kind):
    return [make_case(**kind, seed=seed) for seed in range(count)]


# every choice of tiles with the widest ranks, and each option of the kernels
COMPILED = [
    make_case(grid=(4, 4), D=32, R=6, S=16, pattern='unidirectional'),
    make_case(grid=(14, 14), D=256, R=launch.LARGEST_RANK, masked=True),
    make_case(grid=(14, 14), D=192, R=launch.LARGEST_RANK, S=launch.LARGEST_STATE,
              pattern='bidirectional'),
]
#: Tiles follow from the shape alone: one case shows that the halves' code compiles, along rows.
COMPILED_HALVES = [make_case(grid=(14, 14), D=256, R=launch.LARGEST_RANK, masked=True,
                             pattern='bidirectional')]


def options(case):
    return ' '.join(f'{key}={value}' for key, value in case.items())


def test_sequences_are_the_orders_of_the_patterns():
    for pattern, orders in ORDERS.items():
        turned, count, directions = autograd.SEQUENCES[pattern]
        found = {axis + (direction * count + i) * len(turned): (turn, direction == 1)
                 for axis, turn in enumerate(turned) for direction in range(directions)
                 for i in range(count)}
        assert [found[k] for k in range(4)] == [tuple(order) for order in orders]
        reversed_ones = [k for k, order in enumerate(orders) if order.reverse]
        assert reversed_ones == list(range(autograd.SEQUENCES[pattern].forward, 4))


@patterns
@pytest.mark.parametrize('kind', [
    dict(grid=(4, 4), S=2, R=3), dict(N=2, masked=True), dict(grid=(7, 10), masked=True),
], ids=options)
def test_is_the_reference(kind, pattern, triton_device):
    assert failures(draws(**kind, pattern=pattern), torch.float32, triton_device) == ()


@pytest.mark.parametrize('kind', [
    dict(grid=(1, 1), N=8, D=48), dict(grid=(2, 1), D=24), dict(grid=(9, 7)),
    dict(grid=(10, 13), S=5, D=8), dict(skip=False, bias=False), dict(R=0), dict(R=17, D=40),
    dict(R=64, D=16), dict(S=24, D=3), dict(grid=(3, 6), R=17, D=256), dict(S=9, D=192),
], ids=options)
def test_cross_is_the_reference(kind, triton_device):
    assert failures(draws(**kind), torch.float32, triton_device) == ()


@pytest.mark.parametrize('dtype', DTYPES[1:])
@pytest.mark.parametrize('kind', [dict(grid=(7, 10), masked=True), dict(S=5)], ids=options)
def test_half_inputs(kind, dtype, triton_device):
    assert failures(draws(**kind), dtype, triton_device) == ()


@patterns
@pytest.mark.parametrize('masked', [False, True])
def test_float64(pattern, masked, triton_device):
    if triton_device == 'cuda':
        pytest.skip('float64 is computed in the interpreter only')
    case = make_case(N=2, grid=(6, 13), S=2, R=5, masked=masked, pattern=pattern)
    assert failures(case, torch.float64) == ()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='takes minutes without a GPU')
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('kind', [dict(grid=(200, 334), D=96, R=6), dict(grid=(49, 49), S=16),
                                  dict(grid=(14, 14), N=64, D=384, R=24)], ids=options)
def test_images_of_real_size(kind, dtype):
    assert failures(draws(2, **kind), dtype, 'cuda') == ()


def join(monkeypatch):
    """Have programs take three of five images with 21 tokens and 40 channels."""
    for name, value in dict(PROGRAMS=10, BACKWARD_PROGRAMS=10, WAVE=2).items():
        monkeypatch.setattr(launch, name, value)
    assert launch._joined(5, 2, 21) == 3


@pytest.mark.parametrize('kind', [
    dict(), dict(masked=True), dict(S=2), dict(grid=(7, 3)), dict(pattern='bidirectional'),
    dict(pattern='unidirectional')], ids=options)
def test_images_are_joined(kind, monkeypatch, triton_device):
    """As one line of three, and one of two, if that takes fewer tiles."""
    join(monkeypatch)
    cases = draws(2, **{**dict(N=5, grid=(3, 7), D=40), **kind})
    assert failures(cases, torch.float32, triton_device) == ()


@pytest.mark.parametrize('pattern', ['cross', 'bidirectional'])
def test_joined_images_do_not_share_nan(pattern, monkeypatch, triton_device):
    join(monkeypatch)
    case = make_case(N=5, grid=(3, 7), D=40, pattern=pattern)
    tensors = case.cast(torch.float32, triton_device)
    dt = tensors['dt'].detach().clone()
    dt[1] = torch.nan
    expected, got = (results(case, t, 'triton')
                     for t in (tensors, dict(tensors, dt=dt.requires_grad_())))
    for name in ('y', *LOCAL):
        assert got[name][1].isnan().any(), name
        for n in (0, 2, 3, 4):
            assert torch.equal(got[name][n], expected[name][n]), (name, n)


@pytest.mark.parametrize(('N', 'blocks', 'tokens', 'joined'), [
    (128, 48, 49, 3), (128, 24, 196, 1), (128, 12, 784, 1), (32, 48, 49, 1), (2, 48, 1050, 1),
    (128, 48, 15, 1)])
def test_images_are_joined_if_that_saves_a_tenth(N, blocks, tokens, joined):
    assert launch._joined(N, blocks, tokens) == joined


@pytest.mark.parametrize('dtype', DTYPES)
def test_the_last_launch_rounds(dtype, monkeypatch, triton_device):
    """A gradient of x that both axes add to goes through float32, and no kernel only rounds it."""
    for name in ('PROGRAMS', 'BACKWARD_PROGRAMS'):
        monkeypatch.setattr(launch, name, 1)
    added = []
    add = launch.Scan._add

    def note(self, parts, t):
        if not parts.direct:
            added.append(t.shape)
        add(self, parts, t)

    monkeypatch.setattr(launch.Scan, '_add', note)
    cases = draws(2, N=2, grid=(5, 7), D=40, masked=True)
    assert failures(cases, dtype, triton_device) == ()
    assert added
    assert cases[0].tensors['x'].shape not in added


@pytest.mark.parametrize(('programs', 'shares'), [
    ((1, 10), [(4, 1), (2, 1)]), ((10, 20), [(2, 1), (1, 1)]), ((20, 1), [(1, 1), (4, 1)]),
    ((10**6, 10**6), [(4, 6), (4, 6)])])
def test_sequences_channels_and_images_are_shared_out_in_any_way(programs, shares, monkeypatch,
                                                                 triton_device):
    """``shares`` are the sequences of a program and the chunks, forward and backward."""
    forward, backward = programs
    for name, value in dict(PROGRAMS=forward, BACKWARD_PROGRAMS=backward, CHUNK=1).items():
        monkeypatch.setattr(launch, name, value)
    found = []
    compute = launch.Scan._shares
    monkeypatch.setattr(launch.Scan, '_shares',
                        lambda *args: found.append(compute(*args)) or found[-1])
    cases = draws(2, N=3, grid=(9, 10), D=40, masked=True)
    assert failures(cases, torch.float32, triton_device) == ()
    assert found[:2] == shares


@pytest.mark.parametrize('step', [1e-6, 1e3])
@pytest.mark.parametrize('S', [1, 3])
def test_any_step_size(step, S, triton_device):
    wanted = torch.tensor(step, dtype=torch.float64)
    cases = draws(3, grid=LINE, S=S)
    for case in cases:
        bias = case.tensors['dt_bias']
        case.tensors['dt_bias'] = (wanted if step > 30 else wanted.expm1().log()) + bias / 10
    found = errors(cases, torch.float32, triton_device)
    # The bound of the reference's own tests: where all steps are alike, so are the roundings of
    # their decays, and the gradient of A had up to 2.4 times eager's error.
    assert found.pop('y').own_peak < 3e-6
    assert all(error.own_peak < 6e-6 for error in found.values()), found


@patterns
def test_a_padded_image_has_what_it_has_alone(pattern, triton_device):
    case = make_case(grid=(5, 6), S=2, masked=True, pattern=pattern)
    tensors = case.cast(torch.float32, triton_device)
    alone = {name: (t.detach()[:, :, :-1] if name in LOCAL else t.detach()).clone()
             .requires_grad_() for name, t in tensors.items() if name != 'mask'}
    y, expected = (selective_scan_2d(**t, pattern=pattern, impl='triton')
                   for t in (tensors, alone))
    assert (y[:, :, -1] == 0).all()
    torch.testing.assert_close(y[:, :, :-1], expected)
    weights = torch.full_like(y, torch.nan)  # nor does it matter what padding is told
    weights[:, :, :-1] = expected.detach().cos()
    y.backward(weights)
    expected.backward(weights[:, :, :-1])
    for name, t in alone.items():
        gradient = tensors[name].grad
        if name in LOCAL:
            assert (gradient[:, :, -1] == 0).all()
            gradient = gradient[:, :, :-1]
        torch.testing.assert_close(gradient, t.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(('begin', 'ranks', 'between', 'dtype', 'expected'), [
    (0, 24, 0, torch.bfloat16, 16), (0, 12, 0, torch.bfloat16, 8), (0, 6, 0, torch.bfloat16, 4),
    (0, 7, 0, torch.bfloat16, 2), (0, 6, 0, torch.float32, 8), (0, 24, 4, torch.bfloat16, 8),
    (4, 24, 0, torch.bfloat16, 2), (8, 24, 0, torch.bfloat16, 16), (0, 3, 0, torch.float64, 8)])
def test_bytes_that_a_lane_may_load_at_once(begin, ranks, between, dtype, expected):
    """What every token's step sizes begin at multiples of; ``between`` follows each image."""
    image = 6 * 4 * ranks
    memory = torch.zeros(begin + 2 * (image + between), dtype=dtype)
    dt = memory.as_strided((2, 4, 6, ranks), (image + between, ranks, 4 * ranks, 1), begin)
    assert launch._alignment(dt) == expected


@pytest.mark.parametrize(('D', 'R', 'S', 'warps'), [
    (192, 6, 1, 1), (384, 14, 1, 1), (384, 15, 1, 4), (768, 24, 1, 4), (192, 24, 1, 2),
    (160, 24, 1, 1), (128, 48, 1, 1), (256, 0, 9, 4), (256, 0, 8, 1)])
def test_programs_take_more_channels_if_these_have_many_sums(D, R, S, warps, monkeypatch):
    monkeypatch.setattr(triton_support, 'capability', lambda device: (8, 0))
    case = make_case(grid=(2, 2), D=D, R=R, S=S)
    scan = autograd._scan(*case.cast(torch.float32, 'meta').values(), None, 'cross')
    assert scan._warps() == warps


@pytest.mark.parametrize(('capability', 'dtype', 'R', 'warps'), [
    ((8, 6), torch.float32, 48, 2), ((12, 0), torch.float32, 48, 2),
    ((8, 9), torch.bfloat16, 48, 4), ((8, 9), torch.float32, 24, 4),
    ((9, 0), torch.float32, 48, 4), ((10, 3), torch.float32, 48, 4)])
def test_float32_factors_fit_shared_memory(capability, dtype, R, warps, monkeypatch):
    """Of four warps 48 ranks take 114 KiB or more, and smaller GPUs have 99."""
    monkeypatch.setattr(triton_support, 'capability', lambda device: capability)
    inputs = make_case(grid=(2, 2), D=1536, R=R).cast(dtype, 'meta')
    assert autograd._scan(*inputs.values(), None, 'cross')._warps() == warps


@pytest.mark.parametrize(('capability', 'version', 'exact'), [
    ((7, 5), '3.3.1', False), ((7, 5), '3.4.0', True), ((8, 0), '3.3.1', True)])
def test_a_compiler_that_stops_at_halves_on_turing(capability, version, exact, monkeypatch):
    monkeypatch.setattr(triton_support, '_version', lambda: version)
    assert launch._exact(torch.float16, capability) == exact
    assert not launch._exact(torch.float32, capability)


def test_ranks_of_the_weight_far_apart(triton_device):
    if triton_device == 'cuda':
        pytest.skip('a GPU has no memory that is reserved and not used')
    case = make_case(grid=(2, 3), D=3, R=4)
    tensors = {name: t.detach() for name, t in case.cast(torch.float32).items()}
    memory = torch.empty(2**32 + 2**20, dtype=torch.int32).view(torch.float32)
    far = memory.as_strided((4, 3, 4), (12, 1, 2**30))
    far.copy_(tensors['dt_weight'])
    expected, got = (case.run({**tensors, 'dt_weight': weight}, 'triton')
                     for weight in (tensors['dt_weight'], far))
    assert torch.equal(got, expected)


def test_padding_has_no_share_in_nan(triton_device):
    """The state of its image has it, before and after; outputs and gradients of padding are 0."""
    case = make_case(grid=(2, 3), D=5)
    case.tensors['mask'] = torch.ones(1, 2, 3, dtype=torch.bool)
    case.tensors['mask'][0, 1, 1] = False
    case.tensors['x'][0, 0, 0, 2] = torch.nan
    got = results(case, case.cast(torch.float32, triton_device), 'triton')
    for name in ('y', *LOCAL):
        assert (got[name][0, 1, 1] == 0).all(), name


@pytest.mark.parametrize('joined', [False, True])
def test_strides_do_not_matter(joined, monkeypatch, triton_device, same):
    """Parts of one projection, channels-first, transposed, and expanded inputs."""
    if joined:
        join(monkeypatch)
    case = make_case(N=5, grid=(3, 7), D=40, S=2)
    dense = {name: t.detach() for name, t in case.cast(torch.float32, triton_device).items()}
    packed = torch.cat([dense['dt'], dense['B'], dense['C']], -1)
    strided = dict(dense, A=dense['A'].t().contiguous().t(),
                   x=dense['x'].permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
                   D=dense['D'][:1].expand(160),
                   **dict(zip(('dt', 'B', 'C'), packed.split([2, 2, 2], -1))))
    dense['D'] = strided['D'].contiguous()
    expected, got = (results(case, {name: t.requires_grad_() for name, t in tensors.items()},
                             'triton') for tensors in (dense, strided))
    for name, t in expected.items():
        assert same(got[name], t), name


def by_columns(t):
    """The same numbers, columns behind each other in memory where rows were."""
    return t.transpose(1, 2).contiguous().transpose(1, 2)


def test_columns_that_lie_behind_each_other(triton_device, same):
    """No tensor of rows, such as the output, may be taken for one of columns."""
    case = make_case(N=2, grid=(3, 5), masked=True)
    tensors = case.cast(torch.float32, triton_device)
    turned = {name: (by_columns(t.detach()) if name in (*LOCAL, 'mask') else t.detach())
              .requires_grad_(t.requires_grad) for name, t in tensors.items()}
    expected, got = (results(case, t, 'triton') for t in (tensors, turned))
    for name, t in expected.items():
        assert same(got[name], t), name


def test_a_single_column_may_have_any_width(triton_device, same):
    """PyTorch calls a tensor contiguous whatever the stride of an axis of size 1 is."""
    case = make_case(N=2, grid=(20, 1))
    tensors = case.cast(torch.float32, triton_device)
    x = tensors['x'].detach()
    odd = x.as_strided(x.shape, (*x.stride()[:2], 7, 1)).requires_grad_()
    assert odd.is_contiguous()
    expected, got = (results(case, t, 'triton') for t in (tensors, dict(tensors, x=odd)))
    for name, t in expected.items():
        assert same(got[name], t), name


def test_backward_may_get_other_strides(triton_device, same):
    """As from saved tensors that were moved, or computed again."""
    case = make_case(grid=(4, 6))
    tensors = case.cast(torch.float32, triton_device)
    expected = results(case, tensors, 'triton')
    cropped = dict(tensors, x=torch.cat([tensors['x'].detach()] * 2, 2)[:, :, :6].requires_grad_())
    assert not cropped['x'].is_contiguous()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().clone(), lambda t: t):
        got = results(case, cropped, 'triton')
    for name, t in expected.items():
        assert same(got[name], t), name


def test_every_number_is_written(poisoned_memory, triton_device):
    for kind in (dict(grid=(3, 18)), dict(S=3, masked=True)):
        assert failures(draws(2, **kind), torch.float32, triton_device) == ()


def test_two_runs_are_equal_bit_for_bit(triton_device):
    case = make_case(N=2, grid=LINE, D=40, R=5)
    first, second = (results(case, case.cast(torch.bfloat16, triton_device), 'triton')
                     for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize('empty', [dict(N=0), dict(grid=(0, 5)), dict(grid=(3, 0)), dict(D=0)],
                         ids=str)
def test_nothing_in_nothing_out(empty, triton_device):
    case = make_case(**empty)
    tensors = case.cast(torch.float32, triton_device)
    for name, t in results(case, tensors, 'triton').items():
        assert t.shape == tensors['x' if name == 'y' else name].shape
        assert (t == 0).all()


@patterns
def test_gradcheck(pattern, triton_device):
    if triton_device == 'cuda':
        pytest.skip('float64 is computed in the interpreter only')
    case = make_case(grid=(2, 3), D=2, R=1, S=2, pattern=pattern)
    tensors = case.cast(torch.float64)

    def run(*args):
        return case.run(dict(zip(tensors, args)), 'triton')

    assert torch.autograd.gradcheck(run, tuple(tensors.values()), fast_mode=True)


def test_a_second_gradient_is_refused(triton_device):
    tensors = make_case().cast(torch.float32, triton_device)
    y = selective_scan_2d(**tensors, impl='triton')
    (dx, ) = torch.autograd.grad(y.square().sum(), [tensors['x']], create_graph=True)
    with pytest.raises(RuntimeError, match='selective_scan_2d_triton_backward has no gradient'):
        dx.sum().backward()


@pytest.mark.parametrize('kind', [dict(grid=(0, 3)), dict(masked=True), dict(grid=(2, 3), S=2)],
                         ids=options)
def test_operators_are_what_their_schemas_say(kind, triton_device):
    for dtype in (torch.float32, torch.bfloat16):
        tensors = make_case(**kind).cast(dtype, triton_device)
        inputs = (*(tensors[name] for name in ('x', 'dt', 'dt_weight', 'A', 'B', 'C', 'D',
                                               'dt_bias')), tensors.get('mask'))
        forward, backward = (getattr(torch.ops.mmvssd_kernels, 'selective_scan_2d_triton' + suffix)
                             for suffix in ('', '_backward'))
        torch.library.opcheck(forward, (*inputs, 'cross'))
        y, states = forward(*inputs, 'cross')
        inputs = [t if t is None else t.detach() for t in inputs]
        torch.library.opcheck(backward, (y.detach().cos(), *inputs, states, 'cross'))


def test_compiles_as_one_graph(triton_device):
    def run(*args):
        return selective_scan_2d(*args, impl='triton').square()

    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, backend='aot_eager')
    tensors = tuple(make_case().cast(torch.float32, triton_device).values())
    for a, b in zip(*(torch.autograd.grad(f(*tensors).sum(), tensors) for f in (compiled, run))):
        assert torch.equal(a, b)


def test_autocast_does_not_touch_the_scan(triton_device):
    case = make_case()
    plain = results(case, case.cast(torch.float32, triton_device), 'triton')
    with torch.autocast(triton_device, torch.bfloat16):
        cast = results(case, case.cast(torch.float32, triton_device), 'triton')
    assert all(torch.equal(cast[name], t) for name, t in plain.items())


@pytest.mark.parametrize(('kind', 'message'), [
    (dict(S=65), 'the state size is 65, and the kernels take at most 64'),
    (dict(R=65), 'step sizes have rank 65, and the kernels take at most 64'),
])
def test_what_is_too_large_for_the_kernels(kind, message, triton_device):
    tensors = make_case(grid=(1, 1), D=1, **kind).cast(torch.float32, triton_device)
    with pytest.raises(RuntimeError, match=message):
        selective_scan_2d(**tensors, impl='triton')


def test_a_wrong_shape_raises_before_any_launch(monkeypatch, triton_device):
    monkeypatch.setattr(launch.Scan, '__init__', None)
    tensors = make_case().cast(torch.float32, triton_device)
    tensors['dt'] = tensors['dt'][:, :, :4]
    with pytest.raises(ValueError, match='dt: got shape'):
        selective_scan_2d(**tensors, impl='triton')
