"""Trips of loops, sides of branches and bytes of accesses are those of a program's text."""
from fractions import Fraction

import pytest
import torch

from mmvssd_kernels.benchmark import ttir, whole_numbers

# a stretch of tokens for each program of the grid's second axis; what is stored is added up
TEXT = """
module {
  tt.func public @sum(%p_x: !tt.ptr<bf16> {tt.divisibility = 16 : i32} loc("p_x"(#loc)), %p_y: !tt.ptr<f32>, %L: i32) attributes {noinline = false} {
    %c1_i32 = arith.constant 1 : i32 loc(#loc1)
    %c0_i32 = arith.constant 0 : i32 loc(#loc1)
    %c3_i32 = arith.constant 3 : i32 loc(#loc1)
    %c63_i32 = arith.constant 63 : i32 loc(#loc1)
    %c64_i32 = arith.constant 64 : i32 loc(#loc1)
    %cst = arith.constant dense<0.000000e+00> : tensor<64x32xf32> loc(#loc1)
    %split = tt.get_program_id y : i32 loc(#loc2)
    %start = arith.muli %split, %L_SPLIT : i32 loc(#loc2)
    %stop = arith.addi %start, %L_SPLIT : i32 loc(#loc2)
    %stop_0 = arith.minsi %stop, %L : i32 loc(#loc2)
    %0 = arith.subi %stop_0, %start : i32 loc(#loc2)
    %1 = arith.addi %0, %c63_i32 : i32 loc(#loc2)
    %2 = arith.divsi %1, %c64_i32 : i32 loc(#loc2)
    %y = tt.splat %p_y : !tt.ptr<f32> -> tensor<64x32x!tt.ptr<f32>> loc(#loc2)
    %b:2 = scf.for %i = %c0_i32 to %2 step %c1_i32 iter_args(%p = %p_x, %sum = %cst) -> (!tt.ptr<bf16>, tensor<64x32xf32>)  : i32 {
      %x = tt.splat %p : !tt.ptr<bf16> -> tensor<64x32x!tt.ptr<bf16>> loc(#loc3)
      %x_1 = tt.load %x : tensor<64x32x!tt.ptr<bf16>> loc(#loc3)
      %inner = scf.for %s = %c0_i32 to %c3_i32 step %c1_i32 iter_args(%more = %sum) -> (tensor<64x32xf32>)  : i32 {
        tt.store %y, %more : tensor<64x32x!tt.ptr<f32>> loc(#loc3)
        scf.yield %more : tensor<64x32xf32> loc(#loc3)
      } loc(#loc3)
      %next = tt.addptr %p, %c64_i32 : !tt.ptr<bf16>, i32 loc(#loc3)
      scf.yield %next, %inner : !tt.ptr<bf16>, tensor<64x32xf32> loc(#loc3)
    } loc(#loc3)
    %count = tt.load %b#0 : !tt.ptr<bf16> loc(#loc4)
    %3 = arith.fptosi %count : bf16 to i32 loc(#loc4)
    scf.for %i = %c0_i32 to %3 step %c1_i32  : i32 {
      tt.store %p_y, %cst : !tt.ptr<f32> loc(#loc4)
    } loc(#loc4)
    tt.store %p_y, %cst : !tt.ptr<f32> loc(#loc4)
    tt.return loc(#loc5)
  } loc(#loc)
} loc(#loc)
"""  # noqa: E501


@pytest.fixture
def program():
    arguments = dict(p_x=torch.empty(1), p_y=torch.empty(1), L=300, L_SPLIT=128)
    return ttir.read(TEXT, (5, 3), arguments)


def test_trips_follow_from_the_launch(program):
    outer, unknown = program.loops
    # stretches of 128, 128 and 44 tokens have 2, 2 and 1 tiles of 64
    assert (outer.entries, outer.runs, outer.fixed) == (15, 5 * (2 + 2 + 1), False)
    inner, = outer.inner
    assert (inner.entries, inner.runs, inner.fixed, inner.inner) == (25, 75, True, [])
    assert (unknown.entries, unknown.runs) == (15, None)


def test_accesses(program):
    assert [(a.store, a.names, a.bytes, a.runs) for a in program.accesses] == [
        (False, {'p_x'}, 64 * 32 * 2, 25),
        (True, {'p_y'}, 64 * 32 * 4, 75),
        (False, {'p_x'}, 2, 15),
        (True, {'p_y'}, 4, None),
        (True, {'p_y'}, 4, 15),
    ]


def test_a_name_that_blocks_share_is_forgotten():
    """Within the first loop %n is known, behind it is not."""
    text = TEXT.replace('%x_1 = tt.load', '%n = arith.addi %c0_i32, %c3_i32 : i32\n%x_1 = tt.load')
    text = text.replace('%3 = arith.fptosi', '%n = arith.fptosi')
    text = text.replace('to %3 step', 'to %n step')
    arguments = dict(p_x=torch.empty(1), p_y=torch.empty(1), L=300, L_SPLIT=128)
    _, unknown = ttir.read(text, (5, 3), arguments).loops
    assert (unknown.entries, unknown.runs) == (15, None)


