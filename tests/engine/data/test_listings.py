"""Lists and folders of images: what a host stumbles over, or passes over without a word."""
import re
from types import SimpleNamespace

import pytest

from mmvssd.engine.data import listings
from mmvssd.engine.data.findings import STOP, WARN, Findings


def texts(findings):
    return [[str(found) for found in findings.of(severity)] for severity in (STOP, WARN)]


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def look_at_classes(folder, classes=None):
    findings = Findings()
    dataset = SimpleNamespace(img_prefix=str(folder), extensions=('.jpg', '.png'),
                              metainfo=dict(classes=classes) if classes else {})
    listings.check_class_folders(dataset, 'train', findings)
    return texts(findings)


def test_folders_of_classes(tmp_path):
    make(tmp_path, 'cat/a.jpg', 'cat/more/b.PNG', 'dog/c.jpg', 'note.txt')
    assert look_at_classes(tmp_path) == [[], []]
    assert look_at_classes(tmp_path, ('cat', 'dog')) == [[], []]
    make(tmp_path, '__background__/d.jpg')  # a class like any other
    assert look_at_classes(tmp_path) == [[], []]
    (tmp_path / '__background__/d.jpg').unlink()
    (tmp_path / '__background__').rmdir()
    # as ImageNet's: folders have codes, classes have names
    assert look_at_classes(tmp_path, ('a cat', 'a dog')) == [[], []]


@pytest.mark.parametrize(('names', 'message'), [
    (['cat/a.jpg', '.ipynb_checkpoints/a.jpg'], '1 hidden folder counts as classes'),
    (['cat/a.jpg', '__MACOSX/a.jpg', '@eaDir/b.jpg'], '2 hidden folders count as classes'),
    (['a.jpg', 'b.jpg'], '2 images lie in it and no folders of classes'),
    (['note.txt'], 'holds no image'),
    (['cat/a.webp'], 'holds no image that ends with'),
    (['train/cat/a.jpg', 'val/cat/a.jpg'], 'the folders of splits train, val count as classes'),
])
def test_faults_of_class_folders(tmp_path, names, message):
    stops, _ = look_at_classes(make(tmp_path, *names))
    assert any(message in text for text in stops)


@pytest.mark.parametrize(('names', 'message'), [
    (['cat/a.jpg', 'dog/b.jpg', 'cow/b.txt'], '1 folder of classes without an image'),
    (['cat/a.jpg'], 'there is one class, cat'),
    (['cat/a.jpg', 'dog/b.jpg', 'c.jpg'], '1 image lies beside the folders'),
    (['cat/a.jpg', 'dog/b.jpg', 'dog/c.webp', 'dog/d.webp'], '2 images that end with .webp'),
])
def test_doubts_about_class_folders(tmp_path, names, message):
    stops, doubts = look_at_classes(make(tmp_path, *names))
    assert not stops
    assert len(doubts) == 1
    assert message in doubts[0]


def test_classes_and_folders_that_disagree(tmp_path):
    make(tmp_path, 'cat/a.jpg', 'cow/b.jpg', 'dog/c.jpg')
    (swapped, ), _ = look_at_classes(tmp_path, ('cow', 'cat', 'dog'))
    assert '2 classes have the place of another folder' in swapped
    assert 'class 0 is cow, folder 0 is cat' in swapped
    (fewer, ), _ = look_at_classes(tmp_path, ('cat', 'dog'))
    assert 'has 3 folders, the recipe has 2 classes; only one of both has cow' in fewer
    assert look_at_classes(tmp_path, ('cat', 'kow', 'dog'))[0] == []
    assert '1 folder of other names' in look_at_classes(tmp_path, ('cat', 'kow', 'dog'))[1][0]


def test_links_that_lead_back(tmp_path):
    make(tmp_path, 'cat/a.jpg', 'dog/b.jpg')
    (tmp_path / 'cat' / 'again').symlink_to(tmp_path)
    (stop, ), _ = look_at_classes(tmp_path)
    assert '1 link that leads back' in stop
    assert 'cat/again' in stop


def test_links_to_elsewhere_are_followed(tmp_path):
    """Data sets of links to folders are common, also of two links to one."""
    make(tmp_path / 'store', 'cat/a.jpg', 'dog/b.jpg')
    (tmp_path / 'data').mkdir()
    for name in ('cat', 'dog'):
        (tmp_path / 'data' / name).symlink_to(tmp_path / 'store' / name)
    assert look_at_classes(tmp_path / 'data') == [[], []]


def look_at_list(tmp_path, content, check=listings.check_class_list, classes=None):
    file = tmp_path / 'list.txt'
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    findings = Findings()
    check(SimpleNamespace(ann_file=str(file), data_prefix=dict(img_path=str(tmp_path)),
                          img_suffix='.jpg', img_prefix=str(tmp_path),
                          metainfo=dict(classes=classes)), 'train', findings)
    return texts(findings)


