"""Files that are written whole or not at all."""
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from mmvssd.files import PARTIAL, replace_together, strict_json, write_whole, written_whole


def test_contents_arrive(tmp_path):
    write_whole(tmp_path / 'text', 'größer')
    write_whole(tmp_path / 'bytes', b'\0\1')
    with written_whole(tmp_path / 'by hand', durable=True) as partial:
        assert partial.name.startswith('by hand.')
        assert partial.name.endswith(PARTIAL)
        partial.write_text('whole')
    assert (tmp_path / 'text').read_bytes() == 'größer'.encode()
    assert (tmp_path / 'bytes').read_bytes() == b'\0\1'
    assert (tmp_path / 'by hand').read_text() == 'whole'
    assert len(list(tmp_path.iterdir())) == 3


def test_an_error_leaves_the_file_that_was_there(tmp_path):
    file = tmp_path / 'run.json'
    file.write_text('good')

    def fail():
        with written_whole(file) as partial:
            partial.write_text('half')
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert file.read_text() == 'good'
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / 'gone' / 'file', 'text')


@pytest.mark.parametrize('before', [True, False])
def test_files_that_belong_together(tmp_path, before):
    """If the second cannot be replaced, the first is as it was."""
    (tmp_path / 'new').mkdir()
    parts = {tmp_path / name: tmp_path / 'new' / name for name in ('model.bin', 'model.xml')}

    def fill():
        for part in parts.values():
            part.write_text('new')

    fill()
    if before:
        (tmp_path / 'model.bin').write_text('old')
    (tmp_path / 'model.xml').mkdir()
    with pytest.raises(IsADirectoryError):
        replace_together(parts)
    assert (tmp_path / 'model.bin').exists() == before
    assert not before or (tmp_path / 'model.bin').read_text() == 'old'
    (tmp_path / 'model.xml').rmdir()
    fill()
    replace_together(parts)
    assert [file.read_text() for file in parts] == ['new', 'new']


def test_many_writers_of_one_file(tmp_path):
    file = tmp_path / 'scores.json'
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: write_whole(file, text * 1000), 'abcdefgh' * 20))
    assert len(set(file.read_text())) == 1
    assert list(tmp_path.iterdir()) == [file]


def test_json_that_every_reader_takes():
    value = dict(loss=float('nan'), scores=[1.5, float('inf'), (-float('inf'), 2)], name='nan')
    text = strict_json(value, indent=1)

    def refuse(constant):
        raise AssertionError(constant)

    assert json.loads(text, parse_constant=refuse) == dict(
        loss='nan', scores=[1.5, 'inf', ['-inf', 2]], name='nan')