@pytest.mark.parametrize('missing', ['L', 'L_SPLIT'])
def test_what_is_not_known_is_not_guessed(missing):
    arguments = dict(p_x=torch.empty(1), p_y=torch.empty(1), L=300, L_SPLIT=128)
    del arguments[missing]
    outer, _ = ttir.read(TEXT, (5, 3), arguments).loops
    assert outer.runs is None
    assert outer.inner[0].runs is None


#: Lines of tokens in tiles of 16: a program takes ``tiles`` of them, of lines of W tokens. What
#: a whole tile loads has no mask.
BRANCHES = """
  tt.func public @lines(%p: !tt.ptr<f32>, %q: !tt.ptr<f32>, %W: i32, %tiles: i32, %odd: i32) {
    %c0 = arith.constant 0 : i32
    %c1 = arith.constant 1 : i32
    %c15 = arith.constant 15 : i32
    %c16 = arith.constant 16 : i32
    %true = arith.constant true
    %pid = tt.get_program_id x : i32
    %begin = arith.muli %pid, %tiles : i32
    %0 = arith.addi %W, %c15 : i32
    %per_line = arith.divsi %0, %c16 : i32
    scf.for %j = %c0 to %tiles step %c1  : i32 {
      %tile = arith.addi %begin, %j : i32
      %place = arith.remsi %tile, %per_line : i32
      %start = arith.muli %place, %c16 : i32
      %1 = arith.subi %W, %start : i32
      %left = arith.minsi %1, %c16 : i32
      %2 = arith.cmpi eq, %left, %c16 : i32
      %whole = arith.andi %2, %true : i1
      %x:2 = scf.if %whole -> (tensor<16x!tt.ptr<f32>>, i32) {
        %3 = tt.load %p : !tt.ptr<f32>
        scf.yield %p, %c1 : !tt.ptr<f32>, i32
      } else {
        %m = arith.cmpi slt, %o, %left : tensor<16xi32>
        %3 = tt.load %p, %m, %zero : !tt.ptr<f32>
        scf.yield %q, %c16 : !tt.ptr<f32>, i32
      }
      scf.for %s = %c0 to %x#1 step %c1  : i32 {
        tt.store %x#0, %3 : !tt.ptr<f32>
      }
    }
    tt.return
  }
"""


def lines(text=BRANCHES, programs=4, **arguments):
    """Read the kernel of lines: of 56 tokens, 8 tiles a program, unless told."""
    arguments = {**dict(p=torch.empty(1), q=torch.empty(1), W=56, tiles=8, odd=0), **arguments}
    return ttir.read(text, (programs, ), arguments)


def test_a_branch_of_whole_tiles():
    """Of the four tiles of a line three are whole."""
    program = lines()
    outer, = program.loops
    only, = outer.branches
    assert (only.share, only.then, only.otherwise) == (
        Fraction(3, 4), ttir.Side(0, 3, 1), ttir.Side(1, 4, 1))
    assert only.plain == Fraction(3, 4)
    assert [a.runs for a in program.accesses[:2]] == [24, 8]
    assert program.branches == []


def test_what_a_branch_gives():
    """It is one of two numbers, and it points to either argument."""
    program = lines()
    inner, = program.loops[0].inner
    assert (inner.entries, inner.runs) == (32, 24 * 1 + 8 * 16)
    assert program.accesses[2][1:] == ({'p', 'q'}, 4, 24 + 8 * 16)


def test_tiles_of_which_programs_take_other_shares():
    """With 7 tiles a program the lines begin at other places in each."""
    share = lines(tiles=7, programs=5).loops[0].branches[0].share
    assert share == Fraction(sum(tile % 4 != 3 for tile in range(35)), 35)


def test_trips_of_programs_may_differ():
    text = BRANCHES.replace('to %tiles', 'to %pid')
    only, = lines(text, tiles=0).loops[0].branches
    assert only.share == 1  # tiles 0, 1 and 2 of the last program
    # tiles 1, then 2 and 3, then 3, 4 and 5; every fourth one is not whole
    assert lines(text, tiles=1).loops[0].branches[0].share == Fraction(4, 6)


def test_an_unknown_condition_counts_both():
    text = BRANCHES.replace('%whole = arith.andi %2, %true', '%whole = arith.cmpi eq, %a, %b')
    outer, = lines(text).loops
    assert outer.branches[0].share is None
    assert outer.branches[0].plain is None
    assert [a.runs for a in lines(text).accesses] == [32, 32, None]
    assert outer.inner[0].runs is None


def test_too_many_trips_are_multiplied(monkeypatch):
    """Then nobody knows which of them go where."""
    monkeypatch.setattr(whole_numbers, 'LIMIT', 31)
    outer, = lines().loops
    assert (outer.runs, outer.branches[0].share) == (32, None)
    monkeypatch.setattr(whole_numbers, 'LIMIT', 32)
    assert lines().loops[0].branches[0].share == Fraction(3, 4)


