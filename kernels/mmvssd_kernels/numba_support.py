"""When kernels for a CPU can run, how they are compiled and kept, and how threads share their work.

Numba compiles a kernel once for a machine. What it made is kept on disk and loaded from there by
llvmlite, Numba's own back end: a process that finds it does not import Numba, which takes longer.
Kernels touch nothing of Python, and run without its lock.
"""
import contextlib
import ctypes
import fcntl
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import re
import tempfile
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from mmvssd_kernels import dispatch

logger = logging.getLogger('mmvssd')

#: The oldest Numba with which the kernels were tested.
VERSION = (0, 61)
#: Before the reference, after what runs on a GPU.
PRIORITY = 50
#: Sets the folder in which compiled kernels are kept.
CACHE_VARIABLE = 'MMVSSD_KERNEL_CACHE'
#: How long kernels take to compile, on a CPU of 2024.
SECONDS = {'forward': 6, 'backward': 13}
INSTALL = "pip install 'numba>={}'".format('.'.join(map(str, VERSION)))


class Kernel(NamedTuple):
    """A kernel: the module whose function ``kernels(dtype)`` has it, its name, the sums' dtype."""

    module: str
    name: str
    dtype: torch.dtype


class NotCompiled(RuntimeError):
    """A kernel could not be compiled or loaded; the message says why."""


def register(op: str, obstacle: dispatch.Objection) -> Callable[[Callable], Callable]:
    """Return a decorator that registers a function as the Numba implementation of an op.

    Args:
        op: The op's name.
        obstacle: Says why the kernels cannot run on the op's arguments; None if they can.
    """
    return dispatch.register(op, 'numba', obstacle, priority=PRIORITY)


def obstacle(x: Tensor, module: str, *others: Optional[Tensor]) -> Optional[str]:
    """Return why a module's kernels cannot run on ``x`` and other tensors; None if they can.

    The kernel ``backward`` is asked for only if a tensor needs a gradient: it takes longest to
    compile.
    """
    if x.device.type != 'cpu':
        return f'Numba computes on the CPU, and x is on {x.device}'
    dtype = torch.promote_types(x.dtype, torch.float32)
    reason = _obstacle(module, 'forward', dtype)
    if reason is None and torch.is_grad_enabled() and any(
            t is not None and t.requires_grad for t in (x, *others)):
        reason = _obstacle(module, 'backward', dtype)
    return reason


# a tracer shall not see what is compiled
@torch.compiler.assume_constant_result
def _obstacle(module: str, name: str, dtype: torch.dtype) -> Optional[str]:
    return _found_obstacle(Kernel(module, name, dtype))


@functools.cache
def _found_obstacle(kernel: Kernel) -> Optional[str]:
    try:
        _function(kernel)
    except NotCompiled as error:
        return str(error)
    return None


def threads(units: int) -> int:
    """Return how many threads share so many units of work: PyTorch's number, if there is enough."""
    return min(torch.get_num_threads(), units)


def run(kernel: Kernel, table: int, count: int, kept: object) -> None:
    """Run a kernel on several threads at once, each of which takes one unit after the other.

    They are PyTorch's own, of OpenMP: after an operation these look for work for a while, and
    others would share the cores with them. If PyTorch's OpenMP is not found, or in a forked
    child, in which it would hang, they are Python's.

    Args:
        kernel: The kernel; takes the address of the table.
        table: Address of its table of arguments.
        count: Threads.
        kept: The table, and what it points to. It lives until the last thread is done, even if
            this one is interrupted.
    """
    function = _function(kernel)
    team = _openmp_team()
    if count > 1 and team is not None and not _threads.forked:
        team(ctypes.cast(function, ctypes.c_void_p), table, count, 0)  # type: ignore[arg-type]
        return

    def work(kept: object = kept) -> None:  # a helper holds it as long as it runs
        function(table)

    helpers = _submit(work, count - 1)
    work()
    # a thread that has not begun would find no unit left
    waited = [helper for helper in helpers if not helper.cancel()]
    for helper in waited:
        helper.result()


@functools.cache
def _openmp_team() -> Optional[Callable[..., None]]:
    """Return what has PyTorch's OpenMP threads run a function, None if it is not found.

    It is what code that GCC compiled calls, ``GOMP_parallel(function, data, threads, flags)``; the
    OpenMP libraries of LLVM and Intel have it too.
    """
    maps = Path('/proc/self/maps')
    if not maps.is_file():
        return None
    loaded = {Path(name) for name in re.findall(r'(/\S*/lib(?:gomp|iomp5|omp)[-.]\S*)$',
                                                maps.read_text(), re.MULTILINE)}
    # another package may bring an OpenMP of its own
    own = {path for path in loaded if Path(torch.__file__).parent in path.parents} or loaded
    if len(own) != 1:
        return None
    try:
        team = ctypes.CDLL(str(own.pop())).GOMP_parallel
    except (OSError, AttributeError):
        return None
    team.restype = None
    team.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    return team


