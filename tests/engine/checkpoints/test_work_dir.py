"""One training at a time in a work dir, and no new run beside another's checkpoints."""
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from mmvssd import processes
from mmvssd.cli import launch
from mmvssd.engine import WorkDirHook
from mmvssd.engine.checkpoints import work_dir
from mmvssd.engine.checkpoints.work_dir import LOCK, SILENCE, WorkDirLock
from mmvssd.errors import ConfigError
from mmvssd.processes import is_gone, this_process


@pytest.fixture
def other():
    """A process of this machine that runs until the test ends."""
    process = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def described(process, **changes):
    return dict(this_process(), pid=process.pid, start=processes._start_of(process.pid),
                since='today', **changes)


def locked(folder, owner, age=0):
    file = folder / LOCK
    file.write_text(json.dumps(owner))
    os.utime(file, (time.time() - age, time.time() - age))
    return file


def test_it_is_held_and_given_back(tmp_path):
    lock = WorkDirLock(tmp_path)
    lock.acquire()
    owner = json.loads((tmp_path / LOCK).read_text())
    assert (owner['pid'], owner['host']) == (os.getpid(), this_process()['host'])
    assert lock.is_kept()
    lock.release()
    lock.release()
    assert not list(tmp_path.iterdir())


def test_a_second_training_is_told_who_holds_it(tmp_path, other):
    locked(tmp_path, described(other))
    with pytest.raises(ConfigError, match=rf'process {other.pid} on {this_process()["host"]} has '
                                          r'been training here since today.*name another'):
        WorkDirLock(tmp_path).acquire()
    assert [file.name for file in tmp_path.iterdir()] == [LOCK]


def test_an_owner_that_is_gone(tmp_path, other):
    """Killed; and its number given to another process since."""
    owner = described(other)
    for gone in (dict(owner, start=owner['start'] - 1), owner):
        locked(tmp_path, gone)
        if gone is owner:
            other.send_signal(signal.SIGKILL)
            os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # it stays, as a zombie
        lock = WorkDirLock(tmp_path)
        lock.acquire()
        assert lock.is_kept()
        lock.release()


@pytest.mark.parametrize('changes', [dict(host='node7'), dict(space='another container')])
def test_an_owner_that_cannot_be_seen_counts_by_its_signs_of_life(tmp_path, other, changes):
    locked(tmp_path, dict(described(other), **changes), SILENCE - 30)
    with pytest.raises(ConfigError, match=rf'start again in {SILENCE} seconds, or remove .*{LOCK}'):
        WorkDirLock(tmp_path).acquire()
    locked(tmp_path, dict(described(other), **changes), SILENCE + 30)
    lock = WorkDirLock(tmp_path)
    lock.acquire()
    lock.release()


def test_the_owner_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(work_dir, 'BEAT', 0.05)
    lock = WorkDirLock(tmp_path)
    lock.acquire()
    os.utime(tmp_path / LOCK, (0, 0))
    ends = time.time() + 10
    while (tmp_path / LOCK).stat().st_mtime == 0 and time.time() < ends:
        time.sleep(0.02)
    assert time.time() - (tmp_path / LOCK).stat().st_mtime < 60
    lock.release()


@pytest.mark.parametrize(('before', 'now', 'gone'), [
    ({}, dict(TORCHELASTIC_RESTART_COUNT='1'), True),
    (dict(TORCHELASTIC_RESTART_COUNT='1'), dict(TORCHELASTIC_RESTART_COUNT='1'), None),
    ({}, dict(TORCHELASTIC_RESTART_COUNT='1', TORCHELASTIC_RUN_ID='another'), None)])
def test_a_job_that_is_started_again_is_not_locked_out(monkeypatch, before, now, gone):
    """On another machine than before: of its predecessor nothing can be seen."""
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'job')
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    owner = dict(this_process(), host='node7')
    for name, value in now.items():
        monkeypatch.setenv(name, value)
    assert is_gone(owner) is gone


@pytest.mark.parametrize('text', ['', '{"pid": 1', '[]', 'null', '{}'])
def test_a_lock_that_says_nothing(tmp_path, text):
    """As half of one that was being written."""
    (tmp_path / LOCK).write_text(text)
    with pytest.raises(ConfigError, match=f'remove .*{LOCK}'):
        WorkDirLock(tmp_path).acquire()
    os.utime(tmp_path / LOCK, (0, 0))
    WorkDirLock(tmp_path).acquire()


def test_of_many_one_gets_it(tmp_path, other):
    """An owner that is gone is followed by one of those that try at once."""
    locked(tmp_path, dict(described(other), start=0))
    context = multiprocessing.get_context('fork')
    together, said = context.Barrier(4), context.Queue()

    def attempt():
        lock = WorkDirLock(tmp_path)
        together.wait(60)
        try:
            lock.acquire()
            said.put('got it')
        except ConfigError:
            said.put('refused')
        together.wait(60)
        lock.release()

    tries = [context.Process(target=attempt) for _ in range(4)]
    for process in tries:
        process.start()
    assert sorted(said.get(timeout=60) for _ in tries) == ['got it', *['refused'] * 3]
    for process in tries:
        process.join(60)
    assert not list(tmp_path.iterdir())


