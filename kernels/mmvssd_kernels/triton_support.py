"""When Triton can run, and how its kernels are reached.

Nothing here imports Triton, or needs a GPU, before the first launch; PyTorch may import Triton
earlier. With ``TRITON_INTERPRET=1``, set before anything imports Triton, kernels run on CPU
tensors, step by step in Python: for tests, so 'auto' never chooses it.
"""
import functools
import importlib
import importlib.metadata
import importlib.util
import os
import re
from types import ModuleType
from typing import Callable, Optional, Tuple

import torch
from torch import Tensor

from mmvssd_kernels import compile_ahead, dispatch
from mmvssd_kernels.numerics import tf32_allowed

#: The oldest Triton with all that the kernels use: scans, precisions of products.
VERSION = (3, 0)
#: The oldest Triton whose compiler takes all kernels. Those before end the process at some.
COMPILER_VERSION = (3, 3)
#: Before the reference.
PRIORITY = 100
#: The oldest GPUs that Triton and the kernels' tests know, Turing.
CAPABILITY = (7, 5)
#: Bytes that a block may use on every such GPU, and at most on Hopper, which has nearly twice as
#: many. Tiles are chosen to fit, which tests hold.
SHARED_MEMORY, SHARED_MEMORY_ON_HOPPER = 64 * 1024, 116 * 1024
#: Programs along the second and third axis of a launch.
LARGEST_GRID = 65535
INSTALLED = importlib.util.find_spec('triton') is not None
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


# traced, PyTorch 2.4 fails on a variable that is not set
@torch.compiler.assume_constant_result
def interpreted() -> bool:
    """Return whether kernels run in Triton's interpreter."""
    return os.environ.get('TRITON_INTERPRET') == '1'


def register(op: str, obstacle: dispatch.Objection) -> Callable[[Callable], Callable]:
    """Return a decorator that registers a function as the Triton implementation of an op.

    Args:
        op: The op's name.
        obstacle: Says why the kernels cannot run on the op's arguments; None if they can.
    """
    return dispatch.register(op, 'triton', obstacle, drawback, priority=PRIORITY)


def obstacle(x: Tensor) -> Optional[str]:
    """Return why no Triton kernel can run on a tensor like ``x``; None if one can."""
    reason = _version_obstacle()
    if reason:
        return reason
    if interpreted():
        # of any dtype: float64 lets gradients be checked against finite differences
        return None if x.device.type == 'cpu' else f'TRITON_INTERPRET=1 and x is on {x.device}'
    if x.device.type != 'cuda':
        return f'Triton needs a CUDA GPU, and x is on {x.device}'
    if x.dtype not in DTYPES:
        return f'x is {x.dtype}, which only the reference computes'
    return _device_obstacle(x.device.index)


def grid_obstacle(x: Tensor, tile: int) -> Optional[str]:
    """Return why a launch has no room for the images and tokens of ``x`` (N, L, ...), or None."""
    # no len(): of a size that a tracer left open there is none
    if x.shape[0] <= LARGEST_GRID and x.shape[1] <= LARGEST_GRID * tile:
        return None
    return (f'{x.shape[0]} images of {x.shape[1]} tokens, more than a launch has room for '
            f'({LARGEST_GRID} images, {LARGEST_GRID * tile} tokens)')


def drawback(*args, **kwargs) -> Optional[str]:
    """Return why 'auto' should not take a kernel that can run."""
    return 'TRITON_INTERPRET=1 is set, and the interpreter is slow' if interpreted() else None


# a tracer shall not see the query
@torch.compiler.assume_constant_result
def _version_obstacle() -> Optional[str]:
    if not INSTALLED:
        return 'Triton is not installed: pip install triton'
    version = _version()
    if release() < VERSION:
        needed = '.'.join(map(str, VERSION))
        return (f'Triton {version} is installed, {needed} is needed: '
                f"pip install 'triton>={needed}'")
    if interpreted() and release() < (3, 2) and importlib.metadata.version('numpy') >= '2':
        return f"Triton {version}'s interpreter writes nothing with NumPy 2: it needs NumPy 1"
    return None


@functools.cache
def _version() -> str:
    """Return Triton's version, from its metadata: to import Triton takes a second."""
    try:
        return importlib.metadata.version('triton')
    except importlib.metadata.PackageNotFoundError:  # a build under another name, such as nightly
        return importlib.import_module('triton').__version__


def release() -> Tuple[int, ...]:
    """Return the first two numbers of Triton's version."""
    return tuple(map(int, re.findall(r'\d+', _version())[:2]))


def _compiler_obstacle() -> Optional[str]:
    if release() >= COMPILER_VERSION:
        return None
    return (f"Triton {_version()}'s compiler ends the process at some kernels: "
            f"{'.'.join(map(str, COMPILER_VERSION))} is needed, which PyTorch 2.7 brings")


# a tracer shall not see the query
@torch.compiler.assume_constant_result
def _device_obstacle(index: Optional[int]) -> Optional[str]:
    return _compiler_obstacle() or _query(index)


