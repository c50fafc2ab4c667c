"""The op against its recurrence written out token by token in float64."""
import math

import pytest
import torch

from mmvssd_kernels import ssd

directions = pytest.mark.parametrize('reverse', [False, True])


def make_inputs(N=2, L=15, h=4, P=6, G=1, S=8, steps=1.0, dtype=torch.float64, seed=0):
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    dt = steps * torch.nn.functional.softplus(normal(N, L, h))
    A = -torch.rand(h, generator=random, dtype=torch.float64) * 15 - 1
    tensors = (normal(N, L, h, P), dt, A, normal(N, L, G, S), normal(N, L, G, S), normal(h))
    return tuple(tensor.to(dtype) for tensor in tensors)


def naive(x, dt, A, B, C, D, reverse=False):
    N, L, h, P = x.shape
    G, S = B.shape[2:]
    y = torch.zeros_like(x)
    for n in range(N):
        for j in range(h):
            group = j // (h // G)
            state = x.new_zeros(S, P)
            for t in reversed(range(L)) if reverse else range(L):
                entering = torch.outer(dt[n, t, j] * B[n, t, group], x[n, t, j])
                state = math.exp(dt[n, t, j] * A[j]) * state + entering
                y[n, t, j] = C[n, t, group] @ state + D[j] * x[n, t, j]
    return y


@directions
@pytest.mark.parametrize('G', [1, 2, 4])
@pytest.mark.parametrize('L', [1, 2, 15, 16, 17, 35])
def test_matches_the_recurrence(L, G, reverse):
    inputs = make_inputs(L=L, G=G)
    expected = naive(*inputs, reverse)
    for chunk_size in (1, 4, 16, 256):
        y = ssd(*inputs, chunk_size=chunk_size, reverse=reverse)
        torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


@directions
def test_without_skip(reverse):
    *inputs, D = make_inputs()
    expected = naive(*inputs, torch.zeros_like(D), reverse)
    torch.testing.assert_close(ssd(*inputs, chunk_size=4, reverse=reverse), expected)


def test_reverse_is_forward_over_flipped_tokens():
    x, dt, A, B, C, D = make_inputs(G=2)
    y = ssd(x.flip(1), dt.flip(1), A, B.flip(1), C.flip(1), D, chunk_size=4)
    torch.testing.assert_close(ssd(x, dt, A, B, C, D, chunk_size=4, reverse=True), y.flip(1))


@directions
def test_a_token_reads_none_that_come_later(reverse):
    x, dt, A, B, C, D = (t.requires_grad_() for t in make_inputs())
    y = ssd(x, dt, A, B, C, D, chunk_size=4, reverse=reverse)
    gradients = torch.autograd.grad(y[:, 7].sum(), (x, dt, B))
    for gradient in gradients:
        unread = gradient[:, :7] if reverse else gradient[:, 8:]
        read = gradient[:, 7:] if reverse else gradient[:, :8]
        assert (unread == 0).all()
        assert (read != 0).any()


@directions
@pytest.mark.parametrize('options', [dict(), dict(G=2), dict(G=4), dict(skip=False)], ids=str)
def test_gradcheck(options, reverse):
    x, dt, A, B, C, D = make_inputs(N=1, L=7, P=3, S=4, G=options.get('G', 1), steps=0.1)
    tensors = [x, dt, A, B, C] + ([D] if options.get('skip', True) else [])
    tensors = [tensor.requires_grad_() for tensor in tensors]
    assert torch.autograd.gradcheck(lambda *t: ssd(*t, chunk_size=3, reverse=reverse), tensors)


def test_second_gradients():
    tensors = [t.requires_grad_() for t in make_inputs(N=1, L=5, h=2, P=2, S=2, steps=0.1)]
    assert torch.autograd.gradgradcheck(lambda *t: ssd(*t, chunk_size=2), tensors)


def results(inputs, **options):
    """The output and the gradients of a weighted sum of it."""
    tensors = [t.detach().requires_grad_() for t in inputs]
    y = ssd(*tensors, **options)
    weights = torch.arange(y.numel(), dtype=torch.float64).cos().view(y.shape).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, tensors, weights)]


@directions
@pytest.mark.parametrize('steps', ['tiny', 'large', 'mixed', 'growing'])
def test_extreme_steps(steps, reverse):
    """In float32 as exact as float32 is, outputs and gradients, against float64."""
    x, dt, A, B, C, D = make_inputs(L=75, G=2, dtype=torch.float32)
    dt = dt * {'tiny': torch.tensor(1e-6), 'large': torch.tensor(1e3),
               # a sum from the start of the chunk has no room for the small beside the large
               'mixed': torch.where(torch.arange(75) % 5 == 2, 1e3, 1e-6)[:, None],
               'growing': torch.logspace(-6, 3, 75)[:, None]}[steps]
    inputs = (x, dt, A - 1, B, C, D)
    exact = results([t.double() for t in inputs], chunk_size=16, reverse=reverse)
    for own, true in zip(results(inputs, chunk_size=32, reverse=reverse), exact):
        assert own.isfinite().all()
        largest = true.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
        assert (own - true).abs().max() <= 3e-6 * largest


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_rounds_inputs_and_result_alone(dtype):
    """Sums and states in float32: the error is the result's own rounding."""
    inputs = make_inputs(L=2401, steps=0.01, dtype=dtype)
    y = ssd(*inputs)
    exact = ssd(*(t.double() for t in inputs))
    assert y.dtype == dtype
    rounding = exact.to(dtype).double().sub(exact).abs().max()
    assert (y.double() - exact).abs().max() <= rounding + 2e-6 * exact.abs().max()


