"""The op's Triton kernels against its reference in float64."""
import inspect

import pytest
import torch

from mmvssd_kernels import compile_ahead, dispatch, library, ssd, triton_support
from mmvssd_kernels.parity import Case, failures, results
from mmvssd_kernels.ssd import autograd

directions = pytest.mark.parametrize('reverse', [False, True])


# with few heads the largest error of a parameter's gradient is a matter of luck
def make_case(N=1, L=15, h=8, P=24, G=1, S=12, *, reverse=False, skip=True, masked=False,
              steps=0.1, seed=0):
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    tensors = dict(x=normal(N, L, h, P),
                   dt=steps * torch.nn.functional.softplus(normal(N, L, h)),
                   A=-torch.rand(h, generator=random, dtype=torch.float64) * 15 - 1,
                   B=normal(N, L, G, S), C=normal(N, L, G, S), D=normal(h) if skip else None)
    if masked:
        tensors['mask'] = torch.arange(L) % 7 != torch.arange(N)[:, None]
    return Case('ssd', tensors, dict(reverse=reverse))


#: A gradient of few numbers, such as A's, has by luck more or less than eager's error: of 24 draws
#: on a GPU less on the whole. Interpreted, one draw takes long enough.
DRAWS = 8 if torch.cuda.is_available() else 1


def draws(seed=0, **kind):
    return [make_case(**kind, seed=seed + i) for i in range(DRAWS)]


# every choice of tiles, with and without the skip, several segments and one
COMPILED = [
    make_case(L=600, h=2, P=64, S=64),
    make_case(L=600, h=2, P=128, S=128, reverse=True),
    # strides of 1, constants to Triton
    make_case(N=1, L=1, h=1, P=1, S=1, skip=False),
    # many heads
    make_case(N=65, L=600, h=2, P=64, S=64),
]
#: Large tiles, and those of the largest heads and states.
COMPILED_HALVES = COMPILED[:2]
#: Of published heads and states, and of as many images as in training.
COMPILED_FLOAT32 = COMPILED[-1:]


def options(case):
    if not isinstance(case, dict):
        return str(case)
    return ' '.join(f'{key}={value}' for key, value in case.items())


@pytest.mark.parametrize('kind', [
    dict(), dict(L=1), dict(L=2, reverse=True), dict(L=16, seed=1), dict(L=17, reverse=True),
    dict(N=2, L=31, P=12), dict(L=32, S=24), dict(L=33, S=48, P=48), dict(L=63, reverse=True),
    dict(L=196, h=4), dict(skip=False, L=40), dict(P=128, S=100, L=20, h=2), dict(S=3, P=1, L=70),
    dict(P=70, S=64, L=40, h=2), dict(N=2, L=40, masked=True, reverse=True),
], ids=options)
def test_is_the_reference(kind, triton_device):
    assert failures(draws(**kind), torch.float32, triton_device) == ()


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(('tokens', 'kind'), [
    (64, dict(L=140)), (64, dict(L=200, G=2, reverse=True)),
    # steps so small that much crosses a segment
    (128, dict(N=2, L=270, masked=True, steps=0.002)), (256, dict(L=300, h=2, P=70, S=12)),
], ids=options)
def test_segments(tokens, kind, dtype, triton_device, monkeypatch):
    """Of one chunk, two, and four: forward only if images and heads are few."""
    monkeypatch.setattr(autograd, 'SEGMENT', 1)
    monkeypatch.setattr(autograd, 'TOKENS', {True: tokens, False: tokens})
    case = make_case(**kind)
    tiles = autograd._tiles(case.tensors['B'].shape[3], case.tensors['x'].shape[3])
    assert autograd._length(case.tensors['x'].shape, tiles) * tiles.T < kind['L']
    assert failures(draws(**kind), dtype, triton_device) == ()


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(('tokens', 'kind'), [
    (64, dict(L=200, G=2, reverse=True)), (128, dict(N=2, L=270, masked=True, steps=0.002)),
    (256, dict(L=300, h=2, P=70, S=12)),
], ids=options)
def test_segments_of_many_heads(tokens, kind, dtype, triton_device, monkeypatch):
    """One after the other, as heads keep a GPU busy; forward does not cut them."""
    monkeypatch.setattr(autograd, 'PROGRAMS', 1)
    monkeypatch.setattr(autograd, 'TOKENS', {True: tokens, False: tokens})
    assert failures(draws(**kind), dtype, triton_device) == ()


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('capability', [(7, 5), (8, 0)], ids=str)
@pytest.mark.parametrize('kind', [dict(L=70), dict(L=290, h=2, G=2, reverse=True)], ids=options)
def test_smaller_chunks(kind, capability, dtype, triton_device, monkeypatch):
    """What other GPUs than Hopper's have room for."""
    monkeypatch.setattr(triton_support, 'capability', lambda device: capability)
    assert failures(draws(**kind), dtype, triton_device) == ()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('kind', [
    dict(L=1), dict(L=17, reverse=True), dict(L=35, G=2),
], ids=options)
def test_is_the_reference_from_half_inputs(kind, dtype, triton_device):
    assert failures(draws(**kind), dtype, triton_device) == ()


