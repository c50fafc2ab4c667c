"""Photographs: which are taken, how they are resized, what is said of those that are broken."""
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from mmvssd.analysis import photographs
from mmvssd.analysis.named_models import Normalization
from mmvssd.analysis.photographs import (
    check_size,
    choose_photographs,
    each_picture,
    normalized,
    open_picture,
    report_failures,
)
from mmvssd.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path):
    """Nine pictures, each of one colour, 40 x 60."""
    for i in range(9):
        Image.new('RGB', (60, 40), (i, 100, 200)).save(tmp_path / f'{i}.png')
    return tmp_path


def test_a_choice_is_the_seeds(folder):
    chosen = [choose_photographs([str(folder)], 4, seed=seed) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] == sorted(chosen[0])
    assert chosen[0] != chosen[2]
    assert chosen[0] != sorted(folder.iterdir())[:4]
    everything = choose_photographs([str(folder / '3.png'), str(folder)], 50)
    assert everything == sorted(folder.iterdir())


def test_folders_in_folders(folder):
    (folder / 'n01440764').mkdir()
    (folder / '0.png').rename(folder / 'n01440764' / 'a.JPEG')
    (folder / 'n01440764' / 'a.txt').touch()
    (folder / 'n01440764' / 'b.gif').touch()
    (folder / '__MACOSX').mkdir()
    for hidden in ('._1.png', '__MACOSX/2.png'):
        (folder / hidden).touch()
    files = choose_photographs([str(folder)], 50)
    assert [file.name for file in files] == [*(f'{i}.png' for i in range(1, 9)), 'a.JPEG', 'b.gif']


def test_a_pattern(folder):
    assert choose_photographs([f'{folder}/[12].png'], 50) == [folder / '1.png', folder / '2.png']
    with pytest.raises(DataError, match=r'x\*.png: no file fits this pattern'):
        choose_photographs([f'{folder}/x*.png'], 50)


def test_a_folder_that_cannot_be_listed(locked):
    with pytest.raises(DataError, match=r'/locked: cannot be listed \(Permission denied\)'):
        choose_photographs([str(locked)], 50)


def test_scikit_learns():
    pytest.importorskip('sklearn')
    files = choose_photographs(['sklearn'], 50)
    assert [file.name for file in files] == ['china.jpg', 'flower.jpg']
    assert [open_picture(file, 64).image.shape for file in files] == [(64, 64, 3)] * 2


@pytest.mark.parametrize(('source', 'command'), [('sklearn', 'pip install scikit-learn'),
                                                 ('skimage', 'pip install scikit-image')])
def test_packages_that_are_missing(monkeypatch, source, command):
    monkeypatch.setattr(photographs.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(ConfigError, match=f'{command}.* --images'):
        choose_photographs([source], 50)


def test_pictures_inside_a_package(monkeypatch, tmp_path):
    package = tmp_path / 'skimage' / 'data'
    package.mkdir(parents=True)
    for name in ('__init__.py', '../__init__.py'):
        (package / name).touch()
    for name in [name for name in sys.modules if name.partition('.')[0] == 'skimage']:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match='bundles none of astronaut.png'):
        choose_photographs(['skimage'], 50)
    Image.new('RGB', (8, 8)).save(package / 'coffee.png')
    assert choose_photographs(['skimage'], 50) == [package / 'coffee.png']


@pytest.mark.parametrize(('sources', 'most', 'error', 'message'), [
    (['nowhere'], 5, DataError, 'nowhere: no such image or folder'),
    ([''], 5, ConfigError, '--images: got '),
    ([], 5, ConfigError, '--images: got '),
    (['nowhere'], 0, ConfigError, '--num-images: got 0')])
def test_photographs_that_are_none(sources, most, error, message):
    with pytest.raises(error, match=message):
        choose_photographs(sources, most)


def test_an_empty_folder(tmp_path):
    with pytest.raises(DataError, match='holds no image'):
        choose_photographs([str(tmp_path)], 5)


@pytest.mark.parametrize(('size', 'resize'), [(31, 'crop'), (-64, 'crop'), (64., 'crop'),
                                              (64, 'stretch')])
def test_sizes(size, resize):
    check_size(32)
    with pytest.raises(ConfigError, match='^--(size|resize): got '):
        check_size(size, resize)


def test_crop_and_squash(tmp_path):
    # thirds of a strip: red, green, blue; the centre is green
    strip = np.repeat(np.eye(3, dtype=np.uint8)[None] * 255, 64, axis=1).repeat(64, axis=0)
    file = tmp_path / 'strip.png'
    Image.fromarray(strip).save(file)
    cropped = open_picture(file, 64, 'crop')
    assert not cropped.enlarged
    np.testing.assert_array_equal(cropped.image, strip[:, 64:128])
    squashed = open_picture(file, 64, 'squash').image
    np.testing.assert_array_equal(squashed[:, [0, 32, -1]].argmax(-1), [[0, 1, 2]] * 64)
    assert open_picture(file, 65, 'crop').enlarged


@pytest.mark.parametrize(('mode', 'value', 'expected'), [
    ('L', 7, 7), ('I;16', 0x0780, 7), ('LA', (7, 0), 7), ('P', 0, 0), ('1', 1, 255)])
def test_grey_pictures_have_three_channels(tmp_path, mode, value, expected):
    Image.new(mode, (40, 40), value).save(tmp_path / 'grey.png')
    image = open_picture(tmp_path / 'grey.png', 32).image
    assert image.shape == (32, 32, 3)
    assert (image == expected).all()


def test_orientation(tmp_path):
    image = Image.new('RGB', (40, 40))
    image.paste((255, 255, 255), (0, 0, 40, 20))  # the upper half
    exif = Image.Exif()
    exif[274] = 3  # taken upside down
    image.save(tmp_path / 'turned.png', exif=exif)
    turned = open_picture(tmp_path / 'turned.png', 32).image
    assert turned[0].max() == 0
    assert turned[-1].min() == 255


def test_broken_ones_are_named_at_the_end(folder):
    (folder / '1.png').write_bytes(b'')
    (folder / '2.png').write_bytes((folder / '3.png').read_bytes()[:60])
    (folder / '4.png').unlink()
    (folder / '4.png').symlink_to('gone.png')
    Image.new('RGB', (20000, 1)).save(folder / '5.png')
    Image.new('F', (40, 40)).save(folder / '6.tif')
    failures = {}
    files = choose_photographs([str(folder)], 50)
    read = [file.name for file, _ in each_picture(files, 96, 'crop', failures)]
    assert read == ['0.png', '3.png', '6.png', '7.png', '8.png']
    with pytest.raises(DataError) as raised:
        report_failures(failures, len(files))
    lines = str(raised.value).splitlines()
    assert lines[0] == '5 of 10 images were left out:'
    for line, reason in zip(lines[1:], ['is empty', 'cannot be decoded', 'is a link to',
                                        'too narrow', 'pixels of 32 bits']):
        assert reason in line, line
    report_failures({}, 3)


def test_normalization():
    image = np.zeros((2, 3, 3), np.uint8)
    image[..., 0] = 10  # red
    x = normalized(image, Normalization((4., 0., 0.), (2., 1., 1.)))
    assert x.shape == (1, 3, 2, 3)
    assert x.dtype == torch.float32
    assert x[0, :, 0, 0].tolist() == [3, 0, 0]
    x = normalized(image, Normalization((0., 0., 4.), (1., 1., 2.), rgb=False))
    assert x[0, :, 0, 0].tolist() == [0, 0, 3]
