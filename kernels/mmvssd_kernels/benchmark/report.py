"""Timings as a Markdown table and as JSON."""
import json
import os
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence

from mmvssd_kernels.benchmark.compare import Row
from mmvssd_kernels.benchmark.profiling import Kernel, named, total
from mmvssd_kernels.benchmark.timing import Failure, Result, Timing

COLUMNS = ('op', 'shape', 'dtype', 'pass', 'ms', 'GB', 'of copy', 'eager', 'export', 'compiled',
           'MB', 'MB eager')
KERNEL_COLUMNS = ('op', 'shape', 'dtype', 'pass', 'all, µs', 'kernels, µs')


class Report(NamedTuple):
    """Rows, and what they were measured with.

    Attributes:
        facts: Device, versions, date, by name.
        command: The command line.
        bandwidth: Bytes a second of a copy, read and written.
        rows: What was timed so far.
        profiled: What the kernels' times are and of how many calls; empty if none are asked for.
        timed: Whether calls are timed.
    """

    facts: Dict[str, str]
    command: str
    bandwidth: float
    rows: Sequence[Row]
    profiled: str = ''
    timed: bool = True

    def markdown(self) -> str:
        """Write facts, command, tables, and the reasons of cells without a number."""
        lines = [', '.join(self.facts.values()), '', f'    {self.command}', '',
                 f'Copy: {self.bandwidth / 1e12:.3f} TB/s, read and written.', '']
        if self.timed:
            lines += [_line(COLUMNS), _line(['---'] * len(COLUMNS)),
                      *(_line(self._cells(row)) for row in self.rows)]
        if self.profiled:
            lines += [*([''] if self.timed else []), f'{self.profiled}.', '',
                      _line(KERNEL_COLUMNS), _line(['---'] * len(KERNEL_COLUMNS)),
                      *(_line(_kernel_cells(row)) for row in self.rows)]
        reasons = self._reasons()
        if reasons:
            lines += ['', *(f'- {reason}' for reason in reasons)]
        return '\n'.join(lines) + '\n'

    def _cells(self, row: Row) -> List[str]:
        own, share = row.results.get('own'), row.share(self.bandwidth)
        return [
            row.workload.op, row.workload.name, row.dtype_name, row.direction,
            f'{1000 * own.seconds:.3f}' if isinstance(own, Timing) else _word(own),
            f'{row.workload.least_bytes(row.dtype, row.backward) / 1e9:.3f}',
            '-' if share is None else f'{100 * share:.1f} %',
            *(_ratio(row, kind) for kind in ('eager', 'export', 'compiled')),
            *(_memory(row.results.get(kind)) for kind in ('own', 'eager'))]

    def _reasons(self) -> List[str]:
        return [f'{row.name}, {kind}: {result.cell}, {result.reason}' for row in self.rows
                for kind, result in [*row.results.items(),
                                     *(('kernels', one) for one in row.profiled)]
                if isinstance(result, Failure) and result.reason]

    def json(self) -> str:
        """Return the same as numbers: seconds, bytes."""
        rows = [dict(op=row.workload.op, shape=row.workload.name, sizes=row.workload.sizes,
                     dtype=row.dtype_name, backward=row.backward,
                     least_bytes=row.workload.least_bytes(row.dtype, row.backward),
                     share_of_copy=row.share(self.bandwidth),
                     over_eager=row.ratio('eager'), over_export=row.ratio('export'),
                     over_compiled=row.ratio('compiled'),
                     results={kind: result._asdict() for kind, result in row.results.items()},
                     **_kernel_numbers(row))
                for row in self.rows]
        return json.dumps(dict(**self.facts, command=self.command,
                               copy_bytes_per_second=self.bandwidth, profiled=self.profiled,
                               rows=rows), indent=1)

    def write(self, file: Path) -> None:
        """Write ``file``, and beside it the JSON."""
        for path, text in ((file, self.markdown()), (file.with_suffix('.json'), self.json())):
            partial = path.with_name(path.name + '.partial')
            partial.write_text(text)
            os.replace(partial, path)


def _line(cells: Sequence[str]) -> str:
    return f'| {" | ".join(cells)} |'


def _kernel_cells(row: Row) -> List[str]:
    kernels = row.kernels
    failure = next((one for one in row.profiled if isinstance(one, Failure)), None)
    return [row.workload.op, row.workload.name, row.dtype_name, row.direction,
            _word(failure) if kernels is None else f'{1e6 * total(kernels):.1f}',
            '-' if kernels is None else ', '.join(map(_kernel, named(kernels)))]


def _kernel(kernel: Kernel) -> str:
    # a mean that is no whole number tells that the profiler lost some
    launches = '' if kernel.launches == 1 else f' ({kernel.launches:g} launches)'
    return f'`{kernel.name}` {1e6 * kernel.seconds:.1f}{launches}'


def _kernel_numbers(row: Row) -> dict:
    kernels = row.kernels
    failure = next((one for one in row.profiled if isinstance(one, Failure)), None)
    return dict(kernel_seconds=None if kernels is None else total(kernels),
                kernels=None if kernels is None else [kernel._asdict() for kernel in kernels],
                kernels_failure=None if failure is None else failure._asdict())


def _word(result: Optional[Result]) -> str:
    return result.cell if isinstance(result, Failure) else 'not run'


def _ratio(row: Row, kind: str) -> str:
    ratio = row.ratio(kind)
    return _word(row.results.get(kind)) if ratio is None else f'{ratio:.2f}'


def _memory(result: Optional[Result]) -> str:
    if isinstance(result, Timing) and result.memory is not None:
        return f'{result.memory / 1e6:.1f}'
    return '-'
