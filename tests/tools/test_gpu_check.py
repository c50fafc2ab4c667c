"""tools/benchmarks/gpu_check.sh, with a Python that writes down what it is asked to run."""
import importlib.util
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = 'benchmarks/gpu_check.sh'
PYTHON = r"""
case "$*" in
  '-c import torch; print(torch.cuda.device_count())') echo "$GPUS"; exit ;;
  *find_spec*) for name in $MISSING; do [[ $* != *"'$name'"* ]] || exit 1; done; exit ;;
  *gpu_summary.py*) exec "$REAL" "$@" ;;
esac
printf '%s\n' "$(printf '%s|' "$@")$PYTHONPATH|${TRITON_INTERPRET-unset}" >>"$ASKED"
status=check
for name in tests op_speed.py resolution_scaling.py backbone_speed.py; do
  [[ $* != *"$name"* ]] || status=${name%_*}
done
[[ $* != *--no-calls* ]] || status=kernel
[[ ${MMVSSD_REPLAY-} != off ]] || status=replay
[[ $* != *--compile* && $* != *'--rounds 1 '* ]] || status=compile
echo "this is $status"
[[ $status != "$SLEEPS" ]] || sleep 60
[[ $status != "$FAILS" ]]
"""
STEPS = dict(compile='compile', tests='tests', kernels='kernel', ops='op', backbones='backbone',
             models='resolution', replays='replay')
# each step's time is a second
TIMEOUT = f'exec {shutil.which("timeout")} "$1" "$2" 1 "${{@:4}}"'


@pytest.fixture
def check(run_tool, tmp_path):
    """Run the script with a GPU made up; returns what it prints and what it runs."""
    folder = tmp_path / 'bin with space'
    folder.mkdir()
    for name, script in dict(python=PYTHON, timeout=TIMEOUT).items():
        (folder / name).write_text(f'#!{shutil.which("bash")}\n{script}')
        (folder / name).chmod(0o755)

    def run(expect=0, **settings):
        env = dict(GPUS='1', MISSING='', SLEEPS='none', FAILS='none', REAL=sys.executable,
                   ASKED=str(tmp_path / 'asked'), PYTHON=str(folder / 'python'),
                   TRITON_INTERPRET='1')
        if 'SLEEPS' in settings:
            env['PATH'] = os.pathsep.join([str(folder), os.environ['PATH']])
        env.update(settings)
        (tmp_path / 'asked').write_text('')
        out = run_tool(SCRIPT, 'out put', env=env, expect=expect)
        return out, [line.split('|') for line in (tmp_path / 'asked').read_text().splitlines()]

    return run


def outcomes(out):
    """Of each step, how it ended, from the summary."""
    table = out.split('| step | seconds | outcome | headline |')[1].split('\n\n')[0]
    return {name.strip(): outcome.strip() for name, _, outcome, _ in (
        line.split('|')[1:-1] for line in table.splitlines()[2:])}


def test_steps(check, tmp_path):
    out, asked = check()
    path = f'{ROOT}/kernels:{ROOT}'
    *compiled, tests, kernels, ops, backbones, models, replays = asked
    # side by side, so in any order; each model alone, and all ops
    assert sorted(run[0] for run in compiled) == [
        'tools/benchmarks/backbone_speed.py'] * 3 + ['tools/benchmarks/op_speed.py']
    alone = {run[1] for run in compiled if 'backbone' in run[0]}
    assert alone == {'vmamba-tiny-s2l5+bfloat16', 'vmamba-tiny-s2l5+float16',
                     'vssd-tiny-iccv2025+float16'}
    for step in asked:
        assert step[-2:] == [path, 'unset']
    assert tests[:2] == ['-m', 'pytest']
    *of_ops, of_graphs = tests[2:tests.index('--confcutdir')]
    assert all(name.startswith('tests/kernels/test_triton_') for name in of_ops)
    assert of_graphs == 'tests/kernels/test_cuda_graph.py'
    assert tests[tests.index('--confcutdir') + 1] == 'tests/kernels'
    # the folder is the caller's, not the checkout's
    folder = tmp_path / 'out put'
    for run, script, place in (
            (kernels, 'op_speed', folder / 'op_kernels.md'),
            (ops, 'op_speed', folder / 'op_speed.md'),
            (backbones, 'backbone_speed', folder), (models, 'resolution_scaling', folder),
            (replays, 'backbone_speed', folder / 'replays_off')):
        assert run[0] == f'tools/benchmarks/{script}.py'
        assert run[run.index('--out') + 1] == str(place)
    # what is timed was compiled: the ops' rows, and the models
    of_ops = next(run for run in compiled if 'op_speed' in run[0])
    for run in (kernels, ops):
        assert run[run.index('--op'):run.index('float32')] == of_ops[
            of_ops.index('--op'):of_ops.index('float32')]
    assert (folder / 'ops.log').read_text() == 'this is op\n'
    assert (folder / 'replays.log').read_text() == 'this is replay\n'
    assert outcomes(out) == dict.fromkeys(STEPS, 'passed')
    assert (folder / 'summary.md').read_text() in out
    assert sorted(check()[1]) == sorted(asked)  # again, over what is there


