"""What a job says that torchrun cannot start, or that ended with an error."""
import importlib.util
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / 'tools'


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location('torchrun', TOOLS / 'torchrun.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def run(tool, tmp_path, port, code='', *options, address='127.0.0.1'):
    script = tmp_path / 'script.py'
    script.write_text(code)
    return tool.main(['--master_addr', address, '--master_port', str(port), *options, str(script)])


@pytest.mark.parametrize(('code', 'status', 'said'), [
    ('', 0, ''),
    ('import sys; sys.exit("the config has no model")', 1, 'Process 0 ended with exit status 1'),
    ('import sys; sys.exit(2)', 2, 'Process 0 ended with exit status 2'),
    ('import os; os.kill(os.getpid(), 9)', 137, 'was killed by SIGKILL. The system does so'),
    ('import os; os.abort()', 134, 'Process 0 was killed by SIGABRT. All others'),
])
def test_a_process_that_fails(tool, tmp_path, free_port, capfd, code, status, said):
    """Its own message is not buried, and its exit status is kept."""
    assert run(tool, tmp_path, free_port, code) == status
    err = capfd.readouterr().err
    assert said in err
    assert 'Traceback' not in err
    assert ('the config has no model' in err) == ('no model' in code)


def test_a_port_in_use(tool, tmp_path, capfd):
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run(tool, tmp_path, port) == 1
    assert capfd.readouterr().err.endswith(
        f'The port of 127.0.0.1:{port} is in use, perhaps by another training: choose another, '
        'on all nodes the same, with PORT=29600 before the command.\n')


@pytest.mark.parametrize(('rank', 'waits', 'ends'), [
    (0, 'Waiting at 127.0.0.1:{} for the other nodes, 2 with this one',
     'The other nodes did not come to 127.0.0.1:{} (MASTER_ADDR, PORT)'),
    (1, 'Waiting for node 0 at 127.0.0.1:{}', 'Node 0 was not reached at 127.0.0.1:{}'),
])
def test_nodes_that_do_not_come(tool, tmp_path, free_port, capfd, monkeypatch, rank, waits, ends):
    assert tool.PATIENCE < 10
    monkeypatch.setattr(tool, 'PATIENCE', 0.1)
    assert run(tool, tmp_path, free_port, '', '--nnodes', '2', '--node_rank', str(rank),
               '--rdzv_conf', 'timeout=1') == 1
    err = capfd.readouterr().err
    assert waits.format(free_port) in err
    assert ends.format(free_port) in err.splitlines()[-1]


def test_an_address_that_is_none(tool, tmp_path, free_port, capfd):
    assert run(tool, tmp_path, free_port, address='no-such-host.invalid') == 1
    assert 'MASTER_ADDR: this machine does not find no-such-host.invalid' in capfd.readouterr().err


def test_stopped(tool, tmp_path, free_port, capfd):
    """By a signal to torchrun, which passes it on."""
    handlers = {number: signal.getsignal(number) for number in
                (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)}
    try:
        status = run(tool, tmp_path, free_port, 'import os, signal, time\n'
                     'os.kill(os.getppid(), signal.SIGTERM); time.sleep(30)')
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert status == 143
    assert capfd.readouterr().err.endswith('Stopped by SIGTERM, and all processes with it.\n')


@pytest.mark.parametrize(('processes', 'variables', 'message'), [
    ('0', {}, "PROCESSES: got '0', expected a positive number"),
    ('two', {}, "PROCESSES: got 'two', expected a positive number"),
    ('1', dict(NNODES='1:2'), "NNODES: got '1:2', expected a positive number"),
    ('1', dict(NODE_RANK='-1'), "NODE_RANK: got '-1', expected a number from 0 on"),
    ('1', dict(NNODES='2', NODE_RANK='2'), 'NODE_RANK: got 2, expected 0 to 1, for NNODES is 2'),
    ('1', dict(NODE_RANK='1'), 'NODE_RANK: got 1, expected 0 to 0, for NNODES is 1'),
    ('1', dict(PORT='http'), "PORT: got 'http', expected a number from 1 to 65535"),
    ('1', dict(PORT='65536'), "PORT: got '65536', expected a number from 1 to 65535"),
    ('1', dict(MAX_RESTARTS='08'), "MAX_RESTARTS: got '08', expected a number from 0 on"),
])
def test_variables_that_do_not_fit(processes, variables, message):
    done = subprocess.run(['bash', str(TOOLS / 'dist_run.sh'), processes, 'script.py'],
                          env={**os.environ, **variables}, capture_output=True, text=True,
                          check=False)
    assert (done.returncode, done.stderr) == (2, message + '\n')


def test_a_python_without_pytorch():
    done = subprocess.run([sys.executable, '-I', '-S', TOOLS / 'torchrun.py'], text=True,
                          capture_output=True, check=False)
    assert 'has no PyTorch: activate the environment' in done.stderr
