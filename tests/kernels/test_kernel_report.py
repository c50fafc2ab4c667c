"""The report on the kernels' machine code, and what it says of the published shapes."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmvssd_kernels.benchmark.workloads import workloads

pytest.importorskip('triton')
from mmvssd_kernels.benchmark import compilation, static, static_command, static_report
from mmvssd_kernels.triton_support import SHARED_MEMORY_ON_HOPPER

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'benchmarks' / 'kernel_report.py'
#: The last stages of VSSD-T at the paper's batch: they are the widest.
SHAPE = ':2:128x224x224'
#: Mean bytes that a lane moves at least by an access, of the kernels that touch all tokens.
WIDTHS = {'nc_ssd.whole_heads': 12, 'nc_ssd.partial_state_gradients': 12, 'nc_ssd.gradients': 8,
          'nc_ssd.normalized.partial_states': 4,
          'nc_ssd.normalized.outputs': 4, 'nc_ssd.normalized.query_gradients': 4,
          'nc_ssd.normalized.gradients': 4}
#: Stack of what is kept past the loop over tokens, which costs next to nothing.
BESIDE_LOOPS = {'nc_ssd.normalized.partial_states': 8}


def workload(op, name):
    found, = (w for w in workloads() if (w.op, w.name) == (op, name))
    return found


PLAIN = workload('nc_ssd', 'vssd-tiny:2:128x224x224')


@pytest.fixture(scope='module')
def report(compiled_before, tmp_path_factory):
    """Exit status, what was printed, and the JSON, of a process that may compile."""
    out = tmp_path_factory.mktemp('report')
    env = {**os.environ, 'TRITON_INTERPRET': '0', 'TRITON_CACHE_DIR': str(compiled_before)}
    done = subprocess.run([sys.executable, TOOL, '--op', 'nc_ssd', '--shape', SHAPE, '--out', out,
                           '--max-stack', '0', '--min-share', '0.99'],
                          text=True, capture_output=True, check=False, env=env)
    assert done.returncode == 1, done.stderr[-5000:]
    assert (out / 'kernel_report.md').read_text() in done.stdout
    return done.stdout, json.loads((out / 'kernel_report.json').read_text())


def launches(report, name):
    op, = (op for op in report[1]['ops'] if op['shape'] == name)
    return op, {(one['kernel'], one['backward']): one for one in op['launches']}


@pytest.mark.slow
def test_limits_of_the_widest_stages(report):
    for op in report[1]['ops']:
        for one in op['launches']:
            name = one['kernel']
            assert one['known'], name
            assert 0 < one['registers'] <= 255, name
            assert one['shared'] <= SHARED_MEMORY_ON_HOPPER, name
            assert one['stack'] <= BESIDE_LOOPS.get(name, 0), name
            assert one['on_stack'] <= 0.001 * one['instructions'], name
            assert one['access'] >= WIDTHS.get(name, 0), name
    assert WIDTHS.keys() <= {one['kernel'] for op in report[1]['ops'] for one in op['launches']}


@pytest.mark.slow
def test_bytes_are_those_of_the_tensors(report):
    op, found = launches(report, PLAIN.name)
    N, L, h, P, S = (PLAIN.sizes[axis] for axis in 'NLhPS')
    x, steps, projection = 2 * N * L * h * P, 4 * N * L * h, 2 * N * L * S
    state, first = 4 * N * h * S * P, found['nc_ssd.whole_heads', False]
    assert first['once'] == 2 * x + steps + 2 * projection + 8 * h + state
    assert op['forward']['bytes'] == sum(one['once'] for one in op['launches']
                                         if not one['backward'])
    assert op['forward']['least_bytes'] == PLAIN.least_bytes(torch.bfloat16, False)
    # x of whole tiles of 64 tokens, read by each head's program for its own channels
    assert first['asked'] >= first['once']


@pytest.mark.slow
def test_times_follow_from_counts(report):
    gpu = static.GPUS[90]
    op, found = launches(report, PLAIN.name)
    for one in found.values():
        fullest = -(-one['programs'] // gpu.multiprocessors) * gpu.multiprocessors
        warps = one['instructions'] * static.elements(PLAIN) / 32 / one['programs'] * fullest
        assert one['issue'] == pytest.approx(warps / 4 / gpu.multiprocessors / gpu.ghz / 1e9)
        assert one['move'] == pytest.approx(one['once'] / gpu.terabytes / 1e12)
        assert one['best'] == max(one['issue'], one['move'])
        assert one['estimate'] > one['best']
    assert op['forward_backward']['best'] == pytest.approx(
        sum(one['best'] for one in op['launches']))
    assert op['forward']['best_share'] == pytest.approx(
        op['forward']['least_bytes'] / gpu.terabytes / 1e12 / op['forward']['best'])


@pytest.mark.slow
def test_what_falls_short_is_named(report):
    text, _ = report
    assert re.search('nc_ssd vssd-tiny-iccv2025:2:128x224x224 bfloat16 sm_90: '
                     r'forward \+ backward reaches \d+% of a copy at best\n', text)
    assert f'nc_ssd {PLAIN.name} bfloat16 sm_90: forward reaches ' in text
    assert f'nc_ssd {PLAIN.name} bfloat16 sm_90: nc_ssd.' not in text


@pytest.mark.slow
@pytest.mark.parametrize(('op', 'capability'), [
    ('ssd', '80'), ('ssd', '90'), ('selective_scan', '90'), ('selective_scan_2d', '90'),
    ('cross_scan', '80'), ('cross_scan', '90'), ('nc_ssd', '90')])
def test_nothing_spills_at_the_first_stage(op, capability, compiled_before):
    done = subprocess.run([sys.executable, TOOL, '--op', op, '--shape', ':0:128x224x224',
                           '--capability', capability, '--max-stack', '0'],
                          text=True, capture_output=True, check=False, env={
                              **os.environ, 'TRITON_INTERPRET': '0',
                              'TRITON_CACHE_DIR': str(compiled_before)})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.parametrize('op', ['nc_ssd', 'ssd', 'selective_scan', 'selective_scan_2d',
                                'cross_scan', 'cross_merge'])
def test_launches_of_an_op(op):
    found = compilation.launches_of(next(w for w in workloads() if w.op == op), torch.bfloat16, 90)
    assert {launch.backward for launch in found} == {False, True}
    assert all(t.is_meta for launch in found for t in launch.args if isinstance(t, torch.Tensor))
    assert all(launch.name.split('.')[0] in (op, 'selective_scan', 'cross_scan')
               and launch.programs for launch in found)


def test_launches_are_those_for_a_capability():
    def halves(capability):
        return {launch.options['HALVES']
                for launch in compilation.launches_of(PLAIN, torch.float16, capability)
                if launch.kernel.__name__ == 'whole_heads'}

    assert halves(75) == {False}
    assert halves(80) == {True}


def test_many_long_heads_are_not_cut_on_hopper():
    def forward(shape, dtype, capability):
        work = workload('nc_ssd', f'vssd-tiny:{shape}')
        return [(launch.kernel.__name__, launch.options['num_warps'])
                for launch in compilation.launches_of(work, dtype, capability)
                if not launch.backward]

    cut = [('partial_states', 4), ('combine', 4), ('outputs', 4)]
    assert forward('0:128x224x224', torch.bfloat16, 90) == [('whole_heads', 8)]
    assert forward('1:128x224x224', torch.bfloat16, 90) == [('whole_heads', 4)]
    assert forward('0:2x800x1333', torch.bfloat16, 90) == cut
    assert forward('0:128x224x224', torch.bfloat16, 80) == cut
    assert forward('0:128x224x224', torch.float32, 90) == cut


def test_elements_count_once_for_each_sequence():
    sizes = workload('selective_scan_2d', 'vmamba-tiny-s2l5:3:128x224x224').sizes
    N, L, D = (sizes[axis] for axis in 'NLD')
    for op in ('selective_scan', 'selective_scan_2d', 'cross_scan', 'cross_merge'):
        same = workload(op, 'vmamba-tiny-s2l5:3:128x224x224')
        assert static.elements(same) == 4 * N * L * D
    assert static.elements(PLAIN) == 128 * 14 * 14 * 8 * 64


@pytest.mark.parametrize(('capability', 'registers', 'warps', 'shared', 'blocks'), [
    (90, 32, 4, 0, 16),  # warps
    (90, 255, 4, 0, 2),  # registers, given out by 256 of them
    (90, 129, 4, 0, 3),
    (90, 128, 4, 0, 4),
    (90, 32, 1, 0, 32),  # blocks
    (90, 32, 4, 57344, 4),  # shared memory
    (90, 32, 4, 46080, 4),  # of which each block costs a KiB more
    (80, 32, 4, 57344, 2),
    (75, 32, 4, 32768, 2),
    (75, 32, 4, 0, 8),
])
def test_occupancy(capability, registers, warps, shared, blocks):
    assert static.GPUS[capability].resident(registers, warps, shared) == blocks


def row(**changes):
    values = dict(kernel='ssd.carry', backward=False, key='a', programs=1, warps=4, registers=8,
                  stack=0, shared=0, resident=4, occupancy=1 / 16, instructions=1.25,
                  on_stack=0.004, access=16., once=10**6, asked=2 * 10**6, issue=1e-6, move=2e-6,
                  known=True)
    return static.Row(**{**values, **changes})


def report_of(*rows):
    op = static.Op(PLAIN, torch.bfloat16, 90, static.GPUS[90], list(rows))
    return static_report.StaticReport({}, 'command', {90: static.GPUS[90]}, [op], [])


def test_machine_code_has_one_row(tmp_path):
    report = report_of(row(), row(backward=True), row(key='b', known=False, asked=None))
    report.write(tmp_path / 'new')
    text = (tmp_path / 'new' / 'kernel_report.md').read_text()
    assert text.count('| ssd.carry |') == 2
    assert '| 1.25? | 0.004? | 16.0 | 1.0 | ? | 1.0? | 2.0 | 2.9? |' in text
    told = json.loads((tmp_path / 'new' / 'kernel_report.json').read_text())
    assert len(told['ops'][0]['launches']) == 3
    assert sorted(path.name for path in (tmp_path / 'new').iterdir()) == [
        'kernel_report.json', 'kernel_report.md']


def test_limits():
    report = report_of(row(stack=16), row(backward=True, stack=8))
    assert report.shortcomings(None, None) == []
    assert report.shortcomings(16, None) == []
    only, = report.shortcomings(8, None)
    assert only == f'nc_ssd {PLAIN.name} bfloat16 sm_90: ssd.carry has 16 bytes of stack'
    share = report.ops[0].total(False).best_share
    assert share < report.ops[0].total(True).best_share
    assert report.shortcomings(None, share) == []
    assert report.shortcomings(None, 1.001 * share) == [
        f'nc_ssd {PLAIN.name} bfloat16 sm_90: forward reaches {share:.0%} of a copy at best']
    failed = report._replace(failures=['sm_90 ssd.carry: no room'])
    assert failed.shortcomings(None, None) == ['sm_90 ssd.carry: no room']
    assert '- not in the tables: sm_90 ssd.carry: no room' in failed.markdown()


@pytest.mark.parametrize(('arguments', 'told'), [
    (['--capability', '75'], '--capability 75 has no bfloat16: choose --dtype float16'),
    (['--shape', 'vssd-huge'], 'no shape fits both; such as vssd-tiny:0:128x224x224 is one'),
    (['--ghz', '0'], 'expected more than 0'),
    (['--op', 'scan'], "invalid choice: 'scan'"),
])
def test_options_that_do_not_fit(arguments, told, monkeypatch, capsys):
    monkeypatch.setenv('TRITON_INTERPRET', '0')
    with pytest.raises(SystemExit, match='2'):
        static_command.main(arguments)
    assert told in capsys.readouterr().err


def test_the_interpreter_compiles_nothing(monkeypatch, capsys):
    monkeypatch.setenv('TRITON_INTERPRET', '1')
    with pytest.raises(SystemExit, match='2'):
        static_command.main(['--op', 'ssd'])
    assert 'TRITON_INTERPRET=1 is set' in capsys.readouterr().err


def test_a_kernel_that_does_not_compile_hides_no_other():
    class Compiler:
        def compile(self, launch):
            raise RuntimeError('out of shared memory')

    one, two, *_ = compilation.launches_of(PLAIN, torch.bfloat16, 90)
    found = static_command.compile_all({90: Compiler()}, {(90, 'a'): one, (90, 'b'): two})
    assert [failure.reason for failure in found.values()] == [
        'RuntimeError: out of shared memory'] * 2
