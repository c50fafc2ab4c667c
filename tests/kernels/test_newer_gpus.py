"""A few kernels compile for GPUs newer than those that all kernels are compiled for."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmvssd_kernels.triton_support import SHARED_MEMORY

pytest.importorskip('triton')
COMPILE = """
import importlib.util
import json
import sys
import torch
from mmvssd_kernels import triton_support
from mmvssd_kernels.benchmark import compilation, machine_code

triton_support.obstacle = lambda x: None

def load(path):
    spec = importlib.util.spec_from_file_location('cases', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def compile_gradients(case, capability, kernel):
    with compilation.Recorder(capability) as recorder:
        y = case.run(case.cast(torch.bfloat16, 'meta'), 'triton')
        y.backward(torch.ones_like(y))
    compiler = compilation.Compiler(capability)
    launch, = [one for one in recorder.found if one.kernel.__name__ == kernel]
    compiled = compiler.compile(launch)
    print(json.dumps(dict(shared=compiled.metadata.shared, warps=compiled.metadata.num_warps,
                          tensor_memory='tcgen05.mma' in compiled.asm['ptx'],
                          stack=machine_code.usage(compiled.asm['cubin']).stack)))

nc_ssd, ssd = map(load, sys.argv[1:])
for normalize in False, True:
    compile_gradients(nc_ssd.make_case(P=16, S=12, normalize=normalize), 100, 'gradients')
for capability in 100, 120:
    compile_gradients(ssd.make_case(L=600, h=2, P=64, S=64), capability, 'token_gradients')
"""


@pytest.mark.slow
def test_gradients_compile(compiled_before, tmp_path):
    """Blackwell's: one sums products in tensor memory, the other has as little memory as Ampere."""
    folder = Path(__file__).parent
    (tmp_path / 'compile.py').write_text(COMPILE)
    done = subprocess.run(
        [sys.executable, str(tmp_path / 'compile.py'), str(folder / 'test_triton_nc_ssd.py'),
         str(folder / 'test_triton_ssd.py')], text=True, capture_output=True, check=False,
        env={**os.environ, 'TRITON_INTERPRET': '0', 'TRITON_CACHE_DIR': str(compiled_before)})
    assert done.returncode == 0, done.stderr[-2000:]
    *of_tensor_memory, large, small = map(json.loads, done.stdout.splitlines())
    # else this says nothing about sums of what such memory holds
    assert all(kernel['tensor_memory'] for kernel in of_tensor_memory)
    assert all(kernel['shared'] <= SHARED_MEMORY for kernel in (*of_tensor_memory, large, small))
    # 32 tokens are the rows of two warps; more would do the same work again
    assert large['warps'] == small['warps'] == 2
    assert max(large['stack'], small['stack']) <= 64
