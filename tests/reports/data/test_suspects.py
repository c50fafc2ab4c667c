"""Findings are shown with the images that they name."""
import base64
import io

import pytest
from PIL import Image

from mmvssd.engine.data.findings import WARN, Finding
from mmvssd.reports.data.contents import Part
from mmvssd.reports.data.suspects import EACH, Suspects


@pytest.fixture
def part(tmp_path):
    found = Part('train', ['cat', 'dog'])
    for index in range(6):
        path = str(tmp_path / f'{index}.jpg')
        Image.new('RGB', (50, 40)).save(path)
        found.paths.append(path)
        found.boxes.append((path, [(1, 2, 30, 20)], [index % 2]))
    return found


def told(*places):
    return Finding(WARN, 'where', 'what', first=list(places))


@pytest.mark.parametrize('text', [
    '{}', '{}: 26 x 3.9', '{} is /other/one.jpg', 'annotation 5 of 1.jpg: [1, 2]',
    "annotation 'x' of 1.jpg", '1.jpg', '{} is not there'])
def test_images_are_found_in_what_is_said_of_them(part, text):
    (picture, ) = Suspects([part]).of(told(text.format(part.paths[1])))
    assert picture.title == part.paths[1]
    assert [name.text for name in picture.names] == ['dog']


def test_places_that_name_no_image(part, tmp_path):
    (tmp_path / 'other.jpg').write_text('')
    assert Suspects([part]).of(told('line 3: x', '/etc/passwd', 'nine (9)', '')) == []


def test_an_image_that_cannot_be_read(part):
    with open(part.paths[0], 'wb') as file:
        file.write(b'none')
    assert [picture.title for picture in Suspects([part]).of(told(*part.paths[:2]))] == [
        part.paths[1]]


def test_not_too_many(part):
    suspects = Suspects([part])
    assert len(suspects.of(told(*part.paths))) == EACH
    assert sum(len(suspects.of(told(*part.paths))) for _ in range(30)) == 40 - EACH


def test_large_images_keep_their_boxes_in_place(tmp_path):
    path = str(tmp_path / 'large.jpg')
    Image.new('RGB', (4000, 2000)).save(path)
    part = Part('train', ['cat'], paths=[path], boxes=[(path, [(2000, 0, 4000, 2000)], [0])])
    (picture, ) = Suspects([part]).of(told(path))
    shown = Image.open(io.BytesIO(base64.b64decode(picture.uri.partition(',')[2])))
    assert shown.size == (480, 240)
    assert max(shown.getpixel((240, 120))) > 60  # the box's left edge, in the middle
    assert max(shown.getpixel((120, 120))) < 30
