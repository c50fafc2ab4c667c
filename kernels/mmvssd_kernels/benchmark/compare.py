"""Times an implementation beside the reference; one that is wrong is not timed."""
import time
from typing import (
    Callable,
    Dict,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import torch
from torch import Tensor

import mmvssd_kernels
from mmvssd_kernels import dispatch, parity
from mmvssd_kernels.benchmark.profiling import Kernel, profile, total
from mmvssd_kernels.benchmark.timing import Failure, Result, Step, Timing, attempt, measure
from mmvssd_kernels.benchmark.workloads import Workload

#: What is timed: the implementation at hand, the reference as it is, the op in few large operators
#: of PyTorch, if it has such an implementation, and the reference under torch.compile.
KINDS = ('own', 'eager', 'export', 'compiled')
#: Batch and grid of the check before a timing: 323 tokens, which no tile divides, and more than
#: one chunk of any op.
CHECKED = (2, (17, 19))
#: A single draw may by luck be kind to the reference, whose error is the yardstick.
DRAWS = 3


class Row(NamedTuple):
    """An op at a shape, in a dtype, forward or forward and backward.

    Attributes:
        workload: The op and its shape.
        dtype: Of all inputs but the parameters.
        backward: Whether the gradient is computed too.
        results: Times of calls, by kind.
        profiled: What became of the profile of its kernels; nothing if there was none.
    """

    workload: Workload
    dtype: torch.dtype
    backward: bool
    results: Dict[str, Result]
    profiled: List[Union[List[Kernel], Failure]]

    @property
    def dtype_name(self) -> str:
        """Return the dtype without its module."""
        return str(self.dtype).split('.')[1]

    @property
    def name(self) -> str:
        """Say what this row is about."""
        return f'{self.workload.op} {self.workload.name} {self.dtype_name} {self.direction}'

    @property
    def direction(self) -> str:
        """Say what of the op is timed."""
        return 'forward + backward' if self.backward else 'forward'

    @property
    def is_bad(self) -> bool:
        """Tell whether the implementation is wrong or fails; full memory is no fault."""
        return any(isinstance(one, Failure) and one.cell in ('wrong', 'failed')
                   for one in (self.results.get('own'), *self.profiled))

    @property
    def kernels(self) -> Optional[List[Kernel]]:
        """Return its kernels, if they were profiled."""
        return next((one for one in self.profiled if not isinstance(one, Failure)), None)

    def share(self, bandwidth: float) -> Optional[float]:
        """Return the bytes that must move a second, as a share of a bandwidth."""
        own = self.results.get('own')
        if not isinstance(own, Timing):
            return None
        return self.workload.least_bytes(self.dtype, self.backward) / own.seconds / bandwidth

    def ratio(self, kind: str) -> Optional[float]:
        """Speed over that of another of :data:`KINDS`."""
        own, other = self.results.get('own'), self.results.get(kind)
        if not isinstance(own, Timing) or not isinstance(other, Timing):
            return None
        return other.seconds / own.seconds


class Plan(NamedTuple):
    """How rows are timed.

    Attributes:
        impl: The implementation that is timed.
        device: Where.
        kinds: Of :data:`KINDS`.
        seconds: Of runs for each timing.
        compiles: Whether the reference is compiled for a row.
        end: Value of ``time.monotonic`` from which only the implementation is timed; None: never.
        checks: Whether to compare with the truth first.
    """

    impl: str
    device: torch.device
    kinds: Sequence[str] = KINDS
    seconds: float = 0.1
    compiles: Callable[[Row], bool] = lambda row: True
    end: Optional[float] = None
    checks: bool = True

    def kinds_of(self, row: Row) -> List[str]:
        """Return what is timed of a row now."""
        if self.end is not None and time.monotonic() >= self.end:
            return ['own']
        return [kind for kind in self.kinds
                if (kind != 'compiled' or self.compiles(row))
                and (kind != 'export' or 'export' in dispatch.names(row.workload.op))]


def rows_of(chosen: Sequence[Workload], dtypes: Sequence[torch.dtype]) -> List[Row]:
    """Empty rows: forward, then forward and backward, of each workload and dtype."""
    return [Row(workload, dtype, backward, {}, []) for workload in chosen for dtype in dtypes
            for backward in (False, True)]


def time_rows(rows: Sequence[Row], plan: Plan, report: Callable[[str], None]) -> None:
    """Fill in the times of rows.

    Args:
        rows: Those of :func:`rows_of`.
        plan: How.
        report: Called with a line of text after each row.
    """
    def fill(row: Row, drawn: Union[Drawn, Failure]) -> str:
        row.results.update(dict(own=drawn) if isinstance(drawn, Failure)
                           else _time(row, plan, *drawn))
        return ', '.join(f'{kind} {_text(result)}' for kind, result in row.results.items())

    _fill_rows(rows, plan, fill, report)


def profile_rows(rows: Sequence[Row], plan: Plan, calls: int,
                 report: Callable[[str], None]) -> None:
    """Fill in the kernels of rows.

    Args:
        rows: Those of :func:`rows_of`.
        plan: How.
        calls: Calls of which the mean is taken.
        report: Called with a line of text after each row.
    """
    def fill(row: Row, drawn: Union[Drawn, Failure]) -> str:
        found = drawn if isinstance(drawn, Failure) else _profile(row, plan, calls, *drawn)
        row.profiled.append(found)
        return (_failed(found) if isinstance(found, Failure)
                else f'kernels {1e6 * total(found):.0f} us')

    _fill_rows(rows, plan, fill, report)


#: An op's inputs, and the gradient of its output.
Drawn = Tuple[Dict[str, Tensor], Tensor]


def _fill_rows(rows: Sequence[Row], plan: Plan, fill: Callable[[Row, Union[Drawn, Failure]], str],
               report: Callable[[str], None]) -> None:
    """Hand rows on with their inputs, or with what stands against it, and report what it gives."""
    checks: Dict[tuple, Optional[Failure]] = {}
    for pair in zip(rows[::2], rows[1::2]):
        workload = pair[0].workload
        key = (workload.op, workload.model, workload.stage, pair[0].dtype)
        if key not in checks:
            checks[key] = _objection(pair[0], plan)
        _fill_pair(pair, plan, checks[key], fill, report)


def _objection(row: Row, plan: Plan) -> Optional[Failure]:
    """Return why a row, and those that differ only in its size, are not measured; or None."""
    own = row.results.get('own')
    if own is not None:  # checked before it was timed
        return own if isinstance(own, Failure) and own.cell == 'wrong' else None
    return check(row.workload.on_grid(*CHECKED), row.dtype, plan) if plan.checks else None


def _fill_pair(pair: Sequence[Row], plan: Plan, failure: Optional[Failure],
               fill: Callable[[Row, Union[Drawn, Failure]], str],
               report: Callable[[str], None]) -> None:
    """Fill two rows that share their inputs, which nothing keeps afterwards."""
    workload, dtype = pair[0].workload, pair[0].dtype
    drawn = attempt(lambda: (workload.inputs(dtype, plan.device),
                             workload.output_gradient(dtype, plan.device))
                    ) if failure is None else failure
    for row in pair:
        report(f'{row.name}: {fill(row, drawn)}')


def _profile(row: Row, plan: Plan, calls: int, inputs: Dict[str, Tensor],
             dy: Tensor) -> Union[List[Kernel], Failure]:
    step = _step(_op(row.workload, plan.impl, False), row.backward, inputs, dy)
    return attempt(lambda: profile(step, plan.device, calls))


def _time(row: Row, plan: Plan, inputs: Dict[str, Tensor], dy: Tensor) -> Dict[str, Result]:
    steps = {}
    for kind in plan.kinds_of(row):
        impl = {'own': plan.impl, 'export': 'export'}.get(kind, 'reference')
        op = _op(row.workload, impl, kind == 'compiled')
        steps[kind] = _step(op, row.backward, inputs, dy)
    return measure(steps, plan.device, plan.seconds)


def _text(result: Result) -> str:
    if isinstance(result, Timing):
        return f'{1000 * result.seconds:.3f} ms'
    return _failed(result)


def _failed(failure: Failure) -> str:
    return f'{failure.cell}: {failure.reason}' if failure.reason else failure.cell


def run_once(workload: Workload, dtype: torch.dtype, impl: str,
             device: str) -> Optional[Failure]:
    """Run an op forward and backward at a shape; None, or why it failed."""
    def run() -> None:
        step = _step(_op(workload, impl, False), True, workload.inputs(dtype, device),
                     workload.output_gradient(dtype, device))
        step()
        if torch.device(device).type == 'cuda':
            torch.cuda.synchronize()

    return attempt(run)


def check(workload: Workload, dtype: torch.dtype, plan: Plan) -> Optional[Failure]:
    """Compare the implementation with the truth; None if it is as near as it has to be."""
    failures = attempt(lambda: parity.failures([workload.case(seed) for seed in range(DRAWS)],
                                               dtype, plan.device, plan.impl))
    if isinstance(failures, Failure):
        return failures
    return Failure('wrong', '; '.join(failures)) if failures else None


def _op(workload: Workload, impl: str, compiled: bool) -> Callable[..., Tensor]:
    function, options = getattr(mmvssd_kernels, workload.op), workload.options

    def op(**tensors: Tensor) -> Tensor:
        return function(**tensors, **options, impl=impl)

    if not compiled:
        return op
    torch.compiler.reset()  # each shape is a program of its own, and their number is limited
    return torch.compile(op, dynamic=False)


def _step(op: Callable[..., Tensor], backward: bool, inputs: Dict[str, Tensor],
          dy: Tensor) -> Step:
    def forward() -> None:
        with torch.no_grad():
            op(**inputs)

    def train() -> None:
        torch.autograd.grad(op(**inputs), list(inputs.values()), dy)

    return train if backward else forward
