"""Data as annotation tools and public data sets have them: read, or refused with advice."""
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest

from mmvssd.datasets.formats import FORMATS, Tree, recognize
from mmvssd.engine.data.findings import STOP, WARN, Findings
from mmvssd.errors import DataError
from mmvssd.new_recipe import new_recipe

spec = importlib.util.spec_from_file_location('made_data', Path(__file__).parent / 'made_data.py')
made = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made)


def read(root, form):
    """Read data that are recognized as a format, and what is said of them."""
    name, found = recognize(Tree(root))
    assert name == form
    findings = Findings()
    data = FORMATS[name].read(Tree(root), found, findings)
    assert not findings.of(STOP)
    return data, [*data.notes, *map(str, findings.of(WARN))]


def stems(data):
    return {part: [item.image.stem for item in one.items] for part, one in data.parts.items()}


@pytest.mark.parametrize('jsonl', [False, True])
@pytest.mark.parametrize('in_parts', [False, True])
def test_tables_have_the_parts_of_their_folders(in_parts, jsonl, tmp_path):
    """As Roboflow and Hugging Face write them; what predictions have to look like is no table."""
    rows = {}
    for index, part in enumerate(('train', 'train', 'valid', 'test')):
        made.picture(tmp_path / part / f'{index}.jpg')
        name = f'{index}.jpg' if in_parts else f'{part}/{index}.jpg'
        rows.setdefault(part if in_parts else '.', []).append(
            json.dumps(dict(file_name=name, label=made.CLASSES[index % 2])) if jsonl
            else f'{name}, {made.CLASSES[index % 2]}')
    for folder, lines in rows.items():
        lines = lines if jsonl else ['filename, label', *lines]
        (tmp_path / folder / f'metadata.{"jsonl" if jsonl else "csv"}').write_text(
            '\n'.join(lines))
    (tmp_path / 'sample_submission.csv').write_text('id,label\n3,dog\n')
    (tmp_path / 'patients.csv').write_text('image,age,sex\ntrain/0.jpg,5,f\n')
    data, _ = read(tmp_path, 'csv')
    assert stems(data) == dict(train=['0', '1'], val=['2'], test=['3'])
    assert [item.label for item in data.items] == [0, 1, 0, 1]
    assert recognize(Tree(tmp_path))[1].reason.endswith('patients.csv has no column of classes')


@pytest.mark.parametrize(('image', 'label_map'), [
    ('leftImg8bit/train/bonn/a_leftImg8bit.png', 'gtFine/train/bonn/a_gtFine_labelTrainIds.png'),
    ('train/a.png', 'train_labels/a_L.png'), ('img/a_L.png', 'labels/a_L.png'),
    ('train/a_sat.jpg', 'train/a_mask.png'), ('2_Ortho_RGB/a_RGB.tif', '5_Labels/a_label.tif'),
    ('JPEGImages/a.jpg', 'SegmentationClassPNG/a.png')])
def test_pairs_of_public_data_sets(image, label_map, tmp_path):
    """What lies beside is another kind of map."""
    made.picture(tmp_path / image)
    made.label_map(tmp_path / label_map, (0, 1))
    made.label_map(tmp_path / 'SegmentationObject' / 'a.png', (0, 1))
    if 'gtFine' in label_map:
        made.label_map(tmp_path / label_map.replace('TrainIds', 'Ids'), (0, 7))
    if 'PNG' in label_map:
        (tmp_path / 'SegmentationClass').mkdir()
        np.save(tmp_path / 'SegmentationClass' / 'a.npy', np.zeros((3, 3)))
    data, said = read(tmp_path, 'label_maps')
    assert [(item.image, item.label_map) for item in data.items] == [
        (tmp_path / image, tmp_path / label_map)]
    assert not [line for line in said if 'no image' in line]


@pytest.mark.parametrize(('name', 'text', 'names'), [
    ('_classes.csv', 'Pixel Value, Class\n0, sky\n1, cat\n', ['sky', 'cat']),
    ('classes.csv', 'id,name\n3,cat\n1,sky\n', ['sky', 'class_2', 'cat'])])
def test_names_by_number(name, text, names, tmp_path):
    made.make_label_maps(tmp_path, (0, len(names) - 1))
    (tmp_path / name).write_text(text)
    assert read(tmp_path, 'label_maps')[0].classes == names