@directions
@pytest.mark.parametrize('programs', [256, 1])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_states_have_more_digits_than_half_tokens(dtype, programs, reverse, triton_device,
                                                  monkeypatch):
    """As have gradients of float32 steps, most of which come from other segments."""
    monkeypatch.setattr(autograd, 'PROGRAMS', programs)
    monkeypatch.setattr(autograd, 'TOKENS', {True: 64, False: 64})
    case = make_case(L=200, h=2, steps=0.01, reverse=reverse)
    tensors = {name: t.to(torch.float32 if name in ('dt', 'A', 'D') else dtype)
               for name, t in case.tensors.items()}
    own, truth = (results(case, {name: t.to(device=device, dtype=wide or t.dtype).requires_grad_()
                                 for name, t in tensors.items()}, impl)
                  for impl, device, wide in (('triton', triton_device, None),
                                             ('reference', 'cpu', torch.float64)))
    assert (own['dt'].cpu() - truth['dt']).norm() < 2**-16 * truth['dt'].norm()


@pytest.mark.parametrize(('b', 'c'), [
    (torch.float16, torch.bfloat16), (torch.bfloat16, torch.float16),
    (torch.float32, torch.bfloat16),
], ids=str)
def test_dtypes_may_differ(b, c, triton_device, monkeypatch):
    """Tensor cores multiply parts of bfloat16, which a float16 block has to be cut in first."""
    if triton_support.interpreted():
        monkeypatch.setattr(triton_support, '_precisions', lambda: ('bf16x3', 'bf16x6'))
    case = make_case(L=40)
    values = {name: t.to(dict(B=b, C=c, x=torch.bfloat16).get(name, torch.float32))
              for name, t in case.tensors.items()}
    y = ssd(**{name: t.to(triton_device) for name, t in values.items()}, impl='triton')
    expected = ssd(**values, impl='reference')
    assert (y.cpu().float() - expected.float()).norm() <= 1e-2 * expected.float().norm()


@directions
@pytest.mark.parametrize('G', [2, 8])
def test_groups(G, reverse, triton_device):
    assert failures(draws(L=40, G=G, reverse=reverse, seed=1), torch.float32, triton_device) == ()


@directions
def test_float64(reverse, triton_device):
    if triton_device == 'cuda':
        pytest.skip('on a GPU float64 is for the reference')
    case = make_case(N=2, L=70, h=2, G=2, reverse=reverse)
    own, expected = (results(case, case.cast(torch.float64), impl)
                     for impl in ('triton', 'reference'))
    for name, result in expected.items():
        torch.testing.assert_close(own[name], result, rtol=1e-12, atol=1e-12, msg=name)


def test_many_tokens(triton_device):
    case = make_case(L=2401, h=1, P=16, S=16, steps=0.01)
    assert failures(case, torch.float32, triton_device) == ()


@pytest.mark.gpu
@directions
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_a_detector_s_image(dtype, reverse):
    if not torch.cuda.is_available():
        pytest.skip('no GPU')
    case = make_case(L=66_800, P=64, S=64, steps=0.01, reverse=reverse)
    assert failures(case, dtype, 'cuda') == ()


