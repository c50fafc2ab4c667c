"""What is timed, what is not, and what the table says of it; not how fast anything is."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent

from mmvssd_kernels import dispatch
from mmvssd_kernels.benchmark import command, compare, memory, profiling, timing
from mmvssd_kernels.benchmark.profiling import Kernel
from mmvssd_kernels.benchmark.timing import Failure, Timing
from mmvssd_kernels.benchmark.workloads import IMAGES, MODELS, USERS, Images, stage_grid, workloads

ROOT = Path(__file__).resolve().parents[2]
ops = pytest.mark.parametrize('op', USERS)
# of one token each, the smallest images that there are
TINY = ['--op', 'cross_scan', '--images', '5x4x4', '--stage', '0', '--device', 'cpu', '--quick']
TABLE = ('| op | shape | dtype | pass | ms | GB | of copy | eager | export | compiled | MB |'
         ' MB eager |')


def sizes(op, name):
    workload, = (w for w in workloads() if (w.op, w.name) == (op, name))
    return {axis: workload.sizes[axis] for axis in workload.sizes}


def test_shapes_are_those_of_the_published_models():
    assert sizes('nc_ssd', 'vssd-tiny:0:128x224x224') == dict(
        N=128, H=56, W=56, L=3136, h=2, P=64, G=1, S=64)
    assert sizes('ssd', 'vssd-tiny:2:2x800x1333') == dict(
        N=2, H=50, W=84, L=4200, h=8, P=64, G=1, S=64)
    assert [(stage['h'], stage['P'], stage['S']) for stage in MODELS['vssd-tiny-iccv2025']] == [
        (4, 24, 12), (4, 48, 24), (8, 48, 48)]
    assert sizes('selective_scan_2d', 'vmamba-tiny-s2l5:1:2x800x1333') == dict(
        N=2, H=100, W=167, L=16700, K=4, D=384, KD=1536, R=12, S=1)
    assert [stage['R'] for stage in MODELS['vmamba-tiny-s2l5']] == [6, 12, 24, 48]
    assert len(list(workloads())) == 2 * (2 * 3 + 3 + 4 * 4)


def test_grids():
    assert [stage_grid(IMAGES[0], i) for i in range(4)] == [(56, 56), (28, 28), (14, 14), (7, 7)]
    assert [stage_grid(IMAGES[1], i) for i in range(4)] == [(200, 334), (100, 167), (50, 84),
                                                            (25, 42)]


def test_widths_are_those_of_the_backbones():
    pytest.importorskip('mmengine', reason='the backbones need MMEngine')
    from mmvssd.models import VSSD, VMamba
    for name in ('tiny', 'tiny-iccv2025'):
        arch = VSSD.archs[name]
        for dim, h, S, mixer, widths in zip(arch.dims, arch.num_heads, arch.d_state, arch.mixers,
                                            [*MODELS[f'vssd-{name}'], None]):
            assert (mixer == 'attention') == (widths is None)
            if widths:
                assert widths == dict(h=h, P=arch.expansion * dim // h, G=arch.n_groups, S=S)
    arch = VMamba.archs['tiny-s2l5']
    for stage, widths in enumerate(MODELS['vmamba-tiny-s2l5']):
        mixer = VMamba.build_block(arch, stage, 0).mixer
        assert widths == dict(K=4, D=mixer.d_inner, KD=len(mixer.A_logs), R=mixer.dt_rank,
                              S=mixer.d_state)


def test_images():
    assert Images.parse('2x800x1333') == (2, 800, 1333)
    for text in ('2x800', '2x800x0', '2xaxb', ''):
        with pytest.raises(ValueError, match=f"images: got '{text}', expected BATCHxHEIGHTx"):
            Images.parse(text)


def test_least_bytes_of_one_written_out():
    workload = next(workloads())  # nc_ssd, 128 images of 56x56 tokens, h 2, P 64, S 64
    tokens = 128 * 56 * 56
    inputs = tokens * 2 * (2 * 64 + 2 * 64) + 4 * (tokens * 2 + 2 + 2)  # x, B and C; dt, A and D
    output = tokens * 2 * 2 * 64
    assert workload.least_bytes(torch.bfloat16, backward=False) == inputs + output
    assert workload.least_bytes(torch.bfloat16, backward=True) == 3 * inputs + 2 * output


@ops
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_least_bytes_are_those_of_the_tensors(op, dtype):
    for workload in {w.model: w.on_grid(2, (2, 3)) for w in workloads() if w.op == op}.values():
        inputs = workload.inputs(dtype, 'cpu')
        dy = workload.output_gradient(dtype, 'cpu')
        y = workload.case().run(inputs, 'reference')
        assert (y.shape, y.dtype) == (dy.shape, dy.dtype)
        gradients = torch.autograd.grad(y, list(inputs.values()), dy)
        read, written = (sum(t.nbytes for t in some) for some in (inputs.values(), gradients))
        forward, both = (workload.least_bytes(dtype, backward) for backward in (False, True))
        assert forward == read + y.nbytes
        # the gradient of a linear op needs none of its inputs
        again = 0 if op in ('cross_scan', 'cross_merge') else read
        assert both == forward + dy.nbytes + again + written


@ops
def test_a_check_and_a_timing_get_arguments_of_the_same_kind(op):
    workload = next(w for w in workloads() if w.op == op).on_grid(2, (2, 3))
    for dtype in (torch.float32, torch.bfloat16):
        checked, timed = workload.case().cast(dtype), workload.inputs(dtype, 'cpu')
        assert list(checked) == list(timed)
        for name, t in timed.items():
            assert (t.shape, t.dtype) == (checked[name].shape, checked[name].dtype), name
            assert t.requires_grad
            assert t.isfinite().all()


class Wrong(torch.autograd.Function):
    """A cross scan that is off in its output, its gradient, or neither."""

    @staticmethod
    def forward(ctx, x, pattern, output, gradient):
        ctx.grid, ctx.pattern, ctx.gradient = x.shape[2:], pattern, gradient
        return dispatch.call('cross_scan', 'reference', x, pattern) * output

    @staticmethod
    def backward(ctx, dy):
        dx = dispatch.call('cross_merge', 'reference', dy, tuple(ctx.grid), ctx.pattern)
        return dx * ctx.gradient, None, None, None


@pytest.fixture
def implement(monkeypatch):
    """Gives an op an implementation; returns the batch sizes that it is then called with."""
    monkeypatch.setattr(compare, 'CHECKED', (2, (2, 3)))  # another batch than that of TINY

    def register(run, op='cross_scan', name='triton'):
        batches = []

        def noted(x, *args, **kwargs):
            batches.append(len(x))
            return run(x, *args, **kwargs)

        monkeypatch.setitem(dispatch._implementations[op], name, dispatch.Implementation(noted))
        return batches

    return register


def run(tmp_path, *arguments):
    """Exit status, the table's rows as lists of cells, and the JSON."""
    status = command.main([*TINY, *arguments, '--out', str(tmp_path / 'new' / 'speed.md')])
    text = (tmp_path / 'new' / 'speed.md').read_text()
    table = [[cell.strip() for cell in line.split('|')[1:-1]] for line in
             text.split(TABLE)[1].splitlines()[2:] if line.startswith('|')]
    return status, table, json.loads((tmp_path / 'new' / 'speed.json').read_text())


