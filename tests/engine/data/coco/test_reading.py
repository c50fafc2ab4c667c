"""Files that are no annotation files, and one that is read."""
import json

import pytest

from mmvssd.engine.data import coco
from mmvssd.errors import DataError


@pytest.mark.parametrize(('content', 'message'), [
    (b'', 'is empty'), (b' \n', 'is empty'),
    (b'{"images": [', 'is not valid JSON, perhaps cut short'),
    (b'{"images": [1], "images": []}', r"\.json has the key 'images' twice in one dict"),
    (b'{"a": [{"id": 1, "id": 2}]}', "has the key 'id' twice"),
    (b'[]', 'holds a list'), (b'3', 'holds a int'),
    (b'\xef\xbb\xbf{}', r'byte order mark \(BOM\) of UTF-8'),
    ('{}'.encode('utf-16'), r'byte order mark \(BOM\) of UTF-16'),
    ('{}'.encode('utf-16-le'), 'UTF-16 or UTF-32'),
    ('{"é": 1}'.encode('latin-1'), 'not encoded in UTF-8'),
    (b'[' * 100000, 'is not valid JSON'),
    (b'\x1f\x8b\x08\x00', 'is a compressed archive; unpack it'),
    (b'PK\x03\x04\0\0', 'is a ZIP archive'),
    ('{}'.encode('utf-32'), r'byte order mark \(BOM\) of UTF-32'),
    (b'version https://git-lfs.github.com/spec/v1\noid x\n', 'a pointer of Git LFS'),
    (b'<!DOCTYPE html><html></html>', 'a page of a web site, not an annotation file'),
    (b'{"id": 1}\n{"id": 2}\n', 'JSON Lines'),
    (b'{"info":{"a": [', 'is not valid JSON, perhaps cut short'),
    (b'{"id": 1} x', 'is not valid JSON'),
    (b'a.jpg 1 2 3 4', 'is not valid JSON'),
])
def test_a_file_that_is_no_annotation_file(tmp_path, content, message):
    file = tmp_path / 'a.json'
    file.write_bytes(content)
    with pytest.raises(DataError, match=message):
        coco.read_json(str(file))


def test_a_file_that_is_read(tmp_path):
    (tmp_path / 'a.json').write_text(json.dumps(dict(images=[])))
    assert coco.read_json(str(tmp_path / 'a.json')) == dict(images=[])
