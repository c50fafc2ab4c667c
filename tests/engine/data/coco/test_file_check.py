"""Annotation files of COCO's form with one thing wrong each, and healthy ones."""
import math
import re

import pytest

from mmvssd.engine.data import coco
from mmvssd.engine.data.findings import STOP, WARN, Findings

#: A mask of 4 x 5 pixels (height x width), of which the first column is set.
COUNTS = [0, 4, 16]


def polygon(x, y, width, height):
    return [[x, y, x + width, y, x + width, y + height]]

#: Masks of 40 x 50 pixels, none of which is set: 2000 is 16 + 30 * 32 + 1 * 1024 in its text.
EMPTY, EMPTY_TEXT = dict(size=[40, 50], counts=[2000]), dict(size=[40, 50], counts='`n1')


def healthy():
    """Two images of 50 x 40 with three boxes each."""
    boxes = [[1, 2, 10, 12], [30, 20, 8.5, 9], [0, 0, 50, 40]]
    return dict(
        categories=[dict(id=1, name='cat'), dict(id=7, name='dog')],
        images=[dict(id=index, file_name=f'{index}.jpg', width=50, height=40)
                for index in (1, 2)],
        annotations=[dict(
            id=10 * image + number, image_id=image, category_id=(1, 7)[number % 2], bbox=box,
            area=box[2] * box[3], iscrowd=0, segmentation=polygon(*box))
            for image in (1, 2) for number, box in enumerate(boxes)])


def look(content, masks=True, scored=True, folder=None):
    findings = Findings()
    summary = coco.check_file(content, 'a.json', 'train', coco.Use(masks, scored, folder), findings)
    return summary, {severity: [str(found) for found in findings.of(severity)]
                     for severity in (STOP, WARN)}


def changed(**changes):
    """The healthy file with keys of its first annotation replaced, or removed by None."""
    content = healthy()
    annotation = content['annotations'][0]
    for key, value in changes.items():
        if value is None:
            del annotation[key]
        else:
            annotation[key] = value
    return content


def test_a_healthy_file():
    summary, found = look(healthy())
    assert found == {STOP: [], WARN: []}
    assert summary.categories == [(1, 'cat'), (7, 'dog')]
    assert (summary.listed, summary.annotations, summary.boxes) == (6, 6, dict(cat=4, dog=2))


@pytest.mark.parametrize('changes', [
    dict(bbox=[1.5, 2.5, 48.5, 37.5]),  # to the edges
    dict(bbox=[-1, -1, 52, 42]),  # over them by rounding
    dict(iscrowd=False), dict(iscrowd=1),
    dict(ignore=1), dict(ignore=0), dict(score=0.3),
    dict(bbox=[5, 5, 0, 0]),  # left out and counted where it is read
    dict(segmentation=[[1, 1, 9, 1, 9, 9], [20, 1, 29, 1, 29, 9]]),
    dict(segmentation=dict(size=[40, 50], counts=[100, 1900])),
    dict(segmentation=dict(size=[40, 50], counts=[0, 2000])),
    dict(category_id=7),
])
def test_what_is_healthy_passes(changes):
    assert look(changed(**changes))[1] == {STOP: [], WARN: []}


def test_ids_may_be_texts_and_files_may_have_more_keys():
    content = healthy()
    content.update(info={}, licenses=[])
    for image in content['images']:
        image.update(id=f'im{image["id"]}', coco_url='x')
    for annotation in content['annotations']:
        annotation['image_id'] = f'im{annotation["image_id"]}'
    assert look(content)[1] == {STOP: [], WARN: []}