@pytest.mark.parametrize(('steps', 'dtype'), [
    (1e-6, torch.float32), (1e3, torch.float32),
    *(('mixed', dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)),
])
def test_extreme_steps(steps, dtype, triton_device):
    L = 40
    if steps == 'mixed':
        # a sum from the start of the chunk has no room for the small beside the large: neither as
        # read within the chunk, of the first 40 tokens, nor by the next one
        L = 140
        steps = torch.where(torch.arange(L) % 64 == 2, 1e3, 1e-4)[:, None].double()
        steps[:40:5] = 1e3
    # gradients of steps that float16 cannot hold are infinite in the reference too
    if dtype == torch.float16:
        steps = torch.as_tensor(steps).clamp(1e-4, 10)
    case = make_case(L=L, h=2, steps=steps)
    values = results(case, case.cast(dtype, triton_device), 'triton')
    assert all(t.isfinite().all() for t in values.values())
    assert failures(case, dtype, triton_device) == ()


def test_steps_and_decays_may_be_zero(triton_device):
    """Of single tokens, of a tail of them, of a head: a state that stays as it is."""
    cases = draws(L=40)
    for case in cases:
        case.tensors['dt'][0, ::3] = 0
        case.tensors['dt'][0, 30:] = 0
        case.tensors['A'][0] = 0
    assert failures(cases, torch.float32, triton_device) == ()


def test_what_float16_cannot_hold_is_infinite(triton_device):
    """Nothing else is: what is summed on the way has the range of float32."""
    case = make_case(L=20, h=2, steps=10)
    case.tensors['x'] *= 1e4
    tensors = case.cast(torch.float16, triton_device)
    exact = results(case, {name: t.detach().double().requires_grad_()
                           for name, t in tensors.items()}, 'reference')
    for name, t in results(case, tensors, 'triton').items():
        size = exact[name].abs() / torch.finfo(torch.float16).max
        assert t[size < 0.99].isfinite().all(), name
        assert t[size > 1.01].isinf().all(), name
        assert name != 'y' or 0 < t.isinf().sum() < t.numel()


@pytest.mark.parametrize(('name', 'reverse'), [
    ('x', False), ('dt', True), ('B', False), ('C', True), ('A', False)])
def test_nan_stays_nan_in_its_image(name, reverse, triton_device):
    """Outputs of earlier chunks have nothing of it either."""
    case = make_case(N=3, L=70, h=2, P=16, reverse=reverse)
    T = case.options['chunk_size'] = autograd._tiles(12, 16).T
    place = case.tensors[name] if name == 'A' else case.tensors[name][1, 3 if reverse else 36]
    place.view(-1)[0] = torch.nan
    tensors = case.cast(torch.float32, triton_device)
    own, expected = (results(case, tensors, impl) for impl in ('triton', 'reference'))
    for result, t in own.items():
        assert t[expected[result].isnan()].isnan().all(), result
        assert t.dim() == 1 or name == 'A' or t[::2].isfinite().all(), result
    earlier = own['y'][1, -T:] if reverse else own['y'][1, :T]
    assert name == 'A' or earlier.isfinite().all()


@directions
def test_strides_do_not_matter(reverse, triton_device, monkeypatch):
    """Parts of one tensor, as a projection gives them; over chunks and segments too."""
    monkeypatch.setattr(autograd, 'TOKENS', {False: 128})
    case = make_case(L=140, h=2, G=2, reverse=reverse)
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
    # else its tokens are as far apart as B's
    tensors['C'] = torch.stack([tensors['C'].detach()] * 2, 2)[:, :, 1].requires_grad_()
    for name in ('A', 'D'):
        tensors[name] = torch.stack([tensors[name].detach()] * 2, -1)[:, 1].requires_grad_()
    for name, result in results(case, tensors, 'triton').items():
        assert torch.equal(result, plain[name]), name


@directions
def test_expanded_inputs(reverse, triton_device):
    case = make_case(L=40, h=2, reverse=reverse)
    tensors = case.cast(torch.float32, triton_device)
    for name in ('B', 'dt'):
        like = tensors[name].detach()
        tensors[name] = like[:, :1].expand(like.shape).requires_grad_()
    y = case.run(tensors, 'triton')
    weights = torch.ones(1, device=triton_device).expand(y.shape)  # all strides are 0
    z = case.run(tensors, 'reference')
    torch.testing.assert_close(y, z)
    for own, expected in zip(*(torch.autograd.grad(out, list(tensors.values()), weights)
                               for out in (y, z))):
        torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-4)


def far_apart(like, strides):
    """A copy that takes memory at its numbers only."""
    last = sum((size - 1) * stride for size, stride in zip(like.shape, strides))
    if like.is_cuda and torch.cuda.mem_get_info()[0] < 2 * 2 * last:
        pytest.skip('too little free GPU memory')
    memory = torch.empty(last + 1, dtype=like.dtype, device=like.device)
    return memory.as_strided(like.shape, strides).copy_(like.detach()).requires_grad_()


