"""tools/setup/commands.py: how it runs commands, and what it says of those that fail."""
import io
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import pytest


@pytest.fixture
def commands(setup, tmp_path):
    """Runs commands; what the user sees is in ``seen``, and an open file stands for the lock."""
    with (tmp_path / 'lock').open('w') as lock:
        progress = setup.commands.Progress(io.StringIO())
        commands = setup.commands.Commands(progress, tmp_path / 'log', lock.fileno())
        commands.seen = progress.stream
        yield commands


@pytest.mark.parametrize(('output', 'says'), [
    ('ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device',
     ['The disk is full', 'TMPDIR']),
    ("WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError('"
     '[Errno 111] Connection refused)\nERROR: No matching distribution found for rich==15.0.0',
     ['does not reach its package index', 'HTTPS_PROXY']),
    ('ERROR: Could not find a version that satisfies the requirement rich==15.0.0\n'
     'ERROR: No matching distribution found for rich==15.0.0',
     ['has no rich==15.0.0', 'PIP_INDEX_URL']),
    ('one\ntwo\nsomething else', ['Its last lines:', 'something else']),
])
def test_why_a_step_failed(setup, output, says):
    lines = setup.commands.explain(output)
    assert len(lines) <= 5
    assert 'run it again' in lines[-1]
    for part in says:
        assert part in '\n'.join(lines)


def test_a_failed_step_is_one_message(setup, commands, tmp_path):
    code = 'import sys; print("[Errno 28] No space left on device", file=sys.stderr); sys.exit(2)'
    with pytest.raises(setup.commands.SetupError) as caught:
        commands.run('the hosts', [sys.executable, '-c', code])
    assert str(caught.value).startswith('it did not work: the hosts')
    assert 'The disk is full' in str(caught.value)
    assert str(tmp_path / 'log') in str(caught.value)
    assert 'No space left' in (tmp_path / 'log').read_text()


def test_steps_are_lines_with_seconds(commands, tmp_path):
    commands.run('first', ['printf', '%s', 'no end of line \xff'])
    commands.run('second', ['true'])
    assert re.fullmatch(r'\[  \d s\] first\n\[  \d s\] second\n', commands.seen.getvalue())
    assert 'no end of line \xff\n' in (tmp_path / 'log').read_text()


def test_a_terminal_shows_the_last_telling_line(setup, commands):
    commands.seen.isatty = lambda: True
    commands.progress.is_terminal = True
    commands.run('compiling', ['printf', r'Collecting x\n  noise\n [3/12] c++ y.cpp\n'])
    seen = commands.seen.getvalue()
    assert 'Collecting x' in seen
    assert '3 of 12 files' in seen
    assert seen.endswith('compiling: done\n')


@pytest.mark.usefixtures('usual_signals')
@pytest.mark.slow
def test_an_interruption_reaches_what_a_command_started(setup, commands, tmp_path):
    """As Ctrl-C does, sent to this process only: the grandchild ends too."""
    started = tmp_path / 'started'
    # no program in the foreground: bash would go on after one that ends as the signal comes
    script = f'sleep 60 & echo $! >"{started}"; wait'

    def interrupt():
        while not (started.exists() and started.read_text()):
            pass
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        commands.run('waiting', ['bash', '-c', script])
    thread.join()
    with pytest.raises(ProcessLookupError):
        wait_until_gone(int(started.read_text()))


def wait_until_gone(pid):
    """Raise ProcessLookupError as soon as a process is gone or a zombie; return after 5 s."""
    for _ in range(50):
        os.kill(pid, 0)
        if Path(f'/proc/{pid}/stat').read_text().split()[2] == 'Z':
            raise ProcessLookupError
        time.sleep(0.1)
