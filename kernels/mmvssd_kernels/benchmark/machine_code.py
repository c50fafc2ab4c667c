"""What a compiled kernel's machine code says: registers, stack, instructions, loops.

Reads what ``cuobjdump``, which Triton's wheel carries, prints of a cubin.
"""
import importlib
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from mmvssd_kernels.benchmark import ttir

WARP = 32
#: Share of a loop's accesses that the last compiler may have moved out of it, or made two of one.
TOLERANCE = 0.25
_MACHINE_LINE = re.compile(r'^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?(\S+)(.*?);', re.MULTILINE)
_GLOBAL = ('LDG', 'STG', 'LDGSTS', 'ATOMG', 'RED')
_PTX_GLOBAL = re.compile(r'\b(?:ld|st|red|atom)\.(?:\w+\.)*global|cp\.async\.c[ag]')


class Instruction(NamedTuple):
    """An instruction of the machine, or of PTX.

    Attributes:
        access: Bytes that a lane loads from global memory, or stores there; 0 if it does neither.
        target: Number of the instruction that it branches to, or None.
    """

    access: int = 0
    target: Optional[int] = None


class Loop(NamedTuple):
    """Instructions ``first`` to ``last``, and loops inside."""

    first: int
    last: int
    inner: List['Loop']


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
        known: Whether the trips of all loops are known. If not, loops of unknown trips count once.
    """

    instructions: float
    accesses: float
    bytes: float
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
    operations = [name.split('.')[0] for _, name, _ in lines]
    called = [_target(rest, places) for (_, _, rest), name in zip(lines, operations)
              if name == 'CALL']
    end = min((place for place in called if place is not None and _returns(operations[place:])),
              default=len(lines))
    return [Instruction(_width(name), _target(rest, places)
                        if name.startswith('BRA') and i < end else None)
            for i, (_, name, rest) in enumerate(lines)]


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
        branch = re.search(r'\bbra(?:\.uni)?\s+(\$\w+);', line)
        found.append(Instruction(int(bool(_PTX_GLOBAL.search(line))),
                                 places.get(branch[1]) if branch else None))
    return found


def loops(code: Sequence[Instruction]) -> List[Loop]:
    """Return the loops that branches back make, nested as they are."""
    last: Dict[int, int] = {}
    for i, instruction in enumerate(code):
        if instruction.target is not None and instruction.target < i:
            last[instruction.target] = i
    return _nest(sorted(last.items()))


def _nest(spans: Sequence[Tuple[int, int]]) -> List[Loop]:
    found: List[Loop] = []
    spans = list(spans)
    while spans:
        first, last = spans[0]
        inside = [span for span in spans[1:] if span[0] <= last]
        last = max([last, *(end for _, end in inside)])
        found.append(Loop(first, last, _nest(inside)))
        spans = spans[1 + len(inside):]
    return found


def work(code: Sequence[Instruction], ptx: Sequence[Instruction], program: ttir.Program,
         programs: int) -> Work:
    """Return what a kernel does.

    A loop of the program is found again as the machine's loop in the same place. PTX, which is not
    unrolled, tells how many of its rounds are one there: as many as it has times the accesses. If
    that is no whole number, give or take what moved out of the loop, its trips are unknown.

    Args:
        code: The kernel's instructions.
        ptx: Those of the PTX that it was made from.
        program: The program's loops, with their trips.
        programs: How many programs run.
    """
    counter = _Counter(code, ptx, programs)
    counter.count(program.loops, loops(code), loops(ptx))
    runs = counter.runs
    return Work(sum(runs), sum(n for n, one in zip(runs, code) if one.access),
                sum(n * one.access for n, one in zip(runs, code)) * WARP, counter.known)


class _Counter:
    """Counts how often each instruction runs."""

    def __init__(self, code: Sequence[Instruction], ptx: Sequence[Instruction],
                 programs: int) -> None:
        self.code, self.ptx = code, ptx
        self.runs = [float(programs)] * len(code)
        self.known = True

    def count(self, expected: List[ttir.Loop], found: List[Loop], ptx: List[Loop]) -> None:
        """Count loops beside each other."""
        if len(expected) != len(ptx):  # what is compiled in may be no loop any more
            expected = [loop for loop in expected if not loop.fixed]
        if len(expected) != len(ptx) or any(loop.once and loop.inner and not source.inner
                                            for loop, source in zip(expected, ptx)):
            # and what runs once at most may be a branch
            expected = [inner for loop in expected for inner in (loop.inner if loop.once
                                                                 else [loop])]
        if len(expected) != len(ptx):
            self.known = not (expected or found) and self.known
            return
        found = list(found)
        for i, (loop, source) in enumerate(zip(expected, ptx)):
            rests = len(found) - len(ptx) + i
            unrolled = self._unrolled(found[0], source) if found else None
            if not unrolled or loop.runs is None:
                self.known = False
                return
            body, *found = found
            self._run(body, loop.runs / unrolled)
            if loop.inner or body.inner:  # PTX also has branches back that are no loops
                self.count(loop.inner, body.inner, source.inner)
            if unrolled > 1 and rests > 0 and self._unrolled(found[0], source) < unrolled:
                rest, *found = found  # does what is left when rounds do not divide
                self._run(rest, 0)
        self.known = self.known and not found

    def _run(self, loop: Loop, times: float) -> None:
        self.runs[loop.first:loop.last + 1] = [times] * (loop.last + 1 - loop.first)

    def _unrolled(self, loop: Loop, source: Loop) -> int:
        """Return how many rounds of the source are one; 0 if it is no whole number."""
        own, before = (sum(bool(one.access) for one in code[span.first:span.last + 1])
                       for code, span in ((self.code, loop), (self.ptx, source)))
        ratio = own / max(before, 1)
        return round(ratio) if abs(ratio - round(ratio)) <= TOLERANCE * ratio else 0
