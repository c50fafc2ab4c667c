"""Kernels compile for GPUs that are not there, within their shared memory."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmvssd_kernels.triton_support import SHARED_MEMORY

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
    too_large = [kernel for kernel in compiled if kernel['shared'] > SHARED_MEMORY]
    assert not too_large, too_large
    # what the compiler prints is still what is looked for
    assert module in WITHOUT_PRODUCTS or any(kernel['products'] for kernel in compiled)
    wrong = [kernel for kernel in compiled
             if any(width < 4 * lane for width, lane in kernel['products'])]
    assert not wrong, wrong
    # one thread has all tokens of a tile, if they do not lie side by side and blocks are several
    own = [kernel for kernel in compiled if kernel['kernel'] == 'outputs'
             and kernel['capability'] == 90 and kernel['constants'].get('UK', '1') != '1'
             and int(kernel['constants']['D']) > int(kernel['constants']['BD'])]
    assert own or module != 'test_triton_selective_scan_2d'
    shared = [kernel for kernel in own if set(kernel['scans']) != {1}]
    assert not shared, shared
    spilled = [kernel for kernel in compiled if kernel['stack'] and _has_room(kernel)]
    assert not spilled, spilled


def _has_room(kernel):
    """Whether tiles are chosen so that registers hold them: half inputs, of published widths."""
    constants = kernel['constants']
    return constants.get('HALVES') == 'True' and constants.get('K', '3') == '3'
