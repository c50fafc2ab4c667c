"""tools/slurm_*.sh, with a srun that starts the tasks here and writes down what it was asked."""
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from mmvssd.datasets import make_sample_data

TOOLS = Path(__file__).resolve().parent.parent / 'tools'
RECIPE = 'samples/vssd-nano_1xb64_digits.py'
SRUN = """
printf '%s\\n' "$@" >>"$ASKED"
while [[ $1 == --* ]]; do
  [[ $1 != --ntasks=* ]] || tasks=${1#*=}
  shift
done
for ((i = 0; i < ${STARTED:-$tasks}; i++)); do
  SLURM_PROCID=$i SLURM_LOCALID=$i SLURM_NTASKS=$tasks SLURM_NODELIST='node[1-2]' "$@" &
  started+=($!)
done
for task in "${started[@]}"; do
  wait "$task" || exit
done
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Make believe that this is a Slurm cluster; returns what srun is asked, when called."""
    folder = tmp_path / 'bin'
    folder.mkdir()
    for name, script in dict(srun=SRUN, scontrol='echo 127.0.0.1').items():
        (folder / name).write_text(f'#!{shutil.which("bash")}\n{script}')
        (folder / name).chmod(0o755)
    monkeypatch.setenv('PATH', os.pathsep.join([str(folder), os.environ['PATH']]))
    monkeypatch.setenv('ASKED', str(tmp_path / 'asked'))
    for name in ('GPUS', 'GPUS_PER_NODE', 'CPUS_PER_TASK', 'SRUN_ARGS', 'MASTER_ADDR'):
        monkeypatch.delenv(name, raising=False)
    return lambda: (tmp_path / 'asked').read_text().splitlines()


@pytest.mark.parametrize(('settings', 'asked'), [
    ({}, ['--ntasks=8', '--ntasks-per-node=8', '--gres=gpu:8', '--cpus-per-task=5']),
    (dict(GPUS='16', GPUS_PER_NODE='4', CPUS_PER_TASK='12'),
     ['--ntasks=16', '--ntasks-per-node=4', '--gres=gpu:4', '--cpus-per-task=12']),
    (dict(GPUS='2'), ['--ntasks=2', '--ntasks-per-node=2', '--gres=gpu:2', '--cpus-per-task=5']),
])
def test_what_srun_is_asked(run_tool, slurm, settings, asked):
    run_tool('slurm_test.sh', 'part', 'my job', RECIPE, 'epoch 1.pth', '--tta',
             env=dict(settings, STARTED='0', SRUN_ARGS='--gres=none --exclude=node3'))
    assert slurm() == [
        '--partition=part', '--job-name=my job', *asked, '--kill-on-bad-exit=1', '--gres=none',
        '--exclude=node3', 'python', '-u', str(TOOLS / 'test.py'), RECIPE, 'epoch 1.pth', '--tta',
        '--launcher', 'slurm']


@pytest.mark.parametrize(('script', 'arguments'), [
    ('slurm_train.sh', ['part', 'job']), ('slurm_test.sh', ['part', 'job', RECIPE])])
def test_usage(run_tool, script, arguments):
    for given, status in ((arguments, 2), (['--help'], 0)):
        out = run_tool(script, *given, expect=status)
        assert f'{script} PARTITION JOB RECIPE' in out
        assert 'set -euo' not in out


def test_what_stops_it(run_tool, slurm):
    out = run_tool('slurm_train.sh', 'part', 'job', RECIPE, expect=2, env=dict(GPUS='all'))
    assert out == "GPUS: got 'all', expected a positive number\n"
    done = subprocess.run([shutil.which('bash'), str(TOOLS / 'slurm_run.sh'), 'part', 'job', 'x'],
                          env=dict(PATH=''), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith('srun: not found; ')


@pytest.mark.slow
def test_two_tasks_train_and_one_tests(run_tool, tmp_path, slurm, without_mmdet, forking_python):
    make_sample_data(tmp_path / 'data' / 'sample_digits', num_scenes=(1, 1), num_crops=(8, 4),
                     progress=False)
    options = ['--cfg-options', 'train_dataloader.batch_size=4', 'train_cfg.max_epochs=1',
               'default_hooks.checkpoint.interval=1', 'default_hooks.logger.interval=1',
               *(f'{phase}_dataloader.{setting}' for phase in ('train', 'val', 'test')
                 for setting in ('num_workers=0', 'persistent_workers=False'))]
    env = dict(without_mmdet, GPUS='2', CUDA_VISIBLE_DEVICES='', MASTER_PORT='29613')
    python = forking_python(
        'mmvssd.cli.launch', 'mmvssd.engine', 'mmvssd.models', 'mmpretrain.models',
        'mmpretrain.datasets', 'mmpretrain.evaluation', env={**os.environ, **env})
    env['PATH'] = os.pathsep.join([str(python), os.environ['PATH']])
    out = run_tool('slurm_train.sh', 'part', 'job', RECIPE, '--work-dir', 'run', *options, env=env)
    assert 'the process group runs on gloo' in out
    assert 'Epoch(train) [1][1/1]' in out  # eight images, two tasks of four
    out = run_tool('slurm_test.sh', 'part', 'job', RECIPE, 'run/epoch_1.pth', *options,
                   env=dict(env, GPUS='1'))
    assert 'accuracy/top1' in out