@pytest.mark.parametrize(('output', 'gradient', 'told'), [(1.02, 1, 'y: error '),
                                                          (1, 1.02, 'x: error ')])
def test_what_is_wrong_is_not_timed(implement, tmp_path, capsys, output, gradient, told):
    batches = implement(lambda x, pattern: Wrong.apply(x, pattern, output, gradient))
    merges = implement(dispatch._implementations['cross_merge']['reference'].run, 'cross_merge')
    status, table, written = run(tmp_path, '--impl', 'triton', '--no-compile', '--op',
                                 'cross_scan', 'cross_merge')
    assert status == 1
    assert set(batches) == {2}
    for row in table[:4]:
        assert row[0] == 'cross_scan'
        assert row[4:] == ['wrong', row[5], '-', *['not run'] * 3, '-', '-']
    # the others go on
    assert 5 in merges
    assert [row[0] for row in table[4:]] == ['cross_merge'] * 4
    assert all(float(row[4]) > 0 and float(row[7]) > 0 for row in table[4:])
    out, err = capsys.readouterr()
    for text in (out, err, written['rows'][0]['results']['own']['reason']):
        assert told in text
    assert '4 of 8 rows timed, 4 wrong or failed' in out


def test_forward_and_backward(implement, monkeypatch):
    """With and without gradients, apart from the check's."""
    seen = []

    def noted(x, pattern):
        seen.append('training' if torch.is_grad_enabled() else 'inference')
        if torch.is_grad_enabled():
            x.register_hook(lambda dx: seen.append('backward'))
        return Wrong.apply(x, pattern, 1, 1)

    implement(noted)
    monkeypatch.setattr(compare, 'check', lambda *args: None)
    monkeypatch.setattr(compare, 'measure', lambda steps, *args: steps['own']() or {})
    chosen = command._chosen(command.parser('x').parse_args(TINY))
    rows = compare.rows_of(chosen, [torch.float32])
    compare.time_rows(rows, compare.Plan('triton', torch.device('cpu')), print)
    assert [row.backward for row in rows] == [False, True]
    assert seen == ['inference', 'training', 'backward']