class _Threads:
    """Threads that run kernels. A child process starts without any, and with its own locks."""

    def __init__(self) -> None:
        self.forked = False
        self.start()
        os.register_at_fork(after_in_child=self.start_in_child)

    def start_in_child(self) -> None:
        """Begin anew in a forked child, which has none of its parent's threads."""
        self.forked = True
        self.start()

    def start(self) -> None:
        """Begin with no thread; each is started when it is first needed."""
        self.pool = ThreadPoolExecutor(max(32, os.cpu_count() or 1), 'mmvssd_kernels')
        self.loading = threading.RLock()


_threads = _Threads()


def _submit(work: Callable[[], None], count: int) -> List[Future]:
    """Have other threads do the work too; each future tells whether one began, and ended."""
    helpers = []
    try:
        for _ in range(count):
            # the pool's own future is lost if the pool takes the work and then finds no thread
            helpers.append(Future())
            _threads.pool.submit(_help, helpers[-1], work)
    except RuntimeError:  # Python is about to end, or has no room for one more thread
        pass
    return helpers


def _help(helper: Future, work: Callable[[], None]) -> None:
    if not helper.set_running_or_notify_cancel():
        return
    try:
        work()
    except BaseException as error:
        helper.set_exception(error)
    else:
        helper.set_result(None)


# kernel -> its function; the engine, which owns the code, is kept with it
_functions: Dict[Kernel, Tuple[Callable[[int], None], object]] = {}


def _function(kernel: Kernel) -> Callable[[int], None]:
    """Return a kernel as a function of an address, which runs without Python's lock."""
    if kernel not in _functions:
        with _threads.loading:
            if kernel not in _functions:
                _functions[kernel] = _made(kernel)
    return _functions[kernel][0]


def _made(kernel: Kernel) -> Tuple[Callable[[int], None], object]:
    # a broken Numba or llvmlite may raise anything; what they cannot do, the reference can
    try:
        reason = _version_obstacle()
        if reason is None:
            return _load(*_machine_code(kernel))
    except Exception as error:
        told = (str(error).strip().splitlines() or [''])[0]
        raise NotCompiled(f'Numba does not work here ({type(error).__name__}: {told}): '
                          f'{INSTALL}') from error
    raise NotCompiled(reason)


def _machine_code(kernel: Kernel) -> Tuple[str, bytes]:
    """Return a kernel's symbol and object file, from the disk if they are there."""
    path = _folder() / f'{_fingerprint(kernel)}.o'
    found = _read(path)
    if found is None:
        with _alone(path):
            # another process may have compiled it meanwhile
            found = _read(path) or _compile_and_keep(kernel, path)
    return found


def _version_obstacle() -> Optional[str]:
    for name in ('numba', 'llvmlite', 'numpy'):
        if importlib.util.find_spec(name) is None:
            return f'{name} is not installed: {INSTALL}'
    version = importlib.metadata.version('numba') or ''
    if tuple(map(int, re.findall(r'\d+', version)[:2])) < VERSION:
        needed = '.'.join(map(str, VERSION))
        return f'Numba {version} is installed, {needed} is needed: {INSTALL}'
    if os.environ.get('NUMBA_DISABLE_JIT', '0') != '0':
        return 'NUMBA_DISABLE_JIT is set: unset it'
    return _cpu_obstacle()


def _cpu_obstacle() -> Optional[str]:
    """Return what this CPU lacks: LLVM would call a library for it, which is not there."""
    features = _binding().get_host_cpu_features()
    lacks = [name for name in ('fma', 'f16c') if not features.get(name)]
    if platform.machine() == 'x86_64' and lacks:
        return f'this CPU has no {" and no ".join(lacks)}, which the kernels use'
    return None


def _fingerprint(kernel: Kernel) -> str:
    """Return what tells one piece of machine code from another: all that it follows from."""
    binding = _binding()
    parts = [*kernel[:2], str(kernel.dtype), importlib.metadata.version('numba'),
             importlib.metadata.version('llvmlite'), binding.get_host_cpu_name(),
             binding.get_host_cpu_features().flatten(),
             *sorted(f'{name}={value}' for name, value in os.environ.items()
                     if name.startswith('NUMBA_'))]
    spec = importlib.util.find_spec(kernel.module)
    assert spec is not None
    assert spec.origin is not None
    sources = [*Path(__file__).parent.glob('numba_*.py'),
               *Path(spec.origin).parent.glob('numba_*.py')]
    digest = hashlib.sha256()
    for part in (*(text.encode() for text in parts),
                 *(source.read_bytes() for source in sorted(sources))):
        digest.update(len(part).to_bytes(8, 'little') + part)
    return digest.hexdigest()


