"""What a compiled kernel's machine code says: registers, stack, how often instructions run.

Reads what ``cuobjdump``, which Triton's wheel carries, prints of a cubin.
"""
import importlib
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Dict, FrozenSet, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from mmvssd_kernels.benchmark import ttir
from mmvssd_kernels.benchmark.control_flow import Flow, Instruction, Loop

WARP = 32
#: Share of a loop's accesses that the last compiler may have moved out of it, or made two of one.
TOLERANCE = 0.25
#: Share of its accesses that a loop which is not unrolled keeps at least.
FEWEST = 0.5
_MACHINE_LINE = re.compile(r'^\s+/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([^\s;]+)(.*?);',
                           re.MULTILINE)
_STACK = ('LDL', 'STL')
_GLOBAL = ('LDG', 'STG', 'LDGSTS', 'ATOMG', 'RED')
#: Operands of a branch that all take: where to, and no predicate.
_PLACE = re.compile(r'\s*0x[0-9a-f]+\s*')
_PTX_GLOBAL = re.compile(r'\b(?:ld|st|red|atom)\.(?:\w+\.)*global|cp\.async\.c[ag]')
_PTX_BRANCH = re.compile(r'\bbra(?:\.uni)?\s+(\$\w+);')
_PTX_END = re.compile(r'(?:bra|ret|exit|trap)\b')


class Usage(NamedTuple):
    """Registers of a thread, and bytes of its stack: numbers that registers had no room for."""

    registers: int
    stack: int


class Work(NamedTuple):
    """What all programs do together, one warp of each.

    Attributes:
        instructions: Instructions that run.
        accesses: Those of them that access global memory.
        bytes: Bytes that these ask for, masked ones too.
        on_stack: Instructions that access a thread's stack.
        known: Whether the trips of all loops are known. If not, loops of unknown trips count once.
            A branch may be unknown all the same: then both of its sides count.
    """

    instructions: float
    accesses: float
    bytes: float
    on_stack: float
    known: bool


def usage(cubin: bytes) -> Usage:
    """Return what a kernel needs."""
    told = re.search(r'REG:(\d+) STACK:(\d+)', _dump('-res-usage', cubin))
    if told is None:
        raise ValueError('cuobjdump -res-usage names no registers and stack')
    return Usage(*map(int, told.groups()))


def instructions(cubin: bytes) -> List[Instruction]:
    """Disassemble a kernel.

    What it calls, such as the rare branches of a sine, lies behind it and has no targets here. A
    call of what does not return is a mere jump.
    """
    lines = _MACHINE_LINE.findall(_dump('-sass', cubin))
    places = {int(address, 16): i for i, (address, *_) in enumerate(lines)}
    operations = [name.split('.')[0] for _, _, name, _ in lines]
    called = [_target(rest, places) for (*_, rest), name in zip(lines, operations)
              if name == 'CALL']
    returning = {place for place in called if place is not None and _returns(operations[place:])}
    end = min(returning, default=len(lines))
    found = []
    for i, (_, guard, name, rest) in enumerate(lines):
        target = _target(rest, places) if operations[i] in ('BRA', 'CALL') and i < end else None
        jumps = target is not None and target not in returning
        leaves = operations[i] in ('EXIT', 'RET') or (
            jumps and _PLACE.fullmatch(rest))
        found.append(Instruction(_width(name), target if jumps else None,
                                 not leaves or bool(guard), bool(guard), operations[i] in _STACK))
    return found


def _returns(operations: Sequence[str]) -> bool:
    """Tell whether a return comes before an exit."""
    return next((one for one in operations if one in ('RET', 'EXIT')), None) == 'RET'


def _dump(option: str, cubin: bytes) -> str:
    triton = Path(importlib.import_module('triton').__path__[0])
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(cubin)
        file.flush()
        return subprocess.run(
            [triton / 'backends' / 'nvidia' / 'bin' / 'cuobjdump', option, file.name],
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True).stdout


