"""A replay does what a call does, on other numbers; what watches operators sees them."""
import functools
import os
import subprocess
import sys
import weakref

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from mmvssd_kernels import compile_ahead, library
from mmvssd_kernels.compile_ahead import CompiledAhead
from mmvssd_kernels.description import description_of, shape
from mmvssd_kernels.parity import Case, results
from mmvssd_kernels.replay import CannotRecord, Record, Replay, _Step

CASES = {
    'nc_ssd': ('nc_ssd', {}, {}),
    'nc_ssd in groups': ('nc_ssd', dict(G=2), {}),
    'nc_ssd normalized': ('nc_ssd', {}, dict(normalize=True, grid=(3, 4))),
    'nc_ssd masked': ('nc_ssd', {}, {}),
    'ssd': ('ssd', {}, {}),
    'ssd reversed, masked': ('ssd', {}, dict(reverse=True)),
    'selective_scan masked': ('selective_scan', {}, {}),
    'selective_scan_2d in chunks': ('selective_scan_2d', dict(H=8, W=2), {}),
    'selective_scan_2d bidirectional, masked': ('selective_scan_2d', {},
                                                dict(pattern='bidirectional')),
}


def case(name, seed=0):
    op, sizes, options = CASES[name]
    found = Case.example(op, seed, **sizes)
    if 'masked' in name:
        sizes = description_of(op).whole_sizes(**sizes)
        random = torch.Generator().manual_seed(seed)
        mask = torch.rand(shape(description_of(op).mask, sizes), generator=random) < 0.8
        found = found._replace(tensors={**found.tensors, 'mask': mask})
    return found._replace(options={**found.options, **options})


@pytest.fixture
def bodies(monkeypatch):
    """What operators run, none of which was called before."""
    found = [body for body in library._bodies.values() if isinstance(body, CompiledAhead)]
    for body in found:
        monkeypatch.setattr(body, '_calls', {})
        monkeypatch.setattr(body, '_replays', {})
    return found


@pytest.fixture
def replaying(monkeypatch, triton_device, bodies):
    """Replays in Triton's interpreter too, from the second call on; returns the replays so far."""
    monkeypatch.setattr(compile_ahead, 'CALLS', 1)
    if triton_device == 'cpu':
        monkeypatch.setattr(compile_ahead, '_may_replay', lambda device: device.type != 'meta')
        monkeypatch.setattr(compile_ahead, '_prepared', lambda launch: launch.kernel[launch.grid])
    return lambda: [replay for body in bodies for replay in body._replays.values()]


def same(found, expected):
    assert list(found) == list(expected)
    for name, result in expected.items():
        assert found[name].stride() == result.stride(), name
        assert torch.equal(found[name], result), name


@pytest.mark.parametrize('name', CASES)
def test_a_replay_is_a_call(name, replaying, monkeypatch, triton_device):
    """Output and gradients are, bit for bit, those of a call on the same numbers."""
    first, other = (case(name, seed) for seed in (0, 1))
    tensors = other.cast(torch.bfloat16, triton_device)
    with monkeypatch.context() as patch:
        patch.setattr(compile_ahead, '_may_replay', lambda device: False)
        expected = results(other, tensors, 'triton')
    assert not replaying()
    results(first, first.cast(torch.bfloat16, triton_device), 'triton')
    assert not replaying()
    same(results(other, tensors, 'triton'), expected)
    assert [type(replay) for replay in replaying()] == [Replay, Replay]


@pytest.mark.parametrize('watched', [torch.inference_mode, lambda: profile(
    activities=[ProfilerActivity.CPU])], ids=['inference', 'profiler'])