def test_what_cannot_run_is_not_timed(implement, tmp_path, capsys):
    def refuse(x, pattern):
        raise RuntimeError('no such device\nand more')

    implement(refuse)
    status, table, _ = run(tmp_path, '--impl', 'triton', '--no-compile')
    assert status == 1
    assert [row[4] for row in table] == ['failed'] * 4
    assert 'cross_scan vmamba-tiny-s2l5:0:5x4x4 float32 forward, own: failed, RuntimeError: ' \
        'no such device\n' in capsys.readouterr().out


def test_a_reference_without_memory_is_a_cell(implement, tmp_path):
    reference = dispatch._implementations['cross_scan']['reference'].run

    def hungry(x, pattern):
        if len(x) == 5:
            raise torch.cuda.OutOfMemoryError('CUDA out of memory.')
        return reference(x, pattern)

    implement(reference)
    implement(hungry, name='reference')
    status, table, _ = run(tmp_path, '--impl', 'triton', '--no-compile', '--dtype', 'float32')
    assert status == 0
    assert [row[7] for row in table] == ['out of memory'] * 2
    assert all(float(row[4]) > 0 for row in table)


def test_no_memory_for_the_arguments_is_a_cell(tmp_path, monkeypatch):
    def draw(*args):
        raise torch.cuda.OutOfMemoryError('CUDA out of memory.')

    monkeypatch.setattr('mmvssd_kernels.benchmark.workloads.Workload.inputs', draw)
    status, table, _ = run(tmp_path, '--no-compile', '--dtype', 'float32')
    assert status == 0
    assert [row[4] for row in table] == ['out of memory'] * 2


def test_a_compiler_that_fails_is_a_cell(tmp_path, monkeypatch, capsys):
    def compile_(function, **options):
        def fail(**tensors):
            raise RuntimeError('no compiler here')
        return fail

    monkeypatch.setattr(torch, 'compile', compile_)
    status, table, _ = run(tmp_path, '--dtype', 'float32')
    assert status == 0
    assert [row[9] for row in table] == ['failed'] * 2
    assert all(float(row[7]) > 0 and float(row[8]) > 0 for row in table)
    assert 'compiled: failed, RuntimeError: no compiler here' in capsys.readouterr().out


def test_what_is_compiled_is_the_reference(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, 'compile',
                        lambda op, dynamic: compiled.append((op, dynamic)) or op)
    _, table, written = run(tmp_path)
    # --quick: in the last dtype alone
    assert [row[9] for row in table[:2]] == ['not run'] * 2
    assert all(float(row[9]) > 0 for row in table[2:])
    assert len(compiled) == 2
    kinds = [list(row['results']) for row in written['rows']]
    assert kinds == [['own', 'eager', 'export']] * 2 + [[
        'own', 'eager', 'export', 'compiled']] * 2