@pytest.mark.parametrize(('far', 'reverse'), [('images', False), ('tokens', False),
                                              ('tokens', True), ('heads', False),
                                              ('channels', False)])
def test_offsets_beyond_two_to_the_31(far, reverse, triton_device):
    """Elements up to 2**31 and more apart; memory that nobody touches takes no room."""
    strides = {'images': (2**31, 6, 3, 1), 'tokens': (8, 2**26, 3, 1),
               'heads': (120, 3, 2**31, 1), 'channels': (80, 2, 1, 2**30)}[far]
    case = make_case(N=2, L=40, h=2, P=3, S=4, reverse=reverse)
    tensors = case.cast(torch.bfloat16, triton_device)
    plain = results(case, tensors, 'triton')
    tensors['x'] = far_apart(tensors['x'], strides)
    for name, result in results(case, tensors, 'triton').items():
        assert torch.equal(result, plain[name]), name


@directions
@pytest.mark.parametrize('far', ['x', 'B', 'C', 'dy'])
def test_chunks_beyond_two_to_the_31(far, reverse, triton_device):
    case = make_case(L=70, h=2, P=3, S=4, reverse=reverse)
    tensors = case.cast(torch.bfloat16, triton_device)
    tensors['dy'] = torch.ones_like(tensors['x'])

    def gradients(dy, **inputs):
        return torch.autograd.grad(case.run(inputs, 'triton'), list(inputs.values()), dy)

    plain = gradients(**tensors)
    like = tensors[far]
    tensors[far] = far_apart(like, (0, 2**25, *like.stride()[2:]))
    for name, own, other in zip(tensors, gradients(**tensors), plain):
        assert torch.equal(own, other), name


@pytest.mark.parametrize('capability', [(7, 5), (8, 0), (9, 0)], ids=str)
@pytest.mark.parametrize(('dtype', 'S'), [(torch.bfloat16, 16), (torch.float32, 128)], ids=str)
def test_a_launch_has_room_for_what_is_taken(dtype, S, capability, triton_device, monkeypatch):
    monkeypatch.setattr(triton_support, 'capability', lambda device: capability)

    def arguments(L):
        one = torch.empty(1, dtype=dtype, device=triton_device)
        tokens = one.expand(1, L, 1, 16), one.expand(1, L, 1), -one
        return *tokens, *[one.expand(1, L, 1, S)] * 2, None

    taken, refused = 1, 2**23
    while refused - taken > 1:
        L = (taken + refused) // 2
        if autograd.obstacle(*arguments(L)) is None:
            taken = L
        else:
            refused = L
    assert taken >= 16 * 65535
    x, *others = arguments(taken)
    for name, inputs in (('ssd_triton', (x, *others)), ('ssd_triton_backward', (x, x, *others))):
        body = inspect.unwrap(library.body(name))
        found = compile_ahead.launches(body, *inputs, False, capability=capability)
        assert max(max(launch.grid[1:]) for launch in found) <= 65535, name


def test_a_short_sequence_takes_no_memory_of_a_segment(triton_device):
    def memory(L):
        """Bytes of all that backward's launches read and write."""
        x, dt, A, B, C, D = make_case(N=4, L=L).cast(torch.bfloat16, triton_device).values()
        found = compile_ahead.launches(inspect.unwrap(library.body('ssd_triton_backward')),
                                       x, x, dt, A, B, C, D, False)
        tensors = {id(t): t for launch in found for t in launch.args if isinstance(t, torch.Tensor)}
        return sum(t.nbytes for t in tensors.values())

    assert memory(64) < 0.3 * memory(autograd.TOKENS[True])


@directions
def test_every_number_is_written(reverse, poisoned_memory, triton_device):
    case = make_case(L=70, h=2, G=2, reverse=reverse)
    values = results(case, case.cast(torch.float32, triton_device), 'triton')
    assert all(t.isfinite().all() for t in values.values())


