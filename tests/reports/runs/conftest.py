"""Work dirs as runs leave them."""
import json
import os
import subprocess
import sys

import pytest

from mmvssd.processes import this_process


def gone():
    """Describe a process that has ended."""
    process = subprocess.Popen([sys.executable, '-c', ''])
    process.wait()
    return dict(this_process(), pid=process.pid)


@pytest.fixture
def work_dir(tmp_path):
    """Write a start of a run: ``work_dir(name, time, scalars, scores, log, config, **record)``."""

    def write(name='run', time='20260101_000000', scalars=(), scores=None, log='', config='',
              **record):
        folder = tmp_path / name / time
        (folder / 'vis_data').mkdir(parents=True)
        (folder / 'vis_data' / 'config.py').write_text(config)
        if scalars:
            (folder / 'vis_data' / 'scalars.json').write_text('\n'.join(map(json.dumps, scalars)))
        if scores:
            (folder / f'{time}.json').write_text(json.dumps(scores))
        (folder / f'{time}.log').write_text(log)
        content = dict(dict(
            status='finished', error=None, mode='train', started='2026-01-01T00:00:00+00:00',
            ended='2026-01-01T01:00:30+00:00', process=this_process(), config='vis_data/config.py',
            command='python tools/train.py a.py', folder=str(tmp_path), recipe='a.py',
            start=dict(checkpoint=None, pretrained=[]), work_dir=str(tmp_path / name),
            reached=dict(epoch=2, iteration=20)), **record)
        (folder / 'run.json').write_text(json.dumps(content))
        return tmp_path / name

    return write


@pytest.fixture
def gone_process():
    """Describe a process that has ended."""
    return gone()


def step(iteration, loss, **more):
    """A line that a training step writes."""
    return dict(loss=loss, lr=1e-3, time=0.1, data_time=0.01, iter=iteration, step=iteration,
                epoch=1, **more)


@pytest.fixture
def scalars():
    """Return what a training of two epochs logs: ``scalars(score, score)``."""

    def lines(*scores, key='mIoU'):
        found = [step(10, 2.0, memory=900)]
        for epoch, score in enumerate(scores, 1):
            found += [dict(step(10 * epoch, 2.0 / epoch, memory=1000), epoch=epoch),
                      {key: score, 'time': 0.1, 'step': epoch}]
        return found

    return lines


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Run in a folder of its own."""
    (tmp_path / 'elsewhere').mkdir()
    monkeypatch.chdir(tmp_path / 'elsewhere')
    assert os.listdir() == []
