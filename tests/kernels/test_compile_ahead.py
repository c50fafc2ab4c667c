"""What is compiled ahead of the launches is what they launch; and how often kernels compile."""
import os
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch

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

    def submit(self, function, *args):
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
        return compile_ahead._Recorder(module, found) if recorded is module else recorded

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


def test_once_for_a_kind(compiled, launched, triton_device):
    case = CASES['ssd']
    for images in range(1, 3):
        results(Case.example('ssd', N=images), case.cast(torch.float32, triton_device), 'triton')
    first = len(compiled)
    results(case, case.cast(torch.bfloat16, triton_device), 'triton')
    assert len(compiled) == 2 * first > 0


@pytest.mark.parametrize('context', [torch.no_grad, torch.inference_mode])
def test_no_gradient_is_compiled_if_there_will_be_none(context, compiled, launched,
                                                         triton_device):
    tensors = PLAIN.cast(torch.float32, triton_device)
    with context():
        PLAIN.run(tensors, 'triton')
    assert {launch.kernel.__name__ for launch in compiled} == {'partial_states', 'outputs'}
    PLAIN.run(tensors, 'triton')
    assert 'gradients' in {launch.kernel.__name__ for launch in compiled}


def test_a_failure_is_left_to_the_launch(compiled, monkeypatch, triton_device):
    def fail(launch, device):
        raise RuntimeError('no compiler')

    monkeypatch.setattr(compile_ahead, '_compile', fail)
    tensors = PLAIN.cast(torch.float32, triton_device)
    assert results(PLAIN, tensors, 'triton')['y'].isfinite().all()


def test_a_cpu_compiles_nothing_ahead():
    assert compile_ahead._threads(torch.device('cpu')) is None


def test_another_size_of_images_compiles_nothing():
    """Rows, columns and the two factors that some sums take, and no more."""
    pytest.importorskip('triton.runtime.jit')
    environment = {**os.environ, 'TRITON_INTERPRET': '0'}
    script = Path(__file__).with_name('count_specializations.py')
    told = subprocess.run([sys.executable, script], text=True, capture_output=True, check=True,
                          env=environment).stdout.splitlines()
    assert len(told) > 40
    two_axes = {'chunk_ends': 4, 'carry': 2, 'outputs': 2, 'gradients': 2}
    for line in told:
        op, *_, kernel, number = line.split()
        # sums of one stretch, or of several; of tokens, or of gradients
        most = two_axes[kernel] if op == 'selective_scan_2d' else 1 + kernel.startswith('partial_')
        assert int(number) <= most, line
