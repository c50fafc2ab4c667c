"""A run that continues another one's predictions."""
import json

import pytest
from mmengine.config import Config

from mmvssd.cli.json_list import JsonList
from mmvssd.cli.resuming import NAME, check_settings, recipe_settings, write_settings
from mmvssd.errors import ConfigError, DataError

ENTRIES = [dict(image='a\nb].png', found=[dict(score=0.5)]), dict(image='고양이', found=[]), {}]


def written(file):
    grown = JsonList(file)
    for entry in ENTRIES:
        grown.append(entry)
    return file.read_bytes()


def test_a_list_is_continued(tmp_path):
    file = tmp_path / 'list.json'
    written(file)
    grown = JsonList(file)
    assert grown.resume() == ENTRIES
    assert not grown.mended
    grown.append(dict(image='d'))
    assert file.read_text() == json.dumps([*ENTRIES, dict(image='d')], indent=1)


def test_a_list_that_was_cut_off_anywhere_is_mended(tmp_path):
    file = tmp_path / 'list.json'
    content = written(file)
    for length in range(1, len(content)):
        for rest in (b'', bytes(3)):
            file.write_bytes(content[:length] + rest)
            grown = JsonList(file)
            entries = grown.resume()
            assert grown.mended
            assert entries == ENTRIES[:len(entries)]
            assert json.loads(file.read_text()) == entries
            grown.append(dict(image='d'))
            assert json.loads(file.read_text()) == [*entries, dict(image='d')]
    assert len(entries) == 3


def test_a_list_in_another_layout(tmp_path):
    file = tmp_path / 'list.json'
    file.write_text(json.dumps(ENTRIES) + '\n')
    grown = JsonList(file)
    assert grown.resume() == ENTRIES
    grown.append(dict(image='d'))
    assert json.loads(file.read_text()) == [*ENTRIES, dict(image='d')]


@pytest.mark.parametrize('content', ['{"image": 1}', '[1, 2]', 'nothing', '"a"'])
def test_what_is_no_list(tmp_path, content):
    file = tmp_path / 'list.json'
    file.write_text(content)
    with pytest.raises(DataError, match='is not a list of predictions'):
        JsonList(file).resume()
    assert file.read_text() == content


@pytest.mark.parametrize('content', ['', '\0\0\0'])
def test_a_list_without_content(tmp_path, content):
    file = tmp_path / 'list.json'
    file.write_text(content)
    grown = JsonList(file)
    assert grown.resume() == []
    grown.append(dict(image='a'))
    assert json.loads(file.read_text()) == [dict(image='a')]


def settings(tmp_path, name='a.pth', content='weights', **model):
    (tmp_path / name).write_text(content)
    cfg = Config(dict(model=model, test_dataloader=dict(dataset=dict(pipeline=[]))))
    return dict(recipe_settings(cfg, str(tmp_path / name)), score_thr=0.3)


def test_settings_that_are_the_same(tmp_path):
    write_settings(tmp_path, settings(tmp_path))
    check_settings(tmp_path, settings(tmp_path, 'copy.pth'))


@pytest.mark.parametrize(('change', 'message'), [
    (dict(content='others'), 'were made with another checkpoint; give the same'),
    (dict(depth=3), 'were made with another recipe; give the same')])
def test_settings_that_differ(tmp_path, change, message):
    write_settings(tmp_path, settings(tmp_path))
    with pytest.raises(ConfigError, match=message):
        check_settings(tmp_path, settings(tmp_path, **change))
    with pytest.raises(ConfigError, match=r'another score-thr \(0.3, now 0.5\)'):
        check_settings(tmp_path, dict(settings(tmp_path), score_thr=0.5))


@pytest.mark.parametrize('content', [None, '', '[]', '{"a"'])
def test_settings_that_are_not_known(tmp_path, content):
    if content is not None:
        (tmp_path / NAME).write_text(content)
    with pytest.raises(DataError, match=rf'--resume: .*{NAME}: cannot be read'):
        check_settings(tmp_path, settings(tmp_path))
