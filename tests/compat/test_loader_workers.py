"""Workers of data loaders end if their process is gone."""
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from mmvssd.compat import loader_workers
from mmvssd.processes import is_gone, this_process

SCRIPT = Path(__file__).with_name('worker_runner.py')
WAYS = [('fork', True), ('fork', False), ('spawn', True), ('forkserver', False)]


class Training:
    """A training in a process group of its own, and the ids of its workers.

    Args:
        folder: Its work dir.
        start: How workers are started.
        persistent: Whether they stay between epochs.
    """

    def __init__(self, folder, start, persistent):
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)),
                           OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='-1')
        options = dict(work_dir=str(folder), start=start, persistent=persistent)
        self.output = folder / 'output.txt'
        with self.output.open('w') as file:
            self.process = subprocess.Popen(
                [sys.executable, SCRIPT, json.dumps(options)], env=environment, stdout=file,
                stderr=subprocess.STDOUT, start_new_session=True)
        self.workers = []

    def __enter__(self):
        line = self._wait(lambda: next((line for line in self.said().splitlines()
                                        if line.startswith('workers ')), None))
        self.workers = [dict(this_process(), pid=int(pid), start=_start(int(pid)))
                        for pid in line.split()[1:]]
        assert len(self.workers) == 2
        return self

    def __exit__(self, *error):
        for pid in (self.process.pid, *(worker['pid'] for worker in self.workers)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def said(self):
        """What it printed so far."""
        return self.output.read_text()

    def all_are_gone(self, seconds):
        """Tell whether no worker is left after so many seconds."""
        return self._wait(lambda: all(map(is_gone, self.workers)), seconds)

    def _wait(self, condition, seconds=120):
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            assert self.workers or self.process.poll() is None, self.said()
            time.sleep(0.05)
        return condition()


def _start(pid):
    return int(Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19])


@pytest.mark.parametrize(('start', 'persistent'), WAYS)
def test_none_stays_after_a_kill(tmp_path, start, persistent):
    """Though each waits to send a sample, through a pipe that it holds open itself."""
    with Training(tmp_path, start, persistent) as training:
        os.kill(training.process.pid, signal.SIGKILL)
        assert training.all_are_gone(10)


def test_a_loaders_own_function_is_called(tmp_path):
    def note(worker_id):
        (tmp_path / str(worker_id)).touch()

    loader = loader_workers._build(
        lambda: DataLoader([1, 2], num_workers=2, worker_init_fn=note))
    assert [int(value) for value in loader] == [1, 2]
    assert sorted(file.name for file in tmp_path.iterdir()) == ['0', '1']


def test_loaders_of_others_stay_as_they_are():
    loader = loader_workers._build(lambda: DataLoader([1], num_workers=0))
    assert loader.worker_init_fn is None
