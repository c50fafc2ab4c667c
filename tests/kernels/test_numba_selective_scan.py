"""The selective scans' kernels for a CPU, against float64 and against each other.

What every implementation promises is tested beside the ops; here is what these kernels do in ways
of their own: vectors, tiles, segments, blocks of channels, parts of images, threads.
"""
import os
import signal
import threading

import pytest
import torch

import mmvssd_kernels
from mmvssd_kernels import dispatch, numba_support, parity
from mmvssd_kernels.cross_scan import PATTERNS
from mmvssd_kernels.description import description_of
from mmvssd_kernels.selective_scan import numba_launch

BIAS = dict(selective_scan='delta_bias', selective_scan_2d='dt_bias')


@pytest.fixture(autouse=True)
def kernels():
    reason = numba_support.obstacle(torch.empty(1, requires_grad=True), numba_launch.MODULE)
    if reason:
        pytest.skip(reason)


@pytest.fixture
def threads():
    """Sets PyTorch's number of threads, and puts it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def make_case(op, seed=0, step=None, masked=False, options=None, **sizes):
    """An example of the op; ``step`` is the size of its steps, if not that of models."""
    case = parity.Case.example(op, seed, **sizes)
    tensors = dict(case.tensors)
    if step is not None:
        bias, source = tensors[BIAS[op]], dict(selective_scan='delta', selective_scan_2d='dt')[op]
        random = torch.Generator().manual_seed(seed)
        powers = torch.rand(bias.shape, generator=random, dtype=bias.dtype)
        wanted = 10 ** (9 * powers - 6) if step == 'mixed' else torch.full_like(bias, step)
        tensors[BIAS[op]] = torch.where(wanted > 30, wanted, wanted.expm1().log())
        tensors[source] = tensors[source] / 10
    if masked:
        tokens = tensors['u'][:, 0] if op == 'selective_scan' else tensors['x'][..., 0]
        places = torch.arange(tokens.numel()).view(tokens.shape)
        tensors['mask'] = places % 7 < 5
    return parity.Case(op, tensors, {**case.options, **(options or {})})


def holds(op, dtype=torch.float32, draws=4, **how):
    """Hold draws of a kind to the bar: twice the reference's error."""
    cases = [make_case(op, seed, **how) for seed in range(draws)]
    failures = parity.failures(cases, dtype, impl='numba')
    assert not failures, '\n'.join(failures)


SIZES = [
    # tiles of 32 tokens, segments of 1 and 2 of them
    dict(L=1, D=1, S=1), dict(L=32, D=5, S=16), dict(L=33, D=16, S=1), dict(L=97, D=17, S=3),
    dict(L=260, D=40, S=16),
    # segments of 8 tiles
    dict(L=300, D=5, S=64),
    # images share parts, the last of which has fewer
    dict(N=33, L=40, D=5, S=2), dict(N=70, L=33, D=16, S=1),
    # blocks of channels
    dict(L=40, K=1, D=136, S=2), dict(L=33, K=1, D=768, S=1)]


@pytest.mark.parametrize('sizes', SIZES, ids=str)
def test_sequences(sizes):
    holds('selective_scan', step=0.1, **sizes)


GRIDS = [
    dict(H=1, W=1, D=1, S=1, R=1), dict(H=1, W=70, D=17, S=2, R=3), dict(H=50, W=1, D=5, S=1, R=4),
    dict(H=7, W=9, D=40, S=16, R=5), dict(H=3, W=5, D=16, S=1, R=60),
    dict(H=17, W=19, D=32, S=8, R=16), dict(N=33, H=3, W=5, D=5, S=2, R=6),
    dict(N=70, H=6, W=7, D=17, S=1, R=1), dict(H=6, W=7, D=768, S=1, R=8)]


@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('sizes', GRIDS, ids=str)
def test_grids(sizes, masked):
    pattern = PATTERNS[sum(sizes.values()) % len(PATTERNS)]
    holds('selective_scan_2d', masked=masked, options=dict(pattern=pattern), **sizes)


@pytest.mark.parametrize('step', [1e-6, 1e-3, 1.0, 1e3, 'mixed'])
@pytest.mark.parametrize('S', [1, 16])
def test_any_step_size(step, S):
    # more draws: where one decay outweighs all others, the error of each is a matter of luck
    holds('selective_scan', draws=8, step=step, N=2, L=300, D=8, S=S)
    holds('selective_scan_2d', draws=8, step=step, N=2, H=13, W=17, D=8, S=S)


def test_skips_that_cancel():
    """Each sequence adds one: what is left of them is as exact as the reference has it."""
    op = 'selective_scan_2d'
    case = make_case(op, step=1e-6, N=2, H=5, W=9, D=17, S=2)
    rest = torch.tensor([1000.0, -999.0, 1000.0, -1000.5], dtype=torch.float64)
    case.tensors['D'] = rest.repeat_interleave(17) * case.tensors['D'][:17].repeat(4)
    failures = parity.failures(case, torch.float32, impl='numba')
    assert not failures, failures


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes(dtype):
    holds('selective_scan', dtype, L=97, D=17, S=3)
    holds('selective_scan_2d', dtype, masked=True, N=2, H=7, W=9, D=17, S=9)