def test_the_yardstick_of_large_operators(monkeypatch):
    """Of the ops that have such an implementation it is timed, and no other."""
    called = []
    for op in ('selective_scan_2d', 'nc_ssd'):
        for name in dispatch.names(op):
            way = dispatch.implementation(op, name)

            def noted(*args, op=op, name=name, way=way, **kwargs):
                called.append((op, name))
                return way.run(*args, **kwargs)

            monkeypatch.setitem(dispatch._implementations[op], name, way._replace(run=noted))
    for op in ('selective_scan_2d', 'nc_ssd'):
        workload = next(w for w in workloads() if w.op == op).on_grid(1, (2, 2))
        plan = compare.Plan('reference', torch.device('cpu'), ('own', 'eager', 'export'), 0.001)
        rows = compare.rows_of([workload], [torch.float32])
        called.clear()
        compare.time_rows(rows, plan, lambda text: None)
        names = ['reference', 'export'] if op == 'selective_scan_2d' else ['reference']
        assert {name for _, name in called} == set(names)
        assert [('export' in row.results) for row in rows] == ['export' in names] * 2
        assert all(isinstance(one, Timing) for row in rows for one in row.results.values())


def test_a_run_that_is_cut_short_leaves_its_rows(tmp_path, monkeypatch):
    measure, calls = compare.measure, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(*args)

    monkeypatch.setattr(compare, 'measure', interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, '--no-compile')
    text = (tmp_path / 'new' / 'speed.md').read_text()
    rows = text.split(TABLE)[1].splitlines()[2:]
    assert [row.count('not run') for row in rows] == [1, 1, 4, 4]
    assert [path.name for path in sorted((tmp_path / 'new').iterdir())] == ['speed.json',
                                                                           'speed.md']


def test_when_time_is_up_the_implementation_alone_is_timed(tmp_path):
    status, table, _ = run(tmp_path, '--seconds', '0')
    assert status == 0
    assert all(float(row[4]) > 0 and row[7:10] == ['not run'] * 3 for row in table)


def test_quick_takes_first_and_last():
    args = command.parser('x').parse_args(['--quick', '--op', 'ssd', 'cross_scan'])
    assert [(w.op, w.name) for w in command._chosen(args)] == [
        ('ssd', 'vssd-tiny:0:128x224x224'), ('ssd', 'vssd-tiny:2:128x224x224'),
        ('ssd', 'vssd-tiny:0:2x800x1333'), ('cross_scan', 'vmamba-tiny-s2l5:0:128x224x224'),
        ('cross_scan', 'vmamba-tiny-s2l5:3:128x224x224'),
        ('cross_scan', 'vmamba-tiny-s2l5:0:2x800x1333')]


def test_shapes_are_chosen_by_name():
    args = command.parser('x').parse_args(['--shape', 'iccv2025:1:2x'])
    assert [w.name for w in command._chosen(args)] == ['vssd-tiny-iccv2025:1:2x800x1333']