@functools.cache
def _query(index: Optional[int]) -> Optional[str]:
    if torch.version.hip:  # whose devices are called cuda as well
        return 'the kernels are written for NVIDIA GPUs'
    properties = torch.cuda.get_device_properties(index)
    if (properties.major, properties.minor) < CAPABILITY:
        return (f'{properties.name} has compute capability {properties.major}.{properties.minor}, '
                f'and {CAPABILITY[0]}.{CAPABILITY[1]} is needed')
    shared = getattr(properties, 'shared_memory_per_block_optin', SHARED_MEMORY)
    if shared < SHARED_MEMORY:
        return f'{properties.name} has {shared} bytes of shared memory, {SHARED_MEMORY} are needed'
    return None


def capability(device: torch.device) -> Tuple[int, int]:
    """Return a GPU's compute capability; the interpreter's is a recent GPU's."""
    return compile_ahead.foreseen_capability() or _capability(compile_ahead.device_of(device))


@functools.cache
def _capability(device: torch.device) -> Tuple[int, int]:
    return torch.cuda.get_device_capability(device) if device.type == 'cuda' else (9, 0)


def products(dtype: torch.dtype, device: torch.device) -> Tuple[torch.dtype, str]:
    """Return the factors' dtype and the ``input_precision`` that multiply blocks of ``dtype``.

    Decay weights and states are none of the inputs' own numbers, so factors are float32: rounded
    to half they would lose more than the result's own rounding. Tensor cores multiply them in
    bfloat16 parts. Half inputs take two parts of each factor, with an error of 2**-16. float32
    takes three, as accurate as float32; TF32 parts cost the same and are less accurate. PyTorch's
    ``float32_matmul_precision`` allows a single TF32 product there. Turing has neither, and Triton
    before 3.6 only the latter.
    """
    if dtype == torch.float64:
        return dtype, 'ieee'
    if capability(device) < (8, 0):
        return torch.float32, 'ieee'
    if dtype == torch.float32 and tf32_allowed():
        return dtype, 'tf32'
    parts = 'bf16x6' if dtype == torch.float32 else 'bf16x3'
    return torch.float32, parts if parts in _precisions() else 'tf32x3'


def halves(x: Tensor, B: Tensor, C: Tensor) -> bool:
    """Return whether tensor cores multiply tokens as they are: half tokens, on a GPU that can."""
    return (x.dtype in (torch.bfloat16, torch.float16) and x.dtype == B.dtype == C.dtype
            and capability(x.device) >= (8, 0))


def _precisions() -> Tuple[str, ...]:
    """Return what Triton knows; the interpreter and releases before 3.6 know no bfloat16 parts."""
    if interpreted():
        return importlib.import_module('triton.runtime.interpreter').interpreter_builder.options \
            .allowed_dot_input_precisions
    compiler = importlib.import_module('triton.backends.nvidia.compiler')
    return compiler.CUDAOptions.allowed_dot_input_precisions


@functools.cache
def language(dtype: torch.dtype):
    """Return Triton's name of a dtype."""
    return getattr(importlib.import_module('triton.language'), str(dtype).split('.')[1])


def kernels(op: str, module: str = 'triton_kernels') -> ModuleType:
    """Return a module of an op's jit functions, imported with Triton when it is needed."""
    return compile_ahead.kernels(_import(f'mmvssd_kernels.{op}.{module}'))


@functools.cache
def _import(module: str) -> ModuleType:
    """Import jit functions, and those modules of theirs that they call.

    Under Triton 3.6 and 3.7 a kernel's key on disk has the constants of functions that it calls
    only if these had a key before. So all get theirs here, in one order, and a process finds what
    another has compiled.
    """
    loaded = importlib.import_module(module)
    functions = [one for one in vars(loaded).values() if hasattr(type(one), 'cache_key')]
    for other in dict.fromkeys(one.__module__ for one in functions):
        if other != module and other.startswith('mmvssd_kernels.'):
            _import(other)
    for one in functions:
        one.cache_key  # noqa: B018  (worked out when it is asked for, and kept)
    return loaded


def load_mask(mask: Tensor) -> Tensor:
    """Return a mask as kernels load it: of 32 bits, contiguous.

    Triton lays a product's factors out by the narrowest number that they follow from. With 8 bits
    it leaves out half of the factors of 16 (seen with Triton 3.6).
    """
    return mask.to(torch.int32).contiguous()


def power_of_two(size: int) -> int:
    """Return the smallest power of two that is not less."""
    size, power = int(size), 1  # in torch.jit.trace sizes are tensors
    while power < size:  # PyTorch 2.4 does not trace int.bit_length
        power *= 2
    return power


def vector_stride(vector: Optional[Tensor]) -> Tuple[int, ...]:
    """Return the stride of a vector that may be absent."""
    return (0, ) if vector is None else vector.stride()


def gradients_like(*inputs: Optional[Tensor]) -> Tuple[Tensor, ...]:
    """Allocate the gradients of inputs, contiguous; nothing for one that is absent."""
    like = next(t for t in inputs if t is not None)
    return tuple(like.new_empty(0) if t is None
                 else torch.empty_like(t, memory_format=torch.contiguous_format) for t in inputs)