@pytest.mark.parametrize(('changes', 'message'), [
    (dict(bbox=[1, 2, 3]), 'not four numbers'),
    (dict(bbox=[1, 2, 3, 4, 5]), 'not four numbers'),
    (dict(bbox='1 2 3 4'), 'not four numbers'),
    (dict(bbox=dict(x=1)), 'not four numbers'),
    (dict(bbox=[1, 2, math.nan, 4]), 'not finite numbers'),
    (dict(bbox=[1, 2, math.inf, 4]), 'not finite numbers'),
    (dict(bbox=[-math.inf, 2, 3, 4]), 'not finite numbers'),
    (dict(bbox=[1, 2, 10 ** 400, 4]), 'not finite numbers'),
    (dict(bbox=['1', '2', '3', '4']), 'not finite numbers'),
    (dict(bbox=[1, 2, True, 4]), 'not finite numbers'),
    (dict(bbox=[1, 2, -3, 4]), 'negative width or height'),
    (dict(bbox=[0, 0, 1e12, 1e12]), '10 times the size'),
    (dict(bbox=[-1e6, 0, 5, 5]), '10 times the size'),
    (dict(area=math.nan), 'area is not a finite number'),
    (dict(area='12'), 'area is not a finite number'),
    (dict(iscrowd='0'), 'iscrowd is neither 0 nor 1'),
    (dict(iscrowd=[0]), 'iscrowd is neither 0 nor 1'),
    (dict(iscrowd=2), 'iscrowd is neither 0 nor 1'),
    (dict(id=None), 'without a usable id'),
    (dict(id=11), 'the id of another one'),
    (dict(image_id=None), 'without image_id'),
    (dict(category_id=None), 'without category_id'),
    (dict(category_id=[1]), 'category_id is neither'),
    (dict(bbox=None), 'without bbox'),
    (dict(area=None), 'without area'),
    (dict(bbox=None, area=None), 'without bbox and area'),
    (dict(iscrowd=None), 'without iscrowd'),
    (dict(segmentation=None), '1 of 6 annotations has no segmentation'),
    (dict(segmentation=[]), 'no segmentation'),
    (dict(segmentation={}), 'no segmentation'),
    (dict(segmentation=[[]]), 'fewer than three points'),
    (dict(segmentation=[[1, 1, 5, 5]]), 'fewer than three points'),
    (dict(segmentation=[[1, 1, 5, 5, 9, 9, 3]]), 'an odd count'),
    (dict(segmentation=[[math.nan] * 6]), 'coordinates that are not finite'),
    (dict(segmentation=[list('123456')]), 'coordinates that are not finite'),
    (dict(segmentation=[1, 2, 3, 4, 5, 6]), 'no list of lists'),
    (dict(segmentation='04`0'), 'no polygon and no RLE'),
    (dict(segmentation=dict(size=[4, 5], counts=COUNTS)), r'its size is \[4, 5\], the image has'),
    (dict(segmentation=dict(size=[50, 40], counts=[2000])), r'the image has \[40, 50\]'),
    (dict(segmentation=dict(size=[100000, 100000], counts='x')), 'its size is'),
    (dict(segmentation=dict(size=None, counts=[2000])), 'its size is None'),
    (dict(segmentation=dict(counts=[2000])), 'its size is None'),
    (dict(segmentation=dict(size=[40, 50])), 'counts cannot be read'),
    (dict(segmentation=dict(size=[40, 50], counts='zzzz~~~~')), 'counts cannot be read'),
    (dict(segmentation=dict(size=[40, 50], counts='é')), 'counts cannot be read'),
    (dict(segmentation=dict(size=[40, 50], counts=[10, -20])), 'counts cannot be read'),
    (dict(segmentation=dict(size=[40, 50], counts=[10, 20])), 'sum up to 30, expected 2000'),
])
def test_a_fault_of_one_annotation(changes, message):
    stops = look(changed(**changes))[1][STOP]
    assert len(stops) == 1
    assert re.search(message, stops[0])
    assert '1.jpg' in stops[0] or 'annotation' in stops[0]


