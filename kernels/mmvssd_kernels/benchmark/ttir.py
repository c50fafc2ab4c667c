"""What a kernel's program says before it becomes machine code: trips of loops, sides of branches.

Reads Triton's intermediate representation (TTIR) as text, and the bytes that it asks for. Numbers
that follow from the launch are computed for all programs and all trips of loops at once. What
depends on loaded data stays unknown.
"""
import functools
import math
import re
from fractions import Fraction
from typing import Dict, FrozenSet, List, NamedTuple, Optional, Sequence, Set, Tuple

import torch
from torch import Tensor

from mmvssd_kernels.benchmark import whole_numbers
from mmvssd_kernels.benchmark.whole_numbers import (
    ARITHMETIC,
    Number,
    choose,
    compare,
    constant,
    divide,
    fit,
    index_of,
    trips_between,
)

_NAME = r'%[\w.]+(?:#\d+)?'
_RESULT = re.compile(rf'^({_NAME})(?::\d+)? = "?([\w.]+)"? ?(.*)')
_FOR = re.compile(rf'^(?:({_NAME})(?::\d+)? = )?scf\.for ({_NAME}) = ({_NAME}) to ({_NAME}) '
                  rf'step ({_NAME})(?: iter_args\((.*?)\) ->)?')
_IF = re.compile(rf'^(?:({_NAME})(?::\d+)? = )?scf\.if ({_NAME})')
_ACCESS = re.compile(r'(?:^|= )tt\.(load|store) ([^:{]*)')
_POINTERS = re.compile(r'(?:tensor<((?:\d+x)+))?!tt\.ptr<([a-z]+)(\d+)')
_CONSTANT = re.compile(r'(?:(-?\d+) : i\d+|(true)|false)$')
#: Conversions that do not keep a truth 0 or 1.
_SIGNED = ('arith.extsi', 'arith.trunci')
_TRUTH = re.compile(r': i1 to | to i1$')
_AXES = {'x': 0, 'y': 1, 'z': 2}
#: Operands of an access without a mask, by operation.
_UNMASKED = {'load': 1, 'store': 2}


class Access(NamedTuple):
    """A load or a store.

    Attributes:
        store: Whether it is a store.
        names: Arguments of the kernel that its pointers come from.
        bytes: Bytes of a program's access, masked ones too.
        runs: How often programs run it, all together; None if that is not known.
    """

    store: bool
    names: Set[str]
    bytes: int
    runs: Optional[int]


class Side(NamedTuple):
    """What a side of a branch has: accesses with a mask, lines, accesses."""

    masks: int
    lines: int
    accesses: int


class Branch(NamedTuple):
    """A branch with accesses on both sides.

    Attributes:
        share: Share of its runs that go to ``then``; None if that is not known.
        then: What runs if its condition holds.
        otherwise: What runs if not.
    """

    share: Optional[Fraction]
    then: Side
    otherwise: Side

    @property
    def plain(self) -> Optional[Fraction]:
        """Return the share of the plainer side, or None if that is not known.

        It has fewer masks, or as many and fewer lines.
        """
        then, otherwise = self.then[:2], self.otherwise[:2]
        if self.share is None or then == otherwise:
            return None
        return self.share if then < otherwise else 1 - self.share


class Loop(NamedTuple):
    """A loop, and those inside it.

    Attributes:
        entries: How often programs come to it, all together; None if that is not known.
        runs: How often its body runs, all together; None if that is not known.
        fixed: Whether its trips are compiled in.
        once: Whether no program that comes to it takes more than one trip.
        inner: Loops inside.
        branches: Branches inside that are in no inner loop, and which some program comes to.
    """

    entries: Optional[int]
    runs: Optional[int]
    fixed: bool
    once: bool
    inner: List['Loop']
    branches: List[Branch]


class Program(NamedTuple):
    """Loops and accesses of a kernel, and branches outside of loops."""

    loops: List[Loop]
    accesses: List[Access]
    branches: List[Branch]


def read(text: str, grid: Sequence[int], arguments: Dict[str, object]) -> Program:
    """Read a kernel as a launch runs it.

    Args:
        text: Its TTIR.
        grid: The launch's programs along each axis.
        arguments: The launch's arguments by name.
    """
    return _Reader(grid, arguments).read(text)


class _Known(NamedTuple):
    """What is known of a name.

    Attributes:
        number: What it stands for.
        origins: The kernel's arguments that it points to.
        fixed: Whether it is compiled in.
    """

    number: Number = constant(None)
    origins: FrozenSet[str] = frozenset()
    fixed: bool = False


class _Trips(NamedTuple):
    """Trips of a loop.

    Attributes:
        runs: How often each program runs the body; None if that is not known.
        places: Numbers of the trips, if ``runs`` tells them from each other.
    """

    runs: Optional[Tensor] = None
    places: Optional[Tensor] = None


