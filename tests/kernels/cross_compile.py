"""Compiles every kernel that a test module's cases launch, for a GPU that need not be there.

    python cross_compile.py TEST_MODULE.py CAPABILITY...    (without TRITON_INTERPRET)

Runs the module's cases of the largest tiles, ``COMPILED_HALVES``, in the halves that a GPU of that
capability is used with. In float32 it runs them for Turing, which has no tensor cores for it, and
all of ``COMPILED`` for Hopper. All go forward and backward on CPU tensors, each launch replaced by
a compilation. Prints one line of JSON for each kernel: the capability, its name, constants, bytes
of shared memory and of stack, registers, how its products and scans lie, and how long its
compilation took.
"""
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from mmvssd_kernels import triton_support

#: The narrow dtypes by capability. Turing has no bfloat16, Ampere's kernels are Hopper's but for
#: instructions, so float16 beside bfloat16 is compiled for one of the two, and there for kernels
#: with HALVES: others have the same code for either.
HALVES = {75: (torch.float16, ), 80: (torch.bfloat16, ), 90: (torch.bfloat16, torch.float16)}


class Compiler:
    """Takes the place of a kernel's launch."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget('cuda', capability, 32)
        self.backend = make_backend(self.target)
        self.done = set()
        self.has_halves = False

    def run(self, function, args, options):
        """What ``JITFunction.run`` does up to the launch, for our target."""
        options = dict(options, debug=False, instrumentation_mode='')
        bind = create_function_from_signature(function.signature, function.params, self.backend)
        bound, specialization, rest = bind(*args, **options)
        options, signature, constexprs, attributes = function._pack_args(
            self.backend, options, bound, specialization, rest)
        key = (function.__name__, str(signature), str(constexprs), str(attributes), str(options))
        if key in self.done:
            return
        self.done.add(key)
        self.has_halves |= 'HALVES' in function.arg_names
        source = ASTSource(function, signature, constexprs, attributes)
        start = time.perf_counter()
        kernel = triton.compile(source, target=self.target, options=options.__dict__)
        constants = {function.arg_names[path[0]]: str(value) for path, value in constexprs.items()}
        registers, stack = usage(kernel.asm['cubin'])
        print(json.dumps(dict(capability=self.target.arch, kernel=function.__name__,
                              shared=kernel.metadata.shared, registers=registers, stack=stack,
                              products=products(kernel.asm['ttgir']),
                              scans=scans(kernel.asm['ttgir']),
                              seconds=round(time.perf_counter() - start, 2),
                              constants=constants)), flush=True)


def run(cases, dtype):
    """Go forward and backward."""
    for case in cases:
        y = case.run(case.cast(dtype), 'triton')
        y.backward(torch.ones_like(y))


def products(ttgir):
    """Products whose first factor is in registers, as (its width, what a lane has side by side).

    Four lanes hold a row of it. If each has more side by side than a quarter, the rest is left out.
    """
    found = re.findall(r'dot .*?: tensor<\d+x(\d+)x\w+, #\w+\.dot_op<\{opIdx = 0, '
                       r'parent = #mma\d*, kWidth = (\d+)\}>> \*', ttgir)
    return [(int(width), int(lane)) for width, lane in found]


def scans(ttgir):
    """How many threads share what each scan runs along: if it is one, it needs no other."""
    layouts = {name: [int(a) * int(b) for a, b in zip(lanes.split(','), warps.split(','))]
               for name, lanes, warps in re.findall(
                   r'^(#\w+) = .*threadsPerWarp = \[(\d+, \d+)\], warpsPerCTA = \[(\d+, \d+)\]',
                   ttgir, re.MULTILINE)}
    found = re.findall(r'"tt\.scan".*?axis = (\d).*?\}\) : \(tensor<\d+x\d+x\w+, (#\w+)>', ttgir,
                       re.DOTALL)
    return [layouts[name][int(axis)] for axis, name in found]


def usage(cubin):
    """Registers of a thread, and bytes of its stack, by the tool that comes with Triton."""
    tool = Path(triton.__file__).parent / 'backends' / 'nvidia' / 'bin' / 'cuobjdump'
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(cubin)
        file.flush()
        told = subprocess.run([tool, '-res-usage', file.name], text=True, capture_output=True,
                              check=True)
    return map(int, re.search(r'REG:(\d+) STACK:(\d+)', told.stdout + told.stderr).groups())


def load(path):
    spec = importlib.util.spec_from_file_location('cases', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compile_for(capability, module):
    compiler = Compiler(capability)

    def compile_instead(self, *args, grid, warmup, **options):
        compiler.run(self, args, options)

    JITFunction.run = compile_instead
    triton_support.capability = lambda device: divmod(capability, 10)
    # what small tiles and arguments that are 1 leave out of the code is the same on each GPU
    in_float32 = {75: module.COMPILED_HALVES, 90: module.COMPILED}.get(capability, [])
    first, *more = HALVES[capability]
    run(in_float32, torch.float32)
    run(module.COMPILED_HALVES, first)
    if compiler.has_halves:
        for dtype in more:
            run(module.COMPILED_HALVES, dtype)


def main(path, *capabilities) -> None:
    triton_support.obstacle = lambda x: None
    module = load(path)
    for capability in capabilities:
        compile_for(int(capability), module)


if __name__ == '__main__':
    main(*sys.argv[1:])