def runner(folder, *, resume=False, done=0):
    return SimpleNamespace(work_dir=str(folder), _resume=resume, iter=done)


def test_a_new_run_beside_another_ones_checkpoints(tmp_path):
    torch.save({}, tmp_path / 'epoch_3.pth')
    hook = WorkDirHook()
    with pytest.raises(ConfigError, match=r'holds 1 checkpoint of another run, such as epoch_3.pth'
                                          r'. Go on from them with --resume, name another'):
        hook.before_train(runner(tmp_path))
    assert not (tmp_path / LOCK).exists()
    for one in (runner(tmp_path, resume=True), runner(tmp_path, done=3)):
        hook.before_train(one)
        assert (tmp_path / LOCK).exists()
        hook.after_run(one)
        assert not (tmp_path / LOCK).exists()


def test_its_best_one_alone(tmp_path):
    torch.save({}, tmp_path / 'pretrained.pth')  # that a run may start from
    work_dir.require_unused(tmp_path)
    torch.save({}, tmp_path / 'best_coco_bbox_mAP_epoch_2.pth')
    with pytest.raises(ConfigError, match='holds 1 checkpoint of another run'):
        work_dir.require_unused(tmp_path)


def test_an_error_gives_it_back_and_a_loss_is_noticed(tmp_path):
    hook, one = WorkDirHook(), runner(tmp_path)
    hook.before_train(one)
    hook.before_save_checkpoint(one, {})
    (tmp_path / LOCK).unlink()  # by a user, and nobody took the place
    hook.before_save_checkpoint(one, {})
    assert (tmp_path / LOCK).exists()
    hook.after_error(one, RuntimeError())
    assert not (tmp_path / LOCK).exists()
    hook.before_train(one)
    (tmp_path / LOCK).write_text('{}')
    with pytest.raises(ConfigError, match='another one took its place'):
        hook.before_save_checkpoint(one, {})
    hook.after_error(one, RuntimeError())
    assert (tmp_path / LOCK).read_text() == '{}'


def test_other_processes_of_a_job_leave_it_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(work_dir, 'is_main_process', lambda: False)
    WorkDirHook().before_train(runner(tmp_path))
    assert not list(tmp_path.iterdir())


def test_all_processes_hear_of_a_refusal(tmp_path, monkeypatch):
    def broadcast(values):
        values[0] = 'said by the first'

    monkeypatch.setattr(work_dir, 'is_main_process', lambda: False)
    monkeypatch.setattr(work_dir, 'broadcast_object_list', broadcast)
    with pytest.raises(ConfigError, match='said by the first'):
        WorkDirHook().before_train(runner(tmp_path))


@pytest.fixture
def cfg(tmp_path):
    return launch.load_config('classification/vssd-tiny_8xb128_in1k.py', work_dir=str(tmp_path))


def test_the_command_line_looks_before_anything_is_built(cfg, tmp_path, monkeypatch, other):
    torch.save({}, tmp_path / 'epoch_3.pth')
    with pytest.raises(ConfigError, match='holds 1 checkpoint of another run'):
        launch._start_from(cfg, None)
    monkeypatch.setenv('RANK', '1')
    launch._start_from(cfg, None)
    monkeypatch.setenv('RANK', '0')
    cfg.unguarded = ['work_dir']
    launch._start_from(cfg, None)
    cfg.unguarded = []
    locked(tmp_path, described(other))
    (tmp_path / 'epoch_3.pth').unlink()
    with pytest.raises(ConfigError, match=f'process {other.pid} on'):
        launch._start_from(cfg, 'auto')


@pytest.mark.parametrize('empty', ['', ' '])
def test_a_variable_that_is_not_set(cfg, empty):
    with pytest.raises(ConfigError, match=re.escape(f'--resume: got {empty!r}')):
        launch._start_from(cfg, empty)
    cfg.load_from = empty
    with pytest.raises(ConfigError, match=re.escape(f'load_from: got {empty!r}')):
        launch._start_from(cfg, None)
    with pytest.raises(ConfigError, match=re.escape(f'--work-dir: got {empty!r}')):
        launch.load_config('samples/vssd-nano_1xb64_digits.py', work_dir=empty)


def test_a_recipe_that_resumes(cfg, tmp_path):
    """Like the option of the command line."""
    torch.save(dict(state_dict={}, optimizer={}, message_hub={},
                    meta=dict(epoch=3, iter=9, seed=5)), tmp_path / 'epoch_3.pth')
    cfg.resume = True
    launch._start_from(cfg, None)
    assert cfg.load_from == str(tmp_path / 'epoch_3.pth')
    assert cfg.randomness.seed == 5