@pytest.mark.parametrize(('arguments', 'told'), [
    (['--device', 'abacus'], '--device: got abacus, expected such as cpu'),
    (['--out', 'table.txt'], '--out: got table.txt, expected a name that ends with .md'),
    (['--shape', 'resnet'], 'no shape fits all of them; such as vssd-tiny:0:5x4x4 is one'),
    (['--images', '0x2x2'], "images: got '0x2x2', expected BATCHxHEIGHTxWIDTH"),
    (['--kernels', '-1'], '--kernels: got -1, expected a positive number of calls'),
    (['--no-calls'], '--kernels: got 0, expected a positive number of calls, for --no-calls'),
    (['--impl', 'mine'], 'got mine, which cross_scan does not have; it has: auto, triton, ref'),
])
def test_bad_input(arguments, told, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main([*TINY, *arguments])
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err


def test_check_times_nothing(implement, capsys, monkeypatch):
    monkeypatch.setattr(compare, 'measure', None)
    only = [*TINY, '--check', '--impl', 'triton', '--dtype', 'float32']
    implement(lambda x, pattern: Wrong.apply(x, pattern, 1, 1))
    assert command.main(only) == 0
    out = capsys.readouterr().out
    assert out.count(': right\n') == 4
    assert out.endswith('4 of 4 checks of triton on cpu are right\n')
    implement(lambda x, pattern: Wrong.apply(x, pattern, 1, -1))
    assert command.main(only) == 1
    out = capsys.readouterr().out
    assert out.count('float32: wrong: x: error 2.00e+00, at most ') == 4
    assert '0 of 4 checks' in out


def test_steps_take_turns(monkeypatch):
    now, calls = [0.], []
    monkeypatch.setattr(timing.time, 'perf_counter', lambda: now[0])

    def step(name, seconds):
        def run():
            calls.append(name)
            # the machine is slow at the turns after the first
            now[0] += seconds * (2 if 8 < len(calls) < 12 else 1)
        return run

    steps = dict(a=step('a', 1 / 128), b=step('b', 1 / 64), long=step('long', 1 / 8),
                 very=step('very', 2))
    results = timing.measure(steps, torch.device('cpu'), 3 / 64)
    assert calls[:8] == ['a', 'a', 'b', 'b', 'long', 'long', 'very', 'very']
    assert calls[8:] == ['a', 'b', 'long', *['a', 'a', 'b', 'long'] * 2]
    assert results == dict(a=Timing(1 / 128, None, 1 / 128, 1 / 64),
                           b=Timing(1 / 64, None, 1 / 64, 1 / 32),
                           long=Timing(1 / 8, None, 1 / 8, 1 / 4), very=Timing(2, None, 2, 2))


def test_a_step_that_fails_does_not_hide_the_others():
    def fail():
        raise ValueError('told\nin two lines')

    results = timing.measure(dict(a=fail, b=lambda: None), torch.device('cpu'), 0.001)
    assert results['a'] == Failure('failed', 'ValueError: told')
    assert isinstance(results['b'], Timing)


def test_share_and_ratio():
    workload = next(workloads())
    least = workload.least_bytes(torch.float32, backward=False)
    row = compare.Row(workload, torch.float32, False, dict(
        own=Timing(2., None, 2., 2.), eager=Timing(5., None, 5., 5.),
        compiled=Failure('failed')), [])
    assert row.share(least) == 0.5
    assert row.ratio('eager') == 2.5
    assert row.ratio('compiled') is None


def on_gpu(name, start, end, annotation=False):
    """A kernel, as PyTorch's profiler has it."""
    event = FunctionEvent(0, name, 0, start, end, device_type=DeviceType.CUDA)
    event.is_user_annotation = annotation  # older releases have no such argument
    return event


def launched_by(operator, *kernels):
    event = FunctionEvent(1, operator, 0, 0, 1000)
    for kernel in kernels:
        event.append_kernel(kernel.name, 0, kernel.time_range.elapsed_us())
    return event


def test_kernels_of_a_gpu_are_added_up():
    states, again, scale, copy, graphed = (
        on_gpu('states', 0, 30), on_gpu('states', 30, 80), on_gpu('void scale<float>', 90, 94),
        on_gpu('Memcpy DtoD', 100, 102), on_gpu('states', 110, 130))
    events = [launched_by('mmvssd_kernels::nc_ssd', states, again), launched_by('aten::mul', scale),
              launched_by('aten::copy_', copy), launched_by('aten::view'), states, again, scale,
              copy, graphed, on_gpu('a range', 0, 500, annotation=True)]
    found = profiling.kernels(events, calls=2)
    assert [kernel._replace(seconds=round(1e6 * kernel.seconds, 6)) for kernel in found] == [
        Kernel('states', 'mmvssd_kernels::nc_ssd', 40, 1), Kernel('states', '', 10, 0.5),
        Kernel('void scale<float>', 'aten::mul', 2, 0.5),
        Kernel('Memcpy DtoD', 'aten::copy_', 1, 0.5)]
    assert profiling.total(found) == pytest.approx(53e-6)
    assert [(one.name, round(1e6 * one.seconds, 6), one.launches)
            for one in profiling.named(found)] == [('states', 50, 1.5), ('PyTorch', 3, 1)]


def test_operators_of_a_cpu_are_added_up():
    x = torch.rand(64, 64)

    def step():
        torch.addmm(x, x, x).mean()

    found = profiling.profile(step, torch.device('cpu'), calls=3, warmup=1)
    launches = {kernel.name: kernel.launches for kernel in found}
    assert launches['aten::addmm'] == launches['aten::mean'] == 1
    assert all(kernel.seconds >= 0 for kernel in found)
    assert profiling.total(found) > 0
    assert [kernel.seconds for kernel in found] == sorted(
        (kernel.seconds for kernel in found), reverse=True)
    one, = profiling.named(found)
    assert (one.name, one.seconds) == ('PyTorch', pytest.approx(profiling.total(found)))


def kernel_table(tmp_path, *arguments):
    """Exit status, rows of the kernels' table, and the JSON."""
    status = command.main([*TINY, *arguments, '--out', str(tmp_path / 'speed.md')])
    text = (tmp_path / 'speed.md').read_text().split('| all, µs | kernels, µs |')[1]
    return status, [[cell.strip() for cell in line.split('|')[1:-1]]
                    for line in text.splitlines()[2:] if line.startswith('|')], json.loads(
                        (tmp_path / 'speed.json').read_text())


def test_kernels_stand_below_the_calls(tmp_path, capsys):
    status, table, written = kernel_table(tmp_path, '--kernels', '2', '--no-compile')
    assert status == 0
    assert '4 of 4 rows timed, 4 of 4 rows profiled, 0 wrong or failed' in capsys.readouterr().out
    text = (tmp_path / 'speed.md').read_text()
    assert TABLE in text
    assert ('CPU time of operators, without those that they call, by torch.profiler: mean of 2 '
            'calls.') in text
    assert [row[3] for row in table] == ['forward', 'forward + backward'] * 2
    for cells, row in zip(table, written['rows']):
        assert float(cells[4]) == pytest.approx(1e6 * row['kernel_seconds'], abs=0.06)
        assert cells[5].startswith(f'`PyTorch` {cells[4]} (')
        assert sum(one['seconds'] for one in row['kernels']) == pytest.approx(
            row['kernel_seconds'])
        assert row['results']['own']['seconds'] > 0


def test_kernels_alone(implement, tmp_path, monkeypatch, capsys):
    """No call is timed; what is wrong is not profiled, unless nothing shall be checked."""
    monkeypatch.setattr(compare, 'measure', None)
    monkeypatch.setattr(command, 'copy_bandwidth', lambda *args: 1e12)
    alone = ('--kernels', '1', '--no-calls', '--impl', 'triton', '--dtype', 'float32')
    batches = implement(lambda x, pattern: Wrong.apply(x, pattern, 1, 1.02))
    status, table, written = kernel_table(tmp_path, *alone)
    assert (status, set(batches)) == (1, {2})
    assert [row[4:] for row in table] == [['wrong', '-']] * 2
    assert written['rows'][0]['kernels_failure']['reason'].startswith('x: error ')
    assert written['rows'][0]['kernels'] is None
    out = capsys.readouterr().out
    assert '0 of 2 rows profiled, 2 wrong or failed' in out
    assert TABLE not in out
    assert 'float32 forward, kernels: wrong, x: error ' in out
    status, table, written = kernel_table(tmp_path, *alone, '--no-check')
    assert (status, set(batches)) == (0, {2, 5})
    assert all(float(row[4]) > 0 for row in table)


def test_what_was_wrong_in_a_timing_is_not_profiled(implement, tmp_path, monkeypatch):
    checks = []
    check = compare.check
    monkeypatch.setattr(compare, 'check', lambda *args: checks.append(1) or check(*args))
    batches = implement(lambda x, pattern: Wrong.apply(x, pattern, 1.02, 1))
    both = ('--kernels', '1', '--no-compile', '--impl', 'triton', '--dtype', 'float32')
    status, table, _ = kernel_table(tmp_path, *both)
    assert (status, set(batches), len(checks)) == (1, {2}, 1)
    assert [row[4] for row in table] == ['wrong'] * 2


def test_a_profile_that_fails_is_a_cell(tmp_path, monkeypatch):
    def fail(*args):
        raise RuntimeError('no profiler here')

    monkeypatch.setattr(compare, 'profile', fail)
    status, table, written = kernel_table(tmp_path, '--kernels', '--no-compile', '--dtype',
                                          'float32')
    assert status == 1
    assert [row[4:] for row in table] == [['failed', '-']] * 2
    assert written['rows'][1]['results']['own']['seconds'] > 0


def test_ops_come_in_the_order_that_is_asked_for():
    args = command.parser('x').parse_args(['--quick', '--op', 'cross_scan', 'ssd'])
    assert list(dict.fromkeys(w.op for w in command._chosen(args))) == ['cross_scan', 'ssd']


BLOCK = """
import sys
for name in ('rich', 'mmengine', 'mmcv', 'mmvssd', 'numpy', 'pytest'):
    sys.modules[name] = None
"""


@pytest.mark.slow
def test_command_needs_pytorch_alone(tmp_path):
    """In a fresh process and a foreign folder, where importing anything else fails."""
    (tmp_path / 'site').mkdir()
    (tmp_path / 'site' / 'sitecustomize.py').write_text(BLOCK)
    env = {name: value for name, value in os.environ.items() if name != 'TRITON_INTERPRET'}
    env['PYTHONPATH'] = os.pathsep.join([str(tmp_path / 'site'), str(ROOT / 'kernels')])
    done = subprocess.run([sys.executable, str(ROOT / 'tools/benchmarks/op_speed.py'), *TINY,
                           '--no-compile', '--dtype', 'bfloat16', '--out', 'table.md'],
                          cwd=tmp_path, env=env, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / 'table.md').read_text()
    assert text in done.stdout
    first, _, command_line, _, copy = text.splitlines()[:5]
    assert f'PyTorch {torch.__version__}' in first
    assert ' CPU with ' in first
    assert 'impl auto' in first
    assert command_line == ('    python tools/benchmarks/op_speed.py ' + ' '.join(TINY)
                            + ' --no-compile --dtype bfloat16 --out table.md')
    assert copy.startswith('Copy: 0.')
    rows = json.loads((tmp_path / 'table.json').read_text())['rows']
    assert [(row['op'], row['dtype'], row['backward']) for row in rows] == [
        ('cross_scan', 'bfloat16', False), ('cross_scan', 'bfloat16', True)]
    for row in rows:
        assert row['results']['own']['seconds'] > 0
        assert row['results']['own']['memory'] is None
        assert row['over_eager'] > 0
        assert row['share_of_copy'] > 0
    assert '[2/2] cross_scan vmamba-tiny-s2l5:0:5x4x4 bfloat16 forward + backward: own ' \
        in done.stderr


@pytest.mark.slow
def test_compiling_runs_every_row_once(monkeypatch, capsys):
    chosen = ('--compile', '--op', 'cross_scan', '--stage', '0', '--images', '1x32x32')
    assert command.main([*chosen, '--dtype', 'float32']) == 0
    assert capsys.readouterr().out == (
        'cross_scan vmamba-tiny-s2l5:0:1x32x32 float32: ran\n'
        '1 of 1 rows ran, or found no memory\n')
    # nothing can be patched in the children, which are new processes
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    assert command.main([*chosen, '--impl', 'triton', '--dtype', 'float32']) == 1
    assert 'Triton needs a CUDA GPU' in capsys.readouterr().out


def test_compiling_checks_and_writes_nothing(capsys):
    with pytest.raises(SystemExit):
        command.main(['--compile', '--check'])
    assert '--compile times and checks nothing' in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='times on a GPU, and there is none')
