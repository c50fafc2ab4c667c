"""What the tests of the ops share."""
import functools
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from mmvssd_kernels import numba_support, triton_support
from mmvssd_kernels.benchmark.memory import can_measure

#: Where the selective scans' kernels for a CPU are.
SCANS = 'mmvssd_kernels.selective_scan.numba_kernels'

# Forks for each line that it reads, so that each measurement has a process as it is after imports
MEASURE = """
import ast, os, sys
import torch
import mmvssd_kernels
from mmvssd_kernels.benchmark.memory import added_at_peak

def train(op, shapes):
    # negative: so are decays
    inputs = [torch.rand(shape).sub_(1).requires_grad_() for shape in shapes]
    results = []

    def step():
        results.append(op(*inputs))
        results[0].backward(torch.ones_like(results[0]))

    return added_at_peak(step), sum(t.nbytes for t in inputs), results[0].nbytes

for line in sys.stdin:
    if os.fork():
        os.wait()
        continue
    name, small, large = ast.literal_eval(line)
    op = getattr(mmvssd_kernels, name)
    train(op, small)  # loads what is loaded on first use
    print(*train(op, large), flush=True)
    os._exit(0)
"""


class Memory(NamedTuple):
    """Bytes: what forward and backward add to the inputs at their peak, the inputs, the output."""

    added: int
    inputs: int
    output: int


@pytest.fixture(scope='session')
def training_memory():
    """Measures what forward and backward take, the output's gradient and all results included."""
    if not can_measure():
        pytest.skip('needs /proc/self/clear_refs, to start the peak of memory anew')
    # a freed tensor goes back to the system at once; what glibc keeps varies with the load
    env = {**os.environ, 'MALLOC_MMAP_THRESHOLD_': '65536'}
    with subprocess.Popen([sys.executable, '-c', MEASURE], text=True, env=env,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:

        def measure(op, small, large):
            """Train in a process of its own on inputs of shapes ``small``, then on ``large``."""
            process.stdin.write(repr((op, small, large)) + '\n')
            process.stdin.flush()
            return Memory(*map(int, process.stdout.readline().split()))

        yield measure
        process.stdin.close()


def pytest_generate_tests(metafunc):
    """Tests of what 'auto' takes on a CPU run for both; those of blocks for what has blocks."""
    if 'scan_implementation' in metafunc.fixturenames:
        names = ['reference'] if 'block' in metafunc.fixturenames else ['reference', 'numba']
        metafunc.parametrize('scan_implementation', names, indirect=True)


@pytest.fixture
def scan_implementation(request, monkeypatch):
    """What computes the selective scans of a test."""
    if request.param == 'reference':
        monkeypatch.setattr(numba_support, '_obstacle', lambda *args: 'the reference is tested')
    else:
        reason = numba_support.obstacle(torch.empty(1), SCANS)
        if reason:
            pytest.skip(reason)
    return request.param


@pytest.fixture(scope='session')
def compiled_before(request, tmp_path_factory):
    """Triton's folder of what it has compiled: that of the tests' last run, if there was one."""
    cache = getattr(request.config, 'cache', None)  # not with -p no:cacheprovider
    return cache.mkdir('triton') if cache else tmp_path_factory.mktemp('triton')


@pytest.fixture
def triton_device():
    """Where Triton kernels run: a GPU, or where there is none a CPU, interpreted."""
    pytest.importorskip('triton')
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    reason = triton_support.obstacle(torch.empty(1, device=device))
    if reason:
        pytest.skip(reason)
    return device


@pytest.fixture
def same(triton_device):
    """Say whether two results are the same: on a GPU up to rounding.

    There kernels are compiled for strides, and another order of tokens and channels in memory is
    another order of sums.
    """
    def compare(a, b):
        return torch.equal(a, b) if triton_device == 'cpu' else torch.allclose(a, b, 1e-4, 1e-5)

    return compare


@pytest.fixture
def poisoned_memory():
    """Fills memory that is allocated but not written with NaN."""
    before = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert torch.empty(1).isnan()
    yield
    torch.utils.deterministic.fill_uninitialized_memory = before
    torch.use_deterministic_algorithms(False)


@functools.cache
def _beside(name):
    """The module of that name in this folder."""
    file = Path(__file__).with_name(f'{name}.py')
    spec = importlib.util.spec_from_file_location(f'{name}_of_tests', file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def gpu_arithmetic(monkeypatch):
    """Where Triton's kernels are interpreted, compute as a GPU does, and in half of the time."""
    if triton_support.INSTALLED and triton_support.interpreted():
        _beside('interpreter').forget_nothing(monkeypatch)
        _beside('gpu_arithmetic').install(monkeypatch)


@pytest.fixture(autouse=True)
def arithmetic_of_a_gpu(gpu_arithmetic):
    """Hold every test of kernels under it."""
