"""Loops of machine code are found again in the program that it was made from."""
import pytest

from mmvssd_kernels.benchmark import machine_code, ttir
from mmvssd_kernels.benchmark.machine_code import Instruction, Loop


def code(text):
    """Read a letter for each instruction: a for an access, ( for the head of a loop, ) its end."""
    found, heads = [], []
    for i, letter in enumerate(text):
        if letter == '(':
            heads.append(i)
        found.append(Instruction(2 if letter == 'a' else 0, heads.pop() if letter == ')' else None))
    return found


def counted(program, machine, ptx, programs=10):
    """How often each instruction runs, and whether all loops are known."""
    counter = machine_code._Counter(code(machine), code(ptx), programs)
    counter.count(program, *map(machine_code.loops, (counter.code, counter.ptx)))
    return counter.runs, counter.known


def loop(runs, *inner, fixed=False, once=False):
    return ttir.Loop(10, runs, fixed, once, list(inner))


def test_loops_are_nested_as_they_are():
    assert machine_code.loops(code('.(.(.)(.).).(.)')) == [
        Loop(1, 10, [Loop(3, 5, []), Loop(6, 8, [])]), Loop(12, 14, [])]
    # the compiler ends a kernel with a branch to itself
    assert machine_code.loops([Instruction(), Instruction(target=1)]) == []


def test_nested():
    runs, known = counted([loop(40, loop(200))], '.(a(aa)).', '(a(aa))')
    assert known
    assert runs == [10, 40, 40, 200, 200, 200, 200, 40, 10]


def test_unrolled_with_a_rest():
    runs, known = counted([loop(40), loop(30)], '(aaaa.)(a)(aa)', '(a)(aa)')
    assert known
    assert runs == [40 / 4] * 7 + [0] * 3 + [30] * 4


def test_unrolled_without_a_rest():
    runs, known = counted([loop(40, fixed=True)], '.(aa)', '(a)')
    assert known
    assert runs == [10, 20, 20, 20, 20]


def test_a_loop_that_is_compiled_in_may_be_gone():
    runs, known = counted([loop(20, fixed=True), loop(30)], 'aa(a)', 'aa(a)')
    assert known
    assert runs == [10, 10, 30, 30, 30]


def test_a_loop_that_runs_once_may_be_a_branch():
    runs, known = counted([loop(5, loop(20), once=True), loop(5, loop(30), once=True)],
                          'a(a)a(aa)', 'a(a)a(aa)')
    assert known
    assert runs == [10, 20, 20, 20, 10, 30, 30, 30, 30]


def test_an_access_that_moved_out_of_a_loop():
    assert counted([loop(30)], 'a(aaaaaaaaa)', '(aaaaaaaaaa)')[1]


@pytest.mark.parametrize(('program', 'machine', 'ptx'), [
    ([loop(None)], '(a)', '(a)'),  # trips follow from data
    ([loop(30)], '(aaa)', '(aa)'),  # one and a half rounds
    ([loop(30)], '..', '(a)'),
    ([loop(30)], '(a)(a)', '(a)'),  # one loop too many
    ([loop(30), loop(30)], '(a)', '(a)'),
    ([loop(30)], '(.)', '(.)'),  # nothing tells whether it was unrolled
    ([loop(30)], '(a(a))', '(a(a))'),
])
def test_what_does_not_come_out_even_is_unknown(program, machine, ptx):
    assert not counted(program, machine, ptx)[1]


@pytest.mark.parametrize(('name', 'width'), [
    ('LDG.E', 4), ('LDG.E.U16', 2), ('LDG.E.S8.CONSTANT', 1), ('STG.E.128', 16),
    ('LDG.E.64.SYS', 8), ('LDGSTS.E.BYPASS.LTC128B.128', 16), ('LDS.128', 0), ('HMMA.16816', 0),
    ('RED.E.ADD.F32', 4)])
def test_width_of_an_access(name, width):
    assert machine_code._width(name) == width


#: A loop that is left by a call, an exit, a loop behind it, and a function with a loop of its own.
LISTING = """
	.headerflags	@"EF_CUDA_SM80"
        /*0000*/                   MOV R1, c[0x0][0x28] ;   /* 0x00000a0000017a02 */
                                                           /* 0x000fe20000000f00 */
        /*0010*/              @P0  LDG.E.128 R4, [R2.64] ;
        /*0020*/              @!P1 CALL.REL.NOINC 0x40 ;
        /*0030*/                   BRA 0x10 ;
        /*0040*/                   EXIT ;
        /*0050*/                   CALL.REL.NOINC 0x90 ;
        /*0060*/             @!UP2 STG.E.U16 [R2.64], R5 ;
        /*0070*/               @P3 BRA 0x50 ;
        /*0080*/                   EXIT ;
        /*0090*/                   LDS.128 R8, [R9] ;
        /*00a0*/               @P0 BRA 0x90 ;
        /*00b0*/                   RET.REL.NODEC R2 0x0 ;
        /*00c0*/                   BRA 0xc0;
"""


def test_a_listing(monkeypatch):
    monkeypatch.setattr(machine_code, '_dump', lambda option, cubin: {
        '-sass': LISTING, '-res-usage': 'Function k:\n  REG:40 STACK:48 SHARED:16 LOCAL:0'}[option])
    found = machine_code.instructions(b'')
    assert [one.access for one in found] == [0, 16, 0, 0, 0, 0, 2, *[0] * 6]
    assert machine_code.loops(found) == [Loop(1, 3, []), Loop(5, 7, [])]
    assert machine_code.usage(b'') == (40, 48)


def test_ptx_of_a_kernel_only():
    text = """
.visible .entry kernel(
)
{
$L__BB0_1:                              // =>This Inner Loop Header: Depth=1
	@%p1 ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + 0 ];
	st.global.b16 [ %rd2 + 0 ], { %rs1 };
	cp.async.cg.shared.global [ %r1 + 0 ], [ %rd3 + 0 ], 0x10;
	ld.shared.b32 %r5, [%r6];
	@%p2 bra 	$L__BB0_1;
	ret;
}
.func helper(
)
{
$L__BB1_1:
	bra.uni 	$L__BB1_1;
}
"""
    found = machine_code.ptx_instructions(text)
    assert [one.access for one in found].count(1) == 3
    only, = machine_code.loops(found)
    assert sum(bool(one.access) for one in found[only.first:only.last]) == 3
