"""Loops of machine code are found again in the program that it was made from."""
from fractions import Fraction

import pytest

from mmvssd_kernels.benchmark import machine_code, ttir
from mmvssd_kernels.benchmark.control_flow import Flow, Instruction


def code(text):
    """Read a letter for each instruction.

    a accesses memory, and p with a predicate, s the stack; ( is the head of a loop, and ) its end.
    The branch [ runs what follows or what follows on the |, which all leave to what follows on
    the ].
    """
    found, heads = [], []
    for i, letter in enumerate(text):
        target = None
        if letter == '(':
            heads.append(i)
        elif letter == ')':
            target = heads.pop()
        elif letter == '[':
            target = text.index('|', i) + 1
        elif letter == '|':
            target = text.index(']', i)
        found.append(Instruction(2 if letter in 'ap' else 0, target, letter != '|', letter == 'p',
                                 letter == 's'))
    return found


def counted(program, machine, ptx, programs=10, branches=()):
    """How often each instruction runs, and whether all loops are known."""
    counter = machine_code._Counter(code(machine), code(ptx), programs)
    counter.count_all(ttir.Program(program, [], list(branches)))
    return counter.runs, counter.known


def loop(runs, *inner, fixed=False, once=False, branches=()):
    return ttir.Loop(10, runs, fixed, once, list(inner), list(branches))


def branch(share, masks=(0, 2), lines=(3, 5)):
    """A branch with accesses on both sides, of which ``share`` goes to the first."""
    one, other = (ttir.Side(*side, 2) for side in zip(masks, lines))
    return ttir.Branch(share, one, other)


def test_nested():
    runs, known = counted([loop(40, loop(200))], '.(a(aa)).', '(a(aa))')
    assert known
    assert runs == [10, 40, 40, 200, 200, 200, 200, 40, 10]


def test_accesses_of_the_stack_count_as_often_as_they_run():
    program = ttir.Program([loop(40)], [], [])
    work = machine_code.work(code('s(as.)s'), code('(a)'), program, 10)
    assert work == (10 + 5 * 40 + 10, 40, 2 * 40 * 32, 10 + 40 + 10, True)


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


def test_a_loop_that_is_compiled_in_may_be_gone_from_the_machine_alone():
    """Its trips stand one after the other; what else there is keeps its place."""
    runs, known = counted([loop(40, fixed=True), loop(30)], 'aaaaa(a)', 'a(a)(a)')
    assert known
    assert runs == [10] * 5 + [30] * 3


def test_accesses_that_left_a_loop():
    assert counted([loop(30)], 'a(aaaaaaaaa)', '(aaaaaaaaaa)')[1]
    # those of a mask that never holds do not reach the machine
    assert counted([loop(30)], '(aa)', '(aaa)')[1]
    assert not counted([loop(30)], '(a)', '(aaa)')[1]


def test_a_branch_with_a_known_share():
    text = '.(.[pp|a.a]a)a'
    runs, known = counted([loop(40, branches=[branch(Fraction(3, 4))])], text, text)
    assert known
    # with fewer predicates is what the program gives fewer masks, whichever comes first
    assert runs == [10] + [40] * 3 + [10] * 3 + [30] * 3 + [40] * 3 + [10]


@pytest.mark.parametrize('share', [branch(Fraction(1, 4), masks=(2, 0)),
                                   branch(Fraction(1, 4), masks=(1, 1), lines=(9, 5))])
def test_the_plainer_side_may_be_the_second(share):
    runs, _ = counted([], '[a|pp]', '[a|pp]', branches=[share])
    assert runs == [10, 7.5, 7.5, 2.5, 2.5, 10]


def test_with_as_many_predicates_the_shorter_side_is_plainer():
    runs, _ = counted([], '[..pa|pa].', '[pa|pa]', branches=[branch(Fraction(1))])
    assert runs == [10] + [0] * 5 + [10] * 4


@pytest.mark.parametrize('branches', [
    [],
    [branch(None)],
    [branch(Fraction(1)), branch(Fraction(1, 2))],
    [branch(Fraction(1), masks=(1, 1), lines=(5, 5))],
])
def test_both_sides_count_if_it_is_not_known_which_runs(branches):
    runs, known = counted([loop(40, branches=branches)], '([a|p])', '([a|p])')
    assert known
    assert runs == [40] * 7


@pytest.mark.parametrize('text', ['([a|.])', '([.|a])', '([|a])'])
def test_a_branch_with_one_side_counts(text):
    runs, _ = counted([loop(40, branches=[branch(Fraction(1))])], text, text)
    assert runs == [40] * len(text)


