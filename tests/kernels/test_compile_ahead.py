"""What is compiled ahead of the launches is what they launch; and how often kernels compile."""
import os
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch
import torch._dynamo.testing

from mmvssd_kernels import compile_ahead, library
from mmvssd_kernels.compile_ahead import CompiledAhead, Launch
from mmvssd_kernels.parity import Case, results

PLAIN = Case.example('nc_ssd')
CASES = {
    'nc_ssd': PLAIN,
    'nc_ssd in groups': Case.example('nc_ssd', G=2),
    'nc_ssd normalized': PLAIN._replace(options=dict(normalize=True, grid=(3, 4))),
    'ssd': Case.example('ssd'),
    'ssd reversed': Case.example('ssd')._replace(options=dict(reverse=True)),
    'selective_scan': Case.example('selective_scan'),
    'selective_scan_2d': Case.example('selective_scan_2d', H=1),
    'selective_scan_2d in chunks': Case.example('selective_scan_2d', H=9, W=30),
    'selective_scan_2d bidirectional': Case.example('selective_scan_2d')._replace(
        options=dict(pattern='bidirectional')),
}


class Threads:
    """Runs at once what is submitted, and keeps what it raises."""

    def submit(self, when, function, *args):
        future = Future()
        try:
            future.set_result(function(*args))
        except RuntimeError as error:
            future.set_exception(error)
        return future


@pytest.fixture
def compiled(monkeypatch, triton_device):
    """What is compiled ahead, by operators that know no kind of call yet."""
    found = []
    for body in library._bodies.values():
        if isinstance(body, CompiledAhead):
            monkeypatch.setattr(body, '_ready', set())
            monkeypatch.setattr(body, '_started', {})
            monkeypatch.setattr(body, '_without_gradient', set())
    monkeypatch.setattr(compile_ahead, '_threads', lambda device: Threads())
    monkeypatch.setattr(compile_ahead, '_compile', lambda launch, device: found.append(launch))
    return found


@pytest.fixture
def launched(monkeypatch):
    """What would be launched; nothing runs, and results are whatever memory held."""
    found = []
    record = compile_ahead.kernels

    def kernels(module):
        recorded = record(module)
        return compile_ahead._Recorder(module, found.append) if recorded is module else recorded

    monkeypatch.setattr(compile_ahead, 'kernels', kernels)
    return found


def compiled_for(launch: Launch):
    """Tell what Triton compiles a launch for, and more, as a text."""
    def describe(value):
        if not isinstance(value, torch.Tensor):
            return str(value)
        return (value.dtype, tuple(value.shape), value.stride(),
                value.data_ptr() % compile_ahead.ALIGNMENT)

    return str((id(launch.kernel), launch.grid, [*map(describe, launch.args)],
                {name: describe(value) for name, value in launch.options.items()}))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('name', CASES)
def test_what_is_compiled_is_launched(name, dtype, compiled, launched, triton_device):
    tensors = CASES[name].cast(dtype, triton_device)
    results(CASES[name], tensors, 'triton')
    assert len(launched) > 1
    assert set(map(compiled_for, compiled)) == set(map(compiled_for, launched))


def test_parts_of_one_projection(compiled, launched, triton_device):
    """Pointers that lie at no multiple of 16 bytes are compiled for as such."""
    case = CASES['selective_scan_2d']
    tensors = case.cast(torch.bfloat16, triton_device)
    sizes = [tensors[name].shape[-1] for name in ('dt', 'B', 'C')]
    whole = torch.rand(*tensors['dt'].shape[:-1], sum(sizes), dtype=torch.bfloat16,
                       device=triton_device)
    for name, part in zip(('dt', 'B', 'C'), whole.split(sizes, -1)):
        tensors[name] = part.requires_grad_()
    assert tensors['B'].data_ptr() % 16
    results(case, tensors, 'triton')
    assert set(map(compiled_for, compiled)) == set(map(compiled_for, launched))


@pytest.mark.parametrize('name', CASES)
def test_other_sizes_are_no_other_kind(name, compiled, launched, triton_device):
    """Nor does anything stay behind for them: batches and images of many sizes come along."""
    case = CASES[name]
    results(case, case.cast(torch.float32, triton_device), 'triton')
    first = len(compiled)
    for images, rows in ((2, 3), (3, 5), (1, 4)):
        sizes = dict(L=4 * rows) if case.op == 'selective_scan' else dict(H=rows)
        if case.op == 'nc_ssd':
            sizes['G'] = case.tensors['B'].shape[2]
        other = Case.example(case.op, N=images, **sizes)
        grid = dict(grid=(rows, 4)) if 'grid' in case.options else {}
        other = other._replace(options={**case.options, **grid})
        results(other, other.cast(torch.float32, triton_device), 'triton')
    assert len(compiled) == first > 0
    results(case, case.cast(torch.bfloat16, triton_device), 'triton')
    assert len(compiled) > first