def test_on_a_gpu(tmp_path):
    status, table, written = run(tmp_path, '--device', 'cuda', '--images', '8x224x224', '--stage',
                                 '0', '--no-compile')
    assert status == 0
    assert 'impl triton' in written['implementation']
    for row in table:
        assert float(row[6].split()[0]) > 0
        assert float(row[9]) > 0


def test_memory_of_a_step():
    if not memory.can_measure():
        pytest.skip('needs /proc/self/clear_refs')

    def fill(parts, size):
        return lambda: [torch.ones(size) for _ in range(parts)]

    # all of it, however the allocator got it, and the second time as well
    for parts, size in ((10, 2**20), (10_000, 2**10)):
        for _ in range(2):
            added = memory.added_at_peak(fill(parts, size))
            assert 4 * parts * size <= added + 2**20
            assert added < 4 * parts * size + 16 * 2**20
    kept = fill(20, 2**20)()
    assert memory.added_at_peak(lambda: None) < 2**20  # what was there before does not count
    assert kept


def test_memory_that_cannot_be_measured(monkeypatch):
    monkeypatch.setattr(memory, '_CLEAR', '/nowhere')
    ran = []
    assert not memory.can_measure()
    assert memory.added_at_peak(lambda: ran.append(1)) is None
    assert ran == [1]
