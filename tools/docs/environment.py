"""Write the page of environment variables: those that the code reads, each with its meaning."""
import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Where an environment variable that a user may set is read.
SOURCES = ('mmvssd', 'kernels', 'tools', 'mmvssd_startup.py')

MEANINGS = {
    'Backbones and ops': {
        'MMVSSD_KERNEL': "The implementation that `impl='auto'` takes: `reference`, `triton`, "
                         '`numba`, or one that you registered. An op that cannot run it raises.',
        'MMVSSD_KERNEL_CACHE': 'Folder of the compiled Numba kernels. Default: '
                               '`mmvssd_kernels` below `XDG_CACHE_HOME`.',
        'MMVSSD_PATCHES': 'Patches of the hosts to leave out: `off` for all, or names such as '
                          '`-amp,-distributed`. [The list](../compat.md).',
        'MMVSSD_REPLAY': '`off` has the Triton ops find out at every call what to launch, '
                         'which takes longer in Python.',
        'NUMBA_DISABLE_JIT': "Numba's own switch. If it is set, `numba` cannot run.",
        'TRITON_INTERPRET': '`1` runs Triton kernels on the CPU, to test them.',
        'XDG_CACHE_HOME': 'Folder of caches: compiled kernels, and wheels of mmcv. Default: '
                          '`~/.cache`.',
    },
    'Several processes': {
        'NNODES': 'Number of nodes of `dist_train.sh` and `dist_test.sh`. Default: 1.',
        'NODE_RANK': 'Number of this node, from 0. Default: 0.',
        'MASTER_ADDR': 'Address of node 0. Default: 127.0.0.1.',
        'PORT': 'Port of node 0. Default: 29500.',
        'MAX_RESTARTS': 'How often all processes start again after one has failed. Default: 0.',
        'OMP_NUM_THREADS': 'Threads of each process. Default: its share of the cores.',
        'GLOO_SOCKET_IFNAME': 'Network interface of Gloo. Default: the one towards '
                              '`MASTER_ADDR`.',
    },
    'Slurm': {
        'GPUS': 'GPUs of all nodes together. Default: 8.',
        'GPUS_PER_NODE': 'GPUs of each node. Default: `GPUS`, up to 8.',
        'CPUS_PER_TASK': "Cores of each GPU's process. Default: 5.",
        'SRUN_ARGS': 'More options of `srun`. They replace those that the scripts set.',
        'MASTER_PORT': 'Port of the first process. Two jobs on one node need two. Default: 29500.',
    },
    'Set-up and tests': {
        'PYTHON': 'The Python that `setup.sh` and `gpu_check.sh` take.',
        'VIRTUAL_ENV': 'The active virtualenv, into which `setup.sh` then installs.',
        'CONDA_PREFIX': 'The active conda environment, likewise.',
        'CXX': "Compiler of mmcv's ops, with `setup.sh --with-compiled-mmcv`.",
        'MAX_JOBS': 'Compilers that run at once. Default: one for each core.',
        'TORCH_CUDA_ARCH_LIST': "GPUs for which mmcv's ops are compiled. Default: those here.",
        'PYENV_ROOT': 'Where `check_versions.py` finds Pythons of pyenv. Default: `~/.pyenv`.',
    },
}
#: What torchrun, Slurm and this package's scripts set for each process.
SET_BY_LAUNCHERS = {'GROUP_WORLD_SIZE', 'LOCAL_RANK', 'MMVSSD_JOB_START', 'RANK', 'WORLD_SIZE',
                    'TORCHELASTIC_RESTART_COUNT', 'TORCHELASTIC_USE_AGENT_STORE'}


def environment_page():
    """Write the page; RuntimeError if it and the code name different variables."""
    found = variables()
    described = {name for group in MEANINGS.values() for name in group}
    if found.keys() != described | SET_BY_LAUNCHERS:
        missing = {name: found[name] for name in found.keys() - described - SET_BY_LAUNCHERS}
        gone = (described | SET_BY_LAUNCHERS) - found.keys()
        raise RuntimeError(f'environment variables: not described {missing}, not read {gone}')
    parts = ['# Environment variables', 'Set one before a command: '
             '`MMVSSD_KERNEL=reference python tools/train.py RECIPE`.']
    for title, group in MEANINGS.items():
        rows = [f'| `{name}` | {meaning} | {read_by(found[name])} |'
                for name, meaning in group.items()]
        parts += [f'## {title}', '\n'.join(['| variable | what it sets | read by |',
                                            '|---|---|---|', *rows])]
    names = ', '.join(f'`{name}`' for name in sorted(SET_BY_LAUNCHERS))
    parts += ['## Not for you to set', 'torchrun, Slurm and the scripts of this project set these '
              f'for each process: {names}.']
    return '\n\n'.join(parts)


def read_by(files):
    """Return the files as a cell of a table."""
    return '<br>'.join(f'`{file}`' for file in sorted(files))


def variables():
    """Return the environment variables that the code reads: name -> files."""
    found = {}
    for source in SOURCES:
        top = ROOT / source
        for file in [top, *sorted(top.rglob('*'))]:
            if file.suffix not in READERS:
                continue
            for name in READERS[file.suffix](file.read_text('utf-8')):
                found.setdefault(name, set()).add(file.relative_to(ROOT).as_posix())
    return found


def in_shell(text):
    """Return the variables that a script gives a default."""
    return re.findall(r'\$\{([A-Z][A-Z_]+):[-=?]', text)


def in_python(text):
    """Yield the variables that a file's code reads by a name, or by a constant of the file."""
    if 'environ' not in text and 'getenv' not in text:
        return
    tree = ast.parse(text)
    constants = {target.id: node.value.value for node in tree.body
                 if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
                 for target in node.targets if isinstance(target, ast.Name)}
    for node in ast.walk(tree):
        key = None
        if isinstance(node, ast.Call) and node.args and ast.unparse(node.func) in (
                'os.environ.get', 'os.environ.setdefault', 'os.environ.pop', 'os.getenv'):
            key = node.args[0]
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == 'os.environ':
            key = node.slice
        if isinstance(key, ast.Name):
            key = ast.Constant(constants.get(key.id))
        if isinstance(key, ast.Constant) and key.value:
            yield key.value


READERS = {'.py': in_python, '.sh': in_shell}
