"""The op against the three ops that it stands for, in float64."""
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from mmvssd_kernels import cross_merge, cross_scan, dispatch, selective_scan, selective_scan_2d
from mmvssd_kernels.cross_scan import PATTERNS
from mmvssd_kernels.selective_scan_2d import reference

NAMES = ('x', 'dt', 'dt_weight', 'A', 'B', 'C', 'D', 'dt_bias')
#: Inputs that have a place on the grid.
LOCAL = ('x', 'dt', 'B', 'C')
GRIDS = [(1, 1), (1, 6), (5, 1), (3, 5), (4, 4), (7, 2)]
pytestmark = pytest.mark.usefixtures('scan_implementation')
patterns = pytest.mark.parametrize('pattern', PATTERNS)


def make_inputs(N=2, grid=(3, 5), D=4, R=2, S=1, dtype=torch.float64, seed=0):
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    # decays over three orders of magnitude: some states last over rows, some a token
    A = -10 ** (3 * torch.rand(4 * D, S, generator=random, dtype=torch.float64) - 2)
    tensors = (normal(N, *grid, D), normal(N, *grid, 4, R), normal(4, D, R), A,
               normal(N, *grid, 4, S), normal(N, *grid, 4, S), normal(4 * D), normal(4 * D))
    return tuple(tensor.to(dtype) for tensor in tensors)


def composed(x, dt, dt_weight, A, B, C, D=None, dt_bias=None, *, pattern='cross'):
    """Sequences written out, scanned and added."""
    def sequences(t):
        """(N, H, W, 4, c) -> (N, 4, c, L): each token's k-th part into the k-th sequence."""
        parts = [cross_scan(t[..., k, :].permute(0, 3, 1, 2), pattern)[:, k] for k in range(4)]
        return torch.stack(parts, 1)

    u = cross_scan(x.permute(0, 3, 1, 2), pattern)
    delta = torch.einsum('nkrl,kdr->nkdl', sequences(dt), dt_weight)
    y = selective_scan(u.flatten(1, 2), delta.flatten(1, 2), A, sequences(B), sequences(C), D,
                       dt_bias)
    y = cross_merge(y.unflatten(1, (4, x.shape[3])), x.shape[1:3], pattern)
    return y.permute(0, 2, 3, 1)


def with_gradients(op, inputs, **options):
    """The output, and the gradients of a sum in which every output has a weight of its own."""
    leaves = [None if t is None else t.detach().requires_grad_() for t in inputs]
    y = op(*leaves, **options)
    weights = torch.arange(y.numel(), dtype=torch.float64).cos().view(y.shape).to(y.dtype)
    given = [leaf for leaf in leaves if leaf is not None]
    return [y.detach(), *torch.autograd.grad(y, given, weights)]


def assert_is_the_composition(inputs, pattern):
    results = with_gradients(selective_scan_2d, inputs, pattern=pattern)
    for result, expected in zip(results, with_gradients(composed, inputs, pattern=pattern)):
        torch.testing.assert_close(result, expected)


@patterns
@pytest.mark.parametrize('grid', GRIDS)
@pytest.mark.parametrize('S', [1, 4])
def test_is_the_composition(grid, S, pattern):
    assert_is_the_composition(make_inputs(grid=grid, S=S), pattern)


@patterns
@pytest.mark.parametrize('block', [1, 30, 60])
@pytest.mark.parametrize('grid', [(5, 3), (2, 7)])
def test_states_go_from_block_to_block(monkeypatch, pattern, block, grid):
    monkeypatch.setattr(reference, 'BLOCK', block)
    assert_is_the_composition(make_inputs(grid=grid, S=2), pattern)


def test_cross_is_the_default():
    inputs = make_inputs()
    assert torch.equal(selective_scan_2d(*inputs), selective_scan_2d(*inputs, pattern='cross'))


@pytest.mark.parametrize('absent', [('D', ), ('dt_bias', ), ('D', 'dt_bias')])
def test_without_skip_or_bias(absent):
    inputs = [None if name in absent else t for name, t in zip(NAMES, make_inputs())]
    assert_is_the_composition(inputs, 'cross')