def _folder() -> Path:
    """Return the folder of compiled kernels."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(os.path.expanduser(named))
    caches = Path(os.environ.get('XDG_CACHE_HOME', ''))
    if not caches.is_absolute():  # such a one is to be ignored, by the XDG specification
        caches = Path(os.path.expanduser('~/.cache'))
    if not caches.is_absolute():  # a user without a home folder: nothing can be kept
        caches = Path(os.devnull)
    return caches / 'mmvssd_kernels'


def _read(path: Path) -> Optional[Tuple[str, bytes]]:
    """Return the symbol and the object file that a file has; None if it is not there or not whole.

    Its first line is a description of the object file behind it.
    """
    try:
        head, _, code = path.read_bytes().partition(b'\n')
        described = json.loads(head)
        symbol, digest = described['symbol'], described['sha256']
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (symbol, code) if hashlib.sha256(code).hexdigest() == digest else None


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one process after the other do what follows, if the folder can be written to."""
    with contextlib.ExitStack() as stack:
        # not every folder can be written to, nor has every file system locks: then each process
        # compiles for itself
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = stack.enter_context(path.with_suffix('.lock').open('w'))
            fcntl.flock(file, fcntl.LOCK_EX)
            # to close the file is not enough if a child process has it as well
            stack.callback(fcntl.flock, file, fcntl.LOCK_UN)
        yield


def _compile_and_keep(kernel: Kernel, path: Path) -> Tuple[str, bytes]:
    logger.warning('compiling a CPU kernel, once on this machine, in about %d s: %s of %s, %s',
                   SECONDS[kernel.name], kernel.name, kernel.module, kernel.dtype)
    symbol, code = _compile(kernel)
    head = json.dumps(dict(symbol=symbol, sha256=hashlib.sha256(code).hexdigest()))
    try:
        _write(path, head.encode() + b'\n' + code)
    except OSError as error:
        _report_not_kept(str(path.parent), str(error))
    return symbol, code


def _write(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix='.')
    try:
        with os.fdopen(handle, 'wb') as file:
            file.write(content)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


@functools.cache
def _report_not_kept(folder: str, reason: str) -> None:
    logger.warning('compiled CPU kernels cannot be kept in %s (%s): each process compiles them '
                   'anew. Set %s to a folder that can be written to.', folder, reason,
                   CACHE_VARIABLE)


def _compile(kernel: Kernel) -> Tuple[str, bytes]:
    """Return a kernel's symbol and object file."""
    numba = importlib.import_module('numba')
    module = importlib.import_module(kernel.module)
    numbers = {torch.float32: numba.types.float32, torch.float64: numba.types.float64}
    compiled = numba.cfunc(module.SIGNATURE)(module.kernels(numbers[kernel.dtype])[kernel.name])
    text = _without_errors(compiled.inspect_llvm())
    return compiled.native_name, _target_machine().emit_object(_binding().parse_assembly(text))


def _without_errors(text: str) -> str:
    """Take the way out of an error from a kernel's code, which no kernel goes.

    That alone needs Numba and Python. LLVM could not link it in a process without Numba; it would
    then link nothing, and not say so.
    """
    text = re.sub(r'(?m)^declare (.*@(?:numba_|NRT_|Py)\w+\(.*?\)).*$',
                  r'define internal \1 { unreachable }', text)
    text = re.sub(r'(?m)^(@(?:Py|_Py)\w+ = )external (.*)$', r'\1internal \2 zeroinitializer', text)
    outside = re.findall(r'(?m)^declare .*@((?!llvm\.)[\w.]+)|^@(\S+) = external ', text)
    if outside:
        raise RuntimeError(f'the code needs {", ".join(map("".join, outside))} from outside')
    return text


def _load(symbol: str, code: bytes) -> Tuple[Callable[[int], None], object]:
    """Return a kernel as a function, and the engine that owns its code."""
    binding = _binding()
    engine = binding.create_mcjit_compiler(binding.parse_assembly(''), _target_machine())
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    address = engine.get_function_address(symbol)
    if not address:
        raise RuntimeError(f'{symbol} is not in the object file')
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address), engine


def _target_machine():
    binding = _binding()
    # PyTorch's machine code is for this CPU as well
    return binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten(), opt=3,
        reloc='default', codemodel='jitdefault', jit=True)


@functools.cache
def _binding() -> ModuleType:
    """Return llvmlite's binding to LLVM, ready for this CPU."""
    binding = importlib.import_module('llvmlite.binding')
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding
