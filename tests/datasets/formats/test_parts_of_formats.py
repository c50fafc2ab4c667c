"""What readers of formats share, by itself."""
import json

import numpy as np
import pytest
from PIL import Image

from mmvssd.datasets.formats import FORMATS, MARK, Item, Tree, recognize
from mmvssd.datasets.formats.class_names import find_names
from mmvssd.datasets.formats.dividing import divide
from mmvssd.datasets.formats.objects import clipped, from_polygons
from mmvssd.datasets.formats.pixels import Recoding
from mmvssd.datasets.formats.tree import folder_of, part_of_names
from mmvssd.datasets.formats.yolo import label_of
from mmvssd.engine.data.findings import STOP, Findings
from mmvssd.errors import DataError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize(('names', 'part'), [
    (['train2017'], 'train'), (['images', 'valid'], 'val'), (['Testing'], 'test'),
    (['instances_val2017'], 'val'), (['trainval'], None), (['constraint', 'latest'], None),
    (['my-train-set', 'val'], 'train')])
def test_parts_by_name(names, part):
    assert part_of_names(names) == part


def test_what_is_hidden_or_made_here_is_not_looked_at(tmp_path):
    touch(tmp_path, 'a.JPG', 'b.txt', '.c.jpg', '.hidden/d.jpg', '__MACOSX/e.jpg', 'made/f.jpg',
          f'made/{MARK}', 'made/deep/g.jpg', 'other/h.png')
    tree = Tree(tmp_path)
    assert list(map(tree.relative, tree.images)) == ['a.JPG', 'other/h.png']
    assert [path.name for path in tree.others['.txt']] == ['b.txt']
    assert len(Tree(tmp_path / 'made').images) == 2  # unless it is named
    with pytest.raises(DataError, match='no such file or folder'):
        Tree(tmp_path / 'none')


def test_a_folder_that_cannot_be_listed(locked):
    """A class would be missing; the folders that only root may list are not the user's."""
    with pytest.raises(DataError, match='^[^,]*/locked: cannot be listed, no permission to read i'):
        Tree(locked)


@pytest.mark.parametrize(('names', 'folder'), [
    (['1.jpg', '2.jpg'], 'images/train'), (['train/1.jpg', 'train/2.jpg'], 'images'),
    (['./3.jpg'], 'images/val'), (['images\\val\\3.jpg'], '.'), (['none.jpg'], 'annotations')])
def test_folder_of_images(names, folder, tmp_path):
    """Where names lead to files; of two such folders the one of the same part."""
    touch(tmp_path, 'images/train/1.jpg', 'images/train/2.jpg', 'images/val/3.jpg',
          'copy/val/1.jpg', 'copy/val/2.jpg')
    found = folder_of(names, Tree(tmp_path), tmp_path / 'annotations' / 'train.json')
    assert found == tmp_path / folder


def test_label_files_of_images(tmp_path):
    touch(tmp_path, 'beside/images/b.txt')
    for image, text in (('images/train/a.jpg', 'labels/train/a.txt'), ('a.jpg', 'a.txt'),
                        ('images/x/images/a.b.png', 'images/x/labels/a.b.txt'),
                        ('beside/images/b.jpg', 'beside/images/b.txt')):
        assert label_of(tmp_path / image) == tmp_path / text


