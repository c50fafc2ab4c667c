"""What exports leave if something ends them: nothing."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmvssd.deployment.output import place, temporary_folder


@pytest.mark.usefixtures('usual_signals')
@pytest.mark.parametrize(('number', 'error'), [
    (signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit),
    (signal.SIGHUP, SystemExit)])
def test_a_signal_leaves_nothing(tmp_path, number, error):
    former = signal.getsignal(number)

    def write():
        with temporary_folder(tmp_path / 'a' / 'b.onnx') as folder:
            assert folder.parent == tmp_path
            (folder / 'model.onnx').write_text('half')
            os.kill(os.getpid(), number)
            time.sleep(5)

    with pytest.raises(error) as caught:
        write()
    assert error is KeyboardInterrupt or caught.value.code == 128 + number
    assert os.listdir(tmp_path) == []
    assert signal.getsignal(number) == former


def test_files_come_into_a_new_folder(tmp_path, monkeypatch):
    """It may be named as seen from here."""
    monkeypatch.chdir(tmp_path)
    out = Path('new') / 'folder' / 'model.xml'
    with temporary_folder(out) as folder:
        for name in ('model.bin', 'model.xml'):
            (folder / name).write_text(name)
        assert not (tmp_path / 'new').exists()
        place({out.with_suffix('.bin'): folder / 'model.bin', out: folder / 'model.xml'})
    assert os.listdir(tmp_path) == ['new']
    assert sorted(os.listdir(out.parent)) == ['model.bin', 'model.xml']


def test_folders_of_what_was_not_placed_go(tmp_path):
    (tmp_path / 'there').mkdir()
    for parent in ('new/folder', 'there', 'there/new'):
        file = tmp_path / parent / 'model.onnx'
        with pytest.raises(FileNotFoundError), temporary_folder(file) as folder:
            place({file: folder / 'none.onnx'})
    with pytest.raises(IsADirectoryError), temporary_folder(tmp_path / 'there'):
        pytest.fail('a folder is in the way')
    assert os.listdir(tmp_path) == ['there']
    assert os.listdir(tmp_path / 'there') == []


RUN = """
import hashlib, sys, time
from pathlib import Path
from mmvssd.cli.command_line import run
from mmvssd.deployment.output import temporary_folder
from mmvssd.engine.record import signals

signals.PATIENCE = 0.5

def write():
    with temporary_folder(Path(sys.argv[1])) as folder:
        (folder / 'model.onnx').write_text('half')
        print('writing', flush=True)
        if sys.argv[2] == 'outside Python':
            hashlib.pbkdf2_hmac('sha256', b'', b'', 2**30)
        time.sleep(60)

run(write)
"""


@pytest.mark.slow
@pytest.mark.usefixtures('usual_signals')
@pytest.mark.parametrize(('number', 'where'), [
    (signal.SIGHUP, 'in Python'), (signal.SIGTERM, 'outside Python')])
def test_a_process_that_is_ended(tmp_path, number, where):
    (tmp_path / 'run.py').write_text(RUN)
    out = tmp_path / 'out'
    out.mkdir()
    command = [sys.executable, tmp_path / 'run.py', out / 'new' / 'model.onnx', where]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == 'writing\n'
        assert [name[:8] for name in os.listdir(out)] == ['.export-']
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert errors in ('', f'Ended by {number.name}.\n')  # it may come while Python listens
    assert os.listdir(out) == []
