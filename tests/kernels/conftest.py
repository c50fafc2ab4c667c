"""What the tests of the ops share."""
import os
import subprocess
import sys
from typing import NamedTuple

import pytest

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
