"""dist_train.sh in many processes: what it computes, and what becomes of it when one is killed.

Every job trains the same small classifier on the same 16 images, so that the final weights tell
whether two jobs did the same.
"""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mmvssd.cli.launch import load_config
from mmvssd.datasets import make_sample_data
from mmvssd.engine.train.sharding import each_block
from mmvssd.models import VSSD

pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(torch.cuda.is_available(), reason='the jobs run on the CPU')]

ROOT = Path(__file__).resolve().parents[3]
EPOCHS = 3
STEPS = 2  # of an epoch, with 8 images in all processes together

RECIPE = """
_base_ = {base!r}
custom_imports = dict(imports=['mmvssd', 'job_hooks'], allow_failed_imports=False)
# BatchNorm takes each process's own statistics, for SyncBatchNorm needs a GPU; drop path draws
# other numbers in each process
model = dict(backbone=dict(norm_eval=True, drop_path_rate=0.))
optim_wrapper = dict(
    # with a small eps Adam makes of a gradient that is rounding only a step of the learning rate
    optimizer=dict(eps=1e-3),
    clip_grad=dict(max_norm=1.))  # so low that every step is clipped
train_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
train_cfg = dict(max_epochs={epochs}, val_interval={epochs})
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=-1), logger=dict(interval=1))
custom_hooks = [dict(type='KillHook')]
"""

#: Imports of a process that trains the recipe.
PRELOADED = ['torch.distributed.run', 'mmvssd.cli.launch', 'mmvssd.engine', 'mmvssd.models', *(
    f'mmpretrain.{part}' for part in ('models', 'datasets', 'engine', 'evaluation',
                                      'visualization'))]

HOOKS = """
import os
import signal
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class KillHook(Hook):
    '''Kill this process, once, in the step and as the rank that KILL names.'''

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        rank, step = map(int, os.environ.get('KILL', '-1 -1').split())
        trace = Path(runner.work_dir) / 'killed'
        if (runner.rank, runner.iter) == (rank, step) and not trace.exists():
            trace.touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Where the jobs run: sample data, a recipe, and its hook."""
    folder = tmp_path_factory.mktemp('jobs')
    make_sample_data(folder / 'data' / 'sample_digits', num_scenes=(1, 1), num_crops=(16, 4),
                     progress=False)
    base = ROOT / 'configs' / 'samples' / 'vssd-nano_1xb64_digits.py'
    (folder / 'recipe.py').write_text(RECIPE.format(base=str(base), epochs=EPOCHS))
    (folder / 'job_hooks.py').write_text(HOOKS)
    # a classifier trains without MMDetection, whose import is a third of what a process takes
    (folder / 'mmdet.py').write_text('raise ModuleNotFoundError(name=__name__)\n')
    return folder


@pytest.fixture(scope='module')
def forking(folder, forking_python):
    """Variables of jobs whose processes are forks of one that has done their imports."""
    env = {**os.environ, 'PYTHONPATH': str(folder), 'CUDA_VISIBLE_DEVICES': '',
           'OMP_NUM_THREADS': '1'}
    return dict(PATH=os.pathsep.join([str(forking_python(*PRELOADED, env=env)),
                                      os.environ['PATH']]))


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])


class Job:
    """One or two dist_train.sh, and all processes that come of them.

    Args:
        folder: Where they run.
        name: Their work dir in it.
        processes: Of each node.
        options: Of train.py.
        nodes: Environment variables of each node.
        within: Command of each node that dist_train.sh is run by.
        env: Environment variables of all.
    """

    def __init__(self, folder, name, processes=2, options=(),
                 nodes=({}, ), within=((), ()), **env):
        self.work_dir = folder / name
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])
        common = {**os.environ, 'PATH': path, 'PYTHONPATH': str(folder),
                  'CUDA_VISIBLE_DEVICES': '', 'PORT': free_port(), 'OMP_NUM_THREADS': '1', **env}
        self.outputs = [folder / f'{name}_{index}.txt' for index in range(len(nodes))]
        self.agents = []
        for node, prefix, output in zip(nodes, within, self.outputs):
            with output.open('w') as file:
                self.agents.append(subprocess.Popen(
                    [*prefix, 'bash', str(ROOT / 'tools' / 'dist_train.sh'), 'recipe.py',
                     str(processes), '--work-dir', name, *options],
                    cwd=folder, env={**common, **node}, stdout=file, stderr=subprocess.STDOUT))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for pid in self.running():
            os.kill(pid, signal.SIGKILL)
        for agent in self.agents:
            agent.wait()

    def wait(self, timeout=240):
        """Exit status of each node, and what each said."""
        end = time.monotonic() + timeout
        statuses = [agent.wait(max(end - time.monotonic(), 1)) for agent in self.agents]
        return statuses, [output.read_text() for output in self.outputs]

    def running(self):
        """Process ids of whatever of it is left, by where they write to."""
        found, written_to = [], {str(output) for output in self.outputs}
        for entry in Path('/proc').glob('[0-9]*'):
            try:
                if written_to & {os.readlink(entry / 'fd' / number) for number in '12'}:
                    found.append(int(entry.name))
            except OSError:  # it has just ended, or is another user's
                continue
        return found

    def succeed(self):
        """Wait for the end, which is a good one; returns the job."""
        statuses, said = self.wait()
        assert statuses == [0] * len(self.agents), said[0][-5000:] + said[-1][-5000:]
        return self

    def weights(self):
        file = self.work_dir / f'epoch_{EPOCHS}.pth'
        return torch.load(file, weights_only=False)['state_dict']

    def losses(self):
        """Logged losses of all steps, once each."""
        steps = {}
        for log in sorted(self.work_dir.glob('*/vis_data/scalars.json')):
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            steps.update({line['step']: line['loss'] for line in lines if 'loss' in line})
        return [steps[step] for step in sorted(steps)]