def test_autocast_does_not_touch_sums():
    inputs = make_inputs(L=40, dtype=torch.float32)
    plain = ssd(*inputs, chunk_size=16)
    with torch.autocast('cpu', torch.bfloat16):
        cast = ssd(*inputs, chunk_size=16)
    assert torch.equal(plain, cast)


@directions
def test_strides_do_not_matter(reverse):
    inputs = make_inputs(G=2)
    x, dt, A, B, C, D = inputs
    packed = torch.cat([x.flatten(2), B.flatten(2), C.flatten(2)], -1)
    parts = packed.split([x[0, 0].numel(), B[0, 0].numel(), C[0, 0].numel()], -1)
    views = [part.unflatten(-1, like.shape[2:]) for part, like in zip(parts, (x, B, C))]
    assert not views[0].is_contiguous()
    y = ssd(views[0], dt, A, views[1], views[2], D, chunk_size=4, reverse=reverse)
    torch.testing.assert_close(y, ssd(*inputs, chunk_size=4, reverse=reverse))


def test_memory_is_linear_in_length(training_memory):
    def shapes(L):
        return (1, L, 8, 32), (1, L, 8), (8, ), (1, L, 1, 16), (1, L, 1, 16)

    short, long = (training_memory('ssd', shapes(300), shapes(L)) for L in (4096, 16384))
    assert long.added < 5 * short.added


@directions
def test_shapes_on_the_meta_device(reverse):
    inputs = [tensor.to('meta').requires_grad_() for tensor in make_inputs()]
    y = ssd(*inputs, chunk_size=4, reverse=reverse)
    assert y.shape == inputs[0].shape
    assert y.is_meta
    y.sum().backward()
    assert all(t.grad.shape == t.shape for t in inputs)


@directions
@pytest.mark.parametrize(('N', 'L'), [(0, 5), (2, 0)])
def test_nothing_in_nothing_out(N, L, reverse):
    inputs = [tensor.requires_grad_() for tensor in make_inputs(N=N, L=L)]
    y = ssd(*inputs, reverse=reverse)
    assert y.shape == inputs[0].shape
    y.sum().backward()
    assert (inputs[2].grad == 0).all()


def test_compiles_as_one_graph():
    torch._dynamo.reset()
    compiled = torch.compile(ssd, fullgraph=True, backend='aot_eager')
    inputs = make_inputs(L=20)
    torch.testing.assert_close(compiled(*inputs, chunk_size=8), ssd(*inputs))


@pytest.mark.parametrize(('change', 'message'), [
    (dict(x=torch.zeros(2, 15, 4)), r'x: got shape \(2, 15, 4\), expected \(N, L, h, P\)'),
    (dict(x=torch.zeros(2, 15, 4, 6, dtype=torch.int64)), 'x: got dtype torch.int64'),
    (dict(x=None), 'x: got NoneType, expected a tensor'),
    (dict(dt=torch.zeros(2, 14, 4)), r'dt: got shape \(2, 14, 4\), expected \(2, 15, 4\)'),
    (dict(A=torch.zeros(3)), r'A: got shape \(3,\), expected \(4,\)'),
    (dict(A=torch.zeros(4, device='meta')), 'A: got device meta, expected cpu'),
    (dict(B=torch.zeros(2, 15, 8)), r'B: got shape .* expected \(2, 15, G, S\)'),
    (dict(C=torch.zeros(2, 15, 1, 4)), r'C: got shape .* expected \(2, 15, 1, 8\)'),
    (dict(B=torch.zeros(2, 15, 3, 8), C=torch.zeros(2, 15, 3, 8)), 'B: got 3 groups'),
    (dict(D=torch.zeros(1)), r'D: got shape \(1,\), expected \(4,\)'),
    (dict(chunk_size=0), 'chunk_size: got 0, expected a positive integer'),
    (dict(chunk_size=16.), 'chunk_size: got 16.0'),
    (dict(chunk_size=True), 'chunk_size: got True'),
    (dict(reverse=1), 'reverse: got 1, expected True or False'),
])
@pytest.mark.parametrize('impl', ['reference', 'triton'])
def test_bad_input_names_the_argument(change, message, impl):
    arguments = dict(zip(['x', 'dt', 'A', 'B', 'C', 'D'], make_inputs(dtype=torch.float32)))
    with pytest.raises(ValueError, match=message):
        ssd(**{**arguments, **change}, impl=impl)