class _Block:
    """A block around the line that is read.

    Args:
        runs: How often each program runs it.
    """

    def __init__(self, runs: Optional[Tensor]) -> None:
        self.runs = runs
        self.names: Dict[str, _Known] = {}


class _LoopBlock(_Block):
    """A loop around the line, and what is told of it."""

    def __init__(self, runs: Optional[Tensor], loop: Loop) -> None:
        super().__init__(runs)
        self.loop = loop


class _IfBlock(_Block):
    """A branch around the line.

    Args:
        runs: How often each program comes to it.
        condition: What decides between its sides.
        result: Name of what it gives, if it gives anything.
        passed: What the lines before it have.
    """

    def __init__(self, runs: Optional[Tensor], condition: Number, result: Optional[str],
                 passed: Side) -> None:
        holds = condition.value
        self.known = runs is not None and holds is not None and fit(runs, holds)
        self.other = runs
        if runs is not None and holds is not None and self.known:
            runs, self.other = runs * (holds != 0), runs * (holds == 0)
        super().__init__(runs)
        self.first, self.condition, self.result, self.passed = runs, condition, result, passed
        self.sides: List[Side] = []
        self.given: List[List[_Known]] = []

    def turn(self, passed: Side) -> None:
        """Go on to the other side."""
        self.end_side(passed)
        self.runs = self.other

    def end_side(self, passed: Side) -> None:
        """Note what a side has, by what all lines before its end have."""
        self.sides.append(Side(*(after - before for after, before in zip(passed, self.passed))))
        self.passed = passed

    def results(self) -> List[_Known]:
        """Return what is known of the results."""
        return [_Known(Number(choose, self.condition, *(one.number for one in both)),
                       frozenset().union(*(one.origins for one in both)))
                for both in zip(*self.given)]