@pytest.mark.parametrize('content', [
    'a.jpg 0\nb.jpg 1\n', 'a.jpg 0\nb.jpg 1', 'a b.jpg 0\nc.jpg 1\n', 'a.jpg 0\r\nb.jpg 1\r\n',
    '한.jpg 0\nb.jpg 1\n', 'a.jpg 0 \n b.jpg 1\n', 'a,b.jpg 0\nc.jpg 12\n', 'a\x0b.jpg 0\nb 1\n',
])
def test_healthy_lists(tmp_path, content):
    assert look_at_list(tmp_path, content) == [[], []]


@pytest.mark.parametrize(('content', 'message'), [
    ('a.jpg 0\nb.jpg\n', r"1 line without a label \(the first: line 2: 'b.jpg'\)"),
    ('a.jpg 0\nb c.jpg\n', 'line without a label'),
    ('a.jpg\t0\nb.jpg 1', 'with a tab before the label'),
    ('a.jpg 0\nb.jpg,1', r'with a comma .*line 2'),
    ('a.jpg, 0\nb.jpg,1', r'with a comma .*line 2'),
    ('a.jpg;0\nb.jpg 1', 'with a semicolon'),
    ('a.jpg 0.5\nb.jpg 1', r'whose label is not a whole number .*line 1'),
    ('a.jpg 1.0\nb.jpg 1', 'whose label is not a whole number'),
    ('a.jpg nan\nb.jpg 1', 'whose label is not a whole number'),
    ('7\nb.jpg 1', 'without a path'),
    ('a.jpg 0\n\nb.jpg 1\n', r'1 blank line \(the first: line 2\)'),
    ('a.jpg 0\nb.jpg 1\n\n', r'1 blank line \(the first: line 3\)'),
    ('a.jpg -1\nb.jpg 1', r'label below 0 .*line 1'),
    ('a.jpg 0\nb.jpg 1\na.jpg 1', r'image with several labels .*lines 1 and 3: a.jpg'),
    ('"a b.jpg" 0\nb.jpg 1', r'whose path is in quotes.*line 1'),
    ("'a.jpg' 0\nb.jpg 1", 'whose path is in quotes'),
    ('a.jpg 0 2\nb.jpg 1', r'with several labels.*line 1'),
    ('a\\b.jpg 0\nb.jpg 1', r'whose path has backslashes.*line 1'),
    ('D:\\a\\b.jpg 0\nb.jpg 1', 'whose path has backslashes'),
    (b'\xef\xbb\xbfa.jpg 0\nb.jpg 1', 'byte order mark'),
    ('a.jpg 0\nb.jpg 1'.encode('utf-16'), 'not encoded in UTF-8'),
    ('', 'lists no images'), ('\n \n', 'lists no images'),
])
def test_faults_of_lists(tmp_path, content, message):
    stops, _ = look_at_list(tmp_path, content)
    assert len(stops) == 1
    assert re.search(message, stops[0])
    assert 'list.txt' in stops[0]


@pytest.mark.parametrize(('content', 'message'), [
    ('a.jpg 0\nb.jpg 1\na.jpg 0\n', 'lines 1 and 3: a.jpg'),
    ('a.jpg 2\nb.jpg 2\n', 'all 2 images have one label'),
])
def test_doubts_about_lists(tmp_path, content, message):
    stops, doubts = look_at_list(tmp_path, content)
    assert not stops
    assert message in doubts[0]


@pytest.mark.parametrize('name', ['"a.jpg"', 'a.jpg 0', 'a\\b.jpg'])
def test_odd_names_of_files_that_are_there(tmp_path, name):
    (tmp_path / name).touch()
    assert look_at_list(tmp_path, f'{name} 0\nb.jpg 1\n') == [[], []]


@pytest.mark.parametrize(('content', 'stops', 'message'), [
    ('zero/a.jpg 1\none/b.jpg 2\ntwo/c.jpg 0\n', True,
     r'3 of 3 labels .*line 1: zero/a.jpg 1, which is one'),
    ('train/zero/a.jpg 1\ntrain/one/b.jpg 0\ntrain/two/c.jpg 2\n', True, '2 of 3 labels'),
    ('zero/a.jpg 0\none/b.jpg 0\nmore/two/c.jpg 2\n', False,
     r'1 of 3 labels .*line 2: one/b.jpg 0, which is zero'),
    ('zero/a.jpg 1\nzero/b.jpg 2\n', False, '2 of 2 labels'),  # a folder's name by chance
])
def test_labels_of_another_class_than_the_folder(tmp_path, content, stops, message):
    found = look_at_list(tmp_path, content, classes=('zero', 'one', 'two'))
    assert re.search(message, found[not stops][0])
    assert len(found[0]) == stops


@pytest.mark.parametrize('content', [
    'zero/a.jpg 0\none/b.jpg 1\n', 'a/b.jpg 1\nb/zero.jpg 2\n', 'zero.jpg 1\none.jpg 0\n',
    'train/a.jpg 0\nval/b.jpg 1\n', 'one/zero/a.jpg 0\none/one/b.jpg 1\none/two/c.jpg 2\n',
    'zero/a.jpg 9\none/b.jpg 8\n',  # which are compared with the head
])
def test_labels_of_the_folders_class(tmp_path, content):
    assert look_at_list(tmp_path, content, classes=('zero', 'one', 'two', 'train')) == [[], []]


