"""Names of pictures, and writing them."""
import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmvssd.engine.record.pictures import LONGEST_NAME, picture_names, write_picture


def names(*files, suffix=None):
    named = picture_names([Path(file) for file in files], suffix)
    return [str(named[Path(file)]) for file in files]


def test_pictures_have_the_names_of_their_images():
    assert names('in/a.jpg', 'in/b.PNG', 'in/c.gif', 'in/plain') == [
        'a.jpg', 'b.PNG', 'c.gif.png', 'plain.png']
    assert names('in/a.jpg', 'in/b.png', suffix='.png') == ['a.jpg.png', 'b.png']
    assert names('in/a.jpg', 'in/a.jpg') == ['a.jpg', 'a.jpg']
    assert picture_names([]) == {}


@pytest.mark.parametrize('suffix', [None, '.png'])
def test_no_two_have_one_name_in_any_order(suffix):
    files = ['in/a.jpg', 'in/a.jpg.png', 'in/a.jpg-2.png', 'in/a.gif', 'in/a.gif.png']
    for order in itertools.permutations(files):
        found = dict(zip(order, names(*order, suffix=suffix)))
        assert len(set(found.values())) == 5
        assert found == dict(zip(files, names(*files, suffix=suffix)))


def test_images_of_several_folders():
    assert names('/d/cam0/0.jpg', '/d/cam1/0.jpg', '/d/cam1/1.jpg') == [
        'cam0/0.jpg', 'cam1/0.jpg', 'cam1/1.jpg']
    assert names('/d/cam0/0.jpg', '/d/cam1/1.jpg') == ['0.jpg', '1.jpg']
    assert names('/d/0.jpg', '/d/sub/0.jpg') == ['0.jpg', 'sub/0.jpg']
    assert names('d/0.jpg', 'e/0.jpg') == ['d/0.jpg', 'e/0.jpg']
    assert len(set(names('d/0.jpg', '/d/0.jpg'))) == 2


def test_no_picture_leaves_its_folder(tmp_path):
    files = [tmp_path / 'images' / '..' / '..' / 'secret' / '1.jpg', tmp_path / 'images' / '1.jpg',
             Path('../../../1.jpg')]
    names = picture_names(files)
    assert len(set(names.values())) == 3
    assert not [name for name in names.values() if '..' in name.parts or name.is_absolute()]


def test_long_names_are_shortened_and_stay_apart():
    first, second = names(f'in/{"n" * 250}a.jpg', f'in/{"n" * 250}b.jpg')
    assert first != second
    assert first.startswith('nnn')
    assert first.endswith('.jpg')
    wide, = names('in/' + '\uac00' * 84 + '.png')
    assert max(len(name.encode()) for name in (first, second, wide)) <= LONGEST_NAME


def test_a_picture_is_written_in_colour(tmp_path):
    image = np.zeros((4, 6, 3), np.uint8)
    image[..., 0] = 200
    write_picture(tmp_path / 'new' / 'red.png', image)
    assert cv2.imread(str(tmp_path / 'new' / 'red.png'))[0, 0].tolist() == [0, 0, 200]
    assert [file.name for file in (tmp_path / 'new').iterdir()] == ['red.png']


def test_a_picture_that_a_format_does_not_take(tmp_path):
    with pytest.raises((ValueError, cv2.error)):
        write_picture(tmp_path / 'long.webp', np.zeros((1, 20000, 3), np.uint8))
    assert not list(tmp_path.iterdir())
