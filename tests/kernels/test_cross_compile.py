"""Kernels compile for GPUs that are not there, within their shared memory."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmvssd_kernels.triton_support import SHARED_MEMORY, SHARED_MEMORY_ON_HOPPER

pytest.importorskip('triton')
FOLDER = Path(__file__).parent
MODULES = sorted(path.stem for path in FOLDER.glob('test_triton_*.py'))
#: Turing, Ampere, Hopper.
CAPABILITIES = {75, 80, 90}
WITHOUT_PRODUCTS = ('test_triton_cross_scan', 'test_triton_selective_scan')


@pytest.mark.slow
@pytest.mark.parametrize('module', MODULES)
def test_kernels_compile_within_shared_memory(module, compiled_before):
    env = {**os.environ, 'TRITON_INTERPRET': '0', 'TRITON_CACHE_DIR': str(compiled_before)}
    done = subprocess.run([sys.executable, str(FOLDER / 'cross_compile.py'),
                           str(FOLDER / f'{module}.py'), *map(str, sorted(CAPABILITIES))],
                          text=True, capture_output=True, check=False, env=env)
    assert done.returncode == 0, done.stderr[-5000:]
    compiled = [json.loads(line) for line in done.stdout.splitlines()]
    assert {kernel['capability'] for kernel in compiled} == CAPABILITIES
    too_large = [kernel for kernel in compiled if kernel['shared'] > (
        SHARED_MEMORY_ON_HOPPER if kernel['capability'] == 90 else SHARED_MEMORY)]
    assert not too_large, too_large
    # what the compiler prints is still what is looked for
    assert module in WITHOUT_PRODUCTS or any(kernel['products'] for kernel in compiled)
    wrong = [kernel for kernel in compiled
             if any(width < 4 * lane for width, lane in kernel['products'])]
    assert not wrong, wrong
    # one thread has all tokens of a tile, if these are not one stretch of memory. If the state has
    # more entries than one, steps are handed around first
    own = [kernel for kernel in compiled if kernel['kernel'] in ('outputs', 'gradients')
             and kernel['capability'] == 90 and 'UK' in kernel['constants']
             and kernel['constants']['UK'] != kernel['constants']['BD']
             and kernel['constants']['S'] == '1']
    assert own or 'selective_scan' not in module
    shared = [kernel for kernel in own if set(kernel['scans']) != {1}]
    assert not shared, shared
    # a lane widens its number of B and C before all others get it
    late = [kernel for kernel in own if 'linear' in kernel['widened']]
    assert not late, late
    # a lane loads 16 bytes of step sizes that lie side by side, though no stride tells that it may
    narrow = [kernel for kernel in compiled if kernel['constants'].get('TA') == '16' and any(
        n * (4 if kernel['dtype'] == 'torch.float32' else 2) < 16 for n in kernel['ranks'])]
    assert not narrow, narrow
    # the lane that stored a number of the state loads it again: no barrier is between them
    many = [kernel for kernel in compiled if kernel['kernel'] == 'gradients'
            and kernel['constants'].get('BD') in ('64', '128') and 'UK' in kernel['constants']]
    assert many or 'scan_2d' not in module
    mixed = [kernel for kernel in many if len(kernel['vectors']) != 1]
    assert not mixed, mixed
    spilled = [kernel for kernel in compiled if kernel['stack'] > _most_stack(kernel)]
    assert not spilled, spilled


def _most_stack(kernel):
    """Bytes of stack that a kernel may have; of half inputs of published widths nearly none.

    For what else there is, tiles are not chosen so that registers hold them.
    """
    constants = kernel['constants']
    if constants.get('CUT') == 'True':  # float32
        if 'T' not in constants or kernel['capability'] == 80:
            return 0
        # ssd on Hopper
        return 392 if kernel['kernel'] == 'token_gradients' else 208
    if constants.get('HALVES') != 'True':
        # the largest states of nc_ssd in float32
        large = constants.get('BS') == '64' and 'T' not in constants
        return 0 if large and kernel['capability'] == 90 else float('inf')
    if 'T' in constants:  # of ssd; float16 takes a product more than bfloat16
        if constants['BS'] == '128':
            return float('inf')
        return 128 if kernel['dtype'] == 'torch.float16' else 8
    return 0


SUMS = """
import re
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from mmvssd_kernels.ssd.triton_kernels import sums

@triton.jit
def of_steps(p_dt, p_sums):
    o_t = tl.arange(0, 32)
    b_sum, b_rest = sums(tl.load(p_dt + o_t))
    tl.store(p_sums + o_t, b_sum)
    tl.store(p_sums + 32 + o_t, b_rest)

@triton.jit
def of_products(p_dt, p_sums):
    o_t = tl.arange(0, 32)
    b_sum, b_rest = sums(tl.load(p_dt + o_t) * tl.load(p_dt))
    tl.store(p_sums + o_t, b_sum)
    tl.store(p_sums + 32 + o_t, b_rest)

for kernel in of_steps, of_products:
    code = triton.compile(ASTSource(kernel, dict(p_dt='*fp32', p_sums='*fp32'), {}),
                          target=GPUTarget('cuda', 90, 32)).asm['ptx']
    print(len(re.findall('fma', code)))
"""


def test_sums_of_steps_are_exact(compiled_before, tmp_path):
    """A product that is fused with the sum that takes it would lose what rounding took."""
    (tmp_path / 'sums.py').write_text(SUMS)
    done = subprocess.run([sys.executable, str(tmp_path / 'sums.py')], text=True,
                          capture_output=True, check=False, env={
                              **os.environ, 'TRITON_INTERPRET': '0',
                              'TRITON_CACHE_DIR': str(compiled_before)})
    assert done.returncode == 0, done.stderr[-2000:]
    steps, products = map(int, done.stdout.split())
    # the second says that this compiler does fuse
    assert steps == 0 < products


MIXED = """
import re
import torch
from mmvssd_kernels.benchmark import compilation
from mmvssd_kernels.benchmark.workloads import workloads

work = next(w for w in workloads() if w.op == 'selective_scan_2d').on_grid(2, (8, 8))
inputs = work.description.inputs
inputs['dt_weight'] = inputs['dt_weight']._replace(widened=True)
launch = compilation.launches_of(work, torch.bfloat16, 90)[0]
ttir = compilation.Compiler(90).compile(launch).asm['ttir']
print(launch.name, len(re.findall('tt.dot ', ttir)), len(re.findall('bf16x', ttir)))
"""


@pytest.mark.slow
def test_a_float32_weight_beside_half_ranks_enters_in_three_parts(compiled_before, tmp_path):
    script = tmp_path / 'mixed.py'
    script.write_text(MIXED)
    env = {**os.environ, 'TRITON_INTERPRET': '0', 'TRITON_CACHE_DIR': str(compiled_before)}
    done = subprocess.run([sys.executable, script], text=True, capture_output=True, check=False,
                          env=env)
    assert done.returncode == 0, done.stderr[-5000:]
    kernel, products, left_to_triton = done.stdout.split()
    assert kernel.endswith('.outputs')
    assert int(products) == 3 * 4  # of four sequences
    assert left_to_triton == '0'  # which would multiply six parts
