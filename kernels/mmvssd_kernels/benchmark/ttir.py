"""What a kernel's program says before it becomes machine code: trips of loops, bytes it asks for.

Reads Triton's intermediate representation (TTIR) as text. Numbers that follow from the launch are
computed for all programs at once; what depends on loaded data stays unknown.
"""
import re
from typing import Dict, List, NamedTuple, Optional, Sequence, Set

import torch
from torch import Tensor

_NAME = r'%[\w.]+(?:#\d+)?'
_RESULT = re.compile(rf'^({_NAME})(?::\d+)? = "?([\w.]+)"? ?(.*)')
_FOR = re.compile(rf'^(?:({_NAME})(?::\d+)? = )?scf\.for ({_NAME}) = ({_NAME}) to ({_NAME}) '
                  rf'step ({_NAME})(?: iter_args\((.*?)\) ->)?')
_ACCESS = re.compile(rf'(?:^|= )tt\.(load|store) ({_NAME})')
_POINTERS = re.compile(r'(?:tensor<((?:\d+x)+))?!tt\.ptr<([a-z]+)(\d+)')
_AXES = {'x': 0, 'y': 1, 'z': 2}


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, b, rounding_mode='trunc')


#: Arithmetic of whole numbers, by operation.
_ARITHMETIC = {
    'arith.addi': torch.add, 'arith.subi': torch.sub, 'arith.muli': torch.mul,
    'arith.divsi': _divide, 'arith.divui': _divide, 'arith.remsi': torch.fmod,
    'arith.remui': torch.fmod, 'arith.minsi': torch.minimum, 'arith.minui': torch.minimum,
    'arith.maxsi': torch.maximum, 'arith.maxui': torch.maximum,
    'arith.extsi': torch.clone, 'arith.extui': torch.clone, 'arith.trunci': torch.clone,
    'arith.index_cast': torch.clone}


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


class Loop(NamedTuple):
    """A loop, and those inside it.

    Attributes:
        entries: How often programs come to it, all together; None if that is not known.
        runs: How often its body runs, all together; None if that is not known.
        fixed: Whether its trips are compiled in.
        once: Whether no program that comes to it takes more than one trip.
        inner: Loops inside.
    """

    entries: Optional[int]
    runs: Optional[int]
    fixed: bool
    once: bool
    inner: List['Loop']


class Program(NamedTuple):
    """Loops and accesses of a kernel."""

    loops: List[Loop]
    accesses: List[Access]


def read(text: str, grid: Sequence[int], arguments: Dict[str, object]) -> Program:
    """Read a kernel as a launch runs it.

    Args:
        text: Its TTIR.
        grid: The launch's programs along each axis.
        arguments: The launch's arguments by name.
    """
    return _Reader(grid, arguments).read(text)


class _Reader:
    """Goes through the lines once; ``values`` are one number, or one for each program."""

    def __init__(self, grid: Sequence[int], arguments: Dict[str, object]) -> None:
        self.grid = [*grid, 1, 1][:3]
        self.programs = torch.tensor(self.grid).prod()
        self.values = {f'%{name}': torch.tensor(value) for name, value in arguments.items()
                       if isinstance(value, int)}
        self.fixed: Set[str] = set()
        self.origins: Dict[str, Set[str]] = {
            f'%{name}': {name} for name, value in arguments.items() if isinstance(value, Tensor)}
        # how often each program runs a line here, from the outermost block in
        self.runs: List[Optional[Tensor]] = [torch.tensor(1)]
        self.found: List[List[Loop]] = [[]]
        self.accesses: List[Access] = []

    def read(self, text: str) -> Program:
        body = text[text.index('tt.func'):]
        loops: List[bool] = []  # of the blocks around a line which are loops
        for line in body.splitlines()[1:]:
            line = re.sub(r' loc\(.*', '', line.strip())
            if line.startswith('}'):
                if loops and not line.endswith('{') and loops.pop():
                    self.runs.pop()
                    self.found.pop()
                continue
            loop = _FOR.match(line)
            if loop:
                self._enter(*loop.groups())
            elif 'scf.while' in line:
                self._push(None, False)
            else:
                self._compute(line)
            if line.endswith('{'):
                loops.append(bool(loop) or 'scf.while' in line)
        return Program(self.found[0], self.accesses)

    def _enter(self, result: Optional[str], index: str, first: str, stop: str, step: str,
               carried: Optional[str]) -> None:
        """Enter a loop that counts."""
        bounds = [self.values[name] for name in (first, stop, step) if name in self.values]
        entries, runs = self.runs[-1], None
        if entries is not None and len(bounds) == 3:
            begin, end, stride = bounds
            runs = entries * _divide(end - begin + stride - 1, stride).clamp_min(0)
        self._forget(index)
        for i, (inner, outer) in enumerate(re.findall(rf'({_NAME}) = ({_NAME})', carried or '')):
            self._forget(inner)  # another one in each trip
            self.origins[inner] = self.origins[f'{result}#{i}'] = self.origins.get(outer, set())
            if result is not None:
                self.origins[result] = self.origins[inner]
        self._push(runs, {first, stop, step} <= self.fixed)

    def _push(self, runs: Optional[Tensor], fixed: bool) -> None:
        entries = self.runs[-1]
        once = runs is not None and bool((runs <= entries).all())
        loop = Loop(self._total(entries), self._total(runs), fixed, once, [])
        self.found[-1].append(loop)
        self.found.append(loop.inner)
        self.runs.append(runs)

    def _forget(self, name: str) -> None:
        """Forget a name, which blocks beside each other may both use."""
        self.values.pop(name, None)
        self.origins.pop(name, None)
        self.fixed.discard(name)

    def _compute(self, line: str) -> None:
        """Note what a line gives, loads or stores."""
        access = _ACCESS.search(line)
        if access:
            pointers = _POINTERS.search(line)
            assert pointers is not None, line
            shape, _, bits = pointers.groups()
            elements = 1
            for size in (shape or '').split('x')[:-1]:
                elements *= int(size)
            self.accesses.append(Access(
                access[1] == 'store', self.origins.get(access[2], set()),
                elements * int(bits) // 8, self._total(self.runs[-1])))
            return
        result = _RESULT.match(line)
        if not result:
            return
        name, operation, rest = result.groups()
        operands = re.findall(_NAME, rest)
        known = [self.values.get(operand) for operand in operands]
        self._forget(name)
        if '!tt.ptr' in rest:
            self.origins[name] = set().union(*(self.origins.get(o, set()) for o in operands))
        elif operation == 'arith.constant':
            constant = re.match(r'(-?\d+) : i\d+$', rest)
            if constant:
                self.values[name] = torch.tensor(int(constant[1]))
                self.fixed.add(name)
        elif operation in ('tt.get_program_id', 'tt.get_num_programs'):
            axis = _AXES[rest[0]]
            self.values[name] = (torch.tensor(self.grid[axis])
                                 if operation == 'tt.get_num_programs' else self._index(axis))
        elif operation in _ARITHMETIC and all(number is not None for number in known):
            self.values[name] = _ARITHMETIC[operation](*known)

    def _index(self, axis: int) -> Tensor:
        """Return each program's number along an axis."""
        number = torch.arange(self.programs)
        for size in self.grid[:axis]:
            number = _divide(number, size)
        return number % self.grid[axis]

    def _total(self, runs: Optional[Tensor]) -> Optional[int]:
        """Add up what each program does, or what all do alike."""
        if runs is None:
            return None
        return int(runs.expand(self.programs).sum())
