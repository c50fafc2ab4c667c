"""Counts and estimates of kernels as Markdown tables and as JSON."""
import json
import os
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence

from mmvssd_kernels.benchmark.static import (
    ISSUED,
    MOVED,
    SCHEDULERS,
    Gpu,
    Op,
    Row,
    Total,
)

TOTAL_COLUMNS = ('least MB', 'MB', 'best µs', 'best of copy', 'estimate µs', 'estimate of copy')
OP_COLUMNS = ('op', 'shape', 'dtype', 'GPU', *(f'forward: {name}' for name in TOTAL_COLUMNS),
              *(f'with backward: {name}' for name in TOTAL_COLUMNS))
KERNEL_COLUMNS = ('kernel', 'pass', 'first launched by', 'dtype', 'GPU', 'programs', 'warps',
                  'registers', 'stack', 'shared', 'resident warps', 'instructions/element',
                  'on stack/element', 'bytes/access', 'MB', 'asked MB', 'issue µs', 'move µs',
                  'estimate µs')


class StaticReport(NamedTuple):
    """Ops, and what was asked for.

    Attributes:
        facts: Triton's version, the date, by name.
        command: The command line.
        gpus: By compute capability.
        ops: What is reported.
        failures: What did not compile, and why.
    """

    facts: Dict[str, str]
    command: str
    gpus: Dict[int, Gpu]
    ops: Sequence[Op]
    failures: Sequence[str]

    def markdown(self) -> str:
        """Return assumptions, a table of ops, and one of kernels."""
        lines = ['# Kernels by their machine code', '', ', '.join(self.facts.values()) + '.', '',
                 f'    {self.command}', '', "Nothing ran on a GPU. Counts are the compiler's, "
                 'times are estimates:', '', *(f'- {text}' for text in self.assumptions())]
        if self.failures:
            lines += ['', *(f'- not in the tables: {text}' for text in self.failures)]
        lines += ['', '## Ops', '', *_table(OP_COLUMNS, map(_op_cells, self.ops))]
        lines += ['', '## Kernels', '', 'A row for each machine code, at the first shape that '
                  'launches it. `kernel_report.json`, written with this page, has every launch.',
                  '', *_table(KERNEL_COLUMNS, self._kernels())]
        return '\n'.join(lines) + '\n'

    def _kernels(self) -> Iterator[List[str]]:
        """Yield a row for each machine code."""
        known = set()
        for op in self.ops:
            for row in op.rows:
                if (op.capability, row.key) not in known:
                    known.add((op.capability, row.key))
                    yield _kernel_cells(op, row)

    def assumptions(self) -> List[str]:
        """Return what the estimates rest on, a sentence or two each."""
        return [
            *(f'{gpu.name} (sm_{capability}): {gpu.multiprocessors} multiprocessors, {gpu.ghz:g} '
              f'GHz, copies {gpu.terabytes:.3f} TB/s, read and written; {gpu.shared // 1024} KiB '
              f'shared memory and {gpu.warps} warps a multiprocessor.'
              for capability, gpu in self.gpus.items()),
            f'issue: a multiprocessor issues {SCHEDULERS} instructions of warps in a cycle, and '
            'no warp ever waits; the multiprocessor with the most programs ends last.',
            'move: each tensor that a kernel touches moves once for its loads and once for its '
            'stores, as fast as a copy does. Nothing stays in a cache between two kernels, and '
            'all that a kernel reads again comes from one.',
            'best: for each kernel the longer of issue and move.',
            f'estimate: for each kernel the longer of issue over {ISSUED} and move over {MOVED}, '
            'two shares that were chosen beside measured kernels.',
            'least MB: inputs once, outputs once; of copy: the time to copy these over the time.',
            'stack: bytes of a thread that registers had no room for, or of an array. '
            'on stack: instructions that access them, next to none if they lie beside all loops.',
            'asked MB: what loads and stores ask for, masked lanes and repetitions too. If the '
            "arguments tell which side of a branch runs, only that side's.",
            'An element is one of the output, once for each sequence. Instructions are those of '
            'threads.',
            "Trips of loops follow from a launch's arguments. A `?` marks a kernel with a loop of "
            'unknown trips, which counts once: it takes longer than it says.',
            'If both sides of a branch access memory, each counts as often as a launch runs it. If '
            'its arguments do not tell how often, both count. A branch that some programs skip '
            'counts for all.',
            'Left out: launching, waiting for a kernel before, what PyTorch computes beside the '
            "kernels, conflicts in shared memory, the tensor cores' own rate."]

    def shortcomings(self, max_stack: Optional[int], min_share: Optional[float]) -> List[str]:
        """Return what exceeds a stack in bytes, or misses a share of a copy at best."""
        found = list(self.failures)
        for op in self.ops:
            found += [f'{op.name}: {row.kernel} has {row.stack} bytes of stack' for row in op.rows
                      if max_stack is not None and row.stack > max_stack]
            for backward in (False, True):
                share = op.total(backward).best_share
                if min_share is not None and share < min_share:
                    found.append(f'{op.name}: {_direction(backward)} reaches {share:.0%} of a '
                                 'copy at best')
        return list(dict.fromkeys(found))

    def json(self) -> str:
        """Return the same as numbers, with every launch: bytes, seconds."""
        ops = [dict(op=op.workload.op, shape=op.workload.name, sizes=op.workload.sizes,
                    dtype=op.dtype_name, capability=op.capability,
                    forward=op.total(False)._asdict(),
                    forward_backward=op.total(True)._asdict(),
                    launches=[dict(_without_key(row), best=row.best, estimate=row.estimate)
                              for row in op.rows]) for op in self.ops]
        return json.dumps(dict(
            **self.facts, command=self.command, assumptions=self.assumptions(),
            gpus={capability: gpu._asdict() for capability, gpu in self.gpus.items()},
            failures=self.failures, ops=ops), indent=1) + '\n'

    def write(self, folder: Path) -> None:
        """Write ``kernel_report.md`` and ``kernel_report.json`` into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for suffix, text in (('md', self.markdown()), ('json', self.json())):
            file = folder / f'kernel_report.{suffix}'
            partial = file.with_name(file.name + '.partial')
            partial.write_text(text, encoding='utf-8')
            os.replace(partial, file)


def _without_key(row: Row) -> dict:
    return {name: value for name, value in row._asdict().items() if name != 'key'}


def _op_cells(op: Op) -> List[str]:
    return [op.workload.op, op.workload.name, op.dtype_name, op.gpu.name,
            *_total_cells(op.total(False)), *_total_cells(op.total(True))]


def _total_cells(total: Total) -> List[str]:
    mark = '' if total.known else '?'
    return [f'{total.least_bytes / 1e6:.0f}', f'{total.bytes / 1e6:.0f}',
            f'{total.best * 1e6:.0f}{mark}', f'{total.best_share:.0%}{mark}',
            f'{total.estimate * 1e6:.0f}{mark}', f'{total.share:.0%}{mark}']


def _kernel_cells(op: Op, row: Row) -> List[str]:
    mark = '' if row.known else '?'
    return [row.kernel, 'backward' if row.backward else 'forward',
            f'{op.workload.op} {op.workload.name}', op.dtype_name, op.gpu.name,
            *map(str, (row.programs, row.warps, row.registers, row.stack, row.shared)),
            f'{row.resident} ({row.occupancy:.0%})', f'{row.instructions:.3g}{mark}',
            f'{row.on_stack:.1g}{mark}',
            f'{row.access:.1f}', f'{row.once / 1e6:.1f}',
            '?' if row.asked is None else f'{row.asked / 1e6:.1f}', f'{row.issue * 1e6:.1f}{mark}',
            f'{row.move * 1e6:.1f}', f'{row.estimate * 1e6:.1f}{mark}']


def _direction(backward: bool) -> str:
    return 'forward + backward' if backward else 'forward'


def _table(columns: Sequence[str], rows: Iterable[List[str]]) -> List[str]:
    return [f'| {" | ".join(cells)} |' for cells in (columns, ['---'] * len(columns), *rows)]
