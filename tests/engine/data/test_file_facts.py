"""Facts of files: what is read, what is remembered, and when reading ends."""
import json
import os
import time

import numpy as np
import pytest
from PIL import Image

from mmvssd.engine.data.file_facts import (
    MISSING,
    FileFacts,
    header,
    label_map,
    upright_size,
)


def test_a_file_is_read_once_until_it_changes(tmp_path):
    paths = [str(tmp_path / name) for name in 'abc']
    for path in paths[:2]:
        with open(path, 'w') as file:
            file.write('x')
    reads = []

    def read(path):
        reads.append(path)
        return os.path.getsize(path)

    cache = tmp_path / 'work' / 'cache.json'
    for expected in (2, 2):
        facts = FileFacts(cache, 60)
        assert facts.read('size', read, paths) == {paths[0]: 1, paths[1]: 1, paths[2]: MISSING}
        facts.save()
        assert len(reads) == expected
    assert not [name for name in os.listdir(cache.parent) if name != 'cache.json']
    with open(paths[0], 'a') as file:
        file.write('yy')
    assert FileFacts(cache, 60).read('size', read, paths)[paths[0]] == 3
    assert reads[2:] == [paths[0]]
    assert FileFacts(cache, 60).read('other', read, paths[:1]) == {paths[0]: 3}


@pytest.mark.parametrize('content', [
    b'', b'{', b'[]', b'{"version": 0}', b'{"version": 1}', b'{"version": 1, "facts": []}',
    b'{"version": 1, "facts": {"size": {"a": 3}}}', b'\xff\xfe', b'[' * 100000,
])
def test_a_broken_cache_is_ignored(tmp_path, content):
    (tmp_path / 'cache.json').write_bytes(content)
    (tmp_path / 'a').write_text('x')
    facts = FileFacts(tmp_path / 'cache.json', 60)
    assert facts.read('size', os.path.getsize, [str(tmp_path / 'a')]) == {str(tmp_path / 'a'): 1}
    facts.save()
    assert json.loads((tmp_path / 'cache.json').read_bytes())['facts']['size']


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').touch()
    facts = FileFacts(tmp_path / 'file' / 'cache.json', 60)
    assert facts.read('size', os.path.getsize, [str(tmp_path / 'file')])
    facts.save()


def test_reading_ends_in_time_and_is_spread(tmp_path):
    paths = [str(tmp_path / f'{index:04}') for index in range(2000)]
    for path in paths:
        open(path, 'w').close()
    facts = FileFacts(None, .3).read('slow', lambda path: time.sleep(.002), paths)
    assert 128 <= len(facts) < 2000
    read = sorted(map(int, map(os.path.basename, facts)))
    assert max(np.diff(read)) < 5 * 2000 / len(read)


def test_headers(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((3, 7, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'a.jpg')
    Image.fromarray(pixels).save(tmp_path / 'b.jpg', exif=exif)
    Image.fromarray(pixels).save(tmp_path / 'c.png', exif=exif)
    (tmp_path / 'd.jpg').write_text('no image')
    facts = {name[0]: header(str(tmp_path / name)) for name in ('a.jpg', 'b.jpg', 'c.png')}
    assert facts['a'] == dict(size=[7, 3], mode='RGB', orientation=1)
    assert [upright_size(facts[name]) for name in 'abc'] == [(7, 3), (3, 7), (3, 7)]
    assert header(str(tmp_path / 'd.jpg')) is None
    assert header(str(tmp_path)) is None


@pytest.mark.parametrize(('pixels', 'mode', 'values'), [
    (np.array([[0, 2], [2, 255]], np.uint8), 'L', [0, 2, 255]),
    (np.array([[0, 2], [2, 255]], np.uint8), 'P', [0, 2, 255]),
    (np.array([[False, True]]), '1', [0, 1]),
    (np.array([[3, 700]], np.uint16), 'I;16', [3, 700]),
    (np.array([[3, 70000]], np.int32), 'I', [3, 70000]),
    (np.array([[.5, 1]], np.float32), 'F', [.5, 1]),
])
def test_values_of_label_maps(tmp_path, pixels, mode, values):
    image = Image.fromarray(pixels)
    if mode == 'P':
        image = image.convert('L')
        image.putpalette([255, 0, 0] * 256)
    path = tmp_path / ('a.tif' if mode in ('F', 'I') else 'a.png')
    image.save(path)
    fact = label_map(str(path))
    assert (fact['mode'], fact['values']) == (mode, values)


def test_label_maps_of_several_channels(tmp_path):
    pixels = np.full((2, 3, 3), 4, np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'same.png')
    pixels[0, 0, 1] = 9
    Image.fromarray(pixels).save(tmp_path / 'colours.png')
    noise = np.random.RandomState(0).randint(0, 9, (90, 90)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / 'cut.png')
    (tmp_path / 'cut.png').write_bytes((tmp_path / 'cut.png').read_bytes()[:900])
    assert label_map(str(tmp_path / 'same.png'))['equal']
    assert not label_map(str(tmp_path / 'colours.png'))['equal']
    for alpha, clear in ((255, False), (7, True)):
        Image.new('LA', (3, 2), (4, alpha)).save(tmp_path / 'grey.png')
        fact = label_map(str(tmp_path / 'grey.png'))
        assert (fact['equal'], fact['clear']) == (True, clear)
    assert label_map(str(tmp_path / 'cut.png')) is None