@pytest.mark.parametrize(('changes', 'message'), [
    (dict(image_id=99), 'images that the file does not list'),
    (dict(image_id='1'), 'image_id is a text and the id in images a number'),
    (dict(category_id='1'), 'category_id is a text and the id in categories a number'),
    (dict(category_id=99), 'categories that the file does not list'),
    (dict(bbox=[45, 30, 15, 5], segmentation=polygon(45, 30, 5, 5)), '1 of 6 boxes reaches over'),
    (dict(area=0), '1 of 6 boxes has an area of 0 or less'),
    (dict(area=-3.5), '1 of 6 boxes has an area of 0 or less'),
    (dict(segmentation=[[.1, .1, .3, .1, .3, .3]]), '1 of 6 masks whose polygons lie between 0'),
    (dict(segmentation=polygon(51, 41, 5, 5)), '1 of 6 masks whose polygons lie outside the image'),
    (dict(segmentation=polygon(-9, 1, 5, 5)), '1 of 6 masks whose polygons lie outside the image'),
    (dict(segmentation=polygon(30, 20, 5, 5)), '1 of 6 masks whose polygons lie outside their box'),
    (dict(segmentation=EMPTY), '1 of 6 masks with no pixel set'),
    (dict(segmentation=EMPTY_TEXT), '1 of 6 masks with no pixel set'),
    (dict(segmentation=[[1, 1, 9, 1, 9, 9], [5, 5, 9, 9]]), 'a polygon of fewer than three'),
])
def test_a_doubt_about_one_annotation(changes, message):
    found = look(changed(**changes))[1]
    assert not found[STOP]
    assert len(found[WARN]) == 1
    assert message in found[WARN][0]


def test_what_nothing_reads_is_not_asked_for():
    """A detector without masks, and a training, which needs no iscrowd."""
    content = changed(segmentation=None, iscrowd=None)
    assert look(content, masks=False, scored=False)[1][STOP] == []


def all_of(**changes):
    content = healthy()
    for annotation in content['annotations']:
        annotation.update(changes)
    return content


@pytest.mark.parametrize(('content', 'message'), [
    (all_of(iscrowd=1), 'all 6 annotations have iscrowd 1'),
    (all_of(image_id=99), 'none of the 6 annotations is of a listed image'),
    (all_of(category_id=99), 'none of the 6 annotations is of a listed image'),
    (all_of(ignore=True), 'all 6 annotations have a true ignore'),
    (all_of(image_id='1'), 'Some are texts in one place'),
    (all_of(category_id='1'), 'Some are texts in one place'),
    (all_of(bbox=[5, 5, 0, 0]), 'none of the 6 boxes can be used'),
    (all_of(area=0), '6 have an area of 0 or less'),
    (all_of(area=-1), '6 have an area of 0 or less'),
    (all_of(bbox=[.1, .1, .5, .5]), "They may be shares of the image's sides"),
    (all_of(bbox=[20, 15, 45, 38]), 'read as x1, y1, x2, y2'),
    (all_of(bbox=[35, 25, 30, 30]), 'read as center x, center y, width, height all lie in it'),
    (all_of(bbox=[2, 25, 38, 24]), 'read as y, x, height, width all lie in it'),
    (all_of(bbox=[5, 45, 38, 48]), 'read as y1, x1, y2, x2 all lie in it'),
    (all_of(segmentation=EMPTY), '6 of 6 masks with no pixel set'),
    (all_of(segmentation=EMPTY_TEXT), '6 of 6 masks with no pixel set'),
    (all_of(segmentation=[[.1, .1, .3, .1, .3, .3]]), '6 of 6 masks whose polygons lie between'),
    (all_of(segmentation=polygon(51, 1, 5, 5)), 'whose polygons lie outside the image'),
    (dict(healthy(), images=[]), 'train: holds no images'),
    (dict(healthy(), categories=[]), 'train: holds no categories'),
    (dict(healthy(), annotations={}), "'annotations' is a dict"),
    (dict(healthy(), images=['a.jpg']), "'images' holds entries that are not dicts"),
])
def test_a_fault_of_the_whole_file(content, message):
    assert any(message in text for text in look(content)[1][STOP])


@pytest.mark.parametrize('mask', [
    [[5, 5], [9, 5], [9, 9]], [[1, 1, 9, 9]], [[]], [[1, 1, 5, 5, 9, 9, 3]]])
