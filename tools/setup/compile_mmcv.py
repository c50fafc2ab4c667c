"""Compile mmcv's C++ ops for this Python's PyTorch, and install them in place of mmcv-lite.

``bash tools/setup.sh --with-compiled-mmcv`` runs this with the Python of the environment; so may
you. It is part of the set-up: no import of ``mmvssd``. A compiled wheel is kept in
``~/.cache/mmvssd/wheels`` for each Python, PyTorch and GPU.
"""
import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[2] / 'requirements'
CACHE = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'mmvssd' / 'wheels'
PYTHON_TAG = f'cp{sys.version_info.major}{sys.version_info.minor}'
#: GB of memory that one compiling process takes.
CPU_PROCESS_GB, CUDA_PROCESS_GB = 1, 3


def tested_version():
    text = (REQUIREMENTS / 'constraints.txt').read_text()
    return re.search(r'^mmcv==(\S+)', text, re.MULTILINE)[1]


def pip(*arguments, **environment):
    subprocess.run([sys.executable, '-I', '-m', 'pip', *map(str, arguments)], check=True,
                   env={**os.environ, 'PIP_DISABLE_PIP_VERSION_CHECK': '1', **environment})


def installed(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def check_compiler():
    """Stop with what to install if this machine cannot compile an extension of Python."""
    compiler = shlex.split(os.environ.get('CXX', 'c++'))
    number = f'{sys.version_info.major}.{sys.version_info.minor}'
    try:
        subprocess.run([*compiler, '-std=c++17', '-fsyntax-only', '-x', 'c++', '-'], check=True,
                       input=b'#include <vector>\n', stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        sys.exit(f"no working C++ compiler ({shlex.join(compiler)}), which mmcv's ops need.\n"
                 'Debian, Ubuntu: sudo apt install g++\n'
                 'Fedora:         sudo dnf install gcc-c++\n'
                 'conda:          conda install -c conda-forge gxx\n'
                 'Without --with-compiled-mmcv none is needed.')
    include = sysconfig.get_path('include')
    if not Path(include, 'Python.h').is_file():
        sys.exit(f"Python.h of Python {number} is not in {include}, which mmcv's ops need.\n"
                 f'Debian, Ubuntu: sudo apt install python{number}-dev\n'
                 f'Fedora:         sudo dnf install python{number}-devel\n'
                 'Without --with-compiled-mmcv none is needed.')


def check_cache():
    """Stop if the compiled wheel could not be kept."""
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=CACHE).close()
    except OSError as error:
        sys.exit(f'cannot write to {CACHE}, where the compiled mmcv is kept ({error.strerror}).\n'
                 'Set XDG_CACHE_HOME to a folder that can be written to.')


def check():
    """Stop if compiling cannot work; a wheel that is kept needs no compiler."""
    check_cache()
    if not list(CACHE.glob(f'{PYTHON_TAG}-*/mmcv-{tested_version()}-*.whl')):
        check_compiler()


def choose_gpu():
    """Return the GPUs to compile for, as in 'cuda13.0-sm_9.0', or None with the reason.

    Returns:
        tuple[str or None, str or None]: the GPUs, and a note for the user.
    """
    import torch
    from torch.utils.cpp_extension import CUDA_HOME
    if not (torch.version.cuda and torch.cuda.is_available()):
        return None, None
    nvcc = Path(CUDA_HOME or '', 'bin', 'nvcc')
    output = subprocess.run([nvcc, '--version'], capture_output=True, text=True,
                            check=False).stdout if nvcc.is_file() else ''
    release = re.search(r'release (\d+)\.', output)
    if release is None or release[1] != torch.version.cuda.split('.')[0]:
        return None, (
            "NOTE: mmcv's ops will run on the CPU only. For the GPU, install the CUDA "
            f'{torch.version.cuda} toolkit with nvcc or point CUDA_HOME to it; run this again.')
    capabilities = {'{}.{}'.format(*torch.cuda.get_device_capability(index))
                    for index in range(torch.cuda.device_count())}
    arch = os.environ.get('TORCH_CUDA_ARCH_LIST') or '_'.join(sorted(capabilities))
    return f'cuda{torch.version.cuda}-sm_' + re.sub(r'[^\w.+]+', '_', arch), None


def works(gpu):
    """Return whether the mmcv that is there has ops that load, for the GPU if there is one."""
    code = ('import sys; from mmcv.ops import get_compiling_cuda_version as built_for; '
            'import mmcv._ext; sys.exit(mmcv._ext.__file__ is None or '
            'sys.argv[1] == "gpu" and built_for() == "not available")')
    return installed('mmcv') == tested_version() and subprocess.run(
        [sys.executable, '-I', '-c', code, 'gpu' if gpu else 'cpu'],
        stderr=subprocess.DEVNULL, check=False).returncode == 0


def count_processes(each):
    """Return how many compiling processes the cores and the free memory allow."""
    free = re.search(r'MemAvailable:\s+(\d+)', Path('/proc/meminfo').read_text())
    fit = int(free[1]) // (each * 10**6) if free else 1
    return max(1, min(fit, len(os.sched_getaffinity(0))))


def compile_wheel(gpu, folder):
    """Compile mmcv into a wheel in a folder."""
    processes = count_processes(CUDA_PROCESS_GB if gpu else CPU_PROCESS_GB)
    # without a GPU to compile for, its setup.py would still ask for nvcc if it saw one
    settings = dict(FORCE_CUDA='1') if gpu else dict(FORCE_CUDA='0', CUDA_VISIBLE_DEVICES='')
    settings.setdefault('MAX_JOBS', os.environ.get('MAX_JOBS') or str(processes))
    pip('install', '--constraint', REQUIREMENTS / 'constraints.txt', '--requirement',
        REQUIREMENTS / 'build.txt')
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        # pip's own cache would hand this wheel to an environment with another PyTorch
        pip('wheel', '-v', '--no-deps', '--no-build-isolation', '--no-cache-dir', '--no-binary',
            'mmcv', '--wheel-dir', work, f'mmcv=={tested_version()}', MMCV_WITH_OPS='1', **settings)
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(work, folder)  # on one disk: it is there whole or not at all
        os.mkdir(work)  # for its removal


def install(folder):
    """Install the wheel of a folder; mmcv-lite leaves first, for both own the import name."""
    wheel, = folder.glob('mmcv-*.whl')
    if installed('mmcv-lite'):
        pip('uninstall', '--yes', 'mmcv-lite')
    pip('install', '--no-deps', '--force-reinstall', wheel)


def main():
    """Compile and install, unless what is there works; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--check', action='store_true',
                        help='only say whether this machine can compile it')
    if parser.parse_args().check:
        check()
        return 0
    gpu, note = choose_gpu()
    if note:
        print(note)
    if works(gpu):
        print('mmcv with compiled ops is there already')
        return 0
    check_cache()
    import torch
    machine = f'{PYTHON_TAG}-{sysconfig.get_platform()}'
    folder = CACHE / f'{machine}-torch{torch.__version__}-{gpu or "cpu"}'
    if list(folder.glob(f'mmcv-{tested_version()}-*.whl')):
        print('mmcv was compiled earlier on this machine')
        install(folder)
        if works(gpu):
            return 0
        print('it does not load here: compiling it again')
    check_compiler()
    compile_wheel(gpu, folder)
    install(folder)
    return 0 if works(gpu) else "mmcv's compiled ops do not load"


if __name__ == '__main__':
    sys.exit(main())
