"""Processes and folders of runs."""
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
def gone_process():
    """Describe a process that has ended."""
    return gone()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Run in a folder of its own."""
    (tmp_path / 'elsewhere').mkdir()
    monkeypatch.chdir(tmp_path / 'elsewhere')
    assert os.listdir() == []