@pytest.mark.parametrize('described', [False, True])
def test_lists_of_yolo_from_another_machine(described, tmp_path):
    """Of Darknet and of CVAT, whose paths begin otherwise; images share one folder."""
    for index in range(4):
        made.picture(tmp_path / 'obj' / f'{index}.jpg')
        (tmp_path / 'obj' / f'{index}.txt').write_text(made.yolo_line(index % 2))
    for name, lines in (('train', '012'), ('valid', '3')):
        (tmp_path / f'{name}.txt').write_text(''.join(f'data/obj/{one}.jpg\n' for one in lines))
    (tmp_path / 'obj.names').write_text('cat\ndog\n')
    if described:
        (tmp_path / 'data.yaml').write_text(
            'names: {0: cat, 1: dog}\npath: .\ntrain: train.txt\nval: valid.txt\n')
    data, _ = read(tmp_path, 'yolo')
    assert stems(data) == dict(train=['0', '1', '2'], val=['3'])
    assert data.classes == ['cat', 'dog']


def test_polygons_that_may_be_key_points(tmp_path):
    """All of one length, and with a box at their beginning; else nothing is said."""
    made.make_yolo(tmp_path)
    files = sorted((tmp_path / 'labels').rglob('*.txt'))
    for box, doubtful in (('0.4 0.5 0.2 0.3', True), ('0.4 0.5 0.9 0.3', False)):
        for file in files:
            file.write_text(f'0 {box} 0.3 0.4 0.5 0.4 0.4 0.6')
        said = read(tmp_path, 'yolo')[1]
        assert any('8 polygons have equally many' in line for line in said) == doubtful


@pytest.mark.parametrize(('prefix', 'found'), [
    ('../../media/upload/1/', True), ('C:\\data\\', True), ('s3://bucket/', True),
    ('../val/', False), ('val/', False)])
def test_images_of_coco_from_another_machine(prefix, found, tmp_path):
    """As of Label Studio; an image of another part is none of them."""
    names = [f'{index}.jpg' for index in range(3)]
    for name in names:
        made.picture(tmp_path / 'train' / name)
    content = made.coco_content([prefix + name for name in names])
    (tmp_path / 'result.json').write_text(json.dumps(content))
    if found:
        data, said = read(tmp_path, 'coco')
        assert [item.image.resolve() for item in data.items] == [
            tmp_path / 'train' / name for name in names]
        assert any('3 file names lead to another machine' in line for line in said)
    else:
        with pytest.raises(DataError, match='3 images that it lists are not there'):
            new_recipe(str(tmp_path), str(tmp_path / 'r.py'), arch='vssd-nano')


def test_images_of_lvis_have_addresses(tmp_path):
    content = made.coco_content(['train2017/0.jpg', 'val2017/1.jpg'])
    for image in content['images']:
        made.picture(tmp_path / image['file_name'])
        image['coco_url'] = f'http://images.cocodataset.org/{image.pop("file_name")}'
    (tmp_path / 'lvis.json').write_text(json.dumps(content))
    data, said = read(tmp_path, 'coco')
    assert [item.image.name for item in data.items] == ['0.jpg', '1.jpg']
    assert any("2 images lack 'file_name', taken from 'coco_url'" in line for line in said)


def test_what_tools_write_beside_classes(tmp_path):
    """CVAT's folder of images without a class and its background; lists that divide images."""
    made.make_class_folders(tmp_path / 'cls')
    made.picture(tmp_path / 'cls' / 'no_label' / '0.png')
    (tmp_path / 'cls' / 'train_test_split.txt').write_text('1 1\n')
    data, said = read(tmp_path / 'cls', 'class_folders')
    assert data.classes == list(made.CLASSES)
    assert 'train_test_split.txt may divide the images, and is not read' in ' '.join(said)
    made.make_voc(tmp_path / 'voc')
    (tmp_path / 'voc' / 'labelmap.txt').write_text(
        '# label:color_rgb:parts:actions\nbackground:0,0,0::\ndog:1,2,3::\ncat:4,5,6::\n')
    assert read(tmp_path / 'voc', 'voc')[0].classes == ['dog', 'cat']


