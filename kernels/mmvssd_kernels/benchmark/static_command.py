"""The command line of the report on the kernels' machine code."""
import argparse
import datetime as dt
import importlib.metadata
import os
import platform
import shlex
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Union

import torch

from mmvssd_kernels import triton_support
from mmvssd_kernels.benchmark import machine_code, static
from mmvssd_kernels.benchmark.compilation import Compiler, Launch, launches_of
from mmvssd_kernels.benchmark.progress import progress
from mmvssd_kernels.benchmark.static_report import StaticReport
from mmvssd_kernels.benchmark.timing import Failure, attempt
from mmvssd_kernels.benchmark.workloads import USERS, Workload, workloads

DTYPES = ('float32', 'bfloat16', 'float16')


class Task(NamedTuple):
    """An op whose launches are to be judged."""

    workload: Workload
    dtype: torch.dtype
    capability: int


def parser(program: str) -> argparse.ArgumentParser:
    """Return the options."""
    parser = argparse.ArgumentParser(program, description=(
        'Compile the kernels that the ops launch at the shapes of the published models, and '
        'report registers, stack, shared memory, occupancy, instructions and bytes, and times '
        'that follow from them. Needs Triton, but no GPU. Exit status 1: a kernel does not '
        'compile, or falls short of --max-stack or --min-share.'))
    parser.add_argument('--op', nargs='+', choices=list(USERS), default=list(USERS))
    parser.add_argument('--shape', metavar='TEXT', default='', help='only shapes with this in '
                        'their name, MODEL:STAGE:IMAGES, such as vssd-tiny:0 or 128x224x224')
    parser.add_argument('--dtype', nargs='+', choices=DTYPES, default=['bfloat16'])
    parser.add_argument('--capability', nargs='+', type=int, choices=list(static.GPUS),
                        default=[90], help='compute capabilities of GPUs, such as 80 90; Turing '
                        '(75) has no bfloat16')
    parser.add_argument('--multiprocessors', type=int, metavar='N', help='of the GPU')
    parser.add_argument('--ghz', type=float, metavar='X', help='cycles of a nanosecond')
    parser.add_argument('--terabytes', type=float, metavar='X',
                        help='bytes that a copy reads and writes, in 1e12 a second')
    parser.add_argument('--max-stack', type=int, metavar='BYTES',
                        help='stack that a kernel may have at most: registers that were spilled')
    parser.add_argument('--min-share', type=float, metavar='X', help="share of a copy's "
                        'bandwidth, such as 0.5, that each op has to reach in the best case')
    parser.add_argument('--out', type=Path, metavar='FOLDER',
                        help='write kernel_report.md and kernel_report.json there')
    return parser


def main(arguments: Optional[Sequence[str]] = None,
         program: str = 'python -m mmvssd_kernels.benchmark.static_command') -> int:
    """Run the command and return its exit status."""
    options = parser(program)
    args = options.parse_args(arguments)
    if triton_support.interpreted():
        options.error('TRITON_INTERPRET=1 is set, and the interpreter compiles nothing: unset it')
    if 75 in args.capability and 'bfloat16' in args.dtype:
        options.error('--capability 75 has no bfloat16: choose --dtype float16 or float32')
    tasks = [Task(workload, getattr(torch, dtype), capability)
             for capability in args.capability for workload in workloads()
             if workload.op in args.op and args.shape in workload.name for dtype in args.dtype]
    if not tasks:
        options.error('--op and --shape: no shape fits both; such as '
                      f'{next(workloads()).name} is one')
    given = {name: getattr(args, name) for name in ('multiprocessors', 'ghz', 'terabytes')
             if getattr(args, name) is not None}
    if any(value <= 0 for value in given.values()):
        options.error('--multiprocessors, --ghz and --terabytes: expected more than 0')
    gpus = {capability: static.GPUS[capability]._replace(**given)
            for capability in args.capability}
    words = sys.argv[1:] if arguments is None else arguments
    report = _report(tasks, gpus, shlex.join([*program.split(), *words]))
    if args.out:
        report.write(args.out)
    print(report.markdown())
    found = report.shortcomings(args.max_stack, args.min_share)
    print(*found, sep='\n', end='\n' if found else '')
    return 1 if found else 0


def _report(tasks: Sequence[Task], gpus: Dict[int, static.Gpu], command: str) -> StaticReport:
    compilers = {capability: Compiler(capability) for capability in gpus}
    launches: List[List[tuple]] = []
    distinct: Dict[tuple, Launch] = {}
    for task in tasks:
        found = launches_of(task.workload, task.dtype, task.capability)
        launches.append([(compilers[task.capability].key(one), one) for one in found])
        for key, one in launches[-1]:
            distinct.setdefault((task.capability, key), one)
    machines = compile_all(compilers, distinct)
    failures = {f'sm_{capability} {distinct[capability, key].name}: {machine.reason}': None
                for (capability, key), machine in machines.items()
                if isinstance(machine, Failure)}
    ops = []
    for task, found in zip(tasks, launches):
        used = [machines[task.capability, key] for key, _ in found]
        if not any(isinstance(machine, Failure) for machine in used):
            gpu = gpus[task.capability]
            ops.append(static.Op(*task, gpu, [
                static.row(one, key, machine, gpu, static.elements(task.workload))
                for (key, one), machine in zip(found, used)]))
    facts = dict(triton=f'Triton {importlib.metadata.version("triton")}',
                 torch=f'PyTorch {torch.__version__}',
                 python=f'Python {platform.python_version()}', date=dt.date.today().isoformat())
    return StaticReport(facts, command, gpus, ops, list(failures))


def compile_all(compilers: Dict[int, Compiler], launches: Dict[tuple, Launch]) -> dict:
    """Compile launches beside each other.

    Args:
        compilers: By compute capability.
        launches: By capability and key.

    Returns:
        A :class:`static.Machine` for each, or a :class:`timing.Failure`.
    """
    with progress('compiling', len(launches)) as advance, \
            ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:

        def compile_one(place: tuple) -> Union[static.Machine, Failure]:
            capability, _ = place
            launch = launches[place]
            machine = attempt(lambda: _machine(compilers[capability], launch))
            advance(f'sm_{capability} {launch.name}: ' + (
                machine.reason if isinstance(machine, Failure)
                else f'{machine.seconds:.1f} s, {machine.usage.registers} registers'))
            return machine

        return dict(zip(launches, threads.map(compile_one, launches)))


def _machine(compiler: Compiler, launch: Launch) -> static.Machine:
    start = time.perf_counter()
    kernel = compiler.compile(launch)
    seconds = time.perf_counter() - start
    cubin = kernel.asm['cubin']
    return static.Machine(
        kernel.asm['ttir'], machine_code.instructions(cubin),
        machine_code.ptx_instructions(kernel.asm['ptx']), machine_code.usage(cubin),
        kernel.metadata.num_warps, kernel.metadata.shared, seconds)


if __name__ == '__main__':
    sys.exit(main())
