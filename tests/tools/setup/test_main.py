"""tools/setup/__main__.py: its options, and what ends it."""
import errno
import io
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def test_it_runs_on_the_standard_library_alone(tmp_path):
    """No package is there when it begins: -S hides them all."""
    done = subprocess.run([sys.executable, '-I', '-S', ROOT / 'tools' / 'setup',
                           '--help'], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for word in ('PYTHON', '--print-python', '--with-compiled-mmcv', 'PIP_INDEX_URL', 'minutes'):
        assert word in done.stdout


@pytest.mark.parametrize('option', ['--colour', '--print', 'x'])
def test_unknown_option(setup, capsys, option):
    assert setup.main.main([option]) == 1
    error = capsys.readouterr().err
    assert error.count('\n') == 2
    assert f'Set-up stopped: unrecognized arguments: {option}' in error


@pytest.mark.parametrize(('number', 'says'), [
    (errno.ENOSPC, 'The disk is full'), (errno.EACCES, 'Permission denied: .*log')])
def test_what_cannot_be_written_is_one_message(setup, monkeypatch, capsys, number, says):
    def choose(progress):
        raise OSError(number, os.strerror(number), '/somewhere/log')

    monkeypatch.setattr(setup.main, 'choose_environment', choose)
    assert setup.main.main([]) == 1
    error = capsys.readouterr().err
    assert error.count('Set-up stopped: ') == 1
    assert re.search(says, error)


def test_two_set_ups_wait_for_each_other(setup, tmp_path):
    progress = setup.commands.Progress(io.StringIO())
    order = []

    def second():
        with setup.main.only_one(tmp_path, progress):
            order.append('second')

    with setup.main.only_one(tmp_path, progress):
        thread = threading.Thread(target=second)
        thread.start()
        while 'waiting for it' not in progress.stream.getvalue():
            pass
        order.append('first')
    thread.join()
    assert order == ['first', 'second']
