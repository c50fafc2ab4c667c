"""The op against its recurrence, run token by token in float64."""
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from mmvssd_kernels import dispatch, selective_scan
from mmvssd_kernels.selective_scan import reference

NAMES = ('u', 'delta', 'A', 'B', 'C', 'D', 'delta_bias')
pytestmark = pytest.mark.usefixtures('scan_implementation')
LENGTHS = [1, 2, 31, 32, 33, 100, 196]


def make_inputs(N=2, K=2, D=3, S=4, L=33, dtype=torch.float64, seed=0):
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    # decays over three orders of magnitude: some states last over chunks, some a token
    A = -10 ** (3 * torch.rand(K * D, S, generator=random, dtype=torch.float64) - 2)
    tensors = (normal(N, K * D, L), normal(N, K * D, L), A, normal(N, K, S, L),
               normal(N, K, S, L), normal(K * D), normal(K * D))
    return tuple(tensor.to(dtype) for tensor in tensors)


def make_mask(N=2, L=33):
    """Padding in three places: at the start, in between and at the end, in each image elsewhere."""
    places = torch.arange(L)
    return torch.stack([(places - n) % 7 < 5 for n in range(N)])


def naive(u, delta, A, B, C, D=None, delta_bias=None, *, delta_softplus=True):
    B, C = (t.repeat_interleave(u.shape[1] // t.shape[1], 1) for t in (B, C))  # (N, K*D, S, L)
    step = delta if delta_bias is None else delta + delta_bias[:, None]
    if delta_softplus:
        step = torch.logaddexp(step, torch.zeros_like(step))  # log(exp(step) + 1)
    decays = (step[:, :, None] * A[:, :, None]).exp().unbind(-1)
    inputs = ((step * u)[:, :, None] * B).unbind(-1)
    h, states = torch.zeros_like(inputs[0]), []
    for a_t, b_t in zip(decays, inputs):
        h = a_t * h + b_t
        states.append(h)
    y = (C * torch.stack(states, -1)).sum(2)
    return y if D is None else y + D[:, None] * u


def with_gradients(op, inputs, **options):
    """The output, and the gradients of a sum in which every output has a weight of its own."""
    leaves = [None if t is None else t.detach().requires_grad_() for t in inputs]
    y = op(*leaves, **options)
    weights = torch.arange(y.numel(), dtype=torch.float64).cos().view(y.shape).to(y.dtype)
    given = [leaf for leaf in leaves if leaf is not None]
    return [y.detach(), *torch.autograd.grad(y, given, weights)]


def assert_follows_the_recurrence(inputs, **options):
    results = with_gradients(selective_scan, inputs, **options)
    for result, expected in zip(results, with_gradients(naive, inputs, **options)):
        torch.testing.assert_close(result, expected)


def relative_errors(results, exact):
    """Largest error of each tensor as a part of its largest value that float32 can hold."""
    return [((result.double() - e).abs().max() / e.abs().max().clamp(min=1e-30)).item()
            for result, e in zip(results, exact)]


@pytest.mark.parametrize('L', LENGTHS)
@pytest.mark.parametrize('K', [1, 2, 4])
@pytest.mark.parametrize('S', [1, 3, 16])
def test_follows_the_recurrence(L, K, S):
    assert_follows_the_recurrence(make_inputs(K=K, S=S, L=L))


def test_a_photograph_of_66800_tokens():
    """800x1333 pixels at stride 4."""
    assert_follows_the_recurrence(make_inputs(N=1, K=1, D=2, S=2, L=66_800))


@pytest.mark.parametrize('absent', [('D', ), ('delta_bias', ), ('D', 'delta_bias')])
def test_without_skip_or_bias(absent):
    inputs = [None if name in absent else t for name, t in zip(NAMES, make_inputs())]
    assert_follows_the_recurrence(inputs)


@pytest.mark.parametrize('bias', [False, True])
def test_step_sizes_as_they_are(bias):
    u, delta, A, B, C, D, delta_bias = make_inputs()
    inputs = (u, delta.exp(), A, B, C, D, delta_bias.abs() if bias else None)
    assert_follows_the_recurrence(inputs, delta_softplus=False)


@pytest.mark.parametrize(('steps', 'block'), [(1, 1), (2, 1), (2, 20), (3, 60), (5, 10**6),
                                              (7, 10**6), (32, 1)])
def test_states_go_from_chunk_to_chunk_and_from_block_to_block(monkeypatch, steps, block):
    monkeypatch.setattr(reference, 'STEPS', steps)
    monkeypatch.setattr(reference, 'BLOCK', block)
    for L in (20, 23):
        assert_follows_the_recurrence(make_inputs(N=1, K=2, D=2, S=2, L=L))


def test_result_does_not_depend_on_the_size_of_blocks(monkeypatch):
    inputs = make_inputs(L=1000, dtype=torch.float32)
    results = with_gradients(selective_scan, inputs)
    for block in (1, 2000, 10_000):
        monkeypatch.setattr(reference, 'BLOCK', block)
        # sums over blocks are in another order: rounding alone
        others = with_gradients(selective_scan, inputs)
        assert max(relative_errors(results, [t.double() for t in others])) < 2e-6


@pytest.mark.parametrize('step', [1e-6, 1e-3, 1.0, 1e3, 'mixed'])
@pytest.mark.parametrize('S', [1, 16])
def test_float32_for_any_step_size(step, S):
    u, delta, A, B, C, D, delta_bias = make_inputs(S=S, L=500)
    if step == 'mixed':
        step = 10 ** (9 * torch.rand_like(delta) - 6)
    wanted = torch.as_tensor(step, dtype=torch.float64).expand_as(delta)
    delta = torch.where(wanted > 30, wanted, wanted.expm1().log()) - delta_bias[:, None]
    inputs = [t.float() for t in (u, delta, A, B, C, D, delta_bias)]
    exact = with_gradients(naive, [t.double() for t in inputs])
    results = with_gradients(selective_scan, inputs)
    assert all(t.isfinite().all() for t in results)
    output, *gradients = relative_errors(results, exact)
    # Seen: 1e-6 and 2e-6, several roundings of sums of 500 * S values; token by token in float32
    # the recurrence is 2e-6 and 1e-5 away. The rest is for the order of sums on other processors.
    assert output < 3e-6
    assert max(gradients) < 6e-6


@pytest.mark.parametrize('step', [0.0, 1e-30, 1e30])
def test_steps_beyond_any_use_stay_finite(step):
    u, delta, A, B, C, _, _ = make_inputs(L=100, dtype=torch.float32)
    delta = torch.full_like(delta, step)
    for softplus in (False, True):
        for t in with_gradients(selective_scan, (u, delta, A, B, C), delta_softplus=softplus):
            assert t.isfinite().all()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('which', ['all', 'u'])
def test_half_inputs_are_computed_in_float32(dtype, which):
    rounded = [t.to(dtype) for t in make_inputs()]
    wide = [t.float() for t in rounded]
    inputs = rounded if which == 'all' else [rounded[0], *wide[1:]]
    y, *gradients = with_gradients(selective_scan, inputs)
    expected, *wide_gradients = with_gradients(selective_scan, wide)
    assert y.dtype == torch.float32
    assert torch.equal(y, expected)
    for t, gradient, wide_gradient in zip(inputs, gradients, wide_gradients):
        assert gradient.dtype == t.dtype
        assert torch.equal(gradient, wide_gradient.to(t.dtype))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_autocast_does_not_touch_the_scan(dtype):
    inputs = make_inputs(dtype=dtype)
    plain = with_gradients(selective_scan, inputs)
    with torch.autocast('cpu', torch.bfloat16):
        cast = with_gradients(selective_scan, inputs)
    assert all(map(torch.equal, plain, cast))


def test_strides_do_not_matter():
    u, delta, A, B, C, D, delta_bias = make_inputs(K=2, D=3, S=4)
    B = B[:, :1].expand(-1, 2, -1, -1)
    C = C[:, :, :1].expand(-1, -1, 4, -1)
    delta = delta[:, :, :1].expand(-1, -1, 33)
    inputs = (u, delta, A, B, C, D, delta_bias)
    strided = (u.mT.contiguous().mT, delta, A.t().contiguous().t(), B, C.flip(3).flip(3),
               D[:1].expand(6), torch.stack([delta_bias] * 2, -1)[:, 0])
    dense = [t.contiguous() for t in inputs[:5]] + [D[:1].repeat(6), delta_bias]
    for a, b in zip(with_gradients(selective_scan, strided),
                    with_gradients(selective_scan, dense)):
        torch.testing.assert_close(a, b)


def test_strides_of_the_gradient_do_not_matter():
    inputs = [t.requires_grad_() for t in make_inputs()]
    y = selective_scan(*inputs)
    dense = torch.autograd.grad(y, inputs, torch.ones_like(y), retain_graph=True)
    expanded = torch.autograd.grad(y.sum(), inputs, retain_graph=True)
    permuted = torch.autograd.grad(y.mT.contiguous(), inputs, torch.ones_like(y).mT)
    for a, b, c in zip(dense, expanded, permuted):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(a, c)


@pytest.mark.parametrize('empty', [dict(N=0), dict(L=0), dict(N=0, L=0), dict(D=0)], ids=str)
def test_nothing_in_nothing_out(empty):
    inputs = make_inputs(**empty)
    y, *gradients = with_gradients(selective_scan, inputs)
    assert y.shape == inputs[0].shape
    for t, gradient in zip(inputs, gradients):
        assert gradient.shape == t.shape
        assert (gradient == 0).all()


@pytest.mark.parametrize('delta_softplus', [False, True])
@pytest.mark.parametrize('vectors', [False, True])
def test_gradcheck(monkeypatch, delta_softplus, vectors):
    monkeypatch.setattr(reference, 'STEPS', 2)
    u, delta, *others = make_inputs(N=1, K=2, D=2, S=2, L=5)
    if not delta_softplus:
        delta, others[4] = delta.exp() + 1, others[4].abs()
    inputs = (u, delta, *others)[:None if vectors else 5]

    def run(*args):
        return selective_scan(*args, delta_softplus=delta_softplus)

    assert torch.autograd.gradcheck(run, [t.requires_grad_() for t in inputs])


def test_operators_have_gradients_of_their_own():
    inputs = [t.requires_grad_() for t in make_inputs(L=40)]
    forward, backward = (getattr(torch.ops.mmvssd_kernels, 'selective_scan' + suffix)
                         for suffix in ('', '_backward'))
    mask = make_mask(L=40)
    torch.library.opcheck(forward, (*inputs, mask, True))
    y, states = forward(*inputs, mask, True)
    inputs = [t.detach() for t in inputs]
    torch.library.opcheck(backward, (y.detach().cos(), *inputs, mask, states, True))


def test_a_second_gradient_is_refused():
    inputs = [t.requires_grad_() for t in make_inputs(L=3)]
    (du, ) = torch.autograd.grad(selective_scan(*inputs).square().sum(), inputs[:1],
                                 create_graph=True)
    with pytest.raises(RuntimeError, match='selective_scan_(numba_)?backward has no gradient'):
        du.sum().backward()


@pytest.mark.parametrize('only', range(7))
def test_one_input_alone_may_need_a_gradient(only):
    inputs = make_inputs()
    expected = with_gradients(selective_scan, inputs)[1 + only]
    leaf = inputs[only].requires_grad_()
    y = selective_scan(*inputs)
    (gradient, ) = torch.autograd.grad(y, [leaf], torch.arange(
        y.numel(), dtype=y.dtype).cos().view(y.shape))
    assert torch.equal(gradient, expected)


def test_inputs_stay_as_they_are():
    inputs = make_inputs(dtype=torch.float32)
    copies = [t.clone() for t in inputs]
    for softplus in (False, True):
        with_gradients(selective_scan, inputs, delta_softplus=softplus)
    assert all(map(torch.equal, inputs, copies))


def test_shapes_on_the_meta_device():
    inputs = [t.to('meta').requires_grad_() for t in make_inputs(dtype=torch.bfloat16)]
    y = selective_scan(*inputs)
    assert (y.shape, y.dtype, y.device.type) == (inputs[0].shape, torch.float32, 'meta')
    y.sum().backward()
    assert all(t.grad.shape == t.shape for t in inputs)


@pytest.mark.parametrize(('S', 'N', 'L'), [(1, 1, 32_768), (16, 1, 16_384), (1, 1024, 32)])
def test_memory_in_training(training_memory, S, N, L):
    """Output, its gradient and those of the inputs; decays and states exist a block at a time."""
    def shapes(N, L, K=4, D=64):
        return [(N, K * D, L)] * 2 + [(K * D, S)] + [(N, K, S, L)] * 2

    memory = training_memory('selective_scan', shapes(1, 100), shapes(N, L))
    assert memory.added < 3 * memory.inputs


def operators(inputs):
    """Both operators with arguments that fit."""
    y, states = reference._forward(*inputs, None, True)
    return ((reference._forward, (*inputs, None, True)),
            (reference._backward, (y.cos(), *inputs, None, states, True)))


@pytest.mark.parametrize('L', [0, 1, 32, 100])
@pytest.mark.parametrize('block', [1, reference.BLOCK])
def test_operators_are_what_their_schemas_say(monkeypatch, L, block):
    monkeypatch.setattr(reference, 'BLOCK', block)
    inputs = list(make_inputs(L=L, dtype=torch.float32))
    permuted = [inputs[0].mT.contiguous().mT, inputs[1], inputs[2].t().contiguous().t(),
                inputs[3].mT.contiguous().mT, *inputs[4:]]
    for tensors in (inputs, permuted, [t.bfloat16() for t in inputs]):
        for operator, arguments in operators(tensors):
            # they have no gradient of their own: an autograd function calls them
            torch.library.opcheck(operator, arguments, test_utils=('test_schema',
                                                                   'test_faketensor'))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_compiles_as_one_graph_for_any_size(dtype):
    def run(*args):
        return selective_scan(*args).square()

    torch._dynamo.reset()
    backend = CompileCounterWithBackend('aot_eager')
    compiled = torch.compile(run, fullgraph=True, backend=backend, dynamic=True)
    for N, L in ((3, 33), (5, 100), (7, 196)):  # no two sizes alike: a graph may rely on that
        inputs = make_inputs(N=N, L=L, dtype=dtype)
        for a, b in zip(with_gradients(compiled, inputs), with_gradients(run, inputs)):
            torch.testing.assert_close(a, b)
    assert backend.frame_count == 1


@pytest.mark.parametrize('vectors', [False, True])
def test_every_kind_of_choice(monkeypatch, scan_implementation, vectors):
    inputs = make_inputs()[:None if vectors else 5]
    monkeypatch.delenv(dispatch.ENVIRONMENT_VARIABLE, raising=False)
    y = selective_scan(*inputs)
    assert torch.equal(y, selective_scan(*inputs, impl=scan_implementation))
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    with pytest.raises(RuntimeError, match="impl='triton' cannot run: Triton needs a CUDA GPU, "
                                           'and x is on cpu.*auto, .*reference'):
        selective_scan(*inputs, impl='triton')
    with pytest.raises(ValueError, match="impl='cuda' is not an implementation"):
        selective_scan(*inputs, impl='cuda')
    monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, scan_implementation)
    assert torch.equal(y, selective_scan(*inputs))
    monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, 'triton')
    with pytest.raises(RuntimeError, match="MMVSSD_KERNEL='triton' cannot run"):
        selective_scan(*inputs)