def _width(name: str) -> int:
    """Return how many bytes a lane accesses with an instruction such as LDG.E.128."""
    operation, *parts = name.split('.')
    if operation not in _GLOBAL:
        return 0
    bits = [int(part.lstrip('US')) for part in parts if re.fullmatch(r'[US]?(8|16|64|128)', part)]
    return (bits[0] if bits else 32) // 8


def _target(rest: str, places: Dict[int, int]) -> Optional[int]:
    found = re.search(r'0x([0-9a-f]+)', rest)
    return places.get(int(found[1], 16)) if found else None


def ptx_instructions(text: str) -> List[Instruction]:
    """Read a kernel's PTX in the same way, with an access counted as one byte."""
    lines = text[text.index('.entry'):].split('\n}')[0].splitlines()
    lines = [line.strip() for line in lines]
    places = {line.split(':')[0]: i for i, line in enumerate(lines) if line.startswith('$L__BB')}
    found = []
    for line in lines:
        branch, guarded = _PTX_BRANCH.search(line), line.startswith('@')
        found.append(Instruction(int(bool(_PTX_GLOBAL.search(line))),
                                 places.get(branch[1]) if branch else None,
                                 guarded or not _PTX_END.match(line), guarded))
    return found


def work(code: Sequence[Instruction], ptx: Sequence[Instruction], program: ttir.Program,
         programs: int) -> Work:
    """Return what a kernel does.

    A loop of the program is found again as the machine's loop in the same place. PTX, which is not
    unrolled, tells how many of its rounds are one there: as many as it has times the accesses. If
    that is no whole number, give or take what moved out of the loop, its trips are unknown.

    A branch whose sides both access global memory is one of the program's branches in the same
    loop. If these all go the same way, its plainer side runs as often as theirs.

    Args:
        code: The kernel's instructions.
        ptx: Those of the PTX that it was made from.
        program: The program's loops and branches, with their trips.
        programs: How many programs run.
    """
    counter = _Counter(code, ptx, programs)
    counter.count_all(program)
    runs = counter.runs
    return Work(sum(runs), sum(n for n, one in zip(runs, code) if one.access),
                sum(n * one.access for n, one in zip(runs, code)) * WARP,
                sum(n for n, one in zip(runs, code) if one.on_stack), counter.known)


