"""Files that MMEngine writes are whole or not there."""
import builtins
import errno
from concurrent.futures import ThreadPoolExecutor

import pytest
from mmengine.fileio import LocalBackend, put

import mmvssd  # noqa: F401


def test_contents_arrive(tmp_path):
    put(b'weights', str(tmp_path / 'new' / 'epoch_1.pth'))
    LocalBackend().put_text('größer', tmp_path / 'text', encoding='latin-1')
    assert (tmp_path / 'new' / 'epoch_1.pth').read_bytes() == b'weights'
    assert (tmp_path / 'text').read_bytes() == 'größer'.encode('latin-1')
    assert {file.name for file in tmp_path.rglob('*')} == {'new', 'epoch_1.pth', 'text'}


def test_processes_that_write_one_file(tmp_path):
    """MMEngine has all processes of a test write its scores."""
    file = tmp_path / 'scores.json'
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: LocalBackend().put_text(text * 1000, str(file)),
                      'abcdefgh' * 20))
    assert len(set(file.read_text())) == 1
    assert list(tmp_path.iterdir()) == [file]


class FullDisk:
    """A file that takes three bytes."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, content):
        self.file.write(content[:3])
        raise OSError(errno.ENOSPC, 'No space left on device')


def test_a_full_disk_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    file = tmp_path / 'epoch_1.pth'
    file.write_bytes(b'good weights')
    original = builtins.open

    def open_small(path, mode='r', *args, **kwargs):
        opened = original(path, mode, *args, **kwargs)
        return FullDisk(opened) if mode == 'wb' else opened

    with monkeypatch.context() as context:
        context.setattr(builtins, 'open', open_small)
        with pytest.raises(OSError, match='No space left'):
            LocalBackend().put(b'better weights', str(file))
    assert file.read_bytes() == b'good weights'
    assert list(tmp_path.iterdir()) == [file]
