"""What ops would launch on GPUs that need not be there, and Triton's compilation of it.

Needs Triton, without TRITON_INTERPRET.
"""
import functools
import importlib
import inspect
import math
from typing import Dict, List, NamedTuple, Tuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

import mmvssd_kernels
from mmvssd_kernels import compile_ahead, dispatch, library
from mmvssd_kernels.benchmark.workloads import Workload

NAMESPACE = 'mmvssd_kernels'


class Launch(NamedTuple):
    """A launch that an op asks for.

    Attributes:
        kernel: The jit function.
        grid: Programs along each axis.
        args: Its arguments by position; tensors have no memory.
        options: Its arguments by name, and the compiler's options.
        backward: Whether a gradient asks for it.
    """

    kernel: JITFunction
    grid: Tuple[int, ...]
    args: tuple
    options: dict
    backward: bool = False

    @property
    def name(self) -> str:
        """Return the file's folder and the function, such as ``nc_ssd.outputs``."""
        folder, module = self.kernel.fn.__module__.split('.')[-2:]
        form = '' if module == 'triton_kernels' else f'{module.removeprefix("triton_")}.'
        return f'{folder}.{form}{self.kernel.__name__}'

    @property
    def programs(self) -> int:
        """Return how many programs run."""
        return math.prod(self.grid)

    @property
    def arguments(self) -> Dict[str, object]:
        """Return the arguments by name."""
        return {**dict(zip(self.kernel.arg_names, self.args)), **self.options}


class Recorder(TorchDispatchMode):
    """Notes, within a ``with`` block, what the package's operators would launch on a GPU.

    Their tensors are on the meta device.

    Args:
        capability: The GPU's, such as 90.

    Attributes:
        backward: Set by whoever starts a gradient; kept with the launches that follow.
        found: The launches.
    """

    def __init__(self, capability: int) -> None:
        super().__init__()
        self.capability = divmod(capability, 10)
        self.backward = False
        self.found: List[Launch] = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator.namespace == NAMESPACE:
            body = inspect.unwrap(library.body(operator.__name__.split('.')[0]))
            self.found += [
                Launch(*launch, self.backward) for launch in compile_ahead.launches(
                    body, *args, capability=self.capability)]
        return operator(*args, **(kwargs or {}))


def launches_of(workload: Workload, dtype: torch.dtype, capability: int) -> List[Launch]:
    """Return what an op launches forward, then backward, at a shape on a GPU.

    Args:
        workload: The op and its shape.
        dtype: Of all inputs but the parameters.
        capability: Of the GPU, such as 90.
    """
    inputs = workload.inputs_without_memory(dtype)
    op = getattr(mmvssd_kernels, workload.op)
    bound = inspect.signature(op).bind(**inputs, **workload.options)
    bound.apply_defaults()
    del bound.arguments['impl']
    # not by the op itself, which would refuse: these tensors are on no GPU
    run = dispatch.implementation(workload.op, 'triton').run
    with Recorder(capability) as recorder:
        y = run(*bound.args, **bound.kwargs)
        recorder.backward = True
        torch.autograd.grad(y, list(inputs.values()), torch.empty_like(y))
    return recorder.found


class Compiler:
    """Compiles launches for a GPU of a compute capability, such as 90."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget('cuda', capability, 32)
        self.backend = make_backend(self.target)

    def key(self, launch: Launch) -> str:
        """Return what launches have in common that run the same machine code."""
        kernel = launch.kernel
        return f'{kernel.fn.__module__}.{kernel.__name__} {self._packed(launch)}'

    def constants(self, launch: Launch) -> Dict[str, object]:
        """Return the arguments that are compiled in, by name."""
        _, _, constants, _ = self._packed(launch)
        return {launch.kernel.arg_names[path[0]]: value for path, value in constants.items()}

    def compile(self, launch: Launch) -> CompiledKernel:
        """Compile what a launch runs, or take it from Triton's cache."""
        options, signature, constants, attributes = self._packed(launch)
        source = ASTSource(launch.kernel, signature, constants, attributes)
        return importlib.import_module('triton').compile(
            source, target=self.target, options=options.__dict__)

    def _packed(self, launch: Launch) -> tuple:
        """Return options, signature, constants and attributes, as a launch finds them."""
        options = dict(launch.options, debug=False, instrumentation_mode='')
        bound, specialization, rest = self._binder(launch.kernel)(*launch.args, **options)
        return launch.kernel._pack_args(self.backend, options, bound, specialization, rest)

    @functools.cache  # noqa: B019  (a compiler lives as long as its command)
    def _binder(self, kernel: JITFunction):
        return create_function_from_signature(kernel.signature, kernel.params, self.backend)