@patterns
def test_gradcheck(pattern):
    inputs = [t.requires_grad_() for t in make_inputs(N=1, grid=(2, 3), D=2, R=1, S=2)]
    assert torch.autograd.gradcheck(lambda *args: selective_scan_2d(*args, pattern=pattern),
                                    inputs)


def test_operators_have_gradients_of_their_own():
    inputs = [t.requires_grad_() for t in make_inputs()]
    mask = torch.ones(2, 3, 5, dtype=torch.bool)
    forward, backward = (getattr(torch.ops.mmvssd_kernels, 'selective_scan_2d' + suffix)
                         for suffix in ('', '_backward'))
    torch.library.opcheck(forward, (*inputs, mask, 'cross'))
    y, states = forward(*inputs, mask, 'cross')
    inputs = [t.detach() for t in inputs]
    torch.library.opcheck(backward, (y.detach().cos(), *inputs, mask, states, 'cross'))


def test_a_second_gradient_is_refused():
    inputs = [t.requires_grad_() for t in make_inputs(grid=(2, 2))]
    (dx, ) = torch.autograd.grad(selective_scan_2d(*inputs).square().sum(), inputs[:1],
                                 create_graph=True)
    with pytest.raises(RuntimeError, match='selective_scan_2d_(numba_)?backward has no gradient'):
        dx.sum().backward()


@patterns
@pytest.mark.parametrize('block', [1, 60, reference.BLOCK])
def test_a_padded_image_has_the_outputs_and_gradients_that_it_has_alone(monkeypatch, pattern,
                                                                        block):
    monkeypatch.setattr(reference, 'BLOCK', block)
    sizes = [(4, 5), (3, 5), (4, 2), (1, 3), (0, 0)]
    inputs = dict(zip(NAMES, make_inputs(N=len(sizes), grid=(4, 5), S=2)))
    mask = torch.zeros(len(sizes), 4, 5, dtype=torch.bool)
    for n, (H, W) in enumerate(sizes):
        mask[n, :H, :W] = True
    for name, poison in zip(LOCAL, (torch.nan, torch.inf, torch.nan, -torch.inf)):
        inputs[name][~mask] = poison
    leaves = {name: t.clone().requires_grad_() for name, t in inputs.items()}
    y = selective_scan_2d(**leaves, pattern=pattern, mask=mask)
    weights = torch.arange(y.numel(), dtype=y.dtype).cos().view(y.shape)
    y.backward(weights)
    assert (y[~mask] == 0).all()
    assert all((leaves[name].grad[~mask] == 0).all() for name in LOCAL)
    shared = {name: torch.zeros_like(t) for name, t in inputs.items() if name not in LOCAL}
    for n, (H, W) in enumerate(sizes):
        crop = (slice(n, n + 1), slice(H), slice(W))
        alone = {name: (t[crop] if name in LOCAL else t).clone().requires_grad_()
                 for name, t in inputs.items()}
        expected = selective_scan_2d(**alone, pattern=pattern)
        torch.testing.assert_close(y[crop], expected)
        expected.backward(weights[crop])
        for name in LOCAL:
            torch.testing.assert_close(leaves[name].grad[crop], alone[name].grad)
        for name, total in shared.items():
            total += alone[name].grad
    for name, total in shared.items():
        torch.testing.assert_close(leaves[name].grad, total)


@patterns
def test_a_mask_without_padding_changes_nothing(pattern):
    inputs = make_inputs(S=2)
    plain = with_gradients(selective_scan_2d, inputs, pattern=pattern)
    mask = torch.ones(2, 3, 5, dtype=torch.bool)
    masked = with_gradients(selective_scan_2d, inputs, pattern=pattern, mask=mask)
    assert all(map(torch.equal, plain, masked))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('which', ['all', 'local', 'x'])
