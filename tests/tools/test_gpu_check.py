"""tools/benchmarks/gpu_check.sh, with a Python that writes down what it is asked to run."""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = 'benchmarks/gpu_check.sh'
PYTHON = r"""
case "$*" in
  '-c import torch; print(torch.cuda.device_count())') echo "$GPUS"; exit ;;
  *find_spec*) [[ -z $MISSING || $* != *"'$MISSING'"* ]]; exit ;;
  '-c import mmvssd, mmpretrain, rich') exit "$HOSTS" ;;
esac
printf '%s\n' "$(printf '%s|' "$@")$PYTHONPATH|${TRITON_INTERPRET-unset}" >>"$ASKED"
status=check
for name in tests op_speed.py backbone_speed.py; do
  [[ $* != *"$name"* ]] || status=${name%_*}
done
[[ $* != *--compile* && $* != *'--rounds 1 '* ]] || status=compile
echo "this is $status"
[[ $status != "$SLEEPS" ]] || sleep 60
[[ $status != "$FAILS" ]]
"""
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
        env = dict(GPUS='1', MISSING='', HOSTS='0', SLEEPS='none', FAILS='none',
                   ASKED=str(tmp_path / 'asked'), PYTHON=str(folder / 'python'),
                   TRITON_INTERPRET='1')
        if 'SLEEPS' in settings:
            env['PATH'] = os.pathsep.join([str(folder), os.environ['PATH']])
        env.update(settings)
        (tmp_path / 'asked').write_text('')
        out = run_tool(SCRIPT, 'out put', env=env, expect=expect)
        return out, [line.split('|') for line in (tmp_path / 'asked').read_text().splitlines()]

    return run


def test_steps(check, tmp_path):
    out, asked = check()
    path = f'{ROOT}/kernels:{ROOT}'
    *compiled, tests, ops, backbones = asked
    # side by side, so in any order; each model alone, and all ops
    assert sorted(run[0] for run in compiled) == [
        'tools/benchmarks/backbone_speed.py'] * 6 + ['tools/benchmarks/op_speed.py']
    alone = {run[1] for run in compiled if 'backbone' in run[0]}
    assert alone == set(backbones[1:backbones.index('--settings')])
    for step in asked:
        assert step[-2:] == [path, 'unset']
    assert tests[:2] == ['-m', 'pytest']
    *of_ops, of_graphs = tests[2:tests.index('--confcutdir')]
    assert all(name.startswith('tests/kernels/test_triton_') for name in of_ops)
    assert of_graphs == 'tests/kernels/test_cuda_graph.py'
    assert tests[tests.index('--confcutdir') + 1] == 'tests/kernels'
    assert ops[0] == 'tools/benchmarks/op_speed.py'
    # the folder is the caller's, not the checkout's
    assert ops[ops.index('--out') + 1] == str(tmp_path / 'out put' / 'op_speed.md')
    assert backbones[0] == 'tools/benchmarks/backbone_speed.py'
    assert backbones[backbones.index('--out') + 1] == str(tmp_path / 'out put')
    assert (tmp_path / 'out put' / 'ops.log').read_text() == 'this is op\n'
    passed = ''.join(rf'{step} +\d+ s  passed\n'
                     for step in ('compile', 'tests', 'ops', 'backbones'))
    assert re.search(rf'{passed}tables and logs: .*/out put\n$', out)
    assert sorted(check()[1]) == sorted(asked)  # again, over what is there


@pytest.mark.parametrize(('step', 'failing'), [('compile', 'compile'), ('tests', 'tests'),
                                               ('ops', 'op'), ('backbones', 'backbone')])
def test_a_step_that_fails_hides_no_other(check, step, failing):
    out, asked = check(FAILS=failing, expect=1)
    assert len(asked) == 10
    assert re.search(rf'\n{step} +\d+ s  FAILED \(exit status 1\)\n', out)
    assert len(re.findall(r'\n\w+ +\d+ s  passed\b', out)) == 3


def test_a_step_that_hangs_is_stopped(check):
    out, asked = check(SLEEPS='tests', expect=1)
    assert len(asked) == 10
    assert re.search(r'\ntests +\d+ s  STOPPED, its \d+ s were up\n', out)


def test_without_pytest(check):
    out, asked = check(MISSING='pytest')
    assert 'pytest or NumPy is not installed: comparing the kernels' in out
    assert ['-m', 'mmvssd_kernels.benchmark', '--check'] in [step[:3] for step in asked]


def test_without_the_hosts(check):
    out, asked = check(HOSTS='1')
    assert len(asked) == 3
    assert '\nbackbones    not run: mmvssd, MMPreTrain or rich cannot be imported\n' in out


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


def test_budgets_are_below_eight_minutes():
    line, = re.findall(r'^COMPILE=.*', (ROOT / 'tools' / SCRIPT).read_text(), re.MULTILINE)
    budgets = {name: int(value) for name, value in (word.split('=') for word in line.split())}
    assert set(budgets) == {'COMPILE', 'TESTS', 'OPS', 'BACKBONES', 'IMPORT', 'KILL'}
    starts = 10  # Python looks for a GPU and for packages
    assert sum(budgets.values()) + 4 * budgets['KILL'] + starts < 8 * 60


def test_the_tests_need_no_more(check):
    """What runs on the GPU finds all its fixtures without those of tests/, which import hosts."""
    out, asked = check()
    tests = next(run for run in asked if 'pytest' in run)
    command = tests[:tests.index('-q')]
    # as the script runs it: from the checkout; the arguments are files and --confcutdir
    command += ['--setup-plan', '-q', '-p', 'no:cacheprovider']
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, 'PYTHONPATH': f'{ROOT}/kernels:{ROOT}'})
    assert done.returncode == 0, done.stdout[-2000:]