def test_masks_of_a_training_that_are_no_polygons(mask):
    assert '6 of 6 masks whose polygons all have fewer than three' in look(
        all_of(segmentation=mask), scored=False)[1][STOP][0]
    found = look(changed(segmentation=mask), scored=False)[1]
    assert not found[STOP]
    assert '1 of 6 masks whose polygons all' in found[WARN][0]
    assert look(all_of(segmentation=mask), masks=False)[1] == {STOP: [], WARN: []}


def test_masks_that_are_all_of_another_place():
    content = healthy()
    for annotation in content['annotations']:
        annotation.update(bbox=[1, 2, 10, 12], segmentation=polygon(30, 20, 9, 9))
    content['annotations'][0]['segmentation'] = EMPTY
    stops = look(content)[1][STOP]
    assert len(stops) == 2
    assert '1 of 6 masks with no pixel set' in stops[0]
    assert '5 of 6 masks whose polygons lie outside their box' in stops[1]


@pytest.mark.parametrize('changes', [
    dict(bbox=[0, 0, 2, 2], segmentation=[[.1, .1, .9, .1, .9, .9]]),  # an object of a pixel
    dict(segmentation=polygon(12, 15, 3, 3)),  # beside its box by rounding
    dict(iscrowd=1, segmentation=EMPTY),  # not trained
])
def test_masks_that_are_healthy(changes):
    assert look(changed(**changes))[1] == {STOP: [], WARN: []}


def test_few_boxes_over_the_edge_are_a_doubt_with_its_cause():
    content = healthy()
    for annotation in content['annotations']:
        annotation.update(bbox=[20, 20, 10, 10], segmentation=polygon(20, 20, 10, 10))
    content['annotations'][0].update(bbox=[45, 20, 10, 10])
    found = look(content, masks=False)[1]
    assert not found[STOP]
    assert '1 of 6 boxes reaches over the edge of its image, and read as center' in found[WARN][0]


@pytest.mark.parametrize(('convert', 'reading'), [
    (lambda x, y, w, h: [x, y, x + w, y + h], 'x1, y1, x2, y2'),
    (lambda x, y, w, h: [x + w / 2, y + h / 2, w, h], 'center x, center y, width, height'),
    (lambda x, y, w, h: [y, x, h, w], 'y, x, height, width'),
    (lambda x, y, w, h: [x, y, w, h], None),
    (lambda x, y, w, h: [x - 3, y - 3, w + 6, h + 6], None),  # loose
])
def test_boxes_of_another_order_are_told_by_their_polygons(convert, reading):
    content = healthy()
    boxes = [(4, 9, 5, 9), (9, 4, 9, 5), (6, 12, 8, 4), (12, 6, 7, 12), (5, 11, 9, 4), (4, 8, 5, 8)]
    for annotation, box in zip(content['annotations'], boxes):
        annotation.update(bbox=convert(*box), segmentation=polygon(*box))
    found = look(content)[1]
    assert len(found[STOP]) == bool(reading)
    assert all(f'read as {reading} all are' in text for text in found[STOP])
    assert reading or not found[WARN]


def test_sizes_of_images_that_are_exchanged_look_like_turned_boxes():
    content = all_of(bbox=[2, 25, 38, 24], segmentation=polygon(2, 25, 38, 24))
    stop, = look(content)[1][STOP]
    assert 'read as y, x, height, width all lie in it' in stop
    assert "Or the images' width and height are exchanged" in stop


@pytest.mark.parametrize(('ids', 'used', 'start'), [
    ((1, 2, 3), (0, 1, 2), 0), ((1, 2, 3), (0, 1), 0), ((1, ), (0, ), 0), ((1, 2, 4), (0, 2), 0),
    ((0, 1, 2), (1, 2, 3), 1), ((0, 1), (2, ), 1),
    ((1, 2, 3), (1, 2, 3), None), ((0, 1, 2), (1, 2), None), ((1, 2, 3), (0, 1, 3), None),
    ((1, 2), (1, 7), None), ((5, 6), (5, ), None),
])
def test_annotations_that_number_the_categories(ids, used, start):
    content = healthy()
    content['categories'] = [dict(id=identity, name=f'c{identity}') for identity in ids]
    for index, annotation in enumerate(content['annotations']):
        annotation['category_id'] = used[index % len(used)]
    stops = [text for text in look(content)[1][STOP] if 'ids of annotations start' in text]
    assert len(stops) == (start is not None)
    assert all(f'ids of annotations start at {start}' in text for text in stops)


