"""What the tests of the ops share."""
import dataclasses
import os
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest
import torch

TRAIN = """
import sys
import torch
import mmvssd_kernels

def memory(line):
    with open('/proc/self/status') as file:
        return next(int(text.split()[1]) * 1024 for text in file if text.startswith(line))

def train(shapes):
    # negative: so are decays
    inputs = [torch.rand(shape).sub_(1).requires_grad_() for shape in shapes]
    before = memory('VmRSS')
    with open('/proc/self/clear_refs', 'w') as file:
        file.write('5')  # the peak, VmHWM, starts anew
    y = op(*inputs)
    y.backward(torch.ones_like(y))
    return memory('VmHWM') - before, sum(t.nbytes for t in inputs), y.nbytes

op = getattr(mmvssd_kernels, sys.argv[1])
small, large = eval(sys.argv[2])
train(small)  # loads what is loaded on first use
print(*train(large))
"""


class Memory(NamedTuple):
    """Bytes: what forward and backward add to the inputs at their peak, the inputs, the output."""

    added: int
    inputs: int
    output: int


@pytest.fixture
def training_memory():
    """Measures what forward and backward take, the output's gradient and all results included."""
    if not os.access('/proc/self/clear_refs', os.W_OK):
        pytest.skip('needs /proc/self/clear_refs, to start the peak of memory anew')

    def measure(op, small, large):
        """Train in a fresh process on inputs of shapes ``small``, then on ``large``."""
        done = subprocess.run([sys.executable, '-c', TRAIN, op, repr((small, large))], text=True,
                              capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        return Memory(*map(int, done.stdout.split()))

    return measure


@pytest.fixture
def triton_device():
    """Where Triton kernels run: a GPU, or where there is none a CPU, interpreted."""
    pytest.importorskip('triton')
    return 'cuda' if torch.cuda.is_available() else 'cpu'


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


@pytest.fixture(autouse=True)
def tensor_core_products(monkeypatch):
    """Lets the interpreter round the factors of a product as tensor cores do."""
    interpreter = sys.modules.get('triton.runtime.interpreter')
    if interpreter is None:
        return
    create_dot = interpreter.InterpreterBuilder.create_dot
    options = interpreter.interpreter_builder.options
    monkeypatch.setattr(interpreter.interpreter_builder, 'options', dataclasses.replace(
        options, allowed_dot_input_precisions=('ieee', 'tf32', 'tf32x3', 'bf16x3')))

    def create(self, a, b, d, precision, max_num_imprecise_acc):
        def product(a, b, d):
            return create_dot(self, *(interpreter.TensorHandle(t, d.dtype) for t in (a, b)), d,
                              precision, max_num_imprecise_acc)

        precision_name = str(precision).rpartition('.')[2].lower()
        if precision_name == 'tf32':
            # the last 13 bits are not read
            return product(*((t.data.view(np.uint32) & np.uint32(0xffffe000)).view(np.float32)
                             for t in (a, b)), d)
        if precision_name == 'bf16x3':
            (a, a_rest), (b, b_rest) = map(halves, (a.data, b.data))
            return product(a, b, product(a, b_rest, product(a_rest, b, d)))
        return create_dot(self, a, b, d, precision, max_num_imprecise_acc)

    monkeypatch.setattr(interpreter.InterpreterBuilder, 'create_dot', create)


def halves(t):
    """Two bfloat16 parts of float32 numbers."""
    t = torch.from_numpy(t.copy())
    first = t.bfloat16().float()
    return first.numpy(), (t - first).bfloat16().float().numpy()


@pytest.fixture
def parallel_scans(monkeypatch):
    """Lets the interpreter scan and sum as a GPU does, halves of a tile with halves.

    By itself it takes one number after the other: its rounding is another, and scans take minutes.
    Its float32 exponentials err to one side, which a recurrence adds up; here they are rounded.
    """
    interpreter = pytest.importorskip('triton.runtime.interpreter')

    def scan(self, tensors):
        types = [t.dtype for t in tensors]
        arrays = [t.handle.data for t in tensors]
        shape = [1] * arrays[0].ndim
        shape[self.axis] = -1
        place = np.arange(arrays[0].shape[self.axis]).reshape(shape)
        reach = 1
        while reach < place.size:
            before = [np.roll(a, reach, self.axis) for a in arrays]
            with np.errstate(all='ignore'):  # what was rolled around the end is dropped
                joined = self.combine_fn.fn(*map(self.to_tensor, before + arrays, types * 2))
            arrays = [np.where(place < reach, a, t.handle.data) for a, t in zip(arrays, joined)]
            reach *= 2
        return list(map(self.to_tensor, arrays, types))

    def add(self, tensor):
        numbers = np.moveaxis(tensor.handle.data, self.axis, 0)
        while len(numbers) > 1:
            half = len(numbers) // 2
            numbers = numbers[:half] + numbers[half:]
        return self.to_tensor(numbers[0], tensor.dtype)

    def exponential(self, number):
        exact = np.exp(number.data.astype(np.float64))
        return interpreter.TensorHandle(exact.astype(number.data.dtype), number.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, 'create_exp', exponential)
    monkeypatch.setattr(interpreter.ScanOps, 'generic_scan', scan)
    monkeypatch.setattr(interpreter.ReduceOps, 'sum', add)