class _Reader:
    """Goes through the lines once."""

    def __init__(self, grid: Sequence[int], arguments: Dict[str, object]) -> None:
        self.grid = [*grid, 1, 1][:3]
        # programs, and most trips of each loop around, from the outermost in
        self.sizes = [math.prod(self.grid)]
        self.program = Program([], [], [])
        self.passed = Side(0, 0, 0)
        self.blocks = [_Block(torch.tensor(1))]
        for name, value in arguments.items():
            if isinstance(value, (int, Tensor)):
                self._define(f'%{name}', _Known(origins=frozenset([name]))
                             if isinstance(value, Tensor)
                             else _Known(constant(torch.tensor(int(value)))))

    def read(self, text: str) -> Program:
        body = text[text.index('tt.func'):]
        for line in body.splitlines()[1:]:
            line = re.sub(r' loc\(.*', '', line.strip())
            self.passed = self.passed._replace(lines=self.passed.lines + 1)
            if not line.startswith('}'):
                self._read_line(line)
            elif line.endswith('{'):
                self._turn()
            elif len(self.blocks) > 1:
                self._leave()
        return self.program

    def _read_line(self, line: str) -> None:
        loop, branch = _FOR.match(line), _IF.match(line)
        if loop:
            self._enter_loop(*loop.groups())
        elif branch:
            self._enter_branch(*branch.groups())
        elif 'scf.while' in line:
            self._push(_Trips(), False)
        else:
            self._compute(line)
            if line.endswith('{'):
                self.blocks.append(_Block(self._runs))

    @property
    def _runs(self) -> Optional[Tensor]:
        """Return how often each program runs a line here, or None if that is not known."""
        return self.blocks[-1].runs

    def _look_up(self, name: str) -> _Known:
        return next((block.names[name] for block in reversed(self.blocks) if name in block.names),
                    _Known())

    def _define(self, name: str, known: _Known) -> None:
        self.blocks[-1].names[name] = known

    def _define_results(self, result: Optional[str], results: Sequence[_Known]) -> None:
        """Define what a block gives: one name, or a number behind it for each result."""
        if result is not None:
            for i, known in enumerate(results):
                self._define(result if len(results) == 1 else f'{result}#{i}', known)

    def _enter_loop(self, result: Optional[str], index: str, first: str, stop: str, step: str,
                    carried: Optional[str]) -> None:
        """Enter a loop that counts."""
        bounds = [self._look_up(name) for name in (first, stop, step)]
        begin, _, stride = numbers = [bound.number for bound in bounds]
        trips = self._trips_here(Number(trips_between, *numbers).value)
        carry = re.findall(rf'({_NAME}) = ({_NAME})', carried or '')
        # another number in each trip, which points to the same argument
        results = [_Known(origins=self._look_up(outer).origins) for _, outer in carry]
        self._define_results(result, results)
        self._push(trips, all(bound.fixed for bound in bounds))
        self._define(index, _Known(Number(index_of, begin, stride, constant(trips.places))))
        for (inner, _), known in zip(carry, results):
            self._define(inner, known)

    def _trips_here(self, trips: Optional[Tensor]) -> _Trips:
        """Tell which trips of a loop programs take that come to it here."""
        entries = self._runs
        if entries is None or trips is None or not fit(entries, trips):
            return _Trips()
        trips = trips * (entries > 0)
        most = int(trips.max())
        if most > whole_numbers.LIMIT:
            return _Trips(entries * trips)
        places = torch.arange(max(most, 1)).reshape(-1, *[1] * len(self.sizes))
        if bool(((trips == places.numel()) | (entries == 0)).all()):
            return _Trips(entries, places)
        if fit(places, trips, entries):
            return _Trips(entries * (places < trips), places)
        return _Trips(entries * trips)

    def _push(self, trips: _Trips, fixed: bool) -> None:
        entries = self._total(self._runs)
        loops, _ = self._around()
        self.sizes.append(1 if trips.places is None else trips.places.numel())
        once = trips.places is not None and trips.places.numel() == 1
        loop = Loop(entries, self._total(trips.runs), fixed, once, [], [])
        loops.append(loop)
        self.blocks.append(_LoopBlock(trips.runs, loop))

    def _around(self) -> Tuple[List[Loop], List[Branch]]:
        """Return loops and branches of the loop around a line, or of the kernel."""
        for block in reversed(self.blocks):
            if isinstance(block, _LoopBlock):
                return block.loop.inner, block.loop.branches
        return self.program.loops, self.program.branches

    def _enter_branch(self, result: Optional[str], condition: str) -> None:
        self.blocks.append(_IfBlock(self._runs, self._look_up(condition).number, result,
                                    self.passed))

    def _turn(self) -> None:
        """Go on to the next part of a block, such as ``else``, which has names of its own."""
        block = self.blocks[-1]
        block.names.clear()
        if isinstance(block, _IfBlock):
            block.turn(self.passed)

    def _leave(self) -> None:
        block = self.blocks.pop()
        if isinstance(block, _LoopBlock):
            self.sizes.pop()
        elif isinstance(block, _IfBlock):
            block.end_side(self.passed)
            self._define_results(block.result, block.results())
            self._note(block)

    def _note(self, block: _IfBlock) -> None:
        """Note a branch that has accesses on both sides."""
        runs, first = self._total(self._runs), self._total(block.first)
        if len(block.sides) == 2 and runs != 0 and all(side.accesses for side in block.sides):
            share = Fraction(first or 0, runs) if block.known and runs is not None else None
            self._around()[1].append(Branch(share, *block.sides))

    def _compute(self, line: str) -> None:
        """Note what a line gives, loads or stores."""
        access, result = _ACCESS.search(line), _RESULT.match(line)
        block = self.blocks[-1]
        if access:
            self._access(line, *access.groups())
        elif result:
            self._define(result[1], self._result(*result.groups()[1:]))
        elif line.startswith('scf.yield') and isinstance(block, _IfBlock):
            block.given.append([self._look_up(name) for name in re.findall(_NAME, line)])

    def _access(self, line: str, operation: str, operands: str) -> None:
        pointers = _POINTERS.search(line)
        assert pointers is not None, line
        names = re.findall(_NAME, operands)
        shape, _, bits = pointers.groups()
        elements = math.prod(int(size) for size in (shape or '').split('x')[:-1])
        self.program.accesses.append(Access(
            operation == 'store', set(self._look_up(names[0]).origins),
            elements * int(bits) // 8, self._total(self._runs)))
        masks = self.passed.masks + (len(names) > _UNMASKED[operation])
        self.passed = self.passed._replace(masks=masks, accesses=self.passed.accesses + 1)

    def _result(self, operation: str, rest: str) -> _Known:
        """Return what is known of an operation's result."""
        operands = [self._look_up(name) for name in re.findall(_NAME, rest)]
        if '!tt.ptr' in rest:
            return _Known(origins=frozenset().union(*(one.origins for one in operands)))
        numbers = [one.number for one in operands]
        if operation == 'arith.constant':
            found = _CONSTANT.match(rest)
            return _Known(constant(torch.tensor(int(found[1] or bool(found[2])))),
                          fixed=True) if found else _Known()
        if operation == 'tt.get_program_id':
            return _Known(constant(self._program(_AXES[rest[0]])))
        if operation == 'tt.get_num_programs':
            return _Known(constant(torch.tensor(self.grid[_AXES[rest[0]]])))
        if operation == 'arith.cmpi':
            return _Known(Number(functools.partial(compare, rest.split(',')[0]), *numbers))
        if operation in ARITHMETIC and not (operation in _SIGNED and _TRUTH.search(rest)):
            return _Known(Number(ARITHMETIC[operation], *numbers))
        return _Known()

    def _program(self, axis: int) -> Tensor:
        """Return each program's number along an axis."""
        number = torch.arange(math.prod(self.grid))
        for size in self.grid[:axis]:
            number = divide(number, size)
        return number % self.grid[axis]

    def _total(self, runs: Optional[Tensor]) -> Optional[int]:
        """Add up what programs do in all trips, or what they do alike."""
        if runs is None:
            return None
        return int(runs.sum()) * (math.prod(self.sizes) // runs.numel())