def test_no_number_exceeds_the_limit(monkeypatch):
    monkeypatch.setattr(whole_numbers, 'LIMIT', 11)
    trips = torch.arange(4)  # of programs: 3 trips at most
    found = ttir._Reader((4, ), {})._trips_here(trips)
    assert found.places is None
    assert found.runs.tolist() == [0, 1, 2, 3]
    many = ttir._Reader((4, ), {})._trips_here(torch.tensor(10**12))
    assert (many.runs, many.places) == (10**12, None)
    one, other = (whole_numbers.constant(t) for t in (trips, torch.arange(3)[:, None]))
    assert whole_numbers.Number(torch.add, one, other).value is None
    assert whole_numbers.Number(torch.add, one, one).value is not None


def test_programs_that_do_not_come_to_a_loop_take_no_trips():
    """Only the first one comes, which would take none."""
    text = BRANCHES.replace('    scf.for %j', """
    %few = arith.cmpi slt, %pid, %c1 : i32
    scf.if %few {
      scf.for %i = %c0 to %pid step %c1  : i32 {
      }
    }
    scf.for %j""")
    first = lines(text).loops[0]
    assert (first.entries, first.runs, first.once) == (1, 0, True)


def test_a_branch_that_nobody_comes_to_is_left_out():
    outer, = lines(tiles=0).loops
    assert (outer.runs, outer.once, outer.branches) == (0, True, [])


def test_a_branch_with_accesses_on_one_side_is_left_out():
    text = BRANCHES.replace('%3 = tt.load %p :', '%3 = tt.splat %p :')
    program = lines(text)
    assert program.loops[0].branches == []
    assert program.accesses[0].runs == 8


@pytest.mark.parametrize(('then', 'otherwise', 'plain'), [
    ((0, 5), (1, 4), Fraction(3, 4)), ((1, 4), (0, 5), Fraction(1, 4)),
    ((1, 4), (1, 5), Fraction(3, 4)), ((1, 5), (1, 4), Fraction(1, 4)), ((1, 4), (1, 4), None)])
def test_the_plainer_side(then, otherwise, plain):
    one, other = (ttir.Side(*side, 2) for side in (then, otherwise))
    assert ttir.Branch(Fraction(3, 4), one, other).plain == plain


@pytest.mark.parametrize(('operation', 'holds'), [
    ('arith.cmpi eq, %c1, %c1 : i32', True), ('arith.cmpi ne, %c1, %c1 : i32', False),
    ('arith.cmpi slt, %c0, %c1 : i32', True), ('arith.cmpi sle, %c1, %c0 : i32', False),
    ('arith.cmpi sgt, %c1, %c0 : i32', True), ('arith.cmpi sge, %c0, %c1 : i32', False),
    ('arith.cmpi slt, %odd, %c1 : i32', True), ('arith.cmpi ult, %odd, %c1 : i32', False),
    ('arith.cmpi ule, %c1, %odd : i32', True), ('arith.cmpi ugt, %odd, %c1 : i32', True),
    ('arith.cmpi uge, %c1, %odd : i32', False),
    ('arith.ori %2, %true : i1', True), ('arith.xori %true, %true : i1', False),
    ('arith.andi %true, %false : i1', False), ('arith.select %true, %false, %true : i1', False),
    ('arith.select %false, %false, %true : i1', True),
    ('arith.extsi %true : i1 to i32', None), ('arith.trunci %c16 : i32 to i1', None),
])
def test_arithmetic_of_conditions(operation, holds):
    text = BRANCHES.replace('%whole = arith.andi %2, %true : i1', f'%whole = {operation}')
    text = text.replace('%true = arith.constant true',
                        '%true = arith.constant true\n%false = arith.constant false')
    share = lines(text, odd=-5).loops[0].branches[0].share
    assert share == (None if holds is None else holds)


def test_sides_of_a_branch_may_use_a_name_for_two_things():
    text = BRANCHES.replace('%3 = tt.load %p :', """%n = arith.addi %c1, %c1 : i32
        %3 = tt.load %p :""")
    text = text.replace('scf.yield %q', """%n = tt.load %q : !tt.ptr<i32>
        scf.for %i = %c0 to %n step %c1  : i32 {
        }
        scf.yield %q""")
    unknown, _ = lines(text).loops[0].inner
    assert (unknown.entries, unknown.runs) == (8, None)


def test_a_result_may_have_a_name_that_a_block_before_had():
    text = BRANCHES.replace('scf.if %whole', 'scf.if %n').replace('    scf.for %j', """
    scf.for %i = %c0 to %c1 step %c1  : i32 {
      %n = arith.constant true
    }
    %n = scf.while (%k = %true) : (i1) -> i1 {
      scf.condition(%k) %k : i1
    } do {
      scf.yield %k : i1
    }
    scf.for %j""")
    _, _, outer = lines(text).loops
    assert outer.branches[0].share is None