def test_a_branch_belongs_to_its_loop():
    """One around an inner loop shares out what is its own; trips of the inner one are known."""
    text = '[p(a)|a]([a|p])'
    runs, known = counted([loop(40), loop(30, branches=[branch(Fraction(1, 3))])], text, text,
                          branches=[branch(Fraction(4, 5))])
    assert known
    assert runs == [10, 2, 40, 40, 40, 2, 8, 10, 30, 30, 10, 10, 20, 30, 30]


def test_a_branch_out_of_a_loop_has_one_side_there():
    text = '([a)|p]'
    runs, _ = counted([loop(40, branches=[branch(Fraction(1))])], text, text)
    assert runs == [40] * 4 + [10] * 3


def test_a_branch_in_a_loop_of_unknown_trips_counts_both():
    """The branches around it tell nothing about it."""
    runs, known = counted([loop(None)], '([a|p])', '([a|p])', branches=[branch(Fraction(1))])
    assert not known
    assert runs == [10] * 7


def test_a_branch_of_a_loop_that_is_none_any_more():
    """It belongs to what is around: of a loop that runs once, or whose trips stand one by one."""
    inside = [branch(Fraction(4, 5))]
    for gone in (loop(5, once=True, branches=inside), loop(10, fixed=True, branches=inside)):
        runs, known = counted([gone], '[a|p]', '[a|p]')
        assert known
        assert runs == [10, 8, 8, 2, 10]


@pytest.mark.parametrize(('program', 'machine', 'ptx'), [
    ([loop(40, fixed=True)], 'aaa', 'a(a)'),  # not all of its trips
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
        /*0040*/              @!P4 EXIT ;
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
    assert [i for i, one in enumerate(found) if one.predicated] == [1, 2, 4, 6, 7, 10]
    assert [i for i, one in enumerate(found) if not one.goes_on] == [3, 8, 11]
    assert {i: one.target for i, one in enumerate(found) if one.target} == {2: 4, 3: 1, 7: 5}
    assert [sorted(one.instructions) for one in Flow(found).loops()] == [[1, 2, 3], [5, 6, 7]]
    assert machine_code.usage(b'') == (40, 48)


@pytest.mark.parametrize(('line', 'target', 'goes_on'), [
    ('BRA 0x20', 2, False),
    ('@P0 BRA 0x20', 2, True),
    ('@!UP1 BRA 0x20', 2, True),
    ('BRA P1, 0x20', 2, True),
    ('@!P4 BRA P5, 0x20', 2, True),
    ('BRA.U UP0, 0x20', 2, True),
    ('BRA.DIV UR4, 0x20', 2, True),  # if lanes differ
    ('CALL.REL.NOINC 0x20', 2, False),  # of what does not return
    ('EXIT', None, False),
    ('@!PT EXIT', None, True),
    ('BSSY B0, 0x20', None, True),
    ('BSYNC B0', None, True),
    ('@P0 BREAK B0', None, True),
    ('WARPSYNC.COLLECTIVE R5, 0x20', None, True),
])
def test_what_may_follow(line, target, goes_on, monkeypatch):
    lines = [line, 'NOP', 'EXIT']
    monkeypatch.setattr(machine_code, '_dump', lambda option, cubin: '\n'.join(
        f'        /*{16 * i:04x}*/   {text} ;' for i, text in enumerate(lines)))
    assert machine_code.instructions(b'')[0] == Instruction(0, target, goes_on, line[0] == '@')


@pytest.mark.parametrize(('line', 'on_stack'), [
    ('STL [R1+0x8], R0', True), ('@P1 LDL.LU R2, [R1]', True), ('LDL.64 R2, [R1]', True),
    ('LDS R2, [R1]', False), ('STG.E [R2.64], R1', False), ('LDC R1, c[0x0][0x28]', False)])
def test_what_accesses_the_stack(line, on_stack, monkeypatch):
    monkeypatch.setattr(machine_code, '_dump', lambda option, cubin: (
        f'        /*0000*/   {line} ;\n        /*0010*/   EXIT ;'))
    assert [one.on_stack for one in machine_code.instructions(b'')] == [on_stack, False]


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
    only, = Flow(found).loops()
    assert sum(bool(found[i].access) for i in only.instructions) == 3
    assert [one.predicated for one in found if one.access] == [True, False, False]
    assert [one.goes_on for one in found].count(False) == 1