@pytest.fixture(scope='module')
def two(folder):
    """Two processes on one node: what the other jobs with two processes have to equal.

    These start Python anew, as users' do.
    """
    with Job(folder, 'two') as job:
        return job.succeed()


def check_equal(job, other):
    weights = other.weights()
    assert job.weights().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in job.weights().items())


def check_close(job, other):
    """Same losses and weights but for the order of the sums."""
    assert len(job.losses()) == EPOCHS * STEPS
    assert job.losses() == pytest.approx(other.losses(), rel=1e-5)
    weights = other.weights()
    assert job.weights().keys() == weights.keys()
    for name, value in job.weights().items():
        torch.testing.assert_close(value, weights[name], msg=name)


def test_two_processes_equal_one_with_twice_the_batch(folder, two, forking):
    with Job(folder, 'one', processes=1, **forking,
             options=['--cfg-options', 'train_dataloader.batch_size=8']) as one:
        check_close(two, one.succeed())


@pytest.fixture
def namespaces():
    """Names of two network namespaces with a cable between them, and the first one's address."""
    if not shutil.which('ip') or os.geteuid() != 0:
        pytest.skip('network namespaces need iproute2 and root')
    names = [f'mmvssd{os.getpid()}{end}' for end in 'ab']
    ends = [f'mv{os.getpid()}{end}' for end in 'ab']

    def ip(*arguments):
        return subprocess.run(['ip', *arguments], capture_output=True, text=True, check=False)

    try:
        for done in (ip('netns', 'add', names[0]), ip('netns', 'add', names[1]),
                     ip('link', 'add', ends[0], 'netns', names[0], 'type', 'veth',
                        'peer', 'name', ends[1], 'netns', names[1])):
            if done.returncode:
                pytest.skip(f'no network namespaces here: {done.stderr}')
        for index, (name, end) in enumerate(zip(names, ends), 1):
            for arguments in (('addr', 'add', f'10.77.0.{index}/24', 'dev', end),
                              ('link', 'set', end, 'up'), ('link', 'set', 'lo', 'up')):
                assert ip('-n', name, *arguments).returncode == 0, arguments
        yield names, '10.77.0.1'
    finally:
        for name in names:
            ip('netns', 'del', name)


NODES = tuple(dict(NNODES='2', NODE_RANK=str(rank)) for rank in range(2))


def test_two_nodes(folder, two, forking, namespaces):
    """Each has its own network; the machine's name means 127.0.0.1 in both, as on many machines."""
    names, address = namespaces
    with Job(folder, 'nodes', processes=1, nodes=NODES, MASTER_ADDR=address, **forking,
             within=[('ip', 'netns', 'exec', name) for name in names]) as job:
        check_equal(job.succeed(), two)


@pytest.mark.parametrize('nodes', [1, 2])
def test_a_killed_process_ends_the_job(folder, forking, nodes):
    """Rank 1, of the second node where there are two."""
    with Job(folder, f'killed_{nodes}', processes=2 // nodes, nodes=NODES if nodes == 2 else ({}, ),
             KILL=f'1 {STEPS}', **forking) as job:
        statuses, said = job.wait()
        assert time.time() - (job.work_dir / 'killed').stat().st_mtime < 60
        assert job.running() == []
        assert all(statuses)
        assert 'Process 1 was killed by SIGKILL.' in said[-1][-500:], said[-1][-2000:]


def check_restarted(job):
    """Both processes went on from the checkpoint of the first epoch."""
    assert (job.work_dir / 'killed').exists()
    said = ''.join(output.read_text() for output in job.outputs)
    assert len(re.findall(r'resuming from .*epoch_1\.pth', said)) == 2


def test_a_killed_process_is_started_again(folder, two, forking):
    """On as many nodes, two; all processes go on from the checkpoint, to the same weights."""
    with Job(folder, 'restarted', processes=1, nodes=NODES, MAX_RESTARTS='1',
             KILL=f'1 {STEPS + 1}', **forking) as job:
        check_equal(job.succeed(), two)
        check_restarted(job)


def test_sharded(folder, two, forking):
    """FSDP on one node, killed and resumed, ends with DistributedDataParallel's weights."""
    with Job(folder, 'sharded', MAX_RESTARTS='1', KILL=f'1 {STEPS + 1}', **forking, options=[
            '--cfg-options', 'runner_type=FlexibleRunner',
            'strategy.type=mmvssd.ShardedStrategy']) as job:
        check_close(job.succeed(), two)
        check_restarted(job)


def test_what_is_sharded():
    cfg = load_config('classification/fsdp/vssd-base_fsdp_8xb256_in1k.py')
    assert (cfg.runner_type, cfg.strategy) == (
        'mmvssd.GuardedRunner', dict(type='mmvssd.ShardedStrategy'))
    with torch.device('meta'):
        model = VSSD(cfg.model.backbone.arch)
    units = [module for module in model.modules() if each_block(module, False, 0)]
    assert units == [block for stage in model.stages for block in stage]
    assert all(each_block(module, True, 0) for module in model.modules())


@pytest.mark.parametrize('value', ['-1', 'many'])
def test_bad_number_of_restarts(run_tool, value):
    out = run_tool('dist_train.sh', 'x.py', 2, env=dict(MAX_RESTARTS=value), expect=2)
    assert out == f"MAX_RESTARTS: got '{value}', expected a number from 0 on\n"
