"""Compiles every kernel that a test module's cases launch, for a GPU that need not be there.

    python cross_compile.py TEST_MODULE.py CAPABILITY...    (without TRITON_INTERPRET)

Runs the module's cases of the largest tiles, ``COMPILED_HALVES``, in the halves that a GPU of that
capability is used with. In float32 it runs them for Turing, which has no tensor cores for it, and
all of ``COMPILED`` for Hopper. ``COMPILED_FLOAT32``, if there are any, are cases whose float32
tiles or products Ampere has for itself. All go forward and backward on tensors without memory, and
what they would launch is compiled. Prints one line of JSON for each kernel: the capability, dtype,
name, constants, bytes of shared memory and of stack, registers, how its products and scans lie,
where it widens numbers, how it loads ranks and vectors, and how long its compilation took.
"""
import importlib.util
import json
import re
import sys
import time

import torch

from mmvssd_kernels import triton_support
from mmvssd_kernels.benchmark import compilation, machine_code

#: The narrow dtypes by capability. Turing has no bfloat16, Ampere's kernels are Hopper's but for
#: instructions, so float16 beside bfloat16 is compiled for one of the two, and there of the first
#: case for kernels with HALVES: others have the same code for either.
HALVES = {75: (torch.float16, ), 80: (torch.bfloat16, ), 90: (torch.bfloat16, torch.float16)}


class Printer:
    """Compiles launches, each machine code once, and prints what became of them."""

    def __init__(self, capability: int) -> None:
        self.capability = capability
        self.compiler = compilation.Compiler(capability)
        self.done = set()
        self.has_halves = False
        self.dtype = None

    def run(self, cases, dtype):
        """Go forward and backward, on tensors without memory."""
        self.dtype = dtype
        with compilation.Recorder(self.capability) as recorder:
            for case in cases:
                y = case.run(case.cast(dtype, 'meta'), 'triton')
                y.backward(torch.ones_like(y))
        for launch in recorder.found:
            key = self.compiler.key(launch)
            if key not in self.done:
                self.done.add(key)
                self.compile(launch)

    def compile(self, launch):
        """Compile and print."""
        self.has_halves |= 'HALVES' in launch.kernel.arg_names
        start = time.perf_counter()
        kernel = self.compiler.compile(launch)
        seconds = round(time.perf_counter() - start, 2)
        usage = machine_code.usage(kernel.asm['cubin'])
        constants = {name: str(value)
                     for name, value in self.compiler.constants(launch).items()}
        print(json.dumps(dict(capability=self.capability, dtype=str(self.dtype),
                              kernel=launch.kernel.__name__,
                              shared=kernel.metadata.shared, **usage._asdict(),
                              products=products(kernel.asm['ttgir']),
                              scans=scans(kernel.asm['ttgir']),
                              widened=widened(kernel.asm['ttgir']),
                              ranks=ranks(kernel.asm['ttgir']),
                              vectors=vectors(kernel.asm['ttgir'], constants.get('BD')),
                              seconds=seconds,
                              constants=constants)), flush=True)


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
    found = re.findall(r'"tt\.scan".*?axis = (\d).*?\}\) : \((.*?)\) ->', ttgir, re.DOTALL)
    # those of matrices: a vector's layout is a slice of another, a third axis is of single numbers
    matrix = re.compile(r'tensor<\d+x\d+x[a-z]\w+, (#\w+)>')
    matrices = [(axis, matrix.match(types)) for axis, types in found]
    return [layouts[one[1]][int(axis)] for axis, one in matrices if one]


def widened(ttgir):
    """Layouts in which a scan's B and C are widened, two numbers for each of 16 tokens.

    In a linear one each lane has all of them.
    """
    return re.findall(r'arith\.extf .*?: tensor<16x2x\w+, #(\w+)', ttgir)


def ranks(ttgir):
    """How many ranks of a token's step sizes a lane loads side by side, of tiles of 16 tokens."""
    side_by_side = dict(re.findall(r'^(#\w+) = .*sizePerThread = \[(\d+), \d+\]', ttgir,
                                   re.MULTILINE))
    return [int(side_by_side[layout]) for layout in re.findall(
        r'tt\.load .*?: tensor<\d+x16x!tt\.ptr<\w+>, (#blocked\d*)>', ttgir)]


def vectors(ttgir, BD):
    """Layouts in which vectors of BD numbers are loaded and stored."""
    return sorted(set(re.findall(
        rf'tt\.(?:load|store) .*?: tensor<{BD}x!tt\.ptr<\w+>, (#\w+)>', ttgir)))


def load(path):
    spec = importlib.util.spec_from_file_location('cases', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compile_for(capability, module):
    printer = Printer(capability)
    # what small tiles and arguments that are 1 leave out of the code is the same on each GPU
    in_float32 = {75: module.COMPILED_HALVES, 80: getattr(module, 'COMPILED_FLOAT32', []),
                  90: module.COMPILED}.get(capability, [])
    first, *more = HALVES[capability]
    printer.run(in_float32, torch.float32)
    printer.run(module.COMPILED_HALVES, first)
    if printer.has_halves:
        for dtype in more:
            printer.run(module.COMPILED_HALVES[:1], dtype)


def main(path, *capabilities) -> None:
    triton_support.obstacle = lambda x: None
    module = load(path)
    for capability in capabilities:
        compile_for(int(capability), module)


if __name__ == '__main__':
    main(*sys.argv[1:])
