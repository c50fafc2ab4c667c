"""Loops and branches of a listing of instructions, by the ways that lead from each to others.

A compiler may lay out a loop's blocks in any order. So a loop is not a stretch of a listing: it is
what can come back to its head.
"""
from typing import Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import networkx as nx  # which PyTorch needs


class Instruction(NamedTuple):
    """An instruction of the machine, or of PTX.

    Attributes:
        access: Bytes that a lane loads from global memory, or stores there; 0 if it does neither.
        target: Number of the instruction that it branches to, or None.
        goes_on: Whether the next instruction may follow.
        predicated: Whether some lanes may skip it.
        on_stack: Whether it loads from the thread's stack, or stores there.
    """

    access: int = 0
    target: Optional[int] = None
    goes_on: bool = True
    predicated: bool = False
    on_stack: bool = False


class Loop(NamedTuple):
    """Numbers of a loop's instructions, and loops inside."""

    instructions: FrozenSet[int]
    inner: List['Loop']


class Flow:
    """Blocks of a listing: instructions of which the last alone branches.

    Args:
        code: The instructions. The first is where a kernel begins.
    """

    def __init__(self, code: Sequence[Instruction]) -> None:
        self.blocks = _blocks(code)
        self.following = _following(code, self.blocks)
        graph = nx.DiGraph()
        # the last way first: so that, of two blocks that follow, the one that stands first comes
        # first in the order below
        graph.add_edges_from((block, way) for block, ways in enumerate(self.following)
                             for way in reversed(ways))
        graph.add_nodes_from([0] if self.blocks else [])
        #: Blocks that can run, each before those that follow, but for ways back.
        self.order = [*nx.dfs_postorder_nodes(graph, 0)][::-1] if self.blocks else []
        self.graph = graph.subgraph(self.order)
        self.dominators = self._dominators()

    def _dominators(self) -> Dict[int, Set[int]]:
        """Return, for each block, those that every way to it goes through, and itself."""
        found = {block: {block} for block in self.order}
        nearest = nx.immediate_dominators(self.graph, 0) if self.order else {}
        for block in self.order[1:]:  # a dominator comes before what it dominates
            found[block] |= found[nearest[block]]
        return found

    def loops(self) -> List[Loop]:
        """Return the loops, nested as they are, in the order in which they run."""
        spans: Dict[int, Set[int]] = {}
        for block in self.order:
            for head in self.following[block]:
                if head in self.dominators[block]:
                    spans.setdefault(head, {head}).update(self._ways_back(block, head))
        return self._nest([(head, spans[head]) for head in self.order if head in spans])

    def _ways_back(self, last: int, head: int) -> Set[int]:
        """Return blocks from which the last can come without going through the head."""
        if last == head:
            return {head}
        inside = self.graph.subgraph(block for block in self.order if block != head)
        return {head, last} | nx.ancestors(inside, last)

    def _nest(self, spans: Sequence[Tuple[int, Set[int]]]) -> List[Loop]:
        found = []
        while spans:
            (_, blocks), *spans = spans
            inside = [span for span in spans if span[0] in blocks]
            spans = [span for span in spans if span[0] not in blocks]
            found.append(Loop(self._instructions(blocks), self._nest(inside)))
        return found

    def _instructions(self, blocks: Set[int]) -> FrozenSet[int]:
        return frozenset(i for block in blocks for i in self.blocks[block])

    def branches(self) -> Iterator[Tuple[int, FrozenSet[int], FrozenSet[int]]]:
        """Yield branches with two sides: the instruction that branches, and what each has.

        A side is what runs only if the branch goes there.
        """
        for block in self.order:
            ways = self.following[block]
            if len(ways) == 2 and all(self.graph.in_degree(way) == 1 for way in ways):
                one, other = (self._instructions({inside for inside in self.order
                                                  if way in self.dominators[inside]})
                              for way in ways)
                yield self.blocks[block][-1], one, other


def _blocks(code: Sequence[Instruction]) -> List[range]:
    ends = {i for i, one in enumerate(code, 1) if one.target is not None or not one.goes_on}
    starts = sorted({0, *ends, *(one.target for one in code if one.target is not None)})
    starts = [start for start in starts if start < len(code)]
    return [range(start, end) for start, end in zip(starts, [*starts[1:], len(code)])]


def _following(code: Sequence[Instruction], blocks: Sequence[range]) -> List[List[int]]:
    """Return which blocks may follow each.

    A kernel ends with a branch to itself that never runs, which is no way.
    """
    numbers = {block[0]: i for i, block in enumerate(blocks)}
    found = []
    for i, block in enumerate(blocks):
        last = code[block[-1]]
        ways = {numbers[last.target]} if last.target not in (None, block[-1]) else set()
        if last.goes_on and i + 1 < len(blocks):
            ways.add(i + 1)
        found.append(sorted(ways))
    return found
