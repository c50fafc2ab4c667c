"""Data sets of MMDetection that are no plain COCO files: healthy ones are not stopped."""
import json
import math

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image
from torch import nn

from mmvssd.engine.data.checks import check_data, check_dataset
from mmvssd.engine.data.data_faults import faults_of
from mmvssd.engine.data.data_survey.built import Built
from mmvssd.engine.data.data_survey.files import Files
from mmvssd.engine.data.data_survey.leaves import leaves_in
from mmvssd.engine.data.file_facts import FileFacts
from mmvssd.engine.data.findings import STOP, WARN, Findings

pytest.importorskip('mmdet')
CLASSES = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
LOAD = dict(type='LoadImageFromFile')
BOXES = dict(type='LoadAnnotations', with_bbox=True)


class Heads(nn.Module):
    """A detector with a head of as many classes."""

    def __init__(self):
        super().__init__()
        self.bbox_head = nn.Module()
        self.bbox_head.num_classes = len(CLASSES)


class Teacher(nn.Module):
    """A semi-supervised detector."""

    def __init__(self):
        super().__init__()
        self.student, self.teacher = Heads(), Heads()


def look(loader, evaluator=None, phase='train', model=None):
    """Survey and check one phase's data as a run does; return the survey's findings."""
    cfg = Config({f'{phase}_dataloader': dict(loader, num_workers=0),
                  f'{phase}_evaluator': evaluator})
    findings, facts = Findings(), FileFacts(None, math.inf)
    with DefaultScope.overwrite_default_scope('mmdet'):
        check_data(cfg, phase)
        Files(cfg, findings, facts).check([phase])
        dataset = DATASETS.build(cfg[f'{phase}_dataloader'].dataset)
    check_dataset(dataset, phase)
    Built(model or Heads(), {}, findings, facts).check(
        list(leaves_in(dataset, phase, True, findings)))
    return findings


def annotations(digits, split='train2017'):
    return json.loads((digits / f'coco/annotations/instances_{split}.json').read_text())


def write(digits, content, name='other.json'):
    (digits / f'coco/annotations/{name}').write_text(json.dumps(content))
    return dict(data_root=str(digits / 'coco'), ann_file=f'annotations/{name}',
                data_prefix=dict(img='train2017/'), metainfo=dict(classes=CLASSES),
                pipeline=[LOAD, BOXES])


def objects365(digits):
    return dict(write(digits, annotations(digits)), type='Objects365V2Dataset')


def cityscapes(digits):
    """Ids from 24 on, no areas of whole numbers, images in folders of cities."""
    content = annotations(digits)
    for category in content['categories']:
        category['id'] += 24
    for annotation in content['annotations']:
        annotation['category_id'] += 24
    return dict(write(digits, content), type='CityscapesDataset',
                filter_cfg=dict(filter_empty_gt=True, min_size=32))


def lvis(digits):
    """No names of files but addresses, no iscrowd, categories with a frequency."""
    pytest.importorskip('lvis')
    content = annotations(digits)
    for image in content['images']:
        name = image.pop('file_name')
        image.update(coco_url=f'http://images.cocodataset.org/train2017/{name}',
                     not_exhaustive_category_ids=[], neg_category_ids=[])
    for annotation in content['annotations']:
        annotation.pop('iscrowd')
    for category in content['categories']:
        category.update(frequency='f', synset='x.n.01', synonyms=[category['name']],
                        image_count=1, instance_count=1)
    return dict(write(digits, content), type='LVISV1Dataset', data_prefix=dict(img=''))


def panoptic(digits):
    """Annotations of images, each with the segments of its picture."""
    content = annotations(digits)
    segments = {image['id']: [] for image in content['images']}
    for annotation in content['annotations']:
        segments[annotation['image_id']].append(
            {key: annotation[key] for key in ('id', 'category_id', 'iscrowd', 'bbox', 'area')})
    content['annotations'] = []
    (digits / 'coco/panoptic').mkdir()
    for image in content['images']:
        name = image['file_name'].replace('.jpg', '.png')
        content['annotations'].append(dict(
            image_id=image['id'], file_name=name, segments_info=segments[image['id']]))
        Image.new('RGB', (image['width'], image['height'])).save(digits / 'coco/panoptic' / name)
    for category in content['categories']:
        category['isthing'] = int(category['id'] < 5)
    things = dict(classes=CLASSES, thing_classes=CLASSES[:5], stuff_classes=CLASSES[5:])
    return dict(write(digits, content), type='CocoPanopticDataset', metainfo=things,
                data_prefix=dict(img='train2017/', seg='panoptic/'),
                pipeline=[LOAD, dict(type='LoadAnnotations', with_bbox=True, with_seg=True)])


