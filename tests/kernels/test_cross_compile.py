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


@pytest.mark.slow
@pytest.mark.parametrize('module', MODULES)
@pytest.mark.parametrize('capability', [75, 80, 90])  # Turing, Ampere, Hopper
def test_kernels_compile_within_shared_memory(module, capability, tmp_path):
    env = {**os.environ, 'TRITON_INTERPRET': '0', 'TRITON_CACHE_DIR': str(tmp_path)}
    done = subprocess.run([sys.executable, str(FOLDER / 'cross_compile.py'),
                           str(FOLDER / f'{module}.py'), str(capability)],
                          text=True, capture_output=True, check=False, env=env)
    assert done.returncode == 0, done.stderr[-5000:]
    compiled = [json.loads(line) for line in done.stdout.splitlines()]
    assert compiled
    too_large = [kernel for kernel in compiled if kernel['shared'] > SHARED_MEMORY]
    assert not too_large, too_large