def test_large_objects_at_the_upper_left_are_no_corners():
    """Boxes that could be read both ways, and that lie in their images as they are."""
    assert look(all_of(bbox=[1, 2, 40, 30]))[1] == {STOP: [], WARN: []}


@pytest.mark.parametrize(('key', 'index', 'changes', 'message'), [
    ('images', 0, dict(width='50'), 'width and height are not two positive'),
    ('images', 0, dict(width=0), 'width and height are not two positive'),
    ('images', 0, dict(height=None), 'width and height are not two positive'),
    ('images', 0, dict(height=math.nan), 'width and height are not two positive'),
    ('images', 0, dict(file_name=None), 'without a file_name'),
    ('images', 0, dict(file_name=7), 'without a file_name'),
    ('images', 0, dict(id=2), 'image with the id of another one'),
    ('images', 0, dict(id=None), 'image without a usable id'),
    ('images', 0, dict(id=[1]), 'image without a usable id'),
    ('categories', 0, dict(id=7), 'category with the id of another one'),
    ('categories', 0, dict(name='dog'), 'stands for several ids'),
    ('categories', 0, dict(name=None), 'category without a name'),
    ('categories', 0, dict(name=3), 'category whose name is a number .*id 1: 3'),
    ('categories', 0, dict(id=None), 'category without a usable id'),
])
def test_a_fault_of_an_image_or_a_category(key, index, changes, message):
    content = healthy()
    content[key][index].update(changes)
    assert any(re.search(message, text) for text in look(content)[1][STOP])


def test_names_of_images(tmp_path):
    content = healthy()
    content['images'][0]['file_name'] = 'a\\b.jpg'
    assert 'with backslashes' in look(content, folder=str(tmp_path))[1][STOP][0]
    (tmp_path / 'a\\b.jpg').touch()  # a name like any other here
    assert look(content, folder=str(tmp_path))[1][STOP] == []
    content['images'][0]['file_name'] = '../x.jpg'
    content['images'][1]['file_name'] = '/etc/passwd'
    assert '2 file names that lead out' in look(content)[1][WARN][0]
    content['images'][0]['file_name'] = content['images'][1]['file_name'] = 'a.jpg'
    assert '1 file name of more than one image' in look(content)[1][WARN][0]


def test_names_that_hold_the_folder(tmp_path):
    content = healthy()
    folder = tmp_path / 'data' / 'train'
    folder.mkdir(parents=True)
    (folder / '1.jpg').touch()
    for name in ('train/1.jpg', 'data/train/1.jpg'):
        content['images'][0]['file_name'] = name
        stop, = look(content, folder=str(folder))[1][STOP]
        assert f"1 file name that repeats a part of the images' folder (the first: {name}" in stop
    (folder / 'train').mkdir()
    (folder / 'train' / '1.jpg').touch()
    content['images'][0]['file_name'] = 'train/1.jpg'
    assert look(content, folder=str(folder))[1][STOP] == []
    content['images'][0]['file_name'] = 'http://a.b/1.jpg'
    assert '1 file name that is an address' in look(content, folder=str(folder))[1][STOP][0]


def test_counts_and_examples():
    content = healthy()
    for annotation in content['annotations']:
        annotation['bbox'] = [math.nan] * 4
    text = look(content)[1][STOP][0]
    assert text.startswith('train: 6 boxes with entries that are not finite numbers (the first: '
                           'annotation 10 of 1.jpg: [nan, nan, nan, nan], annotation 11 of 1.jpg')