def test_two_runs_are_equal_bit_for_bit(triton_device):
    case = make_case(L=70, h=2)
    first, second = (results(case, case.cast(torch.bfloat16, triton_device), 'triton')
                     for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(('kind', 'reverse', 'programs'), [
    (dict(), False, 256), (dict(G=2, skip=False), True, 256), (dict(G=2), True, 1)], ids=str)
def test_gradcheck(kind, reverse, programs, triton_device, monkeypatch):
    """In chunks of 16 tokens, and segments of two: pairs of chunks, and states between segments."""
    if triton_device == 'cuda':
        pytest.skip('float64 runs in the interpreter only')
    for name in ('_tiles', '_gradient_tiles'):
        monkeypatch.setattr(autograd, name, lambda *args: autograd.Tiles(16, 16, 16, 4))
    monkeypatch.setattr(autograd, 'TOKENS', {False: 32})
    monkeypatch.setattr(autograd, 'PROGRAMS', programs)
    case = make_case(L=70, h=2, P=3, S=4, reverse=reverse, **kind)
    tensors = {name: t for name, t in case.cast(torch.float64).items() if t is not None}

    def run(*values):
        return ssd(**dict(zip(tensors, values)), reverse=reverse, impl='triton')

    assert torch.autograd.gradcheck(run, list(tensors.values()), fast_mode=True)


@pytest.mark.parametrize('skip', [False, True])
def test_operators(skip, triton_device):
    case = make_case(L=17, h=2, P=4, S=4, skip=skip, reverse=True)
    tensors = list(case.cast(torch.float32, triton_device).values())
    operators = torch.ops.mmvssd_kernels
    torch.library.opcheck(operators.ssd_triton.default, (*tensors, True))
    detached = [t if t is None else t.detach() for t in tensors]
    torch.library.opcheck(operators.ssd_triton_backward.default,
                          (torch.ones_like(detached[0]), *detached, True))


def test_a_second_gradient_is_refused(triton_device):
    case = make_case(L=3, h=2, P=4, S=4)
    tensors = case.cast(torch.float32, triton_device)
    y = case.run(tensors, 'triton')
    dx, = torch.autograd.grad(y.square().sum(), tensors['x'], create_graph=True)
    with pytest.raises(RuntimeError, match='ssd_triton_backward has no gradient'):
        dx.sum().backward()


def test_compiles_as_one_graph(triton_device):
    case = make_case(L=17, h=2, P=4, S=4)
    torch._dynamo.reset()
    compiled = torch.compile(lambda tensors: case.run(tensors, 'triton').square(),
                             fullgraph=True, backend='aot_eager')
    found = []
    for run in (compiled, lambda tensors: case.run(tensors, 'triton').square()):
        tensors = case.cast(torch.float32, triton_device)
        y = run(tensors)
        found.append((y.detach(), *torch.autograd.grad(y.sum(), list(tensors.values()))))
    torch.testing.assert_close(*found)


def test_autocast_changes_nothing(triton_device):
    case = make_case(L=17, h=2)
    tensors = case.cast(torch.float32, triton_device)
    expected = case.run(tensors, 'triton')
    with torch.autocast(triton_device, torch.bfloat16):
        assert torch.equal(case.run(tensors, 'triton'), expected)


@pytest.mark.parametrize('shape', [dict(N=0), dict(L=0)], ids=str)
def test_nothing_in_nothing_out(shape, triton_device):
    case = make_case(**{'h': 2, **shape})
    tensors = case.cast(torch.float32, triton_device)
    y = case.run(tensors, 'triton')
    assert y.shape == tensors['x'].shape
    for tensor, gradient in zip(tensors.values(),
                                torch.autograd.grad(y.sum(), list(tensors.values()))):
        assert gradient.shape == tensor.shape
        assert (gradient == 0).all()


@pytest.mark.parametrize(('P', 'S'), [(129, 8), (8, 129)])
def test_what_is_too_large_is_an_obstacle(P, S, triton_device):
    case = make_case(L=2, h=1, P=P, S=S)
    tensors = case.cast(torch.float32, triton_device)
    with pytest.raises(RuntimeError, match=f'width {P} and a state of {S}, .* at most 128'):
        case.run(tensors, 'triton')


def test_a_gpu_is_needed(monkeypatch):
    pytest.importorskip('triton')
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    monkeypatch.delenv(dispatch.ENVIRONMENT_VARIABLE, raising=False)
    case = make_case(L=2)
    with pytest.raises(RuntimeError, match="impl='triton' cannot run: Triton needs a CUDA GPU"):
        case.run(case.cast(torch.float32), 'triton')
