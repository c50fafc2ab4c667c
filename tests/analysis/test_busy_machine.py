"""A machine is loaded on purpose, and nothing that loads it stays behind."""
import os
import re
import signal
import time
from pathlib import Path

import pytest

from mmvssd.analysis import busy_machine
from mmvssd.analysis.busy_machine import busy, check_processes, cores
from mmvssd.errors import ConfigError


def state(pid):
    """Letter of a process's state; '' if there is none."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(') ')[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return ''


def cpu_seconds(pid):
    fields = Path(f'/proc/{pid}/stat').read_text().rpartition(') ')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_processes_spin_until_the_end():
    with busy(2) as pids:
        assert len(set(pids)) == 2
        # they take all they get: a machine's other work leaves them a part of it
        wait_for(lambda: all(cpu_seconds(pid) > 0.1 for pid in pids))
    assert [state(pid) for pid in pids] == ['', '']


@pytest.mark.parametrize('error', [KeyboardInterrupt, ValueError, SystemExit])
def test_an_error_ends_them(error):
    with pytest.raises(error), busy(2) as pids:
        raise error
    assert [state(pid) for pid in pids] == ['', '']


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_none_outlives_a_tool_that_is_killed(number):
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            with busy(2) as pids:
                os.write(writing, ' '.join(map(str, pids)).encode())
                time.sleep(60)
        finally:
            os._exit(1)
    os.close(writing)
    with open(reading) as pipe:
        pids = list(map(int, os.read(pipe.fileno(), 100).split()))
        assert len(pids) == 2
        assert all(map(state, pids))
        os.kill(child, number)
        os.waitpid(child, 0)
    wait_for(lambda: all(state(pid) in ('', 'Z') for pid in pids))


def test_ctrl_c_is_for_the_tool():
    with busy(1) as (pid, ):
        os.kill(pid, signal.SIGINT)
        before = cpu_seconds(pid)
        wait_for(lambda: cpu_seconds(pid) > before)


def test_one_that_ends_early():
    def end_one(pids):
        os.kill(pids[0], signal.SIGKILL)
        wait_for(lambda: state(pids[0]) == 'Z')

    with pytest.raises(ConfigError, match='--busy: 1 of 2 processes was ended from outside'), \
            busy(2) as pids:
        end_one(pids)
    assert [state(pid) for pid in pids] == ['', '']


def test_some_that_do_not_start(monkeypatch):
    monkeypatch.setattr(busy_machine, '_SPIN', 'raise MemoryError')
    with pytest.raises(ConfigError, match='--busy: 2 of 2 processes did not start'), busy(2):
        pytest.fail('not all spin')
    monkeypatch.setattr(busy_machine.sys, 'executable', '/nowhere/python')
    message = '--busy: cannot start 1 process .*/nowhere/python'
    with pytest.raises(ConfigError, match=message), busy(1):
        pytest.fail('none spins')


def test_numbers():
    check_processes(1)
    check_processes(16 * cores())
    for number in (0, -1, 16 * cores() + 1):
        with pytest.raises(ConfigError, match=re.escape(f'--busy: got {number}, expected 1 to ')):
            check_processes(number)