@pytest.mark.parametrize('masked', [False, True])
def test_half_inputs_are_computed_in_float32(dtype, which, masked):
    half = dict(all=NAMES, local=LOCAL, x=('x', ))[which]
    rounded = [t.to(dtype) for t in make_inputs(S=2)]
    wide = [t.float() for t in rounded]
    inputs = [r if name in half else w for name, r, w in zip(NAMES, rounded, wide)]
    mask = torch.arange(5).lt(3).expand(2, 3, 5) if masked else None
    y, *gradients = with_gradients(selective_scan_2d, inputs, mask=mask)
    expected, *wide_gradients = with_gradients(selective_scan_2d, wide, mask=mask)
    assert y.dtype == torch.float32
    assert torch.equal(y, expected)
    for t, gradient, wide_gradient in zip(inputs, gradients, wide_gradients):
        assert gradient.dtype == t.dtype
        assert torch.equal(gradient, wide_gradient.to(t.dtype))


@pytest.mark.parametrize('step', [1e-6, 1.0, 1e3])
@pytest.mark.parametrize('S', [1, 4])
def test_float32_for_any_step_size(step, S):
    inputs = list(make_inputs(grid=(20, 23), S=S))
    wanted = torch.tensor(step, dtype=torch.float64)
    inputs[7] = (wanted if step > 30 else wanted.expm1().log()) + inputs[7] / 10
    inputs = [t.float() for t in inputs]
    exact = with_gradients(composed, [t.double() for t in inputs])
    for result, e in zip(with_gradients(selective_scan_2d, inputs), exact):
        assert result.isfinite().all()
        # seen: 2e-6; the rest is for the order of sums on other processors
        assert (result.double() - e).abs().max() <= 6e-6 * e.abs().max()


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_autocast_does_not_touch_the_scan(dtype):
    inputs = make_inputs(dtype=dtype)
    plain = with_gradients(selective_scan_2d, inputs)
    with torch.autocast('cpu', torch.bfloat16):
        cast = with_gradients(selective_scan_2d, inputs)
    assert all(map(torch.equal, plain, cast))


def strided(inputs):
    """The same values: as parts of one projection, channels-first, transposed."""
    x, dt, dt_weight, A, B, C, D, dt_bias = inputs
    packed = torch.cat([dt, B, C], -1)
    dt, B, C = packed.split([dt.shape[-1], B.shape[-1], C.shape[-1]], -1)
    return (x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1), dt,
            dt_weight.mT.contiguous().mT, A.t().contiguous().t(), B, C,
            torch.stack([D, D], -1)[:, 0], dt_bias)


@patterns
def test_strides_do_not_matter(pattern):
    inputs = make_inputs(S=3)
    for a, b in zip(with_gradients(selective_scan_2d, strided(inputs), pattern=pattern),
                    with_gradients(selective_scan_2d, inputs, pattern=pattern)):
        torch.testing.assert_close(a, b)


def test_expanded_inputs():
    x, dt, dt_weight, A, B, C, D, dt_bias = make_inputs(S=3)
    inputs = (x[:1].expand(2, -1, -1, -1), dt[:, :, :, :1].expand(-1, -1, -1, 4, -1),
              dt_weight[:1].expand(4, -1, -1), A[:1].expand(16, -1),
              B[:, :1].expand(-1, 3, -1, -1, -1), C[:, :, :, :1].expand(-1, -1, -1, 4, -1),
              D[:1].expand(16), dt_bias[:1].expand(16))
    for a, b in zip(with_gradients(selective_scan_2d, inputs),
                    with_gradients(selective_scan_2d, [t.contiguous() for t in inputs])):
        torch.testing.assert_close(a, b)


def test_strides_of_the_gradient_do_not_matter():
    inputs = [t.requires_grad_() for t in make_inputs()]
    y = selective_scan_2d(*inputs)
    dense = torch.autograd.grad(y, inputs, torch.ones_like(y), retain_graph=True)
    expanded = torch.autograd.grad(y.sum(), inputs, retain_graph=True)
    permuted = torch.autograd.grad(y, inputs, torch.ones_like(y.permute(0, 3, 1, 2).contiguous())
                                   .permute(0, 2, 3, 1))
    for a, b, c in zip(dense, expanded, permuted):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(a, c)