class _Counter:
    """Counts how often each instruction runs."""

    def __init__(self, code: Sequence[Instruction], ptx: Sequence[Instruction],
                 programs: int) -> None:
        self.code, self.ptx = code, ptx
        self.flow = Flow(code)
        self.runs = [float(programs)] * len(code)
        self.known = True

    def count_all(self, program: ttir.Program) -> None:
        """Count loops and branches of a kernel."""
        whole, source = (Loop(frozenset(range(len(code))), Flow(code).loops())
                         for code in (self.code, self.ptx))
        self._count(program.loops, program.branches, whole, source)

    def _count(self, expected: List[ttir.Loop], branches: List[ttir.Branch], around: Loop,
               source: Loop) -> None:
        """Count what is in a loop, or in a kernel: loops beside each other, and branches."""
        loops = self._merged(expected, source.inner)
        paired = len(loops) == len(source.inner)
        pairs = self._without_unrolled(list(zip(loops, source.inner)), around, source)
        left = {id(loop) for loop, _ in pairs}
        self._share(around, [*branches, *(branch for loop in expected if id(loop) not in left
                                          for branch in loop.branches)])
        if paired:
            self._count_pairs(pairs, list(around.inner))
        else:
            self.known = not (loops or around.inner) and self.known

    def _count_pairs(self, pairs: List[Tuple[ttir.Loop, Loop]], found: List[Loop]) -> None:
        """Count loops beside each other, with those of PTX."""
        for i, (loop, source) in enumerate(pairs):
            rests = len(found) - len(pairs) + i
            unrolled = self._unrolled(found[0], source) if found else None
            if not unrolled or loop.runs is None:
                self.known = False
                return
            body, *found = found
            self._run(body, loop.runs / unrolled)
            self._count(loop.inner, loop.branches, body, source)
            if unrolled > 1 and rests > 0 and self._unrolled(found[0], source) < unrolled:
                rest, *found = found  # does what is left when rounds do not divide
                self._run(rest, 0)
        self.known = self.known and not found

    def _without_unrolled(self, pairs: List[Tuple[ttir.Loop, Loop]], around: Loop,
                          source: Loop) -> List[Tuple[ttir.Loop, Loop]]:
        """Leave out loops of PTX that are none in the machine: their trips stand one by one.

        Trips that are compiled in may, and the machine has the accesses of all of them.
        """
        left = [(loop, ptx) for loop, ptx in pairs if not loop.fixed]
        if len(around.inner) >= len(pairs) or len(around.inner) < len(left):
            return pairs
        accesses = float(_accesses(self.ptx, _own(source)))
        for loop, ptx in pairs:
            if loop.fixed and loop.entries and loop.runs is not None:
                accesses += loop.runs / loop.entries * _accesses(self.ptx, ptx.instructions)
        ratio = _accesses(self.code, _own(around)) / max(accesses, 1)
        return left if abs(ratio - 1) <= TOLERANCE else pairs

    @staticmethod
    def _merged(expected: List[ttir.Loop], ptx: List[Loop]) -> List[ttir.Loop]:
        """Return expected loops without those that PTX cannot have."""
        if len(expected) != len(ptx):  # what is compiled in may be no loop any more
            expected = [loop for loop in expected if not loop.fixed]
        if len(expected) != len(ptx) or any(loop.once and loop.inner and not source.inner
                                            for loop, source in zip(expected, ptx)):
            # and what runs once at most may be a branch
            expected = [inner for loop in expected for inner in (loop.inner if loop.once
                                                                 else [loop])]
        return expected

    def _run(self, loop: Loop, times: float) -> None:
        for i in loop.instructions:
            self.runs[i] = times

    def _unrolled(self, loop: Loop, source: Loop) -> int:
        """Return how many rounds of the source are one; 0 if it is no whole number."""
        return _whole(_accesses(self.code, loop.instructions)
                      / max(_accesses(self.ptx, source.instructions), 1))

    def _share(self, around: Loop, branches: Sequence[ttir.Branch]) -> None:
        """Share runs out among the two sides of branches that are in no inner loop.

        Both count if the program's branches go different ways, or nobody knows which.
        """
        shares = {branch.plain for branch in branches}
        plain = shares.pop() if len(shares) == 1 else None
        if plain is None:
            return
        own = _own(around)
        for place, *sides in self.flow.branches():
            sides = [side & around.instructions for side in sides]
            if place in own and all(_accesses(self.code, side) for side in sides):
                plainer, other = sorted(sides, key=self._plainness)
                for side, share in ((plainer, plain), (other, 1 - plain)):
                    for i in side:
                        self.runs[i] *= float(share)

    def _plainness(self, side: FrozenSet[int]) -> Tuple[int, int]:
        """Return accesses with a predicate, and all instructions: the fewer, the plainer."""
        return _accesses(self.code, [i for i in side if self.code[i].predicated]), len(side)


def _accesses(code: Sequence[Instruction], numbers: Iterable[int]) -> int:
    return sum(bool(code[i].access) for i in numbers)


def _own(loop: Loop) -> FrozenSet[int]:
    """Return a loop's instructions that are in no loop inside."""
    return loop.instructions.difference(*(inner.instructions for inner in loop.inner))


def _whole(ratio: float) -> int:
    """Return the whole number that a ratio of accesses stands for; 0 if it stands for none."""
    if FEWEST <= ratio < 1:  # some moved out of the loop, or have a mask that never holds
        return 1
    return round(ratio) if abs(ratio - round(ratio)) <= TOLERANCE * ratio else 0