@pytest.mark.parametrize(('file', 'text', 'names', 'colours'), [
    ('classes.txt', 'cat\n\nbig dog\n', ['cat', 'big dog'], None),
    ('labels.txt', '__ignore__\n_background_\ncat\n', ['_background_', 'cat'], None),
    ('labelmap.txt', '# label:color_rgb:parts:actions\nroad:128,64,128::\nsky:1,2,3::\n',
     ['road', 'sky'], [(128, 64, 128), (1, 2, 3)]),
    ('label_colors.txt', '64 128 64\tAnimal\n192 0 128 Archway\n', ['Animal', 'Archway'],
     [(64, 128, 64), (192, 0, 128)]),
    ('class_dict.csv', 'name,r,g,b\n"a, b",1,2,3\n', ['a, b'], [(1, 2, 3)]),
    ('class_dict.csv', 'cat, 255, 0, 0\ndog, 0, 255, 0\n', ['cat', 'dog'],
     [(255, 0, 0), (0, 255, 0)]),
    ('classes.csv', 'cat\ndog\n', ['cat', 'dog'], None),
    ('classes.csv', 'Name\ncat\ndog\n', ['cat', 'dog'], None),
    ('classes.csv', 'cat,animal\ncar,vehicle\n', ['cat', 'car'], None),
    ('classes.csv', 'id, name\n0, cat\n1, dog\n', ['cat', 'dog'], None),
    ('classes.csv', 'red\ngreen\nblue\n', ['red', 'green', 'blue'], None),
    ('classes.csv', 'object,r,g,b\ncat,1,2,3\n', ['cat'], [(1, 2, 3)]),
    ('classes.csv', 'name,id\nbus,10\ndog,1\ncat,0\n', ['cat', 'dog', 'bus'], None),
    ('classes.csv', 'id,b,g,r,Class\n0,3,2,1,cat\n', ['cat'], [(1, 2, 3)])])
def test_files_that_name_classes(file, text, names, colours, tmp_path):
    (tmp_path / file).write_text(text)
    found = find_names(Tree(tmp_path))
    assert (found.names, found.colours) == (names, colours)
    (tmp_path / file).write_text(text + text.splitlines()[-1])
    with pytest.raises(DataError, match='more than once'):
        find_names(Tree(tmp_path))


def test_numbers_that_no_class_has(tmp_path):
    (tmp_path / 'classes.csv').write_text('name,id\nbus,3\ndog,1\ncat,0\n')
    assert find_names(Tree(tmp_path), by_number=True).names == ['cat', 'dog', 'class_2', 'bus']
    assert find_names(Tree(tmp_path)).names == ['cat', 'dog', 'bus']


def test_objects():
    assert clipped([(-5, 3), (20, 99)], (10, 8)) == [0, 3, 10, 8]
    one = from_polygons(1, [[0, 0, 4, 0, 4, 3], [10, 10, 12, 10, 12, 14, 10, 14]])
    assert (one['bbox'], one['area'], one['iscrowd']) == ([0, 0, 12, 14], 6 + 8, 0)