def voc(digits):
    """A list of names, and an XML file for each image."""
    content = annotations(digits)
    root = digits / 'VOCdevkit/VOC2007'
    for folder in ('JPEGImages', 'Annotations', 'ImageSets/Main'):
        (root / folder).mkdir(parents=True)
    for image in content['images']:
        name = image['file_name'].partition('.')[0]
        boxes = ''
        for annotation in content['annotations']:
            if annotation['image_id'] == image['id']:
                x, y, width, height = map(int, annotation['bbox'])
                category = next(entry['name'] for entry in content['categories']
                                if entry['id'] == annotation['category_id'])
                boxes += (f'<object><name>{category}</name><difficult>0</difficult><bndbox>'
                          f'<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + width}</xmax>'
                          f'<ymax>{y + height}</ymax></bndbox></object>')
        (root / f'Annotations/{name}.xml').write_text(
            f'<annotation><size><width>{image["width"]}</width><height>{image["height"]}</height>'
            f'</size>{boxes}</annotation>')
        (root / f'JPEGImages/{name}.jpg').symlink_to(digits / 'coco/train2017' / image['file_name'])
        with open(root / 'ImageSets/Main/trainval.txt', 'a') as names:
            names.write(f'{name}\n')
    return dict(type='VOCDataset', data_root=str(digits / 'VOCdevkit'),
                ann_file='VOC2007/ImageSets/Main/trainval.txt',
                data_prefix=dict(sub_data_root='VOC2007/'), metainfo=dict(classes=CLASSES),
                pipeline=[LOAD, BOXES])


def wider_face(digits):
    dataset = voc(digits)
    root = digits / 'VOCdevkit/VOC2007'
    (root / 'WIDER_train').mkdir()
    (root / 'JPEGImages').rename(root / 'WIDER_train/images')
    names = (root / 'ImageSets/Main/trainval.txt').read_text().split()
    (root / 'WIDER_train/images/0--Parade').mkdir()
    for name in names:
        (root / f'WIDER_train/images/{name}.jpg').rename(
            root / f'WIDER_train/images/0--Parade/{name}.jpg')
    return dict(dataset, type='mmdet.XMLDataset', img_subdir='WIDER_train/images/0--Parade')


#: Kinds of data sets, each with whether its files are looked at, or only named.
KINDS = {cityscapes: True, objects365: False, lvis: False, panoptic: False, voc: False,
         wider_face: False}


@pytest.mark.parametrize('kind', KINDS, ids=lambda kind: kind.__name__)
def test_healthy_data_sets_of_other_kinds(digits, kind):
    """They go on, and one line says what was not looked at of each."""
    dataset = kind(digits)
    findings = look(dict(dataset=dict(type='ConcatDataset', datasets=[
        dataset, dict(type='RepeatDataset', times=2, dataset=dataset)])))
    assert not findings.of(STOP), findings.text()
    assert all('never occur' in found.what for found in findings.of(WARN)), findings.text()
    assert len(set(findings.not_looked_at)) == (not KINDS[kind]), findings.not_looked_at
    assert all('its files, which are of another kind' in text for text in findings.not_looked_at)
    assert sum('headers of all 4 images' in text for text in findings.looked_at) == 2


@pytest.mark.parametrize(('kind', 'metrics'), [
    (cityscapes, ['CocoMetric', 'CityScapesMetric']), (lvis, ['LVISMetric']),
    (panoptic, ['CocoPanopticMetric']), (voc, ['VOCMetric']), (objects365, ['CocoMetric'])],
    ids=lambda value: getattr(value, '__name__', ''))
def test_healthy_data_sets_of_other_kinds_in_validation(digits, kind, metrics):
    dataset = dict(kind(digits), test_mode=True)
    file = f'{dataset["data_root"]}/{dataset["ann_file"]}'
    settings = {} if kind is voc else dict(ann_file=file)
    evaluator = [dict(type=metric, **settings) for metric in metrics]
    findings = look(dict(dataset=dataset, batch_size=1), evaluator, phase='val')
    assert not findings.of(STOP), findings.text()


def semi(digits, unlabelled):
    """Two images with annotations and two that a teacher labels, sampled together."""
    content = annotations(digits)
    kept = {image['id'] for image in content['images'][:2]}
    of_kept = [entry for entry in content['annotations'] if entry['image_id'] in kept]
    rest = dict(content, images=content['images'][2:], annotations=[])
    if unlabelled == 'no key':
        rest.pop('annotations')
    elif unlabelled == 'annotated':
        rest['annotations'] = [entry for entry in content['annotations']
                               if entry['image_id'] not in kept]
    first = write(digits, dict(content, images=content['images'][:2], annotations=of_kept),
                  'a.json')
    second = write(digits, rest, 'b.json')
    branches = ['sup', 'unsup_teacher', 'unsup_student']
    pack = dict(type='PackDetInputs')
    first['pipeline'] = [LOAD, BOXES, dict(type='MultiBranch', branch_field=branches, sup=pack)]
    second['pipeline'] = [LOAD, dict(type='LoadEmptyAnnotations'), dict(
        type='MultiBranch', branch_field=branches, unsup_teacher=pack, unsup_student=pack)]
    return dict(batch_size=4, sampler=dict(
        type='GroupMultiSourceSampler', batch_size=4, source_ratio=[1, 1]), dataset=dict(
            type='ConcatDataset', datasets=[dict(first, type='CocoDataset'),
                                            dict(second, type='CocoDataset')]))


@pytest.mark.parametrize('unlabelled', ['annotated', 'empty', 'no key'])
def test_images_that_a_teacher_labels(digits, unlabelled):
    loader = semi(digits, unlabelled)
    findings = look(loader, model=Teacher())
    assert not findings.of(STOP), findings.text()
    assert not findings.not_looked_at
    assert sum('headers of all 2 images' in text for text in findings.looked_at) == 2
    with DefaultScope.overwrite_default_scope('mmdet'):
        assert not faults_of(DATASETS.build(loader['dataset']))