#: Annotations of other forms, of images 0.jpg and 1.jpg in images, and what is said of them.
FOREIGN = {
    'annotations.xml': ('<?xml version="1.0"?>\n<annotations>\n<version>1.1</version><meta>',
                        "CVAT's own XML, which is not read. Export from CVAT as COCO"),
    'tasks.json': ('[{"id": 1, "annotations": [{"result": [{"from_name": "label"}]}]}]',
                   "Label Studio's own JSON, which is not read"),
    'via.json': ('{"0.jpg9": {"regions": [{"shape_attributes": {"name": "rect"}}]}}', 'VIA'),
    'ann/0.jpg.json': ('{"objects": [{"classTitle": "cat"}]}', "Supervisely's own"),
    'export.ndjson': ('{"data_row": {"id": "a"}}\n{"data_row": {}}\n', "Labelbox's own"),
    'default.json': ('{"categories": {"label": {"label_groups": []}}}', "Datumaro's own"),
    'captions.json': ('{"images": [], "annotations": [{"caption": "a cat"}]}', 'holds captions'),
    'panoptic.json': ('{"images": [], "annotations": [{"segments_info": []}], "categories": []}',
                      'holds panoptic segments'),
    'label_2/0.txt': (f'Car 0.00 0 {"-1.57 " * 12}\n'.replace(' \n', '\n'), 'a text of KITTI'),
    'labelTxt/1.txt': ('1.0 2.0 9.0 2.0 9.0 8.0 1.0 8.0 ship 0\n', 'a text of DOTA'),
    'Label/0.txt': ('Traffic light 1.0 2.0 9.5 8.0\n', 'OIDv4'),
    'annotations/0.txt': ('1,2,30,40,1,4,0,0\n', 'VisDrone'),
    'list.txt': ('0.jpg 0\n1.jpg 1\n', 'a list of images and numbers'),
}


@pytest.mark.parametrize('name', FOREIGN)
def test_other_annotations_get_a_pointer(name, tmp_path):
    """Also if they are named; folders of classes need --task cls beside them, but of a list."""
    content, text = FOREIGN[name]
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(content)
    for index in range(2):
        made.picture(tmp_path / 'images' / f'{index}.jpg')
    for data in (tmp_path, file):
        with pytest.raises(DataError, match=re.escape(text)) as caught:
            recognize(Tree(data))
        assert file.name in str(caught.value)
        assert '--task cls' not in str(caught.value)
    made.picture(tmp_path / 'other' / '2.jpg')
    if name == 'list.txt':
        assert recognize(Tree(tmp_path))[0] == 'class_folders'
    else:
        with pytest.raises(DataError, match='say --task cls'):
            recognize(Tree(tmp_path))
    assert recognize(Tree(tmp_path), task='cls')[0] == 'class_folders'
    if file.suffix == '.txt':  # what has no image's name annotates none
        file.rename(tmp_path / 'notes.txt')
        assert recognize(Tree(tmp_path))[0] == 'class_folders'


def test_archives_and_tables_with_images_inside(tmp_path):
    for name, text in (('a.zip', 'Unpack it'), ('b.parquet', 'Write these as files')):
        (tmp_path / name).write_bytes(b'x')
        for data in (tmp_path, tmp_path / name):
            with pytest.raises(DataError, match=f'{name}: .*{text}'):
                recognize(Tree(data))
        (tmp_path / name).unlink()


@pytest.mark.parametrize('folders', [('train', 'train_labels'), ('2_Ortho_RGB', '5_Labels'),
                                     ('images_part_1', 'images_part_2'), ('Training_Input',
                                                                          'Validation_Input')])
def test_folders_that_are_called_otherwise_are_no_classes(folders, tmp_path):
    """Unless somebody says so."""
    for folder in folders:
        for name in 'ab':
            path = tmp_path / folder / f'{folder}{name}.png'
            if 'abels' in folder:
                made.label_map(path, (0, 1))
            else:
                made.picture(path)
    with pytest.raises(DataError, match='has the name of an image|no data of a known format'):
        recognize(Tree(tmp_path))
    assert recognize(Tree(tmp_path), task='cls')[0] == 'class_folders'


def test_label_maps_without_images(tmp_path):
    """What tells objects apart is no image of them."""
    for folder in ('SegmentationClass', 'SegmentationObject'):
        made.label_map(tmp_path / folder / '0.png', (0, 1))
    with pytest.raises(DataError, match='SegmentationClass/0.png and others are label maps wit'):
        recognize(Tree(tmp_path))
    for folder in ('with_mask', 'without_mask'):  # photographs
        made.picture(tmp_path / 'faces' / folder / f'{folder}.png')
    assert recognize(Tree(tmp_path / 'faces'))[0] == 'class_folders'


def test_label_maps_in_places_that_do_not_agree(tmp_path):
    """As of MVTec AD, and of data sets with several kinds of label maps."""
    for folder in ('a/train/good', 'a/test/good', 'a/test/broken', 'b/images'):
        made.picture(tmp_path / folder / '0.png')
    for path in ('a/ground_truth/broken/0_mask.png', 'b/v1/labels/0.png', 'b/v2/labels/0.png'):
        made.label_map(tmp_path / path, (0, 1))
    for name, text in (('a', 'test/broken/0.png may be the image of ground_truth/broken/0_mask.'),
                       ('b', 'images/0.png may be the image of v1/labels/0.png, v2/labels/0.png')):
        with pytest.raises(DataError, match=text):
            recognize(Tree(tmp_path / name))
