"""What is predicted on, by what the command line names."""
import cv2
import numpy as np
import pytest

from mmvssd.cli.inputs import find_inputs
from mmvssd.errors import DataError


def files(inputs):
    return [str(item.file) for item in inputs.read(frozenset())]


def touched(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_a_list_is_read_from_its_folder_on(tmp_path):
    elsewhere = tmp_path / 'elsewhere.png'
    lines = ['a.png', '../b c.png ', '', '#1.png', 'a.png', str(elsewhere), '고양이.png']
    touched(tmp_path, 'lists/#1.png')
    file = tmp_path / 'lists' / 'some.TXT'
    file.write_bytes(b'\xef\xbb\xbf' + '\r\n'.join(lines).encode() + b'\nbad\xff.png')
    inputs = find_inputs(str(file))
    assert files(inputs) == [str(file.parent / line) for line in (
        'a.png', '../b c.png ', '#1.png', str(elsewhere), '고양이.png', 'bad\udcff.png')]
    assert len(inputs) == 6


@pytest.mark.parametrize('content', [b'', b'\n \r\n', b'\xef\xbb\xbf'])
def test_an_empty_list(tmp_path, content):
    (tmp_path / 'list.txt').write_bytes(content)
    with pytest.raises(DataError, match=r'list.txt: lists no image; it takes one path a line'):
        find_inputs(str(tmp_path / 'list.txt'))


@pytest.mark.parametrize(('content', 'message'), [
    (b'Camera: A7\nin the garden',
     "is taken for a list of images, and none of its 2 lines names .*; the first: 'Camera: A7'"),
    ('a.png\n'.encode('utf-16'), 'is encoded in UTF-16, or is no text; save it as UTF-8')])
def test_a_text_that_is_no_list(tmp_path, content, message):
    """A pattern may fit such a file beside the images."""
    touched(tmp_path, 'a.png')
    (tmp_path / 'notes.txt').write_bytes(content)
    with pytest.raises(DataError, match=f'notes.txt: .*{message}'):
        find_inputs(str(tmp_path / '*'))


def test_sub_folders(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr('mmvssd.cli.inputs.print_log', lambda text, **_: said.append(text))
    touched(tmp_path, 'b.png', 'x/a.JPG', 'x/y/a.jpg', 'x/notes.md', 'z/c.tif', 'z/d.gif',
            'out/pictures/b.png', 'x/._a.JPG', '.trash/e.png', '__MACOSX/b.png')
    (tmp_path / 'x' / 'round').symlink_to(tmp_path)
    inputs = find_inputs(str(tmp_path), recursive=True, without=tmp_path / 'out' / 'pictures')
    assert files(inputs) == [str(tmp_path / name) for name in (
        'b.png', 'x/a.JPG', 'x/y/a.jpg', 'z/c.tif', 'z/d.gif')]
    assert said == [f'{tmp_path} and its folders: not looked at: 1 .md, 3 hidden']
    assert files(find_inputs(str(tmp_path))) == [str(tmp_path / 'b.png')]
    with pytest.raises(DataError, match='1 folder. Take the images of its folders with --rec'):
        find_inputs(str(tmp_path / 'out'))
    with pytest.raises(DataError, match='neither it nor a folder below it holds an image'):
        find_inputs(str(tmp_path / 'out'), recursive=True, without=tmp_path / 'out' / 'pictures')
    with pytest.raises(DataError, match='is not a folder, and --recursive needs one'):
        find_inputs(str(tmp_path / 'b.png'), recursive=True)


def test_a_folder_that_cannot_be_listed(locked):
    with pytest.raises(DataError, match=r'/locked: cannot be listed \(Permission denied\)'):
        find_inputs(str(locked), recursive=True)
    with pytest.raises(DataError, match=r'locked: cannot be listed \(Permission denied\)'):
        find_inputs(str(locked / 'locked'))
    assert files(find_inputs(str(locked))) == [str(locked / name) for name in (
        'locked.png', 'open.png')]


def test_images_of_one_name_get_pictures_of_their_own(tmp_path):
    touched(tmp_path, 'x/a.png', 'y/a.png')
    inputs = find_inputs(str(tmp_path), recursive=True)
    names = [str(inputs.picture(item, None)) for item in inputs.read(frozenset())]
    assert names == ['x/a.png', 'y/a.png']


@pytest.fixture
def video(tmp_path):
    """Five frames of 32 x 48 pixels, the frame's number times 40."""
    file = tmp_path / 'clip.avi'
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*'MJPG'), 5, (48, 32))
    if not writer.isOpened():
        pytest.skip('this OpenCV writes no video')
    for number in range(5):
        writer.write(np.full((32, 48, 3), 40 * number, np.uint8))
    writer.release()
    return file


def test_the_frames_of_a_video(video):
    inputs = find_inputs(str(video))
    items = list(inputs.read(frozenset()))
    assert [item.key for item in items] == [(str(video), number) for number in range(5)]
    assert [item.named for item in items][3] == dict(image=str(video), frame=3)
    for number, item in enumerate(items):
        assert item.image.shape == (32, 48, 3)
        assert abs(item.image.mean() - 40 * number) < 4
    assert str(inputs.picture(items[3], None)) == 'clip.avi/000003.jpg'
    assert str(inputs.picture(items[3], '.png')) == 'clip.avi/000003.png'
    left = inputs.read({items[0].key, items[2].key})
    assert [item.frame for item in left] == [1, 3, 4]
    assert [key[1] for key in inputs.left({items[0].key})] == [1, 2, 3, 4]


def test_what_is_no_video(tmp_path):
    (tmp_path / 'clip.mp4').write_text('<html>')
    with pytest.raises(DataError, match=r'clip.mp4: cannot be read as a video'):
        find_inputs(str(tmp_path / 'clip.mp4'))


def test_what_is_not_there(tmp_path):
    for name in ('none.txt', 'none.mp4', 'none'):
        with pytest.raises(DataError, match='no such image or folder'):
            find_inputs(str(tmp_path / name))
    with pytest.raises(DataError, match='images: got'):
        find_inputs('')


def test_patterns_that_the_shell_left(tmp_path, monkeypatch):
    touched(tmp_path, 'a.png', 'b.png', 'c.jpg', '[1].png', '._d.png', 'x/y/e.png')
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert files(find_inputs('?.png')) == ['a.png', 'b.png']
    assert files(find_inputs(['*.jpg', '[1].png'])) == ['c.jpg', '[1].png']  # that is there
    assert files(find_inputs('~/x/**/*.png')) == [str(tmp_path / 'x/y/e.png')]
    assert files(find_inputs('~/c.jpg')) == [str(tmp_path / 'c.jpg')]
    with pytest.raises(DataError, match=r'\*.tif: no file fits this pattern \(seen from'):
        find_inputs('*.tif')


def test_several(tmp_path, video):
    touched(tmp_path, 'a.png', 'b/1.png', 'b/2.png')
    (tmp_path / 'list.txt').write_text('b/2.png\nc.png\n')
    paths = [str(tmp_path / name) for name in ('a.png', 'b', 'list.txt')]
    expected = [str(tmp_path / name) for name in ('a.png', 'b/1.png', 'b/2.png', 'c.png')]
    assert files(find_inputs(paths)) == expected
    assert files(find_inputs(paths[1:2])) == expected[1:3]
    assert len(find_inputs([str(video)])) == 5
    with pytest.raises(DataError, match='clip.avi: is a video, .* give it and nothing else'):
        find_inputs([paths[0], str(video)])
