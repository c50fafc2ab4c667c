"""What a GPU that need not be there makes of an op's kernels: counts, estimates of time."""
import math
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from mmvssd_kernels.benchmark import machine_code, ttir
from mmvssd_kernels.benchmark.compilation import Launch
from mmvssd_kernels.benchmark.workloads import Workload

#: Schedulers of a multiprocessor: each issues at most one instruction of a warp in a cycle.
SCHEDULERS = 4
#: Registers of a multiprocessor; a warp's are given out by the 256.
REGISTERS, REGISTER_UNIT = 65536, 256
#: Shares of the best case that kernels are taken to reach: of the instructions that schedulers
#: could issue, and of a copy's bandwidth. kernels/README.md has estimates beside measurements.
ISSUED, MOVED = 0.35, 0.75


class Gpu(NamedTuple):
    """What an estimate has to know.

    Attributes:
        name: The GPU's name.
        multiprocessors: How many it has.
        ghz: Cycles of a nanosecond.
        terabytes: Bytes that a copy reads and writes, in 1e12 a second.
        warps: The most that a multiprocessor holds.
        blocks: The most that a multiprocessor holds.
        shared: Bytes of shared memory of a multiprocessor.
        reserved: Bytes of it that each block costs besides its own.
    """

    name: str
    multiprocessors: int
    ghz: float
    terabytes: float
    warps: int
    blocks: int
    shared: int
    reserved: int

    def resident(self, registers: int, warps: int, shared: int) -> int:
        """Return how many blocks a multiprocessor holds at a time."""
        unit = math.ceil(registers * machine_code.WARP / REGISTER_UNIT) * REGISTER_UNIT
        return min(self.blocks, self.warps // warps, REGISTERS // (unit * warps),
                   self.shared // max(shared + self.reserved, 1))


#: Of a data sheet's bandwidth what a copy reaches: 4.2 of an H200's 4.8 TB/s, docs/gpu.md.
COPY = 0.875
#: By compute capability. Multiprocessors, bandwidth and clock (that of the peak rate of float32)
#: are those of NVIDIA's data sheets of T4, A100 SXM 80 GB and H100 SXM. The limits of a
#: multiprocessor are those of the CUDA C++ Programming Guide, "Technical Specifications per
#: Compute Capability".
GPUS = {
    75: Gpu('T4', 40, 1.59, 0.320 * COPY, 32, 16, 64 * 1024, 0),
    80: Gpu('A100', 108, 1.41, 2.039 * COPY, 64, 32, 164 * 1024, 1024),
    90: Gpu('H100', 132, 1.98, 3.35 * COPY, 64, 32, 228 * 1024, 1024),
}


class Machine(NamedTuple):
    """A compiled kernel.

    Attributes:
        ttir: Its program.
        code: Its instructions.
        ptx: Those of the PTX that they were made from.
        usage: Its registers and stack.
        warps: Warps of a block.
        shared: Bytes of shared memory of a block.
        seconds: How long its compilation took; next to nothing if it was in Triton's cache.
    """

    ttir: str
    code: Sequence[machine_code.Instruction]
    ptx: Sequence[machine_code.Instruction]
    usage: machine_code.Usage
    warps: int
    shared: int
    seconds: float


class Row(NamedTuple):
    """A launch.

    Attributes:
        kernel: The kernel's name.
        backward: Whether a gradient launches it.
        key: What launches have in common that run the same machine code.
        programs: How many run.
        warps: Of each program.
        registers: Of a thread.
        stack: Bytes of a thread.
        shared: Bytes of a block.
        resident: Warps that a multiprocessor holds at a time.
        occupancy: Those as a share of what it could hold.
        instructions: Of all threads, one for each element of the op.
        on_stack: Those of them that access the stack.
        access: Mean bytes that a lane moves by an access of global memory.
        once: Bytes of all tensors that it touches, once for loads and once for stores.
        asked: Bytes that its loads and stores ask for, those again that others have asked for.
        issue: Seconds to issue all instructions, if no warp ever waited.
        move: Seconds to move ``once`` as a copy does.
        known: Whether trips of all loops are known; if not, such loops count once.
    """

    kernel: str
    backward: bool
    key: str
    programs: int
    warps: int
    registers: int
    stack: int
    shared: int
    resident: int
    occupancy: float
    instructions: float
    on_stack: float
    access: float
    once: int
    asked: Optional[int]
    issue: float
    move: float
    known: bool

    @property
    def best(self) -> float:
        """Return the seconds that it takes at least."""
        return max(self.issue, self.move)

    @property
    def estimate(self) -> float:
        """Return the seconds that it may take."""
        return max(self.issue / ISSUED, self.move / MOVED)


class Total(NamedTuple):
    """An op, forward or with backward.

    Attributes:
        least_bytes: What must move, see :meth:`Workload.least_bytes`.
        bytes: What its kernels move, each tensor once.
        best: Seconds that its kernels take at least.
        estimate: Seconds that they may take.
        best_share: Of a copy's bandwidth, at best.
        share: The same, as estimated.
        known: Whether trips of all loops are known.
    """

    least_bytes: int
    bytes: int
    best: float
    estimate: float
    best_share: float
    share: float
    known: bool


class Op(NamedTuple):
    """All launches of an op at a shape."""

    workload: Workload
    dtype: torch.dtype
    capability: int
    gpu: Gpu
    rows: List[Row]

    @property
    def dtype_name(self) -> str:
        """Return the dtype without its module."""
        return str(self.dtype).split('.')[1]

    @property
    def name(self) -> str:
        """Say what this is about."""
        return f'{self.workload.op} {self.workload.name} {self.dtype_name} sm_{self.capability}'

    def total(self, backward: bool) -> Total:
        """Add up what the op launches forward, or forward and backward."""
        rows = [row for row in self.rows if backward or not row.backward]
        least = self.workload.least_bytes(self.dtype, backward)
        copy = least / self.gpu.terabytes / 1e12
        best, estimate = (sum(getattr(row, name) for row in rows) for name in ('best', 'estimate'))
        return Total(least, sum(row.once for row in rows), best, estimate,
                     copy / best if best else 1., copy / estimate if best else 1.,
                     all(row.known for row in rows))


def row(launch: Launch, key: str, machine: Machine, gpu: Gpu, elements: int) -> Row:
    """Count what a launch does, and estimate its time.

    Args:
        launch: The launch.
        key: :meth:`Compiler.key` of it.
        machine: What it runs.
        gpu: Where.
        elements: Of the op.
    """
    program = ttir.read(machine.ttir, launch.grid, launch.arguments)
    work = machine_code.work(machine.code, machine.ptx, program, launch.programs)
    issued = work.instructions * machine.warps
    threads = machine.warps * machine_code.WARP
    # programs are dealt out as they are: the multiprocessor that has most ends last
    fullest = math.ceil(launch.programs / gpu.multiprocessors)
    cycles = issued / launch.programs * fullest / SCHEDULERS
    once = sum(_touched(program.accesses, launch.arguments))
    counted = all(access.runs is not None for access in program.accesses)
    warps = machine.warps * gpu.resident(machine.usage.registers, machine.warps, machine.shared)
    return Row(
        launch.name, launch.backward, key, launch.programs, machine.warps, *machine.usage,
        machine.shared, warps, warps / gpu.warps, work.instructions * threads / elements,
        work.on_stack * threads / elements,
        work.bytes / max(work.accesses, 1) / machine_code.WARP, once,
        sum(a.bytes * a.runs for a in program.accesses if a.runs is not None) if counted else None,
        cycles / gpu.ghz / 1e9, once / gpu.terabytes / 1e12, work.known)


def _touched(accesses: Iterable[ttir.Access], arguments: Dict[str, object]) -> Iterable[int]:
    """Yield bytes of each tensor that is loaded from, and of each that is stored to.

    A tensor of which only a part is touched counts as no more than what is asked for.
    """
    asked: Dict[tuple, float] = {}
    for access in accesses:
        for name in access.names:
            place = name, access.store
            runs = math.inf if access.runs is None else access.runs
            asked[place] = asked.get(place, 0) + access.bytes * runs
    for (name, _), size in asked.items():
        yield int(min(size, _memory(arguments[name])))


def _memory(t: Tensor) -> int:
    """Return the bytes of a tensor's numbers; those in the same place count once."""
    return t.element_size() * math.prod(
        size for size, stride in zip(t.shape, t.stride()) if stride)


def elements(workload: Workload) -> int:
    """Return how many elements an op has: those of its output, once for each sequence."""
    sizes = workload.sizes
    axes = workload.description.output.split()
    sequences = 1 if {'K', 'KD'} & {*axes} else sizes.get('K', 1)
    return sequences * math.prod(sizes[axis] for axis in axes)
