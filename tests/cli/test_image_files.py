"""Which images are predicted on, and why others are not, before anything is decoded."""
import os
import re
import struct
import zlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from mmcv.transforms import CenterCrop, Resize

from mmvssd.cli.image_files import Limits, find_images, image_size, obstacle, resized
from mmvssd.errors import DataError

LIMITS = Limits.of(2**26)


def header(file, width, height):
    """Write a PNG that has a header and no pixels."""
    fields = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    chunks = [struct.pack('>I', len(content)) + name + content
              + struct.pack('>I', zlib.crc32(name + content))
              for name, content in ((b'IHDR', fields), (b'IDAT', b''), (b'IEND', b''))]
    file.write_bytes(b'\x89PNG\r\n\x1a\n' + b''.join(chunks))
    return file


def pixels(file, width=4, height=3):
    assert cv2.imwrite(str(file), np.zeros((height, width, 3), np.uint8))
    return file


def test_all_that_is_named_like_an_image_is_found(tmp_path, caplog):
    (tmp_path / 'a.jpg').mkdir()
    (tmp_path / 'b.PNG').touch()
    os.mkfifo(tmp_path / 'c.tif')
    (tmp_path / 'd.webp').symlink_to('nothing')
    (tmp_path / 'notes.txt').touch()
    (tmp_path / 'e.gif').touch()
    (tmp_path / '._b.PNG').touch()
    (tmp_path / 'sub').mkdir()
    found = find_images(str(tmp_path))
    assert [file.name for file in found] == ['a.jpg', 'b.PNG', 'c.tif', 'd.webp', 'e.gif']
    assert find_images(str(tmp_path / '._b.PNG')) == [tmp_path / '._b.PNG']  # it was named
    assert find_images(str(tmp_path / 'notes.txt')) == [tmp_path / 'notes.txt']
    assert find_images(str(tmp_path / 'd.webp')) == [tmp_path / 'd.webp']


@pytest.mark.parametrize(('path', 'message'), [
    ('', "images: got ''; is a variable of your script not set"),
    (' ', "images: got ' '; "),
    ('gone', 'gone: no such image or folder'),
    ('n' * 300, 'nnn: cannot be looked at|nnn: no such image'),
    ('empty', 'empty: holds no image .*; it holds 1 .txt, 2 folders$'),
    ('phone', 'holds 1 .HEIC, 1 hidden. .HEIC is not read: convert these photographs to JPEG$'),
])
def test_nothing_to_predict_on(tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    for name in ('sub', 'other'):
        (tmp_path / 'empty' / name).mkdir(parents=True)
    (tmp_path / 'empty' / 'a.txt').touch()
    (tmp_path / 'phone').mkdir()
    for name in ('1.HEIC', '._1.jpg'):
        (tmp_path / 'phone' / name).touch()
    with pytest.raises(DataError, match=message):
        find_images(path)


def folder(file):
    file.mkdir()


def pipe(file):
    os.mkfifo(file)


def device(file):
    file.symlink_to('/dev/zero')


def empty(file):
    file.touch()


def dangling(file):
    file.symlink_to('gone.jpg')


def looping(file):
    file.symlink_to(file.name)


def pointer(file):
    file.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n')


@pytest.mark.parametrize(('make', 'reason'), [
    (folder, 'is a folder'),
    (pipe, 'is a pipe or a device'),
    (device, 'is a pipe or a device'),
    (empty, 'is empty: 0 bytes'),
    (dangling, 'is a link to gone.jpg, which leads to no file'),
    (looping, 'is a link to a.jpg, which leads to no file'),
    (pointer, 'git lfs pull'),
    (lambda file: header(file, 40000, 28000), 'has 40000 x 28000 = 1,120,000,000 pixels, more'),
    (lambda file: header(file, 5000, 4000), '20,000,000 pixels as the recipe hands them to the'),
])
def test_obstacles(tmp_path, make, reason):
    file = tmp_path / 'a.jpg'
    make(file)
    assert reason in obstacle(file, [], LIMITS)


def test_no_permission(locked):
    assert obstacle(locked / 'locked.png', [], LIMITS) == 'Permission denied'


def test_what_vanished(tmp_path):
    assert obstacle(tmp_path / 'gone.jpg', [], LIMITS) == 'No such file or directory'


def test_files_that_may_be_decoded(tmp_path):
    """Those of an unknown header too: the recipe's decoder may know more."""
    (tmp_path / 'text.jpg').write_text('hello')
    (tmp_path / 'link.jpg').symlink_to('text.jpg')
    for file in (tmp_path / 'text.jpg', tmp_path / 'link.jpg', pixels(tmp_path / '1.png', 1, 1),
                 pixels(tmp_path / 'a.jpg')):
        assert obstacle(file, [Resize((64, 64), keep_ratio=True)], LIMITS) is None
    assert image_size(tmp_path / 'text.jpg') is None
    assert image_size(tmp_path / 'a.jpg') == (4, 3)
    assert image_size(header(tmp_path / 'large.png', 10**6, 10**6)) == (10**6, 10**6)


def edge(name, scale):
    return type('ResizeEdge', (), dict(edge=name, scale=scale))()


@pytest.mark.parametrize(('step', 'size', 'expected'), [
    (Resize((64, 64), keep_ratio=True), (100, 50), (64, 32)),
    (Resize((2048, 512), keep_ratio=True), (2000, 3), (2048, 3)),
    (Resize((160, 160), keep_ratio=True), (2000, 3), (160, 0)),
    (Resize((64, 32), keep_ratio=False), (100, 50), (64, 32)),
    (Resize(scale_factor=0.5), (100, 50), (50, 25)),
    (edge('short', 256), (5000, 1), (1280000, 256)),
    (edge('short', 256), (3, 2000), (256, 170666)),
    (edge('long', 256), (5000, 1), (256, 0)),
    (edge('width', 10), (20, 40), (10, 20)),
    (edge('height', 10), (20, 40), (5, 10)),
    (SimpleNamespace(), (7, 9), (7, 9)),
])
def test_sizes_after_a_step(step, size, expected):
    assert resized(step, *size) == expected


def test_sizes_are_mmcvs():
    for size in ((100, 50), (7, 300), (1, 1), (641, 480)):
        for step in (Resize((64, 32), keep_ratio=True), Resize((64, 32)), Resize(scale_factor=2.5)):
            image = step(dict(img=np.zeros((size[1], size[0], 3), np.uint8)))['img']
            assert resized(step, *size) == image.shape[1::-1]


def test_sizes_are_mmpretrains():
    transforms = pytest.importorskip('mmpretrain.datasets.transforms')
    for size in ((100, 50), (7, 300), (1, 1), (641, 480), (64, 64)):
        for name in ('short', 'long', 'width', 'height'):
            step = transforms.ResizeEdge(48, edge=name)
            image = step(dict(img=np.zeros((size[1], size[0], 3), np.uint8)))['img']
            assert resized(step, *size) == image.shape[1::-1]


@pytest.mark.parametrize(('size', 'reason'), [
    ((5000, 1), 'has 5000 x 1 pixels, of which .* ResizeEdge makes 1280000 x 256 = 327,680,000, '
                'more than 67,108,864'),
    ((500, 1), None),
    ((8000, 8000), None),
])
def test_shapes_for_a_classifier(tmp_path, size, reason):
    file = header(tmp_path / 'a.png', *size)
    found = obstacle(file, [edge('short', 256), CenterCrop((224, 224))], LIMITS)
    assert found is None if reason is None else re.search(reason, found)
