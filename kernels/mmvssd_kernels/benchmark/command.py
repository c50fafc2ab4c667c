"""The command line of the ops' benchmark."""
import argparse
import concurrent.futures
import datetime as dt
import importlib.metadata
import importlib.util
import multiprocessing
import os
import platform
import shlex
import sys
import time
from pathlib import Path
from typing import Dict, List, Optional, Sequence

import torch

from mmvssd_kernels import dispatch, triton_support
from mmvssd_kernels.benchmark.compare import (
    CHECKED,
    KINDS,
    Plan,
    Row,
    check,
    profile_rows,
    rows_of,
    run_once,
    time_rows,
)
from mmvssd_kernels.benchmark.profiling import CALLS, unit
from mmvssd_kernels.benchmark.progress import progress
from mmvssd_kernels.benchmark.report import Report
from mmvssd_kernels.benchmark.timing import Timing, attempt, copy_bandwidth
from mmvssd_kernels.benchmark.workloads import IMAGES, USERS, Images, Workload, workloads

DTYPES = ('float32', 'bfloat16', 'float16')
#: Processes of ``--compile``: each has a part of the GPU's memory, and of its time.
MOST_PROCESSES = 16
#: Batches and grids of ``--check``: one token, one tile, a few, and that before a timing.
GRIDS = ((1, (1, 1)), (3, (4, 4)), (2, (7, 9)), CHECKED)


def parser(program: str) -> argparse.ArgumentParser:
    """Return the options."""
    parser = argparse.ArgumentParser(program, description=(
        'Time the ops at the shapes of the published models, beside the reference in eager and '
        'compiled. Exit status 1: an implementation is wrong or fails. Such a row is not timed.'))
    parser.add_argument('--op', nargs='+', choices=list(USERS), default=list(USERS),
                        help='in this order (default: %(default)s)')
    parser.add_argument('--shape', metavar='TEXT', default='',
                        help='only shapes with this in their name, MODEL:STAGE:IMAGES, such as '
                        'vssd-tiny:0 or 2x800x1333')
    parser.add_argument('--stage', nargs='+', type=int, metavar='I', help='only these stages')
    parser.add_argument('--images', nargs='+', type=_images, default=list(IMAGES),
                        metavar='NxHxW', help='batch, height and width of images (default: '
                        f'{" ".join(map(str, IMAGES))})')
    parser.add_argument('--dtype', nargs='+', choices=DTYPES, default=list(DTYPES[:2]))
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--impl', metavar='NAME', help='what is timed: auto or an implementation '
                        'of the ops (default: triton, on a CPU auto)')
    parser.add_argument('--kernels', type=int, nargs='?', const=CALLS, default=0, metavar='N',
                        help="list the GPU's time of each kernel too, by PyTorch's profiler, the "
                        f'mean of N calls (default of N: {CALLS}); on a CPU the time of operators')
    parser.add_argument('--no-calls', action='store_true', help='do not time whole calls')
    parser.add_argument('--no-check', action='store_true',
                        help='do not compare with the truth first, for tests have done so')
    parser.add_argument('--no-compile', action='store_true',
                        help='do not time the reference under torch.compile')
    parser.add_argument('--quick', action='store_true',
                        help='first and last stages of the first images, first of the others; '
                        'compiled for the first shape of each model alone, in the last dtype')
    parser.add_argument('--seconds', type=float, metavar='S',
                        help='after this time compare with the reference no more')
    parser.add_argument('--compile', action='store_true', dest='warm',
                        help='only run each row once, in as many processes as there are cores, '
                        'so that its kernels are compiled and kept; time nothing')
    parser.add_argument('--check', action='store_true',
                        help='only compare with the truth, on small grids; time nothing')
    parser.add_argument('--out', type=Path, metavar='FILE.md',
                        help='write the table there, and FILE.json')
    return parser


def _images(text: str) -> Images:
    try:
        return Images.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def main(arguments: Optional[Sequence[str]] = None,
         program: str = 'python -m mmvssd_kernels.benchmark') -> int:
    """Run the command and return its exit status."""
    options = parser(program)
    args = options.parse_args(arguments)
    try:
        device = torch.device(args.device)
    except RuntimeError:
        options.error(f'--device: got {args.device}, expected such as cpu or cuda:0')
    if device.type == 'cuda' and not torch.cuda.is_available():
        options.error(f'--device: got {args.device}, but PyTorch sees no GPU here; cpu fits')
    if args.out and args.out.suffix != '.md':
        options.error(f'--out: got {args.out}, expected a name that ends with .md')
    chosen = _chosen(args)
    if not chosen:
        options.error('--op, --shape and --stage: no shape fits all of them; such as '
                      f'{next(workloads(args.images)).name} is one')
    plan = _plan(args, device)
    for op in {workload.op: None for workload in chosen}:
        if plan.impl not in dispatch.choices(op):
            options.error(f'--impl: got {plan.impl}, which {op} does not have; it has: '
                          f'{", ".join(dispatch.choices(op))}; --op chooses other ops')
    dtypes = [getattr(torch, name) for name in args.dtype]
    if args.warm and (args.check or args.out):
        options.error('--compile times and checks nothing: leave out --check and --out')
    if args.warm:
        return _compile(chosen, dtypes, plan)
    if args.check:
        return _check(chosen, dtypes, plan)
    if args.kernels < 0 or (args.no_calls and not args.kernels):
        options.error(f'--kernels: got {args.kernels}, expected a positive number of calls' + (
            ', for --no-calls leaves nothing else' if args.no_calls else ''))
    given = sys.argv[1:] if arguments is None else arguments
    command = shlex.join([*program.split(), *given])
    rows = rows_of(chosen, dtypes)
    report = Report(_facts(plan), command, copy_bandwidth(plan.device, plan.seconds), rows,
                    f'{unit(device)}, by torch.profiler: mean of {args.kernels} calls'
                    if args.kernels else '', not args.no_calls)
    return _measure(report, plan, args.kernels, args.out)