def numbered(label_of, folder_of='{shard}'):
    """A list of 200 images of ten classes, each in one of ten folders with numbers too."""
    return ''.join(
        f'{folder_of.format(shard=index % 10, label=index // 7 % 10)}/{index}.jpg '
        f'{label_of(index % 10, index // 7 % 10)}\n' for index in range(200))


@pytest.mark.parametrize(('content', 'stops', 'doubts'), [
    # parts of the data, with images of all classes, in folders without the class or with it
    (numbered(lambda shard, label: label), 0, 1),
    (numbered(lambda shard, label: label, '{shard}/{label}'), 0, 0),
    (numbered(lambda shard, label: label, '{label}/{shard}'), 0, 0),
    (numbered(lambda shard, label: label, 'train/{shard}'), 0, 1),
    # folders of classes, with labels that are counted from 1, or turned round
    (numbered(lambda shard, label: (shard + 1) % 10), 1, 0),
    (numbered(lambda shard, label: 9 - shard), 1, 0),
    (numbered(lambda shard, label: (label + 1) % 10, '{shard}/{label}'), 1, 0),
    (numbered(lambda shard, label: (label + 1) % 10, '{label}/{shard}'), 1, 0),
])
@pytest.mark.parametrize('name', [str, 'abcdefghij'.__getitem__])
def test_folders_with_numbers_may_be_parts_of_the_data(tmp_path, content, stops, doubts, name):
    content = re.sub(r'(\d)(?=/)', lambda found: str(name(int(found[1]))), content)
    found = look_at_list(tmp_path, content, classes=[str(name(index)) for index in range(10)])
    assert [len(texts) for texts in found] == [stops, doubts]


def test_labels_that_contradict_folders_of_words(tmp_path):
    """A folder with a word for a name is no part of the data, however its labels are mixed."""
    names = [f'word{chr(97 + index)}' for index in range(10)]
    content = re.sub(r'(\d)(?=/)', lambda found: names[int(found[1])],
                     numbered(lambda shard, label: label))
    assert len(look_at_list(tmp_path, content, classes=names)[0]) == 1


@pytest.mark.parametrize(('name', 'message'), [
    ('"a"', r"1 line whose path is in quotes.*line 1: '\"a\"'.*A line is the NAME"),
    ("'x/a'", 'in quotes'), ('x\\a', '1 line whose path has backslashes, expected /'),
    ('C:\\data\\a', 'backslashes'), ('a 3', '1 line with a label'), ('"a".jpg', 'with an ending'),
])
def test_names_with_more_than_a_name(tmp_path, name, message):
    stops, doubts = look_at_list(tmp_path, f'{name}\nb\n', listings.check_name_list)
    assert not doubts
    assert len(stops) == 1
    assert re.search(message, stops[0])
    make(tmp_path, f'{name}.jpg')  # a name like any other here
    assert look_at_list(tmp_path, f'{name}\nb\n', listings.check_name_list) == [[], []]


def test_lists_of_names(tmp_path):
    def look(content):
        return look_at_list(tmp_path, content, listings.check_name_list)

    assert look('a\nb\n') == [[], []]
    assert '1 line of an image that is listed already' in look('a\nb\na\n')[1][0]
    assert 'name with an ending' in look('a.jpg\n')[0][0]
    make(tmp_path, 'a.jpg.jpg')
    assert look('a.jpg\n') == [[], []]
    assert 'blank line' in look('a\n\nb\n')[0][0]


def look_at_images(tmp_path, suffix='.jpg', labelled=True, maps='masks'):
    findings = Findings()
    dataset = SimpleNamespace(
        data_prefix=dict(img_path=str(tmp_path / 'images'), seg_map_path=str(tmp_path / maps)),
        img_suffix=suffix, seg_map_suffix='.png')
    listings.check_folder(dataset, 'val', findings, labelled)
    return texts(findings)


def test_folders_of_label_maps(tmp_path):
    make(tmp_path, 'images/a.jpg', 'images/x/b.jpg', 'masks/a.png', 'masks/x/b.png')
    assert look_at_images(tmp_path) == [[], []]
    make(tmp_path, 'images/c.JPG', 'images/d.JPG', 'masks/c.png', 'masks/d.png')
    _, doubts = look_at_images(tmp_path)
    assert '2 images that end with .JPG are not read' in doubts[0]
    assert '2 label maps in' in doubts[1]
    assert len(look_at_images(tmp_path, labelled=False)[1]) == 1
    (stop, ), _ = look_at_images(tmp_path, suffix='.tif')
    assert 'holds no image with the suffix .tif, but 2 that end with .jpg, 2 that end' in stop
    assert 'is not a folder' in look_at_images(tmp_path / 'gone')[0][0]


def test_images_beside_their_label_maps(tmp_path):
    make(tmp_path, 'images/a.jpg', 'images/a.png')
    assert look_at_images(tmp_path, maps='images') == [[], []]