@pytest.mark.parametrize('name', ['nc_ssd', 'nc_ssd masked', 'selective_scan masked'])
def test_what_a_function_copies_is_replayed_as_a_copy(name, watched, replaying, triton_device):
    """Below autograd, a copy into another order and a view of it are one operator."""
    one = case(name)
    tensors = {name: t if t is None or t.dim() < 2 else t.detach().mT.contiguous().mT
               for name, t in one.cast(torch.float32, triton_device).items()}
    expected = one.run(tensors, 'reference')
    for _ in range(3):
        with torch.no_grad(), watched():
            found = one.run(tensors, 'triton')
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert any(isinstance(replay, Replay) for replay in replaying())
    with torch.no_grad():  # as tensors of that layout that nothing watches are then
        torch.testing.assert_close(one.run(tensors, 'triton'), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', ['nc_ssd', 'ssd', 'selective_scan masked'])
def test_numbers_that_are_negated_when_they_are_read(name, replaying, triton_device):
    """PyTorch resolves them on the way through its dispatcher."""
    one = case(name)
    tensors = {name: None if t is None else t.detach()
               for name, t in one.cast(torch.float32, triton_device).items()}
    first = next(name for name in ('x', 'u') if name in tensors)
    negated = torch.complex(tensors[first], -tensors[first]).conj().imag
    assert negated.is_neg()
    expected = one.run(tensors, 'triton')
    assert torch.equal(one.run({**tensors, first: negated}, 'triton'), expected)


@pytest.mark.parametrize('impl', ['triton', 'reference'])
@pytest.mark.parametrize('name', ['nc_ssd', 'selective_scan masked'])
def test_gradients_of_several_outputs_at_once(name, impl, replaying, triton_device):
    """PyTorch's own vmap gives backward batches in the place of tensors."""
    one = case(name)
    tensors = one.cast(torch.float32, triton_device)
    leaf = next(t for t in tensors.values() if t is not None and t.requires_grad)
    y = one.run(tensors, impl)
    directions = torch.stack([torch.ones_like(y), torch.linspace(
        0, 1, y.numel(), device=y.device).view(y.shape)])
    found, = torch.autograd.grad(y, leaf, directions, is_grads_batched=True, retain_graph=True)
    for direction, gradient in zip(directions, found):
        expected, = torch.autograd.grad(y, leaf, direction, retain_graph=True)
        torch.testing.assert_close(gradient, expected)


def test_replays_can_be_switched_off(monkeypatch):
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    pytest.importorskip('triton')
    told = []
    for setting in ('off', 'on'):
        monkeypatch.setenv(compile_ahead.REPLAY_VARIABLE, setting)
        told.append(compile_ahead._launches_compiled.__wrapped__())
    assert not told[0]
    assert told[1] is hasattr(sys.modules['triton'], 'AsyncCompileMode')


def test_another_layout_is_another_replay(replaying, triton_device):
    """Strides and places in memory are what kernels are launched with and compiled for."""
    one = case('ssd')
    tensors = one.cast(torch.float32, triton_device)
    # C begins at no multiple of 16 bytes
    whole = torch.cat([tensors[name].detach()[..., :3] for name in 'BC'], -1)
    tensors.update(zip('BC', (part.clone().requires_grad_() for part in whole.split(3, -1))))
    parts = {**tensors, **dict(zip('BC', (part.requires_grad_() for part in whole.split(3, -1))))}
    expected = results(one, tensors, 'triton')
    for given in (parts, tensors, parts, tensors):
        found = results(one, given, 'triton')
        for name, result in expected.items():
            torch.testing.assert_close(found[name], result)
    assert len(replaying()) == 4
    assert {type(replay) for replay in replaying()} == {Replay}


def test_the_precision_of_products_is_part_of_a_layout():
    before, x = torch.get_float32_matmul_precision(), torch.zeros(2)
    try:
        found = []
        for precision in ('highest', 'high'):
            torch.set_float32_matmul_precision(precision)
            found.append(compile_ahead._layout((x, None, [1, 2], True)))
    finally:
        torch.set_float32_matmul_precision(before)
    assert len(set(found)) == 2


def test_no_replay_is_made_while_a_graph_is_recorded(monkeypatch):
    """It would load kernels, which CUDA refuses there."""
    monkeypatch.setattr(compile_ahead, '_launches_compiled', lambda: True)
    for recorded in (True, False):
        monkeypatch.setattr(torch.cuda, 'is_current_stream_capturing', lambda now=recorded: now)
        assert compile_ahead._may_replay(torch.device('cuda')) is not recorded
    assert not compile_ahead._may_replay(torch.device('meta'))


def test_layouts_are_forgotten(replaying, monkeypatch, triton_device):
    """Images of many sizes leave no more behind than there is room for."""
    monkeypatch.setattr(compile_ahead, 'LAYOUTS', 2)
    for length in range(1, 6):
        one = Case.example('ssd', L=length)
        for _ in range(2):
            with torch.no_grad():
                one.run(one.cast(torch.float32, triton_device), 'triton')
    assert 1 <= len(replaying()) <= 2


def test_a_layout_has_to_come_often(replaying, monkeypatch, triton_device, bodies):
    """To record takes as long as several calls, which images of ever new sizes never get back."""
    monkeypatch.setattr(compile_ahead, 'CALLS', 3)
    one = Case.example('ssd')
    for calls in range(1, 6):
        with torch.no_grad():
            one.run(one.cast(torch.float32, triton_device), 'triton')
        assert len(replaying()) == (calls > 3)
    assert not any(body._calls for body in bodies)


def test_memory_is_free_once_nothing_needs_it():
    """As in a function whose variables take other values."""
    made, alive = [], []

    def make(value):
        result = torch.full((2, ), value)
        alive.append([t() is not None for t in made])
        made.append(weakref.ref(result))
        return result

    steps = [_Step(functools.partial(make, value), (), number, False)
             for number, value in ((1, 1.0), (2, 2.0))]
    steps += [_Step(torch.add, (1, 2), 3, False), _Step(functools.partial(make, 3.0), (), 4, False),
              _Step(torch.add, (3, 4), 5, False)]
    (found, ) = Replay([None] * 6, steps, [5])([torch.zeros(2)])
    assert found.tolist() == [6, 6]
    assert alive == [[], [True], [False, False]]


def test_what_cannot_be_repeated_is_called(replaying, caplog):
    """Such as what takes a list of tensors; the log says it once."""
    compile_ahead._report.cache_clear()
    function = CompiledAhead(lambda x, y: torch.cat([x, y]), lambda x, y: ())
    for number in range(4):
        x = torch.full((2,), float(number))
        assert function(x, x + 1).tolist() == [number] * 2 + [number + 1] * 2
    assert [record.message.partition(': ')[2] for record in caplog.records] == [
        'calls take longer in Python, for they cannot be replayed: '
        "CannotRecord('a tensor is neither given nor made, or a list of them is taken')"]


def test_steps_of_no_use_are_left_out():
    x = torch.empty(2, 3, device='meta')
    with Record([x], torch.device('cpu')) as record:
        y = torch.zeros(3, 2, device='meta')
        first, _, third = y.unbind(0)
        x.mT.contiguous()
        third.add_(first).copy_(x.sum(1))
    replay = record.replay([y])
    called = ' '.join(str(call) for call, *_ in replay._steps)
    assert 'sum' in called
    assert 'clone' not in called
    assert 'transpose' not in called
    found, = replay([torch.ones(2, 3)])
    assert found.tolist() == [[0, 0], [0, 0], [3, 3]]


def test_a_tensor_from_elsewhere_cannot_be_recorded():
    x, other = torch.empty(2, device='meta'), torch.empty(2, device='meta')
    with pytest.raises(CannotRecord, match='neither given nor made'), \
            Record([x], torch.device('cpu')):
        x.add(other)


# Compiles one kernel for a GPU that is not there, and notes what its launches are handed.
LAUNCHES = """
import triton, torch
from triton.backends.compiler import GPUTarget
import mmvssd_kernels
from mmvssd_kernels import compile_ahead, library, triton_support

launched = []
compile_ahead.CALLS = 1

class Driver:
    utils = type('', (), dict(
        load_binary=lambda *args: (1, 1, 64, 0, 1024),
        get_device_properties=lambda *args: dict(max_shared_mem=232448)))
    launcher_cls = lambda self, source, metadata: lambda *args: launched.append(args)
    get_current_device = get_current_stream = lambda *args: 0
    get_current_target = lambda self: GPUTarget('cuda', 90, 32)

triton.runtime.driver.set_active(Driver())
triton_support.capability = lambda device: (9, 0)
x, dt, B = torch.zeros(2, 256, 3, 16), torch.zeros(2, 256, 3), torch.zeros(2, 256, 1, 16)
forward = library.body('nc_ssd_triton')
no_mask, mask = None, torch.ones(2, 256, dtype=torch.bool)
# in inference mode, what gives kernels a mask of integers is one operator
for mask, inference in ((no_mask, False), (mask, False), (mask, True), (no_mask, True)):
    forward._replays.clear()
    with torch.inference_mode(inference):
        for _ in range(3):
            forward(x, dt, dt[0, 0], B, B, None, mask, None)
    first, second, third = launched[:3], launched[3:6], launched[6:]
    assert len(third) == 3 and len(forward._replays) == 1
    assert all(forward._replays.values())
    for before, *others in zip(first, second, third):
        for other in others:
            assert len(other) == len(before) > 15
            for a, b in zip(before, other):
                if isinstance(a, torch.Tensor):
                    assert (a.shape, a.dtype) == (b.shape, b.dtype)
                    assert a.data_ptr() == b.data_ptr() or a.data_ptr() not in {
                        t.data_ptr() for t in (x, dt, dt[0, 0], B)}
                elif type(a).__name__ != 'LazyDict':  # for hooks, which there are none of
                    assert a == b, (a, b)
    launched.clear()
"""


def test_a_compiled_kernel_gets_the_same(compiled_before):
    """Grid, stream, kernel, numbers and constants; tensors of the same layout."""
    pytest.importorskip('triton.runtime.jit')
    environment = {**os.environ, 'TRITON_INTERPRET': '0', 'TRITON_CACHE_DIR': str(compiled_before)}
    told = subprocess.run([sys.executable, '-c', LAUNCHES], text=True, capture_output=True,
                          check=False, env=environment)
    assert told.returncode == 0, told.stderr


class Names(TorchDispatchMode):
    """The operators of this package that a mode sees."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator.namespace == 'mmvssd_kernels':
            self.found.append(operator.overloadpacket.__name__)
        return operator(*args, **(kwargs or {}))


EXPECTED = ['nc_ssd_triton', 'nc_ssd_triton_backward']


def test_a_mode_sees_operators(triton_device):
    one = case('nc_ssd')
    with Names() as names:
        results(one, one.cast(torch.float32, triton_device), 'triton')
    assert names.found == EXPECTED


def test_a_profiler_sees_operators(triton_device):
    one = case('nc_ssd')
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        results(one, one.cast(torch.float32, triton_device), 'triton')
    assert {f'mmvssd_kernels::{name}' for name in EXPECTED} <= {
        event.key for event in profile.key_averages()}


def test_a_type_of_its_own_sees_operators(triton_device):
    class Own(torch.Tensor):
        seen = []

        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            cls.seen.append(str(function))
            return super().__torch_function__(function, types, args, kwargs)

    one = case('nc_ssd')
    tensors = one.cast(torch.float32, triton_device)
    tensors['x'] = tensors['x'].detach().as_subclass(Own)
    assert isinstance(one.run(tensors, 'triton'), Own)
    assert any('nc_ssd_triton' in name for name in Own.seen)


def test_hooks_of_saved_tensors(triton_device):
    """Checkpointing and offloading replace what is kept for backward."""
    one = case('nc_ssd')
    tensors = one.cast(torch.float32, triton_device)
    expected, packed = results(one, tensors, 'triton'), []
    with torch.autograd.graph.saved_tensors_hooks(
            lambda t: packed.append(t) or t.clone(), lambda t: t):
        found = results(one, tensors, 'triton')
    assert len(packed) >= len(tensors)
    same(found, expected)