def _chosen(args: argparse.Namespace) -> List[Workload]:
    chosen = [workload for workload in workloads(args.images)
              if workload.op in args.op and args.shape in workload.name
              and (args.stage is None or workload.stage in args.stage)]
    chosen.sort(key=lambda workload: args.op.index(workload.op))
    if args.quick:
        last = {(w.op, w.model): w.stage for w in chosen}
        chosen = [w for w in chosen if w.stage == 0 or (
            w.images == args.images[0] and w.stage == last[w.op, w.model])]
    return chosen


def _plan(args: argparse.Namespace, device: torch.device) -> Plan:
    def compiles(row: Row) -> bool:
        return not args.quick or (row.workload.stage == 0 and row.dtype_name == args.dtype[-1]
                                  and row.workload.images == args.images[0])

    return Plan(impl=args.impl or ('triton' if device.type == 'cuda' else dispatch.AUTO),
                device=device,
                kinds=[kind for kind in KINDS if kind != 'compiled' or not args.no_compile],
                seconds=0.05 if args.quick else 0.15,
                compiles=compiles,
                end=None if args.seconds is None else time.monotonic() + args.seconds,
                checks=not args.no_check)


def _compile(chosen: Sequence[Workload], dtypes: Sequence[torch.dtype], plan: Plan) -> int:
    """Run every row once; that memory is full is no fault, as it is none in a timing."""
    tasks = [(workload, dtype, plan.impl, str(plan.device))
             for workload in chosen for dtype in dtypes]
    bad = 0
    # the children are new processes: CUDA does not survive a fork
    with concurrent.futures.ProcessPoolExecutor(
            max_workers=min(len(tasks), len(os.sched_getaffinity(0)), MOST_PROCESSES),
            mp_context=multiprocessing.get_context('spawn')) as pool:
        runs = [pool.submit(run_once, *task) for task in tasks]
        for (workload, dtype, *_), run in zip(tasks, runs):
            failure = attempt(run.result)  # of a process that died too
            bad += failure is not None and failure.cell == 'failed'
            outcome = 'ran' if failure is None else f'{failure.cell}: {failure.reason}'
            print(f'{workload.op} {workload.name} {str(dtype)[6:]}: {outcome}', flush=True)
    print(f'{len(tasks) - bad} of {len(tasks)} rows ran, or found no memory')
    return 1 if bad else 0


def _check(chosen: Sequence[Workload], dtypes: Sequence[torch.dtype], plan: Plan) -> int:
    """Check each op at the widths of each stage."""
    widths = {(w.op, w.model, w.stage): w for w in chosen}
    bad = 0
    for workload in widths.values():
        for dtype in dtypes:
            for batch, grid in GRIDS:
                failure = check(workload.on_grid(batch, grid), dtype, plan)
                bad += failure is not None
                outcome = 'right' if failure is None else f'{failure.cell}: {failure.reason}'
                print(f'{workload.op} {workload.model}:{workload.stage} {batch}x{grid[0]}x'
                      f'{grid[1]} tokens {str(dtype)[6:]}: {outcome}', flush=True)
    total = len(widths) * len(dtypes) * len(GRIDS)
    print(f'{total - bad} of {total} checks of {plan.impl} on {plan.device} are right')
    return 1 if bad else 0


def _measure(report: Report, plan: Plan, calls: int, out: Optional[Path]) -> int:
    """Measure, print and write; what is written grows row by row, for a run that is cut short."""
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
    rows = report.rows
    with progress('timing', len(rows) * (report.timed + bool(calls))) as advance:

        def tell(text: str) -> None:
            advance(text)
            if out:
                report.write(out)

        if report.timed:
            time_rows(rows, plan, tell)
        if calls:
            profile_rows(rows, plan, calls, tell)
    print(report.markdown())
    bad = sum(row.is_bad for row in rows)
    done = [f'{sum(found)} of {len(rows)} rows {what}' for what, asked, found in (
        ('timed', report.timed, [isinstance(row.results.get('own'), Timing) for row in rows]),
        ('profiled', calls, [row.kernels is not None for row in rows])) if asked]
    print(f'{", ".join(done)}, {bad} wrong or failed')
    return 1 if bad else 0


def _facts(plan: Plan) -> Dict[str, str]:
    """Return what rows are measured with."""
    device = (torch.cuda.get_device_name(plan.device) if plan.device.type == 'cuda'
              else f'{platform.machine()} CPU with {torch.get_num_threads()} threads')
    return dict(device=device, torch=f'PyTorch {torch.__version__}', triton=_triton(),
                numba=_numba(), python=f'Python {platform.python_version()}',
                date=dt.date.today().isoformat(), implementation=f'impl {plan.impl}',
                products='products of float32: ' + (
                    'TF32' if triton_support.tf32_allowed() else 'float32'))


def _triton() -> str:
    if importlib.util.find_spec('triton') is None:
        return 'no Triton'
    interpreted = os.environ.get('TRITON_INTERPRET') == '1'
    return f'Triton {importlib.import_module("triton").__version__}' + (
        ', interpreted' if interpreted else '')


def _numba() -> str:
    if importlib.util.find_spec('numba') is None:
        return 'no Numba'
    return f'Numba {importlib.metadata.version("numba")}'
