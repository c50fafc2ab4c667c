"""The growing list of JSON."""
import errno
import json
import os

import pytest

from mmvssd.cli.json_list import JsonList


def test_it_is_whole_after_every_entry(tmp_path):
    file = tmp_path / 'list.json'
    file.write_text('of an earlier run')
    grown = JsonList(file)
    assert file.read_text() == 'of an earlier run'
    entries = [dict(image='a\nb]', found=[]), dict(image='고양이', found=[1, dict(x=2)]), {}]
    for count, entry in enumerate(entries, 1):
        grown.append(entry)
        assert grown.length == count
        assert json.loads(file.read_text()) == entries[:count]
        assert file.read_text() == json.dumps(entries[:count], indent=1)
    assert [name.name for name in tmp_path.iterdir()] == ['list.json']


def test_numbers_that_json_does_not_have(tmp_path):
    grown = JsonList(tmp_path / 'list.json')
    grown.append(dict(score=1.))
    with pytest.raises(ValueError, match='numbers that are not finite'):
        grown.append(dict(score=float('nan')))
    grown.append(dict(score=2.))
    assert json.loads(grown.file.read_text()) == [dict(score=1.), dict(score=2.)]


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    grown = JsonList(tmp_path / 'list.json')
    grown.append(dict(image='a' * 50))
    write, free = os.pwrite, [20]

    def fill(descriptor, content, offset):
        room = free[0] if offset + len(content) > 100 else len(content)
        if not room:
            raise OSError(errno.ENOSPC, 'No space left on device')
        free[0] -= room
        return write(descriptor, content[:room], offset)

    monkeypatch.setattr(os, 'pwrite', fill)
    with pytest.raises(OSError, match='No space left'):
        grown.append(dict(image='b' * 50))
    assert json.loads(grown.file.read_text()) == [dict(image='a' * 50)]
    monkeypatch.undo()
    grown.append(dict(image='c'))
    assert json.loads(grown.file.read_text()) == [dict(image='a' * 50), dict(image='c')]
