"""The op's Triton kernels against its reference in float64."""
import math

import pytest
import torch
import torch._dynamo.testing

from mmvssd_kernels import dispatch, nc_ssd, triton_support
from mmvssd_kernels.nc_ssd import launch, normalized, plain
from mmvssd_kernels.parity import Case, failures, results

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
forms = pytest.mark.parametrize('normalize', [False, True], ids=['plain', 'normalized'])


def make_case(N=2, grid=(3, 5), h=4, P=24, G=1, S=12, *, normalize=False, masked=False, skip=True,
              steps=1.0, seed=0):
    random = torch.Generator().manual_seed(seed)
    L = grid[0] * grid[1]

    def normal(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    tensors = dict(x=normal(N, L, h, P),
                   dt=steps * torch.nn.functional.softplus(normal(N, L, h)),
                   A=-torch.rand(h, generator=random, dtype=torch.float64) * 15 - 1,
                   B=normal(N, L, G, S), C=normal(N, L, G, S), D=normal(h) if skip else None)
    if masked:
        # images of different valid lengths; the last one is all padding
        kept = torch.linspace(L, 0, N).round()[:, None]
        tensors['mask'] = torch.arange(L)[None] < kept
    return Case('nc_ssd', tensors, dict(normalize=True, grid=grid) if normalize else {})


#: A gradient of few numbers, such as A's, or of few heads, each with a softmax of its own, has by
#: luck more or less than eager's error: of 24 draws on a GPU less on the whole, and up to 3.5
#: times as much in one.
DRAWS = 8 if torch.cuda.is_available() else 2
HEADS = 4


def draws(N=2, h=4, **kind):
    count = max(DRAWS, HEADS // (N * h))
    return [make_case(N=N, h=h, **kind, seed=seed) for seed in range(count)]


# every choice of tiles, with and without each option of the kernels
COMPILED = [
    make_case(normalize=True, grid=(20, 20), h=2, P=64, S=64, masked=True),
    # the narrowest products behind a mask
    make_case(normalize=True, P=16, h=2, S=16, masked=True, skip=False),
    make_case(P=64, S=64, h=2),
    # arguments that are 1
    make_case(N=1, grid=(1, 1), h=1, P=1, S=4, normalize=True),
    make_case(N=1, grid=(1, 1), h=1, P=1, S=1),
]
#: The largest tiles of either form, and the narrow heads of a published first stage.
COMPILED_HALVES = [COMPILED[0], COMPILED[2], make_case(normalize=True, P=24, S=12)]
#: The plain form of published heads and states; in the other, Ampere's tiles are also Turing's.
COMPILED_FLOAT32 = [COMPILED[2]]


def options(case):
    return ' '.join(f'{key}={value}' for key, value in case.items())


@pytest.mark.parametrize('dtype', DTYPES[:2])
@forms
@pytest.mark.parametrize('kind', [
    dict(grid=(2, 1)), dict(grid=(3, 5)), dict(grid=(4, 4)),
    dict(grid=(1, 17)), dict(grid=(9, 7), N=1, h=1, S=24, P=20), dict(S=4, P=1),
    dict(grid=(2, 5), P=64, S=64, h=1), dict(grid=(3, 3), P=48, S=40, masked=True),
    dict(skip=False), dict(grid=(14, 14), N=1, h=1, S=12, P=24), dict(h=35, P=4, masked=True),
], ids=options)
def test_is_the_reference(kind, normalize, dtype, triton_device):
    assert failures(draws(**kind, normalize=normalize), dtype, triton_device) == ()


@pytest.mark.parametrize('dtype', DTYPES[:2])
def test_blocks_do_not_grow_with_heads(dtype, triton_device):
    """Any number of heads compiles, within shared memory."""
    found = []
    for h in (16, 256):
        case = make_case(normalize=True, N=1, h=h, P=1, S=64)
        tensors = case.cast(dtype, triton_device)
        given = [tensors[name] for name in ('x', 'dt', 'A', 'B', 'C', 'D')]
        call = normalized._Call(*given, None, [3, 5])
        found.append([{**options, 'h': None} for options in (call.wide(), call.narrow())])
    assert found[0] == found[1]


# a state of one token cancels against the denominator: its gradient is rounding alone in half
@forms
def test_one_token(normalize, triton_device):
    assert failures(draws(grid=(1, 1), normalize=normalize), torch.float32, triton_device) == ()


@forms
def test_float16(normalize, triton_device):
    kind = dict(grid=(7, 10), normalize=normalize, masked=True)
    assert failures(draws(**kind), torch.float16, triton_device) == ()


@pytest.mark.parametrize('dtype', DTYPES[:2])
@pytest.mark.parametrize('G', [2, 4])
def test_groups(G, dtype, triton_device):
    assert failures(draws(G=G, masked=True), dtype, triton_device) == ()


@forms
@pytest.mark.parametrize('dtype', DTYPES[:2])
@pytest.mark.parametrize('capability', [(7, 5), (8, 0)], ids=str)
def test_other_gpus(capability, dtype, normalize, monkeypatch, triton_device):
    """Tiles and products of other GPUs than Hopper's, with states of several blocks of columns."""
    monkeypatch.setattr(triton_support, 'capability', lambda device: capability)
    case = draws(N=1, grid=(5, 14), h=2, P=40, S=40, masked=True, normalize=normalize)
    assert failures(case, dtype, triton_device) == ()


def test_infinity_has_no_other_parts(monkeypatch, triton_device):
    monkeypatch.setattr(triton_support, 'capability', lambda device: (8, 0))
    case = make_case(N=1)
    case.tensors['x'][0, 4, 1, 2] = math.inf
    dB = results(case, case.cast(torch.float32, triton_device), 'triton')['B']
    assert dB[0, 4].isinf().all()
    assert dB[0, :4].isfinite().all()


@forms
@pytest.mark.parametrize('masked', [False, True])
def test_float64(normalize, masked, triton_device):
    if triton_device == 'cuda':
        pytest.skip('on a GPU float64 is for the reference')
    case = make_case(normalize=normalize, masked=masked, grid=(7, 10))
    assert failures(case, torch.float64, triton_device) == ()


# 49 * 49 tokens: several tiles in several stretches
@forms
def test_many_tokens(normalize, triton_device):
    case = make_case(N=1, grid=(49, 49), h=1, P=16, S=16, normalize=normalize)
    assert failures(case, torch.bfloat16, triton_device) == ()


@pytest.mark.gpu
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@forms
def test_a_detector_s_image(normalize, dtype):
    if not torch.cuda.is_available():
        pytest.skip('no GPU')
    kind = dict(grid=(200, 334), h=2, P=64, S=64, normalize=normalize, steps=0.01)
    assert failures(draws(**kind), dtype, 'cuda') == ()


@forms
def test_stretches_of_several_tiles(normalize, triton_device):
    # the second image's first stretches are tokens, its last ones padding
    case = make_case(N=3, grid=(16, 33), h=2, P=16, S=16, normalize=normalize, masked=True)
    assert failures(case, torch.float32, triton_device) == ()


@pytest.mark.parametrize('dtype', DTYPES[1:])
@pytest.mark.parametrize('masked', [False, True])
def test_long_heads(masked, dtype, monkeypatch, triton_device):
    """If there are enough of them, they are not cut, and take tiles of 128 tokens on Hopper."""
    monkeypatch.setattr(plain, 'LONG', 256)
    monkeypatch.setattr(plain, 'LONG_HEADS', 4)
    for grid in ((17, 16), (9, 40)):
        kind = dict(grid=grid, h=2, P=24, S=12, masked=masked)
        assert failures(draws(**kind), dtype, triton_device) == ()


@pytest.mark.parametrize(('version', 'warps'), [('3.3.1', 4), ('3.4.0', 8)])
def test_a_compiler_that_stops_at_long_heads(version, warps, monkeypatch, triton_device):
    monkeypatch.setattr(plain, 'LONG', 8)
    monkeypatch.setattr(plain, 'LONG_HEADS', 4)
    monkeypatch.setattr(triton_support, 'capability', lambda device: (9, 0))
    monkeypatch.setattr(triton_support, '_version', lambda: version)
    inputs = make_case().cast(torch.bfloat16, triton_device)
    assert plain._Call(**inputs, mask=None).whole_options()['num_warps'] == warps


@pytest.mark.parametrize('stretch', [1024, 64])
def test_one_token_may_have_all_weight(stretch, monkeypatch, triton_device):
    """Its gradient is a difference of nearly equal numbers, of which PyTorch keeps no digit."""
    monkeypatch.setattr(normalized, '_STRETCH', stretch)
    case = make_case(N=1, grid=(14, 14), h=2, P=16, S=16, normalize=True, steps=0.1)
    case.tensors['A'][:] = -8
    case.tensors['dt'][:, 7] = 4
    found = results(case, case.cast(torch.float32, triton_device), 'triton')
    truth = results(case, case.cast(torch.float64), 'reference')
    for name in ('dt', 'A'):
        off = (found[name].cpu().double() - truth[name]).norm() / truth[name].norm()
        assert off < 1e-4, (name, off)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_a_softmax_over_stretches(dtype, monkeypatch, triton_device):
    """Of many tokens, programs take the softmax over a stretch each, some of which are padding."""
    if dtype == torch.float64 and triton_device != 'cpu':
        pytest.skip('on a GPU float64 is for the reference')
    monkeypatch.setattr(normalized, '_LANES', 16)
    monkeypatch.setattr(normalized, '_LEAST_STRETCH', 16)
    kind = dict(N=3, grid=(7, 15), h=3, P=8, S=8, normalize=True, masked=True)
    for steps in (1.0, 30.0):
        assert failures(make_case(**kind, steps=steps), dtype, triton_device) == ()
    case = make_case(**kind)
    case.tensors['dt'][1, 50] = math.nan
    found = results(case, case.cast(torch.float32, triton_device), 'triton')
    assert found['y'][1].isnan().any()
    assert not found['y'][0].isnan().any()


@pytest.mark.parametrize('dtype', DTYPES)
@forms
@pytest.mark.parametrize('steps', [1e-6, 1e3])
def test_extreme_steps(steps, normalize, dtype, triton_device):
    # gradients of steps that float16 cannot hold are infinite in the reference too
    if dtype == torch.float16 and steps > 1:
        steps = 10
    cases = draws(grid=(3, 5), normalize=normalize, steps=steps)
    values = results(cases[0], cases[0].cast(dtype, triton_device), 'triton')
    assert all(t.isfinite().all() for t in values.values())
    assert failures(cases, dtype, triton_device) == ()


def test_a_sum_that_float16_cannot_hold(triton_device):
    """4,096 tokens of weight 64 add up to 262,144, before a small C brings them back."""
    L = 4096
    kind = dict(dtype=torch.float16, device=triton_device)
    x, dt = torch.ones(1, L, 1, 16, **kind), torch.ones(1, L, 1, **kind)
    B = torch.full((1, L, 1, 16), 64.0, **kind)
    C = torch.full((1, L, 1, 16), 2.0**-8, **kind)
    y = nc_ssd(x, dt, -torch.ones(1, device=triton_device), B, C, impl='triton')
    torch.testing.assert_close(y.float(), torch.full_like(y, 16384.0).float())


@forms
def test_steps_and_decays_may_be_zero(normalize, triton_device):
    cases = draws(grid=(3, 5), normalize=normalize)
    for case in cases:
        case.tensors['dt'][:, ::3] = 0
        case.tensors['A'][0] = 0
    assert failures(cases, torch.float32, triton_device) == ()


@pytest.mark.parametrize('name', ['x', 'dt', 'B', 'C', 'A'])
@forms
def test_nan_stays_nan_in_its_image(normalize, name, triton_device):
    case = make_case(h=2, normalize=normalize)
    place = case.tensors[name] if name == 'A' else case.tensors[name][0, 9]
    place.view(-1)[1] = math.nan
    tensors = case.cast(torch.float32, triton_device)
    own, expected = (results(case, tensors, impl) for impl in ('triton', 'reference'))
    for result, t in own.items():
        assert t[expected[result].isnan()].isnan().all(), result
        assert t.dim() == 1 or name == 'A' or t[1].isfinite().all(), result


@forms
def test_padding_may_hold_anything(normalize, triton_device):
    case = make_case(N=3, grid=(7, 9), normalize=normalize, masked=True)
    clean, poisoned = case.cast(torch.float32, triton_device), dict(case.tensors)
    for name, poison in (('x', math.nan), ('B', math.inf), ('C', -math.inf), ('dt', math.nan)):
        poisoned[name] = poisoned[name].clone()
        poisoned[name][~case.tensors['mask']] = poison
    poisoned = Case('nc_ssd', poisoned, case.options).cast(torch.float32, triton_device)
    results_ = results(case, poisoned, 'triton')
    mask = clean['mask']
    for name, expected in results(case, clean, 'triton').items():
        if name in ('A', 'D'):
            torch.testing.assert_close(results_[name], expected)
        else:
            assert torch.equal(results_[name], expected)
            assert (expected[~mask] == 0).all()


@forms
def test_strides_do_not_matter(normalize, triton_device):
    """Parts of one tensor, as a projection gives them, and tensors that are expanded."""
    case = make_case(normalize=normalize, masked=True)
    tensors = case.cast(torch.float32, triton_device)
    plain = results(case, tensors, 'triton')
    parts = [tensors[name].detach().flatten(2) for name in ('x', 'B', 'C', 'dt')]
    packed = torch.cat(parts, -1).transpose(0, 1).contiguous().transpose(0, 1)
    views = packed.split([part.shape[-1] for part in parts], -1)
    for name, view in zip(('x', 'B', 'C', 'dt'), views):
        like = tensors[name]
        tensors[name] = view.unflatten(-1, like.shape[2:]) if like.dim() == 4 else view
        tensors[name].requires_grad_()
        assert not tensors[name].is_contiguous()
    tensors['A'] = torch.stack([tensors['A'].detach()] * 2, -1)[:, 1].requires_grad_()
    for name, result in results(case, tensors, 'triton').items():
        assert torch.equal(result, plain[name]), name


def test_expanded_inputs(triton_device):
    case = make_case()
    tensors = case.cast(torch.float32, triton_device)
    tensors['B'] = tensors['B'].detach()[:, :1].expand(-1, 15, -1, -1).requires_grad_()
    y = case.run(tensors, 'triton')
    weights = torch.ones(1, device=triton_device).expand(y.shape)  # all strides are 0
    dx, = torch.autograd.grad(y, tensors['x'], weights)
    z = case.run(tensors, 'reference')
    for given, expected in ((y, z), (dx, torch.autograd.grad(z, tensors['x'], weights)[0])):
        bound = 1e-6 * expected.abs().max().item()
        torch.testing.assert_close(given, expected, rtol=1e-5, atol=bound)


@forms
def test_every_number_is_written(normalize, poisoned_memory, triton_device):
    case = make_case(grid=(9, 15), normalize=normalize, masked=True)
    values = results(case, case.cast(torch.float32, triton_device), 'triton')
    assert all(t.isfinite().all() for t in values.values())


@forms
def test_two_runs_are_equal_bit_for_bit(normalize, triton_device):
    case = make_case(grid=(20, 10), h=2, normalize=normalize)
    first, second = (results(case, case.cast(torch.bfloat16, triton_device), 'triton')
                     for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@forms
def test_gradcheck(normalize, triton_device):
    if triton_device == 'cuda':
        pytest.skip('on a GPU float64 is for the reference')
    case = make_case(N=1, grid=(2, 3), h=2, P=3, S=4, normalize=normalize)
    case.tensors['A'] /= 16
    tensors = case.cast(torch.float64)
    assert torch.autograd.gradcheck(
        lambda *given: case.run(dict(zip(tensors, given)), 'triton'), tuple(tensors.values()),
        fast_mode=True)


def test_a_second_gradient_is_refused(triton_device):
    case = make_case()
    tensors = case.cast(torch.float32, triton_device)
    dx, = torch.autograd.grad(case.run(tensors, 'triton').sum(), tensors['x'], create_graph=True)
    with pytest.raises(RuntimeError, match='nc_ssd_triton_backward has no gradient'):
        dx.sum().backward()


@forms
def test_opcheck(normalize, triton_device):
    case = make_case(normalize=normalize, masked=True)
    tensors = case.cast(torch.float32, triton_device)
    grid = case.options.get('grid')
    inputs = (*(tensors[name] for name in ('x', 'dt', 'A', 'B', 'C', 'D', 'mask')), grid)
    torch.library.opcheck(torch.ops.mmvssd_kernels.nc_ssd_triton.default, inputs)
    outputs = torch.ops.mmvssd_kernels.nc_ssd_triton(*inputs)
    inputs = [t.detach() if torch.is_tensor(t) else t for t in inputs]
    torch.library.opcheck(torch.ops.mmvssd_kernels.nc_ssd_triton_backward.default,
                          (torch.ones_like(outputs[0]), *inputs[:7],
                           *(t.detach() for t in outputs[1:]), grid))


@forms
def test_compiles_as_one_graph(normalize, triton_device):
    case = make_case(normalize=normalize)
    tensors = case.cast(torch.float32, triton_device)
    compiled = torch.compile(lambda given: case.run(given, 'triton') * 2, fullgraph=True,
                             backend='aot_eager')
    y, dx = compiled(tensors), None
    dx, = torch.autograd.grad(y.sum(), tensors['x'])
    expected = case.run(tensors, 'triton') * 2
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(dx, torch.autograd.grad(expected.sum(), tensors['x'])[0])


def test_images_of_any_size_share_a_graph(triton_device):
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend('aot_eager')
    compiled = torch.compile(lambda given, grid: nc_ssd(**given, normalize=True, grid=grid,
                                                        impl='triton'),
                             fullgraph=True, dynamic=True, backend=counter)
    for grid in ((3, 5), (4, 7), (6, 4), (5, 9)):
        case = make_case(grid=grid, normalize=True)
        tensors = {name: t.detach() for name, t in case.cast(torch.float32, triton_device).items()}
        torch.testing.assert_close(compiled(tensors, grid), case.run(tensors, 'triton'))
    assert counter.frame_count == 1


def test_float64_beside_float32(triton_device):
    """What the reference takes the kernels take, or 'auto' would fail where it need not."""
    case = make_case()
    tensors = case.cast(torch.float32, triton_device)
    tensors['B'] = tensors['B'].detach().double()
    expected = case.run(tensors, 'reference')
    bound = 1e-6 * expected.abs().max().item()
    torch.testing.assert_close(case.run(tensors, 'triton'), expected, rtol=1e-5, atol=bound)


def test_autocast_changes_nothing(triton_device):
    case = make_case()
    tensors = case.cast(torch.float32, triton_device)
    plain = case.run(tensors, 'triton')
    with torch.autocast(triton_device, torch.bfloat16):
        assert torch.equal(case.run(tensors, 'triton'), plain)


def test_dtypes_may_differ(triton_device):
    """As under autocast: half tokens, parameters and step sizes in float32."""
    case = make_case()
    tensors = case.cast(torch.float32, triton_device)
    for name in ('x', 'B', 'C'):
        tensors[name] = tensors[name].detach().bfloat16().requires_grad_()
    own, expected = (results(case, tensors, impl) for impl in ('triton', 'reference'))
    for name, result in own.items():
        assert result.dtype == expected[name].dtype
        # what is bfloat16 may be rounded to either side; what is float32 has sums of 16 bits
        share = 2**-8 if result.dtype == torch.bfloat16 else 2**-15
        bound = share * expected[name].abs().max().item()
        torch.testing.assert_close(result, expected[name], rtol=share, atol=bound)


@forms
@pytest.mark.parametrize(('N', 'grid'), [(0, (3, 5)), (2, (0, 5))])
def test_nothing_in_nothing_out(N, grid, normalize, triton_device):
    case = make_case(N=N, grid=grid, normalize=normalize)
    tensors = case.cast(torch.float32, triton_device)
    values = results(case, tensors, 'triton')
    assert values['y'].shape == tensors['x'].shape
    assert (values['A'] == 0).all()
    assert (values['D'] == 0).all()


def test_offsets_beyond_32_bits(triton_device):
    """Tokens and images lie further apart than 2**31 elements, in memory that is never touched."""
    far = 2**30
    size = 4 * far
    if triton_device == 'cuda' and torch.cuda.mem_get_info()[0] < 3 * size:
        pytest.skip('needs 12 GB of free GPU memory')
    # on a CPU only the pages that are touched take memory
    memory = torch.empty(size, dtype=torch.bfloat16, device=triton_device)
    x = memory.as_strided((2, 4, 1, 16), (2 * far + 16, far // 2, 16, 1))
    case = make_case(N=2, grid=(2, 2), h=1, P=16)
    tensors = case.cast(torch.bfloat16, triton_device)
    plain = case.run(tensors, 'triton')
    x.copy_(tensors['x'].detach())
    tensors['x'] = x
    assert torch.equal(case.run(tensors, 'triton'), plain)


def test_what_cannot_run_says_why(monkeypatch, triton_device):
    wide = make_case(P=65)
    with pytest.raises(RuntimeError, match=r'heads of width 65 .* at most 64 each'):
        wide.run(wide.cast(torch.float32, triton_device), 'triton')
    # 'auto' goes round it
    wide.run(wide.cast(torch.float32, triton_device), 'auto')
    many = torch.zeros(2**16, 1, 1, 1, device=triton_device)
    with pytest.raises(RuntimeError, match='65536 images of 1 tokens, more than a launch has room'):
        nc_ssd(many, many[..., 0], many[0, 0, 0], many, many, impl='triton')
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    case = make_case()
    with pytest.raises(RuntimeError, match='Triton needs a CUDA GPU, and x is on cpu'):
        case.run(case.cast(torch.float32), 'triton')


def test_auto_leaves_the_interpreter_alone(monkeypatch, caplog):
    monkeypatch.setenv('TRITON_INTERPRET', '1')
    monkeypatch.delenv(dispatch.ENVIRONMENT_VARIABLE, raising=False)
    dispatch._log_fallback.cache_clear()
    case = make_case()
    tensors = case.cast(torch.float32)
    monkeypatch.setattr(launch, 'Call', None)  # a launch would fail
    assert torch.equal(case.run(tensors, 'auto'), case.run(tensors, 'reference'))
    assert 'nc_ssd: not using triton: TRITON_INTERPRET=1' in caplog.text


@pytest.mark.parametrize(('change', 'message'), [
    (dict(dt=torch.zeros(2, 14, 4)), r'dt: got shape \(2, 14, 4\), expected \(2, 15, 4\)'),
    (dict(B=torch.zeros(2, 15, 1, 8, dtype=torch.int64)), 'B: got dtype torch.int64'),
    (dict(D=torch.zeros(4, device='meta')), 'D: got device meta, expected cpu'),
])
def test_bad_input_is_told_before_any_launch(change, message, monkeypatch):
    monkeypatch.setattr(launch, 'Call', None)
    case = make_case()
    with pytest.raises(ValueError, match=message):
        case.run({**case.cast(torch.float32), **change}, 'triton')