@pytest.mark.parametrize('context', [torch.no_grad, torch.inference_mode])
def test_no_gradient_is_compiled_if_there_will_be_none(context, compiled, launched,
                                                         triton_device):
    tensors = PLAIN.cast(torch.float32, triton_device)
    with context():
        PLAIN.run(tensors, 'triton')
    assert {launch.kernel.__name__ for launch in compiled} == {'whole_heads'}
    PLAIN.run(tensors, 'triton')
    assert 'gradients' in {launch.kernel.__name__ for launch in compiled}


def test_a_failure_is_left_to_the_launch(compiled, monkeypatch, triton_device):
    def fail(launch, device):
        raise RuntimeError('no compiler')

    monkeypatch.setattr(compile_ahead, '_compile', fail)
    tensors = PLAIN.cast(torch.float32, triton_device)
    assert results(PLAIN, tensors, 'triton')['y'].isfinite().all()


def test_launches_that_cannot_be_foreseen(compiled, monkeypatch, caplog, triton_device):
    def fail(*args):
        raise NotImplementedError('no meta kernel')

    monkeypatch.setattr(compile_ahead, 'launches', fail)
    for _ in range(2):
        assert results(PLAIN, PLAIN.cast(torch.float32, triton_device), 'triton')
    # forward and backward each say it once
    assert [record.message.partition(': ')[2] for record in caplog.records] == [
        'its kernels compile one after the other, for its launches could not be foreseen'] * 2


@pytest.mark.parametrize('fullgraph', [False, True])
def test_a_compiled_step_is_compiled_once(fullgraph, compiled, launched, triton_device):
    """What is kept of kinds of calls is nothing that a graph depends on."""
    counter = torch._dynamo.testing.CompileCounterWithBackend('aot_eager')
    case = CASES['ssd']
    step = torch.compile(lambda tensors: case.run(tensors, 'triton'), backend=counter,
                         fullgraph=fullgraph)
    torch._dynamo.reset()
    for _ in range(3):
        tensors = case.cast(torch.float32, triton_device)
        step(tensors).sum().backward()
    assert counter.frame_count == 1
    with torch.no_grad():
        case.run(case.cast(torch.float32, triton_device), 'triton')


WAITING = """
import sys, time
from concurrent.futures import wait
from mmvssd_kernels.compile_ahead import LATER, NOW, _Threads

threads, order = _Threads(1), []
first = threads.submit(LATER, time.sleep, 0.3)
late = threads.submit(LATER, order.append, 'late')
soon = threads.submit(NOW, order.append, 'soon')
bad = threads.submit(NOW, int, 'x')
wait([first, late, soon, bad])
assert order == ['soon', 'late'], order
assert isinstance(bad.exception(), ValueError)
for _ in range(100):
    threads.submit(LATER, time.sleep, 0.3)
print('done', flush=True)
raise SystemExit(3)
"""


def test_what_waits_is_left_at_the_end():
    """What a call waits for comes first; an interpreter that ends does not wait for the rest."""
    start = time.monotonic()
    told = subprocess.run([sys.executable, '-c', WAITING], text=True, capture_output=True,
                          check=False)
    assert (told.returncode, told.stdout, told.stderr) == (3, 'done\n', '')
    assert time.monotonic() - start < 25


@pytest.mark.parametrize(('environment', 'number'), [
    ({}, 1), (dict(LOCAL_WORLD_SIZE='8'), 8), (dict(LOCAL_WORLD_SIZE=''), 1),
    (dict(LOCAL_WORLD_SIZE='0', SLURM_NTASKS_PER_NODE='4(x2)'), 4),
    (dict(OMPI_COMM_WORLD_LOCAL_SIZE='2'), 2), (dict(SLURM_NTASKS_PER_NODE='many'), 1)])
def test_processes_that_share_the_cores(environment, number, monkeypatch):
    for name in compile_ahead.LOCAL_PROCESSES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert compile_ahead._local_processes() == number


def test_a_cpu_compiles_nothing_ahead():
    assert compile_ahead._threads(torch.device('cpu')) is None


def test_another_size_of_images_compiles_nothing():
    """Rows, columns or both, and the two factors that some sums take, and no more."""
    pytest.importorskip('triton.runtime.jit')
    environment = {**os.environ, 'TRITON_INTERPRET': '0'}
    script = Path(__file__).with_name('count_specializations.py')
    told = subprocess.run([sys.executable, script], text=True, capture_output=True, check=True,
                          env=environment).stdout.splitlines()
    assert len(told) > 80
    # parts are one or four, and of a multiple of 16 numbers or not
    scans = {'chunk_ends': 4, 'carry': 2, 'outputs': 3, 'gradients': 3, 'add_parts': 4}
    # one segment or several; two tiles and directions of states, two gradients of groups
    segments = {'states': 3, 'carry': 2, 'outputs': 2, 'token_gradients': 2, 'group_gradients': 4,
                'step_gradients': 2}
    for line in told:
        op, *_, kernel, number = line.split()
        # sums of one stretch, or of several; in the normalized form of tokens, or of gradients
        sums = {'partial_states': 4 if 'iccv' in line else 1, 'partial_state_gradients': 2,
                'step_gradients': 2}
        limits = scans if 'scan' in op else segments if op == 'ssd' else sums
        most = limits.get(kernel, 1)
        assert int(number) <= most, line