@pytest.mark.parametrize('step', [1e-3, 1e-2])
def test_an_error_does_not_grow_with_the_line(step):
    """66,800 tokens: a state that lasts for all, and sums over all."""
    case = make_case('selective_scan', 1, step=step, N=1, K=1, L=66_800, D=16, S=1)
    # all of one sign, and no skip: errors of what adds up are not hidden
    case.tensors.update({name: case.tensors[name].abs() for name in ('u', 'B', 'C')})
    case.tensors.update(A=case.tensors['A'] / 1000, D=case.tensors['D'] * 0)
    found = parity.errors(case, torch.float32, impl='numba')
    assert not any(error.is_too_large for error in found.values()), found
    # the reference, which compensates no sum, is at 1e-5
    sums = {name: found[name].own for name in ('y', 'A', 'D', 'delta_bias')}
    assert max(sums.values()) < 2e-6, sums


def leaves(op, seed=0, dtype=torch.float32, **sizes):
    tensors = description_of(op).tensors(seed, **sizes)
    return {name: t.to(dtype).requires_grad_() for name, t in tensors.items()}


def results(op, tensors, dy=None, **options):
    """The output and all gradients of the kernels."""
    y = getattr(mmvssd_kernels, op)(**tensors, **options, impl='numba')
    if dy is None:
        dy = torch.arange(y.numel(), dtype=y.dtype).cos().view(y.shape)
    given = [t for t in tensors.values() if t.requires_grad]
    return [y.detach(), *torch.autograd.grad(y, given, dy)]


@pytest.mark.parametrize('sizes', [
    dict(N=1, H=5, W=9, D=768, S=2, R=8), dict(N=33, H=3, W=5, D=40, S=1),
    dict(N=2, H=9, W=9, D=96, S=16)], ids=str)
@pytest.mark.parametrize('openmp', [True, False])
def test_threads_do_not_change_a_bit(monkeypatch, threads, sizes, openmp):
    tensors = leaves('selective_scan_2d', **sizes)
    threads(1)
    expected = results('selective_scan_2d', tensors)
    if not openmp:
        monkeypatch.setattr(numba_support, '_openmp_team', lambda: None)
    for count in (2, 3, 7, 1):
        threads(count)
        assert all(map(torch.equal, results('selective_scan_2d', tensors), expected)), count