@pytest.mark.parametrize(('change', 'message'), [
    (dict(u=None), r'u: got NoneType, expected a tensor \(N, K\*D, L\)'),
    (dict(u=torch.zeros(2, 33)), r'u: got shape \(2, 33\), expected \(N, K\*D, L\)'),
    (dict(u=torch.zeros(2, 6, 33, dtype=torch.int64)), 'u: got dtype torch.int64, expected one of'),
    (dict(delta=torch.zeros(2, 6, 1)), r'delta: got shape \(2, 6, 1\), expected \(2, 6, 33\)'),
    (dict(delta=torch.zeros(2, 6, 33, device='meta')), 'delta: got device meta, expected cpu'),
    (dict(A=torch.zeros(6)), r'A: got shape \(6,\), expected \(6, S\)'),
    (dict(A=torch.zeros(5, 4)), r'A: got shape \(5, 4\), expected \(6, S\)'),
    (dict(A=torch.zeros(6, 0), B=torch.zeros(2, 2, 0, 33), C=torch.zeros(2, 2, 0, 33)),
     r'A: got a state of size 0'),
    (dict(A=-torch.ones(6, 4, dtype=torch.complex64)), 'A: got dtype torch.complex64'),
    (dict(B=torch.zeros(2, 4, 33)), r'B: got shape \(2, 4, 33\), expected \(2, K, 4, 33\)'),
    (dict(B=torch.zeros(2, 2, 5, 33)), r'B: got shape .* expected \(2, K, 4, 33\)'),
    (dict(B=torch.zeros(2, 2, 4, 32)), r'B: got shape .* expected \(2, K, 4, 33\)'),
    (dict(B=torch.zeros(2, 4, 4, 33), C=torch.zeros(2, 4, 4, 33)),
     'B: got 4 groups, expected a number that divides the 6 channels of u'),
    (dict(B=torch.zeros(2, 0, 4, 33), C=torch.zeros(2, 0, 4, 33)), 'B: got 0 groups'),
    (dict(C=torch.zeros(2, 1, 4, 33)), r'C: got shape .* expected \(2, 2, 4, 33\)'),
    (dict(D=torch.zeros(3)), r'D: got shape \(3,\), expected \(6,\)'),
    (dict(D=1.0), r'D: got float, expected a tensor \(6,\)'),
    (dict(delta_bias=torch.zeros(6, 1)), r'delta_bias: got shape \(6, 1\), expected \(6,\)'),
    (dict(delta_bias=torch.zeros(6, dtype=torch.int32)), 'delta_bias: got dtype torch.int32'),
])
def test_bad_input_names_the_argument(change, message):
    arguments = dict(zip(NAMES, make_inputs(dtype=torch.float32)))
    with pytest.raises(ValueError, match=message):
        selective_scan(**{**arguments, **change})