@pytest.mark.parametrize(('step', 'failing'), STEPS.items())
def test_a_step_that_fails_hides_no_other(check, step, failing):
    out, asked = check(FAILS=failing, expect=1)
    assert len(asked) == 10
    assert outcomes(out) == {**dict.fromkeys(STEPS, 'passed'), step: 'FAILED (exit status 1)'}


@pytest.mark.parametrize('step', ['tests', 'compile'])
def test_a_step_that_hangs_is_stopped(check, step):
    start = time.monotonic()
    out, asked = check(SLEEPS=step, expect=1)
    assert time.monotonic() - start < 50  # what hangs would sleep for 60 seconds
    assert len(asked) == 10
    assert re.fullmatch(r'STOPPED, its \d+ s were up', outcomes(out)[step])


def test_what_a_step_leaves_the_later_ones_have(check):
    """At most a step's time, and all that was not used before."""
    limits = [int(seconds) for seconds in re.findall(r'==> \w+, at most (\d+) s', check()[0])]
    budgets = times_of_steps()
    assert len(limits) == len(STEPS)
    given = budgets['STARTS'] - budgets['KILL']
    for limit, step in zip(limits, STEPS):
        given += budgets[step.upper()]
        assert given - 30 <= limit <= given  # made up, the steps take next to nothing


def test_without_pytest(check):
    out, asked = check(MISSING='pytest')
    assert 'pytest or NumPy is not installed: comparing the kernels' in out
    assert ['-m', 'mmvssd_kernels.benchmark', '--check'] in [step[:3] for step in asked]


@pytest.mark.parametrize('missing', ['mmpretrain', 'rich'])
def test_without_the_hosts(check, missing):
    out, asked = check(MISSING=missing)
    assert len(asked) == 4
    assert [name for name, outcome in outcomes(out).items() if outcome ==
            'not run: MMEngine, MMCV, MMPreTrain or rich is not installed'] == [
                'backbones', 'models', 'replays']


@pytest.mark.parametrize(('settings', 'told'), [
    (dict(GPUS='0'), 'PyTorch sees no GPU here'), (dict(MISSING='triton'), 'python has no Triton'),
    (dict(PYTHON='/nowhere/python'), '/nowhere/python has no PyTorch')])
def test_nothing_to_check(check, tmp_path, settings, told):
    out, asked = check(expect=2, **settings)
    assert out.endswith(f'{told}; nothing was checked.\n')
    assert not asked
    assert not (tmp_path / 'out put').exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU, which it would check')
def test_without_a_gpu(run_tool, tmp_path):
    assert run_tool(SCRIPT, 'out', expect=2) == (
        'gpu_check: PyTorch sees no GPU here; nothing was checked.\n')
    assert not (tmp_path / 'out').exists()


def test_usage(run_tool):
    assert 'gpu_check.sh [FOLDER]' in run_tool(SCRIPT, '--help')
    assert run_tool(SCRIPT, '--out', expect=2).startswith('unknown option --out\n')


def times_of_steps():
    line, = re.findall(r'^COMPILE=.*', (ROOT / 'tools' / SCRIPT).read_text(), re.MULTILINE)
    return {name: int(value) for name, value in (word.split('=') for word in line.split())}


def test_budgets_are_below_eight_minutes():
    budgets = times_of_steps()
    assert set(budgets) == {*(step.upper() for step in STEPS), 'STARTS', 'KILL'}
    assert sum(budgets.values()) - budgets['KILL'] + 5 < 8 * 60  # and the summary
    assert all(budgets[step.upper()] > 2 * budgets['KILL'] for step in STEPS)