@pytest.mark.parametrize('empty', [dict(N=0), dict(grid=(0, 5)), dict(grid=(3, 0)), dict(D=0)],
                         ids=str)
@pytest.mark.parametrize('masked', [False, True])
def test_nothing_in_nothing_out(empty, masked):
    inputs = make_inputs(**empty)
    mask = torch.ones(inputs[0].shape[:3], dtype=torch.bool) if masked else None
    y, *gradients = with_gradients(selective_scan_2d, inputs, mask=mask)
    assert y.shape == inputs[0].shape
    for t, gradient in zip(inputs, gradients):
        assert gradient.shape == t.shape
        assert (gradient == 0).all()


def test_inputs_stay_as_they_are():
    inputs = make_inputs(dtype=torch.float32)
    copies = [t.clone() for t in inputs]
    with_gradients(selective_scan_2d, inputs)
    assert all(map(torch.equal, inputs, copies))


@pytest.mark.parametrize('masked', [False, True])
def test_shapes_on_the_meta_device(masked):
    inputs = [t.to('meta').requires_grad_() for t in make_inputs(dtype=torch.bfloat16)]
    mask = torch.ones(2, 3, 5, dtype=torch.bool, device='meta') if masked else None
    y = selective_scan_2d(*inputs, mask=mask)
    assert (y.shape, y.dtype, y.device.type) == (inputs[0].shape, torch.float32, 'meta')
    y.sum().backward()
    assert all(t.grad.shape == t.shape for t in inputs)


def memory_shapes(N, side, S, D=64, R=4):
    grid = (N, side, side)
    return [(*grid, D), (*grid, 4, R), (4, D, R), (4 * D, S), (*grid, 4, S), (*grid, 4, S)]


def beyond_results(memory):
    """What a training step adds beyond the output, its gradient and those of the inputs."""
    return memory.added - memory.inputs - 2 * memory.output


@pytest.mark.slow
@pytest.mark.parametrize(('S', 'side'), [(1, 500), (16, 250)])
def test_memory_in_training(training_memory, S, side):
    """Output, its gradient and those of the inputs; all else exists a block at a time."""
    memory = training_memory('selective_scan_2d', memory_shapes(1, 10, S),
                             memory_shapes(1, side, S))
    # 13 tensors of a block were seen; one sequence written out is 15 of them where S is 1
    block = 4 * reference.BLOCK
    assert beyond_results(memory) < 16 * block


@pytest.mark.slow
def test_memory_in_training_grows_with_a_batch_by_its_results_alone(training_memory):
    """Of images that share a block no state is stored: each sequence would have a third of them."""
    few, many = (training_memory('selective_scan_2d', memory_shapes(1, 7, 16),
                                 memory_shapes(N, 7, 16)) for N in (700, 1400))
    assert abs(beyond_results(many) - beyond_results(few)) < 4 * reference.BLOCK


@patterns
@pytest.mark.parametrize('grid', [(0, 3), (1, 1), (3, 5)])
@pytest.mark.parametrize('block', [1, reference.BLOCK])
def test_operators_are_what_their_schemas_say(monkeypatch, pattern, grid, block):
    monkeypatch.setattr(reference, 'BLOCK', block)
    inputs = make_inputs(grid=grid, S=2, dtype=torch.float32)
    mask = torch.ones(2, *grid, dtype=torch.bool)
    for tensors in (inputs, strided(inputs), [t.bfloat16() for t in inputs]):
        y, states = reference._forward(*tensors, mask, pattern)
        dy = y.permute(0, 3, 1, 2).cos().contiguous().permute(0, 2, 3, 1)
        for operator, arguments in (
                (reference._forward, (*tensors, mask, pattern)),
                (reference._backward, (y.cos(), *tensors, None, states, pattern)),
                (reference._backward, (dy, *tensors, mask, states, pattern))):
            # they have no gradient of their own: an autograd function calls them
            torch.library.opcheck(operator, arguments,
                                  test_utils=('test_schema', 'test_faketensor'))


