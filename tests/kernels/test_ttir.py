"""Trips of loops and bytes of accesses are those of a program's text."""
import pytest
import torch

from mmvssd_kernels.benchmark import ttir

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
