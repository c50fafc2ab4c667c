"""Pages show names as text, hold all they need, and are written whole."""
import base64

import pytest
from jinja2 import UndefinedError

from mmvssd.errors import ConfigError
from mmvssd.reports import page


def test_a_missing_name_is_an_error():
    with pytest.raises(UndefinedError):
        page.render('data.html', title='')


def test_the_content_of_a_picture_is_in_the_page():
    uri = page.data_uri(b'\x89PNG', 'image/png')
    assert uri.startswith('data:image/png;base64,')
    assert base64.b64decode(uri.partition(',')[2]) == b'\x89PNG'


def test_names_that_no_file_can_hold_or_that_turn_text_around():
    names = ['\udcff.jpg', 'a\u202egpj', 'naïve 日本 😀', '\x1b[31m', '<i>']
    html = page.render('data.html', **{**dict.fromkeys(
        ('title', 'recipe', 'counted', 'command'), ''), **dict.fromkeys(
        ('faults', 'doubts', 'parts', 'classes', 'charts', 'looked_at'), ()),
        'same': {}, 'samples': {}, 'took': 1, 'not_looked_at': names})
    html.encode()
    for text in ('\\udcff.jpg', 'a\\u202egpj', 'naïve 日本 😀', '\\x1b[31m', '&lt;i&gt;'):
        assert f'<li>{text}</li>' in html


@pytest.mark.parametrize(('show', 'value', 'text'), [
    (page.shown_number, None, '–'), (page.shown_number, 0.123456, '0.1235'),
    (page.shown_number, 12345, '12,345'), (page.shown_number, 2.0, '2'),
    (page.shown_number, float('nan'), 'nan'), (page.shown_number, 'NaN', 'NaN'),
    (page.shown_number, float('inf'), 'inf'), (page.shown_number, True, 'True'),
    (page.shown_size, 999, '999 B'), (page.shown_size, 1.5e9, '1.5 GB'),
    (page.shown_size, 3e13, '30.0 TB'),
    (page.shown_seconds, None, '–'), (page.shown_seconds, 0.5, '0.5 s'),
    (page.shown_seconds, 61, '1 min 01 s'), (page.shown_seconds, 3660, '1 h 01 min')])
def test_numbers(show, value, text):
    assert show(value) == text


def test_a_page_that_cannot_be_written(tmp_path):
    (tmp_path / 'page.html').write_text('before')
    (tmp_path / 'file').touch()
    with pytest.raises(ConfigError, match='cannot be written'):
        page.write(tmp_path / 'file' / 'page.html', 'new')
    page.write(tmp_path / 'page.html', 'ü \ud800'.encode(errors='replace').decode())
    assert (tmp_path / 'page.html').read_text() == 'ü ?'
