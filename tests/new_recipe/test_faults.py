"""Data with faults: each is said with the file's name, all at once, and nothing is written."""
import base64
import errno
import importlib.util
import io
import json
import os
from pathlib import Path

import pytest
import yaml
from mmengine import Config
from PIL import Image

from mmvssd.datasets.formats import FORMATS, MARK, Tree, recognize
from mmvssd.engine.data import file_facts
from mmvssd.engine.data.findings import Findings
from mmvssd.errors import ConfigError, DataError
from mmvssd.new_recipe import command, new_recipe

spec = importlib.util.spec_from_file_location('made_data', Path(__file__).parent / 'made_data.py')
made = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made)


def message_of(root, **options):
    """The error at some data; neither a recipe nor anything else is written."""
    before = made.snapshot(root.parent)
    with pytest.raises(DataError) as caught:
        new_recipe(str(root), str(root.parent / 'out' / 'r.py'), arch='vssd-nano', **options)
    after = made.snapshot(root.parent)
    for files in (before, after):
        files.pop(root.parent / 'out', None)
    assert after == before
    return str(caught.value)


def edit(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_all_faults_at_once(tmp_path):
    """Of several kinds and files, in one list."""
    root = tmp_path / 'data'
    made.make_yolo(root)
    lines = {'train0': '0 0.5 0.5 1.5 0.2', 'train1': '2 0.5 0.5 0.2 0.2', 'train2': '0 0.1 0.1',
             'train3': '0 0.1 0.1 0.2 0.2 0.3 0.3 0.4', 'val0': 'cat 0.5 0.5 0.2 0.2',
             'val1': '0 0.5 0.5 0 0.2', 'val2': '0 nan 0.5 0.2 0.2', 'val3': '-1 0.5 0.5 0.2 0.2'}
    for name, line in lines.items():
        (root / 'labels' / name[:-1] / f'{name}.txt').write_text(f'{made.yolo_line()}\n{line}\n')
    (root / 'images' / 'val' / 'val0.JPG').write_bytes(b'no image')
    message = message_of(root)
    for text in ('numbers outside 0 to 1 (the first: ' + str(root), 'beyond the 2 names',
                 'neither a box of four numbers nor a polygon', 'not finite numbers',
                 'without width or height', 'not a whole number from 0 on',
                 f'image cannot be read (the first: {root}/images/val/val0.JPG'):
        assert text in message, text
    for name in ('train0.txt, line 2', 'train1.txt, line 2', 'train2.txt', 'train3.txt', 'val1.txt',
                 'val2.txt', 'val3.txt'):
        assert name in message, name


def change_coco(change, **options):
    def make(root):
        made.make_coco(root, **options)
        edit(root / 'instances.json', change)
    return make


def two_points(content):
    content['annotations'][0]['segmentation'] = [[1, 2, 30, 40]]


def listed_twice(content):
    content['images'].append(dict(content['images'][0], id=99))


def not_there(content):
    content['images'].append(dict(content['images'][0], id=99, file_name='none.jpg'))


def xml(text, name='0.xml'):
    def make(root):
        made.make_voc(root)
        (root / 'Annotations' / name).write_text(text)
    return make


BOMB = ('<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>'
        '<annotation><filename>&b;</filename></annotation>')
OUTSIDE = ('<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
           '<annotation><filename>&x;</filename></annotation>')


def labelme(**shape):
    def make(root):
        made.make_labelme(root)
        (root / '1.json').write_text(json.dumps(made.labelme_content('1.jpg', **shape)))
    return make


def yaml_file(text):
    def make(root):
        made.make_yolo(root)
        (root / 'data.yaml').write_text(text)
    return make


def mixed(root):
    made.make_voc(root)
    made.make_labelme(root)


def folders_without(part, name):
    def make(root):
        made.make_class_folders(root, parts=('train', 'val'))
        for path in (root / part / name).iterdir():
            path.unlink()
    return make


def one_image(root):
    made.make_coco(root, count=1)


def turned(root):
    made.make_voc(root)
    exif = Image.Exif()
    exif[0x0112] = 6
    made.picture(root / 'JPEGImages' / '0.jpg', exif=exif)


def label_maps(change):
    def make(root):
        made.make_label_maps(root)
        change(root / 'masks')
    return make


def csv_rows(*rows):
    def make(root):
        made.make_csv(root)
        with open(root / 'labels of all.csv', 'a') as file:
            file.write('\n' + '\n'.join(rows))
    return make


def bomb_in_a_mask(root):
    made.make_labelme(root)
    image, file = Image.new('1', (20000, 20000)), io.BytesIO()
    image.save(file, 'PNG')
    content = made.labelme_content('1.jpg', shape_type='mask', points=[[1, 1], [9, 9]],
                                   mask=base64.b64encode(file.getvalue()).decode())
    (root / '1.json').write_text(json.dumps(content))


def lossy(root):
    made.make_label_maps(root)
    for path in sorted((root / 'masks').iterdir()):
        path.unlink()
        made.picture(path.with_suffix('.jpg')).rename(path.with_suffix('.jpeg'))
        Image.open(path.with_suffix('.jpeg')).convert('L').save(path.with_suffix('.jpg'))
        path.with_suffix('.jpeg').unlink()


def shades_as_jpeg(root):
    made.make_label_maps(root, halves=(0, 200))
    for path in sorted((root / 'masks').iterdir()):
        shades = Image.open(path).rotate(3)  # edges across the blocks of JPEG
        path.unlink()
        shades.convert('L').save(path.with_suffix('.jpg'))


def label_maps_of_other_names(root):
    made.make_label_maps(root)
    for path in sorted((root / 'masks').iterdir()):
        path.rename(path.with_name(f'map{path.name}'))


def two_files(root):
    made.make_coco(root)
    (root / 'other.json').write_bytes((root / 'instances.json').read_bytes())


def another_encoding(root):
    made.make_csv(root)
    (root / 'labels of all.csv').write_bytes('image,label\n0.jpg,café\n'.encode('latin-1'))


def endless_numbers(root):
    made.make_yolo(root)
    (root / 'data.yaml').unlink()
    (root / 'labels' / 'val' / 'val0.txt').write_text('999999999 0.5 0.5 0.2 0.2')


def renamed_in_validation(root):
    made.make_class_folders(root, parts=('train', 'val'))
    (root / 'val' / 'dog').rename(root / 'val' / 'Dog')


def one_image_a_class(root):
    made.make_class_folders(root, count=1)


def links_to_nothing(root):
    made.make_class_folders(root)
    for name, target in (('gone', 'nowhere.png'), ('circle', 'circle.png')):
        (root / 'cat' / f'{name}.png').symlink_to(target)
    (root / 'around').symlink_to('around')


def images_without_classes(root):
    made.picture(root / 'IMG_1.jpg')


def csv_file(content):
    """Another table in place of that of the made data, or what becomes of it."""
    def make(root):
        made.make_csv(root)
        file = root / 'labels of all.csv'
        file.write_bytes(content if isinstance(content, bytes)
                         else content(file.read_text()).encode())
    return make


def by_column(*rows, titles='image,cat,dog'):
    """Give each class a column; these rows come first, of images 0 and 1."""
    return lambda _: '\n'.join([titles, *rows, '2.jpg,1,0', '3.jpg,0,1'])


def one_folder_beside(name, content):
    def make(root):
        made.picture(root / 'photos' / '1.jpg')
        made.picture(root / 'photos' / '2.jpg')
        (root / name).write_text(content)
    return make


def coco_text(change):
    def make(root):
        made.make_coco(root)
        file = root / 'instances.json'
        file.write_text(change(file.read_text()))
    return make


def full_ade20k(root):
    for index in range(2):
        made.picture(root / f'ADE_{index}.jpg')
        for kind in ('seg', 'parts_1'):
            made.label_map(root / f'ADE_{index}_{kind}.png', ((9, 9, 9), (1, 2, 3)))


def thin_label_maps(root):
    made.make_label_maps(root)
    for name in ('images/1.jpg', 'images/2.jpg'):
        made.picture(root / name, size=(64, 1))
    for name in ('masks/1.png', 'masks/2.png'):
        made.label_map(root / name, made.np.zeros((1, 64), made.np.uint8))


def heic_photographs(root):
    for name in ('cat', 'dog'):
        (root / name).mkdir(parents=True)
        (root / name / 'IMG_1.HEIC').write_bytes(b'x')


CASES = {
    'numbers of classes without names': (endless_numbers, ['no file names the classes',
                                                           'up to 999999999', 'val0.txt']),
    'two COCO files': (two_files, ['2 COCO files', 'instances.json, other.json', '--val']),
    'a mask of endless size': (bomb_in_a_mask, ['mask cannot be read', '1.json']),
    'shades as JPEG': (shades_as_jpeg, ['stand for no classes', 'as PNG', '.jpg']),
    'label maps of other names': (label_maps_of_other_names, [
        'no label map has the name of an image: images/0.jpg, masks/map0.png', '--task cls']),
    'label maps as JPEG': (lossy, ['stand for no classes', 'as PNG', '.jpg']),
    'CSV of another encoding': (another_encoding, ['not encoded in UTF-8', 'labels of all.csv']),
    'empty folder': (lambda root: root.mkdir(), ['no data of a known format', 'it is empty']),
    'formats mixed': (mixed, ['data of several formats are mixed', 'voc: 6 files',
                              'labelme: 6 files', '--format voc or labelme']),
    'polygon of two points': (change_coco(two_points), ['fewer than three points', '0.jpg']),
    'listed twice': (change_coco(listed_twice), ['image is listed twice', '0.jpg']),
    'not there': (change_coco(not_there), ['is not there', 'none.jpg']),
    'one image': (one_image, ['only one image', '0.jpg']),
    'no object': (change_coco(lambda content: content['annotations'].clear()),
                  ['none of the 6 images has an object']),
    'box beyond its image': (xml(made.voc_xml('0.jpg', box=(1, 1, 900, 40))),
                             ['reaches out of its image', '0.xml']),
    'box turned round': (xml(made.voc_xml('0.jpg', box=(40, 1, 10, 40))),
                         ['not beyond the other', '0.xml']),
    'entities': (xml(BOMB), ['declares a document type', '0.xml']),
    'outside entities': (xml(OUTSIDE), ['declares a document type', '0.xml']),
    'broken XML': (xml('<annotation><filename>'), ['XML file cannot be read', '0.xml']),
    'no image of XML': (xml(made.voc_xml('x.jpg'), 'other.xml'), ['has no image', 'other.xml']),
    'class only of validation': (xml(made.voc_xml('5.jpg', label='cow'), '5.xml'),
                                 ['occurs in val and not in training', 'cow', '5.jpg']),
    'turned by EXIF': (turned, ['EXIF orientation turns', '0.jpg', '64 x 48']),
    'LabelMe, two points': (labelme(points=[[1, 1], [20, 20]]),
                            ['fewer than three points', '1.json']),
    'LabelMe, no label': (labelme(label=''), ['without a label', '1.json']),
    'LabelMe, words': (labelme(points=[['a', 1], [2, 3], [4, 5]]), ['pairs of numbers', '1.json']),
    'LabelMe, a flat polygon': (labelme(points=[[1, 1], [9, 1], [20, 1]]),
                                ['without area', '1.json']),
    'YAML that calls': (yaml_file('train: images/train\nnames: !!python/object/apply:os.system '
                                  '["touch called"]\n'), ['cannot be read as YAML', 'data.yaml']),
    'YAML, names with gaps': (yaml_file('train: images/train\nval: images/val\n'
                                        'names: {0: cat, 2: dog}\n'), ['without gaps']),
    'YAML, a key twice': (yaml_file('names: [a, b]\ntrain: images/train\nval: images/val\n'
                                    'names: [a, b, c]\n'), [
        "data.yaml: cannot be read as YAML (the key 'names' stands there twice"]),
    'YAML, yes': (yaml_file('train: images/train\nval: images/val\nnames: [yes, dog]\n'),
                  ['reads as a bool', 'in quotes']),
    'YAML, no folder': (yaml_file('train: images/training\nval: images/val\nnames: [a, b]\n'),
                        ['is not there', 'images/training']),
    'folder only of validation': (folders_without('train', 'dog'),
                                  ['training has only the class cat', 'are val/dog. Put images']),
    'folder named otherwise in validation': (renamed_in_validation, [
        'val/Dog', 'Training has cat, dog; did you mean dog?']),
    'one image a class': (one_image_a_class, ['each of the 2 classes has only one image', '--val']),
    'images without classes': (images_without_classes, [
        'it holds 1 image)', 'put the images of each class into a folder of its name']),
    'photographs of a telephone': (heic_photographs, ['it holds 2 .heic',
                                                      '.HEIC is not read: convert']),
    'label map of another size': (label_maps(lambda masks: made.label_map(
        masks / '2.png', made.np.zeros((9, 9), made.np.uint8))),
        ['another size', '9 x 9', 'by the nearest pixel']),
    'label map that is none': (label_maps(lambda masks: (masks / '2.png').write_bytes(b'x')),
                               ['cannot be read', '2.png']),
    'a photograph for a label map': (label_maps(lambda masks: made.picture(masks / '2.png')),
                                     ['have colours', '2.png']),
    'one value': (label_maps(lambda masks: [made.label_map(path, (0, 0))
                                            for path in sorted(masks.iterdir())]),
                  ['only the value 0']),
    'links to nothing': (links_to_nothing, ['2 links to images lead nowhere', 'gone.png',
                                            'circle.png', 'or remove the links']),
    'CSV, twice': (csv_rows('0.jpg,cat'), ['listed twice', 'line 10', '0.jpg']),
    'CSV, two classes': (csv_rows('0.jpg,dog'), ['with several classes', 'line 2', '0.jpg']),
    'CSV of UTF-16': (csv_file('image,label\n0.jpg,cat\n'.encode('utf-16')),
                      ['not encoded in UTF-8', 'labels of all.csv']),
    'CSV of UTF-16 without a mark': (csv_file('image,label\n0.jpg,cat\n'.encode('utf-16-le')),
                                     ['encoded in UTF-16', 'labels of all.csv']),
    'CSV, two columns of classes': (csv_file(lambda text: text.replace('label', 'label,label', 1)),
                                    ["several columns 'label'", 'labels of all.csv']),
    'CSV, a column of each class': (csv_file(by_column('0.jpg,1,1', '1.jpg,0,0')),
                                    ['1 row has several classes', 'line 2: cat, dog',
                                     '1 row lacks an image or a class', 'line 3: ',
                                     'keep one in each row']),
    'CSV, a class in two columns': (csv_file(by_column('0.jpg,1,0', titles='image,cat,cat')),
                                    ["several columns 'cat'", 'labels of all.csv']),
    'CSV, more than 0 and 1': (csv_file(by_column('0.jpg,1,0.5')),
                               ['its columns are image, cat, dog', 'of 0 and 1 for each class']),
    'CSV of objects': (csv_file(lambda text: text.replace(',cat', ',"[{""x"": 1}]"')), [
        "line 2: holds '[{", 'expected the name of a class']),
    'CSV of sentences': (csv_file(lambda text: text.replace('label', 'text', 1)),
                         ["a column 'text', of sentences"]),
    'CSV, a quote': (csv_file(lambda text: text.replace(',cat', ',"cat', 1)),
                     ['is a quote not closed?', 'labels of all.csv']),
    'CSV without rows': (one_folder_beside('labels.csv', 'image,label\n'), [
        'has one class, photos', 'labels.csv was not taken for annotations']),
    'full ADE20K': (full_ade20k, ['2 label maps of parts', 'ADE_0_parts_1.png',
                                  'ADEChallengeData2016']),
    'JSON without categories': (change_coco(lambda content: content.pop('categories')),
                                ['holds no categories', 'instances.json']),
    'JSON, a key twice': (coco_text(lambda text: f'{text[:-1]}, "annotations": []}}'), [
        "instances.json has the key 'annotations' twice"]),
    'label maps of one row': (thin_label_maps, ['2 label maps of one row or one column',
                                                'masks/1.png', 'masks/2.png']),
    'CSV, no class': (csv_rows('0.jpg,'), ['lacks an image or a class', 'line 10']),
    'CSV, no image': (csv_rows('none.jpg,cat'), ['not there', 'line 10: none.jpg']),
}


@pytest.mark.parametrize('case', CASES)
def test_each_fault_names_its_file(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, texts = CASES[case]
    make(tmp_path / 'data')
    message = message_of(tmp_path / 'data')
    for text in texts:
        assert text in message, message
    assert not list(tmp_path.rglob('called'))


def test_what_is_no_class_is_said(tmp_path, capsys):
    """An empty folder beside those of the classes, and photographs that are not read."""
    root = tmp_path / 'data'
    made.make_class_folders(root)
    for name in ('zebra', '.cache', '__MACOSX'):
        (root / name).mkdir()
    (root / 'r_data').mkdir()
    (root / 'r_data' / MARK).write_text('{}')
    (root / 'cat' / 'IMG_1.HEIC').write_bytes(b'x')
    new_recipe(str(root), str(tmp_path / 'r.py'), arch='vssd-nano')
    said = ' '.join(capsys.readouterr().out.split())
    assert 'Note: 1 folder beside those of the classes without an image that is read, so no ' \
           'class: zebra Note: ' in said
    assert f'1 photograph of formats that are not read, such as {root}/cat/IMG_1.HEIC' in said
    made.make_class_folders(tmp_path / 'parts', parts=('train', 'val'))
    for part in ('train', 'val'):
        (tmp_path / 'parts' / part / 'zebra').mkdir()
    new_recipe(str(tmp_path / 'parts'), str(tmp_path / 's.py'), arch='vssd-nano')
    assert 'so no class: zebra Training' in ' '.join(capsys.readouterr().out.split())


def test_validation_has_a_category_that_training_lacks(tmp_path):
    made.make_coco(tmp_path / 'a')
    made.make_coco(tmp_path / 'b', classes=('cat', 'cow'))
    message = message_of(tmp_path / 'a', val=str(tmp_path / 'b'))
    assert "class that the training data lack (the first: 'cow')" in message
    assert str(tmp_path / 'b' / 'instances.json') in message


def test_a_format_that_is_forced(tmp_path, capsys):
    mixed(tmp_path / 'data')
    new_recipe(str(tmp_path / 'data'), str(tmp_path / 'r.py'), arch='vssd-nano', form='voc')
    assert 'Format: Pascal VOC XML' in capsys.readouterr().out
    made.make_csv(tmp_path / 'other')
    message = message_of(tmp_path / 'other', form='voc')
    assert 'holds no data of the format voc' in message


def test_many_aliases_of_yaml_are_not_written_out(tmp_path):
    """Names that would be gigabytes as text."""
    made.make_yolo(tmp_path / 'data')
    lines = ['a0: &a0 [x, x, x, x, x, x, x, x, x]']
    lines += [f'a{n}: &a{n} [{", ".join([f"*a{n - 1}"] * 9)}]' for n in range(1, 12)]
    (tmp_path / 'data' / 'data.yaml').write_text(
        '\n'.join(lines) + '\ntrain: images/train\nnames: *a11\n')
    assert "'names' has an entry that YAML reads as a list" in message_of(tmp_path / 'data')
    assert yaml.safe_load('a: 1') == dict(a=1)


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_no_permission_to_write(tmp_path):
    made.make_coco(tmp_path / 'data')
    (tmp_path / 'locked').mkdir(mode=0o555)
    with pytest.raises(ValueError, match='cannot be made or written to'):
        new_recipe(str(tmp_path / 'data'), str(tmp_path / 'locked' / 'r.py'))


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    made.make_class_folders(tmp_path / 'data')

    def full(*_, **__):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(command, 'convert', full)
    with pytest.raises(ConfigError, match=r'r.py and r_data cannot be written \(No space left'):
        new_recipe(str(tmp_path / 'data'), str(tmp_path / 'out' / 'r.py'), arch='vssd-nano')
    assert list((tmp_path / 'out').iterdir()) == []


def test_out_cannot_be_a_folder_or_lie_in_a_file(tmp_path):
    made.make_coco(tmp_path / 'data')
    (tmp_path / 'file').touch()
    for out in (tmp_path / 'file' / 'r.py', '/proc/none/r.py'):
        with pytest.raises(ValueError, match='--out: .* cannot be made or written to'):
            new_recipe(str(tmp_path / 'data'), str(out))


@pytest.mark.slow
def test_the_command_ends_with_status_2_and_one_list(run_tool, tmp_path):
    xml(BOMB)(tmp_path / 'data')
    (tmp_path / 'data' / 'Annotations' / '1.xml').write_text('<annotation>')
    out = run_tool('new_recipe.py', 'data', '--out', 'r.py', '--arch', 'vssd-nano', expect=2)
    assert 'DataError: 1 fault of the data' in out
    assert '2 XML files cannot be read' in out
    assert 'Traceback' not in out
    assert not (tmp_path / 'r.py').exists()


def test_all_files_of_a_kind_are_named(tmp_path):
    made.make_class_folders(tmp_path / 'data', count=6)
    broken = sorted((tmp_path / 'data' / 'cat').iterdir())
    for path in broken:
        path.write_bytes(path.read_bytes()[:-200])  # cut short: the header is whole
    message = message_of(tmp_path / 'data')
    assert '6 images cannot be read' in message
    for path in broken:
        assert str(path) in message


def test_a_broken_annotation_file_is_named(tmp_path):
    made.make_coco(tmp_path / 'data')
    (tmp_path / 'data' / 'instances.json').write_text('{"images": [')
    for options in ({}, dict(task='det')):
        assert 'instances.json is not valid JSON' in message_of(tmp_path / 'data', **options)


def test_a_part_without_annotations(tmp_path, capsys):
    """Of testing it is left out; of validation it is a fault."""
    made.make_yolo(tmp_path / 'data')
    made.picture(tmp_path / 'data' / 'images' / 'test' / 'a.jpg')
    with open(tmp_path / 'data' / 'data.yaml', 'a') as file:
        file.write('test: images/test\n')
    new_recipe(str(tmp_path / 'data'), str(tmp_path / 'r.py'), arch='vssd-nano')
    assert 'the 1 image of test has no annotations and is not used' in capsys.readouterr().out
    for file in (tmp_path / 'data' / 'labels' / 'val').iterdir():
        file.unlink()
    assert 'none of the 4 images of val has an object' in message_of(tmp_path / 'data')


def test_options_that_contradict_the_data(tmp_path):
    made.make_label_maps(tmp_path / 'data')
    root = str(tmp_path / 'data')
    for options, text in ((dict(form='label_maps', task='det'), '--format label_maps is of --task'),
                          (dict(classes=['a', 'a']), '--classes'),
                          (dict(classes=['a', ' ']), '--classes'),
                          (dict(batch_size=1), '--batch-size: got 1; segmentation takes')):
        with pytest.raises(ValueError, match=text):
            new_recipe(root, str(tmp_path / 'out' / 'r.py'), arch='vssd-nano', **options)
    assert not (tmp_path / 'out' / 'r.py').exists()


def test_large_images_are_no_faults(tmp_path, monkeypatch, capsys):
    """PIL takes them for an attack; the host reads them. Label maps it reads with PIL."""
    made.make_coco(tmp_path / 'data')
    made.make_label_maps(tmp_path / 'maps')
    pixels = made.WIDTH * made.HEIGHT
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', pixels // 2 - 1)
    monkeypatch.setattr(file_facts, 'LARGE', pixels - 2)
    new_recipe(str(tmp_path / 'data'), str(tmp_path / 'r.py'), arch='vssd-nano')
    assert '6 images have more than' in capsys.readouterr().out
    assert pixels // 2 - 1 == Image.MAX_IMAGE_PIXELS
    message = message_of(tmp_path / 'maps')
    assert '6 label maps have more than' in message
    assert 'Cut them' in message


def test_several_yaml_files_are_all_named(tmp_path):
    made.make_yolo(tmp_path / 'data')
    (tmp_path / 'data' / 'other.yaml').write_text('train: images/train\nnames: [dog, cat]\n')
    message = message_of(tmp_path / 'data')
    assert '2 YAML files name classes and images: data.yaml, other.yaml' in message
    new_recipe(str(tmp_path / 'data' / 'data.yaml'), str(tmp_path / 'r.py'), arch='vssd-nano')


def test_a_table_that_disagrees_with_folders(tmp_path):
    """One that says the same, or stands beside a single folder, is taken."""
    root = tmp_path / 'data'
    made.make_class_folders(root)
    images = sorted(root.rglob('*.png'))
    for label in (lambda path: path.parent.name, lambda path: f'camera{len(path.name) % 2}'):
        lines = [f'{path.relative_to(root)},{label(path)}' for path in images]
        if label(images[0]).startswith('camera'):
            lines[0] = lines[0][:-1] + '5'
            (root / 'meta.csv').write_text('\n'.join(['image,label', *lines]))
            message = message_of(root)
            assert 'Choose with --format csv or class_folders' in message
            assert 'csv: 1 file, such as meta.csv' in message
        else:
            (root / 'meta.csv').write_text('\n'.join(['image,label', *lines]))
            assert recognize(Tree(root))[0] == 'csv'
    made.make_csv(tmp_path / 'one')
    assert recognize(Tree(tmp_path / 'one'))[0] == 'csv'


def test_a_table_of_one_class_hides_no_folders(tmp_path):
    """A classifier has nothing to learn of it."""
    root = tmp_path / 'data'
    made.make_class_folders(root)
    images = sorted(root.rglob('*.png'))
    (root / 'list.csv').write_text('\n'.join(
        ['image,label', *(f'{path.relative_to(root)},animal' for path in images)]))
    name, found = recognize(Tree(root))
    assert name == 'class_folders'
    assert found.reason.endswith('; list.csv has one class, and is not taken')
    (root / 'list.csv').write_text('image,label\n' + '\n'.join(
        f'{path.relative_to(root)},{index % 2}' for index, path in enumerate(images)))
    assert 'Choose with --format csv or class_folders' in message_of(root)


def test_a_class_that_is_several_in_one(tmp_path, capsys):
    """It is trained as it is, for it may be meant: sea lion beside sea and lion."""
    for between, doubtful in ((' ', True), ('; ', True), ('|', True), ('-', False)):
        root = tmp_path / str(ord(between[0]))
        made.make_csv(root)
        for index in range(10, 20):
            made.picture(root / 'pictures' / f'{index}.jpg')
        rows = [f'{index}.jpg,cat{between}dog' for index in range(10, 20)]
        with open(root / 'labels of all.csv', 'a') as file:
            file.write('\n' + '\n'.join(rows))
        new_recipe(str(root), f'{root}.py', arch='vssd-nano')
        said = ' '.join(capsys.readouterr().out.split())
        assert ('1 class may be several in one' in said) == doubtful
        assert (f"the first: 'cat{between}dog')" in said) == doubtful
        assert Config.fromfile(f'{root}.py').classes == ('cat', f'cat{between}dog', 'dog')


def test_columns_of_classes_keep_their_order(tmp_path):
    """Also that of which no row has a 1; a column of numbers without a title is no class."""
    root = tmp_path / 'data'
    made.make_csv(root)
    rows = [f'{index},{index}.jpg,{index % 2},{(index + 1) % 2},0,{"train" if index else "val"}'
            for index in range(8)]
    (root / 'labels of all.csv').write_text('\n'.join([',image,Zebra,Ant,Cow,split', *rows]))
    name, found = recognize(Tree(root))
    data = FORMATS[name].read(Tree(root), found, Findings())
    assert data.classes == ['Zebra', 'Ant', 'Cow']
    assert {part: [item.label for item in one.items] for part, one in data.parts.items()} == dict(
        train=[0, 1, 0, 1, 0, 1, 0], val=[1])


def test_label_maps_of_other_names_that_are_asked_for(tmp_path, capsys):
    """They are no classes called images and masks, unless somebody says so."""
    label_maps_of_other_names(tmp_path / 'data')
    for options in (dict(task='seg'), dict(form='label_maps')):
        assert 'no label map has the name of an image' in message_of(tmp_path / 'data', **options)
    new_recipe(str(tmp_path / 'data'), str(tmp_path / 'r.py'), arch='vssd-nano', task='cls')
    assert 'images 5 + 1, masks 5 + 1' in capsys.readouterr().out


def test_folders_of_classes_may_have_words_of_label_maps(tmp_path, capsys):
    made.make_class_folders(tmp_path / 'data', classes=('mask', 'nothing'))
    new_recipe(str(tmp_path / 'data'), str(tmp_path / 'r.py'), arch='vssd-nano')
    assert 'Format: class folders' in capsys.readouterr().out
