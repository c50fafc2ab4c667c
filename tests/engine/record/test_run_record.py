"""What a run leaves in run.json, what it says of its learning rate, and the runtimes' hooks."""
import json
import logging
import os
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import nn

from mmvssd import compat
from mmvssd.cli.launch import load_config
from mmvssd.compat import failed_runs
from mmvssd.engine import RunRecordHook
from mmvssd.engine.record import resumed_settings, run_facts
from mmvssd.engine.record.run_facts import Batch, Rate, judge_rate
from mmvssd.engine.record.run_record import read_record
from mmvssd.errors import CheckpointError
from mmvssd.processes import this_process
from mmvssd_kernels import dispatch, nc_ssd

SAMPLES = {'cls': 'samples/vssd-nano_1xb64_digits.py',
           'det': 'samples/mask-rcnn_vssd-nano_fpn_1xb8_digits.py',
           'seg': 'samples/upernet_vssd-nano_1xb8_digits.py'}


class Toy(nn.Module):
    """A model that runs an op, and fails when it is told to."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(1, 1)
        self.fails = False

    def train_step(self, data, optim_wrapper):
        if self.fails:
            raise FloatingPointError('it is told to')
        with optim_wrapper.optim_context(self):
            x = torch.ones(1, 2, 1, 1)
            y = nc_ssd(x, x[..., 0], -x[0, 0, :, 0], x, x, impl='reference')
            loss = self.head(data[:, None].float() + y.mean()).mean()
        optim_wrapper.update_params(loss)
        return dict(loss=loss)

    def test_step(self, data):
        return [None]


class NoScore:
    """An evaluator."""

    dataset_meta = None
    metrics = ()

    def process(self, **kwargs):
        pass

    def evaluate(self, size):
        return {}


def build(folder, *, hooks=(), lr=1e-3, base=8, scale=False, resume=False, epochs=1, images=4,
          **optim):
    cfg = dict(auto_scale_lr=dict(base_batch_size=base, enable=scale),
               optim_wrapper=dict(optim, type='OptimWrapper', optimizer=dict(type='SGD', lr=lr)))
    loader = dict(batch_size=images, dataset=list(range(16)),
                  sampler=dict(type='DefaultSampler', shuffle=False),
                  collate_fn=dict(type='default_collate'))
    return Runner(
        Toy(), str(folder), train_dataloader=loader, train_cfg=dict(by_epoch=True,
                                                                    max_epochs=epochs),
        test_dataloader=loader, test_cfg=dict(), test_evaluator=NoScore(),
        optim_wrapper=cfg['optim_wrapper'], auto_scale_lr=cfg['auto_scale_lr'], resume=resume,
        param_scheduler=dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=100),
        default_hooks=dict(run_record=dict(type='mmvssd.RunRecordHook')),
        custom_hooks=list(hooks), cfg=Config(cfg), randomness=dict(seed=3),
        experiment_name=f'{folder.name}_{epochs}_{images}')


def records(folder):
    return [json.loads(file.read_text()) for file in sorted(folder.glob('*/run*.json'))]


@pytest.fixture
def warned(monkeypatch):
    """Messages that the record logs as warnings."""
    messages = []
    monkeypatch.setattr('mmvssd.engine.record.run_record.print_log',
                        lambda message, logger, level: messages.append((level, message)))
    return messages


class Watch(Hook):
    """Reads the record while the run goes on."""

    def __init__(self, folder):
        self.folder, self.seen = folder, []

    def before_run(self, runner):
        self.seen.append(records(self.folder)[0])

    def after_train_iter(self, runner, *args, **kwargs):
        self.before_run(runner)


def test_a_training_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, 'reference')
    monkeypatch.setattr(sys, 'orig_argv', ['python', 'train.py', 'my recipe.py'], raising=False)
    watch = Watch(tmp_path)
    build(tmp_path, hooks=[watch], accumulative_counts=2).train()
    before, first = watch.seen[:2]
    assert (before['status'], before['ops'], before['mode']) == ('running', {}, 'train')
    assert 'lr' not in before
    assert first['status'] == 'running'
    assert first['ops'] == {'nc_ssd': {'reference': 'impl=reference'}}
    (record, ) = records(tmp_path)
    assert (record['status'], record['error']) == ('finished', None)
    assert record['ended'] >= record['started']
    assert record['seed'] == 3
    assert record['MMVSSD_KERNEL'] == 'reference'
    assert record['command'] == "python train.py 'my recipe.py'"
    assert record['work_dir'] == str(tmp_path)
    assert record['precision'] == 'float32'
    assert record['batch'] == dict(processes=1, images=4, accumulated=2, base=8, total=8)
    assert record['lr'] == dict(recipe=1e-3, used=1e-3, scale=1)
    assert record['start'] == dict(checkpoint=None, resumed=False, pretrained=[], epoch=0,
                                   iteration=0)
    assert record['reached'] == dict(epoch=1, iteration=4)
    assert record['versions']['torch'].startswith(torch.__version__.split('+')[0])
    assert list(record['devices'].values()) == [1]
    patches = record['patches']
    assert {'checkpoint', 'failed_runs'} <= set(patches['in_effect'])
    assert not set(patches['in_effect']).intersection(patches['idle'])
    assert patches['left_out'] == []
    (folder, ) = (file.parent for file in tmp_path.glob('*/run.json'))
    assert Config.fromfile(folder / record['config']).optim_wrapper.accumulative_counts == 2


def test_patches_that_are_left_out_are_warned_of(tmp_path, monkeypatch, warned):
    """By the record, if the patch is among them that logs which are in effect."""
    for name, left_out in dict(some=['amp'], all=list(compat.PATCHES)).items():
        monkeypatch.setattr(compat, 'left_out', lambda left_out=left_out: left_out)
        build(tmp_path / name).train()
        (record, ) = records(tmp_path / name)
        assert record['patches']['left_out'] == left_out
        said = [message for level, message in warned
                if level == logging.WARNING and 'left out by MMVSSD_PATCHES: amp' in message]
        assert len(said) == (name == 'all')


def test_a_test_is_recorded_beside_its_training(tmp_path):
    runner = build(tmp_path)
    runner.train()
    runner._train_loop = {}  # as where nothing asked for it
    runner.test()
    test, train = sorted(records(tmp_path), key=lambda record: record['mode'])
    assert (test['mode'], test['status'], test['precision']) == ('test', 'finished', 'float32')
    assert 'lr' not in test
    assert train['mode'] == 'train'


def test_an_error_is_recorded(tmp_path):
    runner = build(tmp_path)
    runner.model.fails = True
    with pytest.raises(FloatingPointError, match='it is told to'):
        runner.train()
    (record, ) = records(tmp_path)
    assert (record['status'], record['error']) == ('stopped', 'FloatingPointError: it is told to')
    assert record['reached'] == dict(epoch=0, iteration=0)
    assert record['ended']


def test_an_error_is_not_hidden_by_another(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(failed_runs, 'print_log', lambda message, **kwargs: said.append(message))

    def fail(self, runner, error):
        raise OSError('disk full')

    monkeypatch.setattr(RunRecordHook, 'after_error', fail)
    runner = build(tmp_path)
    runner.model.fails = True
    with pytest.raises(FloatingPointError):
        runner.train()
    assert said == ['after_error: OSError: disk full']


@pytest.mark.parametrize(('options', 'level', 'message'), [
    (dict(images=8), logging.INFO, "8 images; the recipe's lr 0.001 is for 8, as it is"),
    (dict(images=4, accumulative_counts=2), logging.INFO, 'x 2 accumulated; .* as it is'),
    (dict(images=4), logging.WARNING,
     'global batch 4 = 1 process x 4 images; .* for 8: NOT scaled. --auto-scale-lr scales it by '
     '0.5 to 0.0005'),
    (dict(images=4, scale=True), logging.WARNING, 'is for 8: scaled by 0.5 to 0.0005$'),
    (dict(images=4, base=None), logging.INFO, 'lr 0.001 .the recipe has no auto_scale_lr'),
    # a backbone with another lr does not pass for a scaled one
    (dict(images=8, paramwise_cfg=dict(custom_keys={'head.weight': dict(lr_mult=0.1)})),
     logging.INFO, 'as it is'),
    (dict(images=4, scale=True, paramwise_cfg=dict(bias_lr_mult=2.)), logging.WARNING,
     'scaled by 0.5 to 0.0005$'),
])
def test_the_rate_is_judged(tmp_path, warned, options, level, message):
    build(tmp_path, **options).train()
    ((said_level, said), ) = warned
    assert said_level == level
    assert re.search(message, said), said


def test_a_resumed_rate_is_the_checkpoints(tmp_path, warned):
    build(tmp_path, images=4, scale=True).train()
    warned.clear()
    build(tmp_path, images=8, scale=True, resume=True, epochs=2).train()
    ((_, batch), (level, message)) = warned
    assert 'a step saw 4 images in the run that is resumed, and sees 8 now' in batch
    assert level == logging.WARNING
    assert 'resumed was trained with 0.0005 (0.5 times it), and so is the rest; 0.001' in message
    record = max(records(tmp_path), key=lambda record: record['reached']['epoch'])
    assert record['lr'] == dict(recipe=1e-3, used=5e-4, scale=0.5)
    assert record['start'] == dict(checkpoint=str(tmp_path / 'epoch_1.pth'), resumed=True,
                                   pretrained=[], epoch=1, iteration=4)


def test_nothing_to_resume(tmp_path):
    build(tmp_path, resume=True).train()
    (record, ) = records(tmp_path)
    assert (record['start']['checkpoint'], record['start']['resumed']) == (None, False)


def test_one_that_a_host_scaled_without_the_accumulated_steps():
    _, message = judge_rate(Batch(2, 4, 4, 8), Rate(1e-3, 1e-3 * 0.5), resumed=False)
    assert message == ("global batch 32 = 2 processes x 4 images x 4 accumulated; the recipe's lr "
                       '0.001 is for 8: scaled by 0.5 to 0.0005, where 4 (0.004) fits the batch')


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_precision_is_what_autocast_says(tmp_path, dtype):
    if dtype == 'float16' and not torch.cuda.is_available():
        pytest.skip('the CPU has no autocast to float16 in MMEngine')
    runner = build(tmp_path)
    runner.optim_wrapper = runner.build_optim_wrapper(
        dict(type='AmpOptimWrapper', dtype=dtype, optimizer=dict(type='SGD', lr=1.)))
    assert run_facts.training_precision(runner) == dtype


def test_the_commit_of_a_checkout(tmp_path, monkeypatch):
    root = tmp_path.resolve()
    monkeypatch.setattr(run_facts, 'project_root', lambda: root)
    assert run_facts.checkout() is None

    def git(*arguments):
        subprocess.run(['git', '-C', str(root), '-c', 'user.name=a', '-c', 'user.email=b',
                        *arguments], check=True, capture_output=True)

    git('init')
    (root / 'file').touch()
    git('add', 'file')
    git('commit', '-m', 'one')
    found = run_facts.checkout()
    assert (len(found['commit']), found['changed']) == (40, False)
    (root / 'file').write_text('new')
    assert run_facts.checkout() == dict(found, changed=True)
    # a wheel in an environment that lies in somebody's checkout
    (root / 'inside').mkdir()
    monkeypatch.setattr(run_facts, 'project_root', lambda: root / 'inside')
    assert run_facts.checkout() is None
    monkeypatch.setattr(run_facts, 'project_root', lambda: root)
    monkeypatch.setenv('PATH', '')
    assert run_facts.checkout() is None


@pytest.mark.parametrize(('recipe', 'visualizer'), [
    ('cls', 'UniversalVisualizer'), ('det', 'DetLocalVisualizer'), ('seg', 'SegLocalVisualizer')])
def test_the_runtimes(recipe, visualizer):
    cfg = load_config(SAMPLES[recipe])
    assert cfg.visualizer.type == visualizer
    assert [backend.type for backend in cfg.visualizer.vis_backends] == [
        'LocalVisBackend', 'mmvssd.TensorboardVisBackend']
    assert cfg.vis_backends == cfg.visualizer.vis_backends


def resumed(optimizer, saved, *, batch=8, classes=None, notes=None):
    """What is said of a run with an optimizer that goes on from the state of another."""
    runner = build_like(optimizer, batch, classes)
    checkpoint = dict(optimizer=saved.state_dict(), meta=dict(
        mmvssd=notes, dataset_meta=dict(classes=('a', 'b'))))
    return resumed_settings.changes(runner, checkpoint)


def build_like(optimizer, batch, classes):
    return SimpleNamespace(
        optim_wrapper=OptimWrapper(optimizer), world_size=1, cfg=Config({}),
        train_dataloader=SimpleNamespace(batch_size=batch, dataset=SimpleNamespace(
            metainfo=dict(classes=classes) if classes else {})))


def adamw(*more, kind=torch.optim.AdamW, **settings):
    groups = [dict(params=[nn.Parameter(torch.ones(1))], **group) for group in ({}, *more)]
    return kind(groups, lr=0.1, **settings)


def test_what_is_as_before_is_not_said():
    for groups in ((), (dict(weight_decay=0.0), )):
        assert resumed(adamw(*groups), adamw(*groups), notes=dict(batch=8),
                       classes=['a', 'b']) == []
    assert resumed(adamw(), adamw()) == []  # a checkpoint without notes


@pytest.mark.parametrize(('settings', 'said'), [
    (dict(weight_decay=0.3), 'optimizer, weight_decay: 0.01 in the checkpoint, 0.3 in the recipe'),
    (dict(betas=(0.5, 0.9)), r'optimizer, betas: \(0.9, 0.999\) in the checkpoint, \(0.5, 0.9\)'),
    (dict(eps=1e-4), 'optimizer, eps: 1e-08 in the checkpoint, 0.0001 in the recipe')])
def test_settings_that_the_checkpoint_brings_back(settings, said):
    (line, ) = resumed(adamw(**settings), adamw())
    assert re.match(said, line)
    assert 'the other needs a new run' in line


def test_another_batch_and_other_classes():
    lines = resumed(adamw(), adamw(), batch=4, notes=dict(batch=16), classes=('a', 'c', 'b'))
    assert re.match(r'batch: a step saw 16 images in the run that is resumed, and sees 4', lines[0])
    assert re.match(r"classes: 2 in the checkpoint, 3 in the data; the first that differs is "
                    r"number 1, 'b' then and 'c' now", lines[1])


def test_another_optimizer_cannot_go_on():
    with pytest.raises(CheckpointError, match=r"another optimizer \(one with betas\) than the "
                                              r"recipe's SGD \(with momentum\)"):
        resumed(adamw(kind=torch.optim.SGD), adamw())
    with pytest.raises(CheckpointError, match='1 parameter in 1 group, and the recipe one of 2'):
        resumed(adamw({}), adamw())


class Signal(Hook):
    """Sends its own process a signal at the second step; a bare except may swallow the error."""

    def __init__(self, number, swallows=False):
        self.number, self.swallows = number, swallows

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 1:
            try:
                os.kill(os.getpid(), self.number)
                signal.getsignal(self.number)  # Python calls handlers between two of its steps
            except BaseException:
                if not self.swallows:
                    raise


@pytest.mark.usefixtures('usual_signals')
@pytest.mark.parametrize('swallows', [False, True])
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_is_written_down(tmp_path, number, swallows):
    before = signal.getsignal(number)
    with pytest.raises((KeyboardInterrupt, SystemExit)) as raised:
        build(tmp_path, hooks=[Signal(number, swallows)]).train()
    assert number == signal.SIGINT or raised.value.code == 128 + number
    (record, ) = records(tmp_path)
    assert (record['status'], record['error']) == ('stopped', f'ended by {number.name}')
    assert record['reached']['iteration'] == 1
    assert signal.getsignal(number) is before
    (log, ) = tmp_path.glob('*/*.log')
    assert log.read_text().count('The training was') == 1
    assert (f'WARNING - The training was ended by {number.name} after iteration 1: no checkpoint '
            'was written yet') in log.read_text()


@pytest.mark.usefixtures('usual_signals')
def test_workers_that_a_signal_ends_too_raise_nothing(tmp_path):
    """A scheduler sends it to all processes, and PyTorch raises when a worker dies."""
    class WorkerDies(Hook):
        def before_train_epoch(self, runner):
            signal.signal(signal.SIGCHLD, self.fail)

        def after_error(self, runner, error):
            os.kill(os.getpid(), signal.SIGCHLD)
            signal.getsignal(signal.SIGCHLD)  # as above

        @staticmethod
        def fail(*args):
            raise RuntimeError('DataLoader worker is killed by signal: Terminated.')

    with pytest.raises(SystemExit):
        build(tmp_path, hooks=[Signal(signal.SIGTERM), WorkerDies()]).train()
    (log, ) = tmp_path.glob('*/*.log')
    assert 'RuntimeError' not in log.read_text()


@pytest.mark.usefixtures('usual_signals')
def test_a_test_that_is_ended_says_so(tmp_path, warned, monkeypatch):
    runner = build(tmp_path)
    monkeypatch.setattr(Toy, 'test_step', lambda *args: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit):
        runner.test()
    assert warned[-1][1] == ('The test was ended by SIGTERM before it had scores: the same command '
                             'begins anew')


def test_one_that_waits_outside_python_ends_all_the_same():
    """As for a process that is gone: there no handler of Python's runs."""
    code = ('import time\n'
            'from mmvssd.engine.record import signals\n'
            'signals.PATIENCE = 0.2\n'
            'class Deaf(signals.EndingSignals):\n'
            '    def _receive(self, *args): pass  # a handler whose turn never comes\n'
            'ending = Deaf(lambda text: print(text, flush=True),\n'
            '              lambda: print("the last word", flush=True))\n'
            'ending.watch()\n'
            'print("ready", flush=True)\n'
            'while True: time.sleep(1)\n')
    process = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True,
                               env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)))
    assert process.stdout.readline() == 'ready\n'
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert (out, process.returncode) == (
        'ended by SIGTERM\nthe last word\n', 128 + signal.SIGTERM)


def test_handlers_of_the_users_own_stay(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup has it
    try:
        build(tmp_path, hooks=[Signal(signal.SIGHUP)]).train()
    finally:
        signal.signal(signal.SIGHUP, before)
    (record, ) = records(tmp_path)
    assert record['status'] == 'finished'


def test_a_killed_one_is_told_of_later(tmp_path):
    """By who reads the record, and by the next run in the work dir."""
    gone = subprocess.Popen([sys.executable, '-c', ''])
    gone.wait()
    for name, pid in (('killed', gone.pid), ('alive', os.getpid())):
        (tmp_path / name).mkdir()
        process = dict(this_process(), pid=pid)
        (tmp_path / name / 'run.json').write_text(json.dumps(dict(status='running', error=None,
                                                                  process=process)))
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'run.json').write_text('no record')
    assert read_record(tmp_path / 'killed' / 'run.json')['status'] == 'killed'
    build(tmp_path).train()
    assert {json.loads((tmp_path / name / 'run.json').read_text())['status']
            for name in ('killed', 'alive')} == {'killed', 'running'}
    assert (tmp_path / 'other' / 'run.json').read_text() == 'no record'
