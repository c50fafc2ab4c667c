"""Loops and branches of a listing are those of its ways, however it is laid out."""
import pytest

from mmvssd_kernels.benchmark import machine_code
from mmvssd_kernels.benchmark.control_flow import Flow, Instruction

#: A loop whose end stands before its head. The other side of its branch stands behind all else.
ROTATED = """.entry k(
	bra.uni 	$L__BB0_2;
$L__BB0_1:
	st.global.b32 [ %rd1 + 0 ], { %r1 };
	@%p1 bra 	$L__BB0_2;
	bra.uni 	$L__BB0_4;
$L__BB0_2:
	@%p2 bra 	$L__BB0_3;
	ld.global.b32 { %r1 }, [ %rd1 + 0 ];
	bra.uni 	$L__BB0_1;
$L__BB0_4:
	st.global.b32 [ %rd2 + 0 ], { %r1 };
	ret;
$L__BB0_3:
	@%p3 ld.global.b32 { %r1 }, [ %rd1 + 0 ];
	bra.uni 	$L__BB0_1;
}"""


def nested(loops):
    """Numbers of the loops' instructions, with those of the loops inside."""
    return [(sorted(loop.instructions), nested(loop.inner)) for loop in loops]


def jumps(ways):
    """Instructions that branch as ``ways`` tells: by number the target, and whether it may not."""
    return [Instruction(target=ways[i][0], goes_on=ways[i][1]) if i in ways else Instruction()
            for i in range(max(ways) + 1)]


def test_a_loop_whose_blocks_are_laid_out_in_another_order():
    code = machine_code.ptx_instructions(ROTATED)
    assert nested(Flow(code).loops()) == [([2, 3, 4, *range(6, 10), 13, 14, 15], [])]
    (place, one, other), = Flow(code).branches()
    assert (place, sorted(one), sorted(other)) == (7, [8, 9], [13, 14, 15])


def test_loops_are_nested_as_they_are():
    code = jumps({4: (2, True), 7: (6, True), 9: (1, True), 12: (11, True)})
    assert nested(Flow(code).loops()) == [
        (list(range(1, 10)), [([2, 3, 4], []), ([6, 7], [])]), ([11, 12], [])]


def test_loops_are_told_in_the_order_in_which_they_run():
    """The second one stands before the first."""
    code = jumps({0: (4, False), 2: (1, True), 3: (7, False), 5: (4, True), 6: (1, False),
                  7: (None, False)})
    assert nested(Flow(code).loops()) == [([4, 5], []), ([1, 2], [])]


def test_loops_of_two_sides_are_told_as_they_stand():
    code = jumps({0: (4, True), 2: (1, True), 3: (6, False), 5: (4, True)})
    assert nested(Flow([*code, Instruction()]).loops()) == [([1, 2], []), ([4, 5], [])]


def test_ways_back_to_one_head_are_one_loop():
    code = jumps({2: (1, True), 4: (1, True)})
    assert nested(Flow(code).loops()) == [([1, 2, 3, 4], [])]


def test_what_leaves_a_loop_is_not_in_it():
    """It is behind an exit in the midst of the loop."""
    code = jumps({1: (4, True), 3: (None, False), 5: (1, True)})
    assert nested(Flow(code).loops()) == [([1, 4, 5], [])]


@pytest.mark.parametrize('goes_on', [True, False])
def test_a_branch_to_itself_is_no_loop(goes_on):
    """The compiler ends a kernel with one."""
    assert Flow([Instruction(), Instruction(target=1, goes_on=goes_on)]).loops() == []


def test_a_way_into_the_midst_makes_no_loop():
    """It has two heads, so that nobody can tell its trips."""
    assert Flow(jumps({0: (3, True), 4: (1, True)})).loops() == []


def test_no_instructions():
    assert Flow([]).loops() == []
    assert list(Flow([]).branches()) == []


def test_a_branch_with_one_side_is_none():
    assert list(Flow(jumps({1: (3, True), 4: (None, False)})).branches()) == []


def test_a_side_may_branch_as_well():
    code = jumps({0: (5, True), 1: (3, True), 4: (7, False), 7: (None, False)})
    (place, one, other), = Flow(code).branches()
    assert (place, sorted(one), sorted(other)) == (0, [1, 2, 3, 4], [5, 6])