@pytest.fixture
def summary():
    spec = importlib.util.spec_from_file_location('gpu_summary',
                                                  ROOT / 'tools/benchmarks/gpu_summary.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_claims_are_in_the_readme(summary):
    readme = (ROOT / 'README.md').read_text()
    for claim in summary.CLAIMS:
        assert re.search(claim.pattern, readme), claim.text


def test_summary(summary, tmp_path, capsys, monkeypatch):
    """Of files as the tools write them."""
    (tmp_path / 'compile.log').write_text('x\n42 of 42 rows ran, or found no memory\nanother\n')
    (tmp_path / 'tests.log').write_text('...\n== 3 passed, 1 skipped in 2.00s ==\n')
    model = dict(label='vssd-tiny-iccv2025', speeds=dict(
        infer=dict(kind='Speed', images_per_second=1000.4), train=dict(kind='Failure', why='x')))
    (tmp_path / 'resolution_scaling.json').write_text(json.dumps(dict(rows=[model])))
    (tmp_path / 'backbone_speed.csv').write_text(
        'setting,model,seconds\ninfer:1x224,resnet-50+bfloat16,1\n'
        'infer:1x224,vssd-tiny-iccv2025+bfloat16+cudagraph,0.0021\n')
    (tmp_path / 'op_speed.json').write_text('{"rows":')
    (tmp_path / 'readme').mkdir()
    (tmp_path / 'readme' / 'README.md').write_text(
        'VSSD-T (`iccv2025`) 2000 in float32; a backbone takes 2 ms for one image as a CUDA graph')
    monkeypatch.setattr(summary, 'ROOT', tmp_path / 'readme')
    summary.main(tmp_path, [f'{name}\t7\tpassed' for name in STEPS])
    text = (tmp_path / 'summary.md').read_text()
    assert text == capsys.readouterr().out
    for line in ('| compile | 7 | passed | 42 of 42 rows ran, or found no memory |',
                 '| tests | 7 | passed | 3 passed, 1 skipped in 2.00s |',
                 '| kernels | 7 | passed | no op_kernels.json |',
                 '| ops | 7 | passed | its files cannot be read (JSONDecodeError: ',
                 '| backbones | 7 | passed | 2 rows; ms: vssd-tiny-iccv2025+bfloat16+cudagraph '
                 'infer:1x224 2.1 |',
                 '| models | 7 | passed | images/s, inference and training: vssd-tiny-iccv2025 '
                 '1000 and - |', '| replays | 7 | passed | no backbone_speed.csv |',
                 '| inference of VSSD-T, float32, images/s | 2000 | 1000 | slower |',
                 'as a CUDA graph, ms | 2 | 2.1 | confirmed |'):
        assert line in text
    (tmp_path / 'backbone_speed.csv').unlink()
    summary.main(tmp_path, [])
    assert 'as a CUDA graph, ms | 2 | not reached | - |' in (tmp_path / 'summary.md').read_text()


def arguments(run, **instead):
    """A step's real command, with a CPU and tiny settings."""
    *command, _, _ = run
    command = [word for word in command if word]
    for option, values in instead.items():
        option = f'--{option}'
        begin = end = command.index(option) if option in command else len(command)
        while end < len(command) and (end == begin or not command[end].startswith('--')):
            end += 1
        command[begin:end] = [option, *values]
    return command


@pytest.fixture(scope='module')
def run_as_step(tool_server):
    """Run ``python *command`` as the script does, where libraries are imported already."""
    env = {**os.environ, 'PYTHONPATH': f'{ROOT}/kernels:{ROOT}', 'OMP_NUM_THREADS': '1',
           'MMVSSD_REPLAY': 'off'}
    env.pop('TRITON_INTERPRET', None)
    server = tool_server('--libraries', env=env)
    return lambda command: server.run(command, str(ROOT), env, 240)


@pytest.mark.slow
def test_the_steps_run_on_a_cpu(check, tmp_path, summary, run_as_step):
    """Each step's own command, so that none fails on a GPU for what a CPU shows."""
    out, asked = check()
    *compiled, tests, kernels, ops, backbones, models, replays = asked
    ops_compiled = next(run for run in compiled if 'op_speed' in run[0])
    tiny = dict(images=['1x8x8'], device=['cpu'], stage=['0'])
    few = dict(device=['cpu'], settings=['infer:1x32'], rounds=['1'])
    commands = [arguments(ops_compiled, **tiny), arguments(kernels, **tiny),
                arguments(ops, **tiny), arguments(replays, **few),
                arguments(models, device=['cpu'], sizes=['32'], batch=['2'], warmup=['0'],
                          steps=['1'], **{'train-amp': ['bfloat16']})]
    # a CUDA graph needs a GPU
    commands.append([word for word in arguments(backbones, **few) if 'cudagraph' not in word])
    for command in commands:
        done = run_as_step(command)
        assert done.returncode == 0, (command, done.stdout[-2000:])
        if command is commands[0]:
            (tmp_path / 'out put' / 'compile.log').write_text(done.stdout)
    folder = tmp_path / 'out put'
    for step, told in dict(compile='14 of 14 rows ran', kernels='28 of 28 rows; with backward, ',
                           ops='28 of 28 rows; with backward, bfloat16: nc_ssd vssd-tiny:0 ',
                           backbones='3 rows; ms: vssd-tiny-iccv2025+bfloat16 infer:1x32 ',
                           models='inference and training: vssd-tiny-iccv2025 ',
                           replays='without replays: 2 rows; ms: ').items():
        assert told in summary.headline(step, folder), step
    assert (folder / 'backbone_kernels.json').exists()


def test_the_tests_need_no_more(check, run_as_step):
    """What runs on the GPU finds all its fixtures without those of tests/, which import hosts."""
    out, asked = check()
    tests = next(run for run in asked if 'pytest' in run)
    command = tests[:tests.index('-q')]
    # as the script runs it: from the checkout; the arguments are files and --confcutdir
    command += ['--setup-plan', '-q', '-p', 'no:cacheprovider']
    done = run_as_step(command)
    assert done.returncode == 0, done.stdout[-2000:]