def test_a_forked_child_does_not_wait_for_threads_that_it_lacks(threads):
    threads(3)
    case = make_case('selective_scan_2d', N=3, H=7, W=7, D=40, S=3)
    tensors = {name: t.detach() for name, t in case.cast(torch.float32).items()}
    expected = case.run(tensors, 'numba')
    child = os.fork()
    if not child:
        signal.alarm(60)
        os._exit(0 if torch.equal(case.run(tensors, 'numba'), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_calls_from_several_threads(threads):
    threads(3)
    tensors = [leaves('selective_scan_2d', seed, N=2, H=7, W=7, D=40, S=3) for seed in range(4)]
    expected = [results('selective_scan_2d', one) for one in tensors]
    differ = []

    def call(i):
        for _ in range(10):
            found = results('selective_scan_2d', tensors[i])
            differ.extend(not torch.equal(*pair) for pair in zip(found, expected[i]))

    callers = [threading.Thread(target=call, args=(i, )) for i in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(differ) == 4 * 10 * 9
    assert not any(differ)


def test_sums_over_a_line_are_compensated():
    """Equal numbers, whose sum is rounded to the same side for long."""
    op = 'selective_scan'
    tensors = {name: torch.full_like(t, 1 / 3).requires_grad_()
               for name, t in leaves(op, N=1, K=1, L=66_800, D=16, S=1).items()}
    tensors['A'] = torch.full_like(tensors['A'], -1.).requires_grad_()
    found = results(op, tensors, torch.ones_like(tensors['u']))
    exact = {name: t.detach().double().requires_grad_() for name, t in tensors.items()}
    y = mmvssd_kernels.selective_scan(**exact, impl='reference')
    truth = torch.autograd.grad(y.sum(), list(exact.values()))
    for name, own, true in zip(tensors, found[1:], truth):
        if name in ('A', 'D', 'delta_bias'):
            # one sum after the other is 7e-6 away
            assert (own - true).abs().max() < 1e-6 * true.abs().max(), name


@pytest.mark.usefixtures('poisoned_memory')
@pytest.mark.parametrize('D', [5, 48, 136])
def test_nothing_is_read_before_it_is_written(D):
    for tensors, op in ((leaves('selective_scan', N=2, L=70, K=2, D=D, S=3), 'selective_scan'),
                        (leaves('selective_scan_2d', N=2, H=9, W=9, D=D, S=3),
                         'selective_scan_2d')):
        assert all(t.isfinite().all() for t in results(op, tensors))


@pytest.mark.parametrize('wide', [torch.float64, torch.bfloat16, torch.float16])
def test_inputs_may_differ_in_dtype(wide):
    """Each is taken to the dtype of the sums, and its gradient back."""
    op = 'selective_scan_2d'
    tensors = leaves(op, N=2, H=5, W=7, D=17, S=3)
    for name in tensors:
        if name == 'x' and wide == torch.float64:
            continue  # x sets the dtype of the sums
        mixed = {**tensors, name: tensors[name].detach().to(wide).requires_grad_()}
        same = {key: t.detach().float().requires_grad_() for key, t in mixed.items()}
        for found, expected in zip(results(op, mixed), results(op, same)):
            assert torch.equal(found, expected.to(found.dtype)), name
        assert results(op, mixed)[1 + list(tensors).index(name)].dtype == wide


def reordered(t, order):
    """The same values, the axes of memory in another order."""
    back = sorted(range(t.dim()), key=order.__getitem__)
    return t.detach().permute(order).contiguous().permute(back).requires_grad_()


@pytest.mark.parametrize('D', [16, 17])
def test_strides_change_no_bit(D):
    op = 'selective_scan_2d'
    tensors = leaves(op, N=2, H=5, W=7, D=D, S=16)
    expected = results(op, tensors)
    for shift in (1, 2):
        strange = {name: reordered(t, [(i + shift) % t.dim() for i in range(t.dim())])
                   for name, t in tensors.items()}
        assert all(map(torch.equal, results(op, strange), expected))
    every_second = {name: torch.stack([t.detach(), t.detach() * torch.nan], -1)[..., 0]
                    .requires_grad_() for name, t in tensors.items()}
    assert all(map(torch.equal, results(op, every_second), expected))
    one = {name: t.detach()[:1].expand(t.shape).requires_grad_() for name, t in tensors.items()}
    dense = {name: t.detach().contiguous().requires_grad_() for name, t in one.items()}
    dy = torch.ones(1).expand(tensors['x'].shape)
    assert all(map(torch.equal, results(op, one, dy), results(op, dense, dy.contiguous())))


@pytest.mark.parametrize('value', [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize('name', ['x', 'dt', 'dt_weight', 'A', 'B', 'C', 'D', 'dt_bias'])
def test_what_is_not_finite_stays_so(name, value):
    """Outputs that are not finite in the reference are not finite here."""
    op = 'selective_scan_2d'
    tensors = leaves(op, N=1, H=5, W=9, D=17, S=3)
    with torch.no_grad():
        tensors[name].view(-1)[tensors[name].numel() // 2] = value
    expected = getattr(mmvssd_kernels, op)(**tensors, impl='reference')
    y = getattr(mmvssd_kernels, op)(**tensors, impl='numba')
    assert not y[~expected.isfinite()].isfinite().any()
    assert y[expected.isfinite()].isfinite().all()


def test_operators_are_what_their_schemas_say():
    """Strides of results too: a compiled graph relies on them."""
    ops = torch.ops.mmvssd_kernels
    for K in (1, 2):
        *tensors, = leaves('selective_scan', N=2, L=100, K=K, D=17, S=3).values()
        check(ops.selective_scan_numba, ops.selective_scan_numba_backward, tensors,
              torch.arange(200).view(2, 100) % 3 > 0, True)
    *tensors, = leaves('selective_scan_2d', N=2, H=4, W=25, D=17, S=3).values()
    check(ops.selective_scan_2d_numba, ops.selective_scan_2d_numba_backward, tensors, None,
          'cross')


def check(forward, backward, tensors, mask, option):
    torch.library.opcheck(forward, (*tensors, mask, option))
    y, states = forward(*tensors, mask, option)
    tensors = [t.detach() for t in tensors]
    torch.library.opcheck(backward, (y.detach().cos(), *tensors, mask, states, option))


def test_a_rank_of_0_is_left_to_the_reference(monkeypatch):
    monkeypatch.delenv(dispatch.ENVIRONMENT_VARIABLE, raising=False)
    tensors = leaves('selective_scan_2d', R=0)
    expected = mmvssd_kernels.selective_scan_2d(**tensors, impl='reference')
    assert torch.equal(mmvssd_kernels.selective_scan_2d(**tensors), expected)
    with pytest.raises(dispatch.CannotRun, match="impl='numba' cannot run: dt has rank 0"):
        mmvssd_kernels.selective_scan_2d(**tensors, impl='numba')


def test_auto_takes_the_kernels(monkeypatch):
    monkeypatch.delenv(dispatch.ENVIRONMENT_VARIABLE, raising=False)
    dispatch.forget_used()
    for op in ('selective_scan', 'selective_scan_2d'):
        getattr(mmvssd_kernels, op)(**leaves(op))
        assert list(dispatch.used()[op]) == ['numba']