def test_recoding(tmp_path):
    pixels = np.array([[[1, 2, 3], [0, 0, 0]], [[0, 0, 0], [9, 9, 9]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    numbers = Recoding(True, {0x010203: 0, 0: 1, 0x090909: 255}).apply(tmp_path / 'a.png')
    assert numbers.dtype == np.uint8
    assert numbers.tolist() == [[0, 1], [1, 255]]


def labelme(root, **changes):
    content = dict(shapes=[dict(label='a', points=[[1, 1], [9, 1], [9, 9]], group_id=3),
                           dict(label='a', points=[[11, 11], [19, 11], [19, 19]], group_id=3),
                           dict(label='a', points=[[1, 1], [5, 5]], shape_type='rectangle')],
                   imagePath='x.png', imageWidth=20, imageHeight=20)
    Image.new('RGB', (20, 20)).save(root / 'x.png')
    (root / 'x.json').write_text(json.dumps({**content, **changes}))
    findings = Findings()
    tree = Tree(root)
    data = FORMATS['labelme'].read(tree, FORMATS['labelme'].find(tree), findings)
    return data.items[0].objects, findings.of(STOP)


def test_shapes_of_a_group_are_one_object(tmp_path):
    objects, faults = labelme(tmp_path)
    assert not faults
    assert sorted(len(one['segmentation']) for one in objects) == [1, 2]
    assert sorted(one['bbox'] for one in objects) == [[1, 1, 4, 4], [1, 1, 18, 18]]


def test_every_format_finds_nothing_in_nothing(tmp_path):
    for form in FORMATS.values():
        assert form.find(Tree(tmp_path)) is None


def class_folders(root):
    findings, tree = Findings(), Tree(root)
    data = FORMATS['class_folders'].read(tree, FORMATS['class_folders'].find(tree), findings)
    assert not findings.of(STOP)
    return data.classes, {name: len(part.items) for name, part in data.parts.items()}, data.notes


def test_folders_beside_parts_are_no_classes(tmp_path):
    touch(tmp_path / 'a', *(f'{part}/{name}/{index}.jpg' for part in ('train', 'val')
                            for name in ('cat', 'dog') for index in range(2)), 'unlabeled/0.jpg')
    classes, counts, (note, ) = class_folders(tmp_path / 'a')
    assert (classes, counts) == (['cat', 'dog'], dict(train=4, val=4))
    assert '1 image lies in no folder of a class' in note
    touch(tmp_path / 'b', 'train/cat/0.jpg', 'train/dog/0.jpg', 'unlabeled/0.jpg')
    assert class_folders(tmp_path / 'b')[:2] == (['cat', 'dog'], dict(whole=2))
    touch(tmp_path / 'c', 'train/0.jpg', 'bus/0.jpg', 'car/0.jpg')
    assert class_folders(tmp_path / 'c') == (['bus', 'car', 'train'], dict(whole=3), [])
    touch(tmp_path / 'd', 'train/cat/0.jpg', 'train/dog/0.jpg', 'more/cat/0.jpg', 'more/dog/0.jpg')
    with pytest.raises(DataError, match='may be a part of the data, and may be a class'):
        class_folders(tmp_path / 'd')
    (tmp_path / 'd' / 'table.csv').write_text('image,label\ntrain/cat/0.jpg,x\nmore/dog/0.jpg,y\n')
    with pytest.raises(DataError, match='Choose with --format csv or class_folders'):
        recognize(Tree(tmp_path / 'd'))
    assert recognize(Tree(tmp_path / 'd'), name='csv')[0] == 'csv'


@pytest.mark.parametrize(('there', 'folder', 'part'), [
    (['crash_test', 'city'], 'crash_test', None), (['crash_test', 'city'], 'city', None),
    (['crash_test', 'crash_train'], 'crash_test', 'test'),
    (['train', 'val', 'fruit_test'], 'fruit_test', 'test'),
    (['images_train', 'images_val'], 'images_val', 'val'), (['val2017'], 'val2017', 'val'),
    (['train/train', 'train/val', 'bus/train', 'bus/val'], 'train/val', 'val'),
    (['images/train', 'images/val', 'labels/val'], 'labels/val', 'val')])
def test_parts_by_folder(there, folder, part, tmp_path):
    """A word counts beside other words, or above other parts, only if parts lie beside it."""
    touch(tmp_path, *(f'{name}/0.jpg' for name in there))
    assert Tree(tmp_path).part_of(tmp_path / folder) == part


def test_a_class_called_train_is_no_part(tmp_path):
    touch(tmp_path, *(f'{name}/{name}{index}.jpg' for name in ('train', 'bus', 'car')
                      for index in range(2)))
    tree = Tree(tmp_path)
    items = [Item(path, objects=[dict(category_id=0, iscrowd=0)]) for path in tree.images]
    parts, notes = divide(items, tree)
    assert ({name: len(part.items) for name, part in parts.items()}, notes) == (dict(whole=6), [])
    unlabelled = [Item(item.image, objects=item.objects * (item.image.parent.name == 'train'))
                  for item in items]
    parts, (note, ) = divide(unlabelled, tree)
    assert {name: len(part.items) for name, part in parts.items()} == dict(train=2)
    assert '4 images that belong to no part are left out' in note


def test_every_site_has_its_own_lists(tmp_path):
    """A name may be of training in one and of validation in another."""
    for site, parts in (('2007', dict(train='0', val='1')), ('2012', dict(train='1', val='0'))):
        touch(tmp_path, *(f'{site}/JPEGImages/{index}.jpg' for index in range(2)))
        for part, name in parts.items():
            file = tmp_path / site / 'ImageSets' / 'Main' / f'{part}.txt'
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f'{name}\n')
    tree = Tree(tmp_path)
    parts, notes = divide([Item(path) for path in tree.images], tree, 'Main')
    assert {name: [tree.relative(item.image) for item in part.items]
            for name, part in parts.items()} == dict(
        train=['2007/JPEGImages/0.jpg', '2012/JPEGImages/1.jpg'],
        val=['2007/JPEGImages/1.jpg', '2012/JPEGImages/0.jpg'])
    assert not notes