@patterns
@pytest.mark.parametrize('masked', [False, True])
def test_compiles_as_one_graph_for_any_size(pattern, masked):
    def run(*args, mask=None):
        return selective_scan_2d(*args, pattern=pattern, mask=mask).square()

    torch._dynamo.reset()
    backend = CompileCounterWithBackend('aot_eager')
    compiled = torch.compile(run, fullgraph=True, backend=backend, dynamic=True)
    # no two sizes alike: a graph may rely on that
    for N, grid in ((7, (9, 5)), (8, (11, 10)), (5, (13, 2))):
        inputs = make_inputs(N=N, grid=grid, D=6, R=3, dtype=torch.bfloat16)
        mask = torch.arange(grid[1]).lt(2).expand(N, *grid) if masked else None
        for a, b in zip(with_gradients(compiled, inputs, mask=mask),
                        with_gradients(run, inputs, mask=mask)):
            torch.testing.assert_close(a, b)
    assert backend.frame_count == 1


def test_every_kind_of_choice(monkeypatch, scan_implementation):
    inputs = make_inputs()
    monkeypatch.delenv(dispatch.ENVIRONMENT_VARIABLE, raising=False)
    assert torch.equal(selective_scan_2d(*inputs),
                       selective_scan_2d(*inputs, impl=scan_implementation))
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    message = "='triton' cannot run: Triton needs a CUDA GPU, and x is on cpu"
    with pytest.raises(RuntimeError, match='impl' + message):
        selective_scan_2d(*inputs, impl='triton')
    monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, 'triton')
    with pytest.raises(RuntimeError, match='MMVSSD_KERNEL' + message):
        selective_scan_2d(*inputs)


@pytest.mark.parametrize(('change', 'message'), [
    (dict(x=None), r'x: got NoneType, expected a tensor \(N, H, W, D\)'),
    (dict(x=torch.zeros(2, 15, 4)), r'x: got shape \(2, 15, 4\), expected \(N, H, W, D\)'),
    (dict(x=torch.zeros(2, 3, 5, 4, dtype=torch.uint8)), 'x: got dtype torch.uint8'),
    (dict(dt=torch.zeros(2, 3, 5, 3, 2)), r'dt: got shape .* expected \(2, 3, 5, 4, R\)'),
    (dict(dt=torch.zeros(2, 3, 5, 4, 2, device='meta')), 'dt: got device meta, expected cpu'),
    (dict(dt_weight=torch.zeros(4, 4, 3)), r'dt_weight: got shape .* expected \(4, 4, 2\)'),
    (dict(A=torch.zeros(4, 1)), r'A: got shape \(4, 1\), expected \(16, S\)'),
    (dict(A=torch.zeros(16, 0), B=torch.zeros(2, 3, 5, 4, 0), C=torch.zeros(2, 3, 5, 4, 0)),
     'A: got a state of size 0'),
    (dict(B=torch.zeros(2, 3, 5, 4, 2)), r'B: got shape .* expected \(2, 3, 5, 4, 1\)'),
    (dict(C=torch.zeros(2, 5, 3, 4, 1)), r'C: got shape .* expected \(2, 3, 5, 4, 1\)'),
    (dict(D=torch.zeros(4)), r'D: got shape \(4,\), expected \(16,\)'),
    (dict(dt_bias=torch.zeros(4, 4)), r'dt_bias: got shape \(4, 4\), expected \(16,\)'),
    (dict(pattern='diagonal'), "pattern: unknown name 'diagonal'; known: cross, unidirectional, "
                               'bidirectional'),
    (dict(mask=torch.ones(2, 3, 5)), 'mask: got dtype torch.float32, expected one of torch.bool'),
    (dict(mask=torch.ones(2, 15, dtype=torch.bool)), r'mask: got shape .* expected \(2, 3, 5\)'),
])
def test_bad_input_names_the_argument(change, message):
    arguments = dict(zip(NAMES, make_inputs(dtype=torch.float32)))
    with pytest.raises(ValueError, match=message):
        selective_scan_2d(**{**arguments, **change})
