"""A survey of whole data sets: before the first step, all at once, and in no healthy run's way."""
import json
import logging
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image

from mmvssd.cli.launch import build_trainer, load_config
from mmvssd.engine.data import coco, data_faults
from mmvssd.engine.data.data_survey import DataSurveyHook, hook
from mmvssd.engine.data.data_survey.files import Files
from mmvssd.engine.data.data_survey.hook import CACHE
from mmvssd.engine.data.data_survey.images import steps_below
from mmvssd.engine.data.file_facts import FileFacts
from mmvssd.engine.data.findings import STOP, WARN, Findings
from mmvssd.errors import DataError
from mmvssd.host_internals import built_loop

CLASSIFIER = 'samples/vssd-nano_1xb64_digits.py'
DETECTOR = 'samples/mask-rcnn_vssd-nano_fpn_1xb8_digits.py'
SEGMENTOR = 'samples/upernet_vssd-nano_1xb8_digits.py'
KINDS = {CLASSIFIER: 'imagenet', DETECTOR: 'coco', SEGMENTOR: 'ade20k'}


@pytest.fixture
def recipe(digits, tmp_path):
    """Read a sample recipe for that folder, with settings changed."""

    def read(name, **settings):
        root = digits / KINDS[name]
        options = {'model.backbone.init_cfg': None}
        for phase in ('train', 'val'):
            options.update({f'{phase}_dataloader.{key}': value for key, value in (
                ('dataset.data_root', str(root)), ('num_workers', 0),
                ('persistent_workers', False))})
        options['train_dataloader.batch_size'] = 2
        if name == DETECTOR:
            options['val_evaluator.ann_file'] = str(
                root / 'annotations' / 'instances_val2017.json')
        options.update({key.replace('__', '.'): value for key, value in settings.items()})
        return load_config(name, work_dir=str(tmp_path / 'work'), options=options)

    return read


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(hook, '_log', lambda line, level=logging.WARNING: lines.append(line))
    return lines


def survey(cfg):
    """Build a training and survey its data; return its hook."""
    runner = build_trainer(cfg)
    built = [getattr(runner, f'{phase}_loop') for phase in ('train', 'val')]
    assert all(built)
    hook = next(hook for hook in runner.hooks if isinstance(hook, DataSurveyHook))
    hook.before_run(runner)
    return hook


def test_an_accuracy_among_more_classes_than_there_are(recipe):
    """Before the first step: MMPreTrain raises at the first validation."""
    pytest.importorskip('mmpretrain')
    with pytest.raises(DataError, match=r'val_evaluator: topk=\(1, 11\), and the model has 10 '
                                        r'classes. Set val_evaluator = dict\(topk=\(1, \)\)'):
        survey(recipe(CLASSIFIER, val_evaluator__topk=(1, 11)))


@pytest.mark.parametrize('name', KINDS)
def test_healthy_data(recipe, said, tmp_path, name):
    pytest.importorskip(load_config(name).default_scope)
    hook = survey(recipe(name))
    assert not hook.findings.of(STOP)
    # few scenes do not have all digits
    assert all('never occur' in found.what for found in hook.findings.of(WARN))
    assert not hook.findings.not_looked_at
    assert 'headers of all 4 images' in hook.looked_at('train')
    assert said[-1].startswith('Data looked at: ')
    assert (tmp_path / 'work' / CACHE).is_file()


def spoil_coco(digits, change, split='train'):
    file = digits / 'coco' / 'annotations' / f'instances_{split}2017.json'
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return content


@pytest.mark.parametrize('split', ['train', 'val'])
def test_boxes_that_are_not_finite_never_reach_a_model(recipe, digits, split):
    pytest.importorskip('mmdet')
    spoil_coco(digits, lambda coco: coco['annotations'][0].update(bbox=[math.nan] * 4), split)
    with pytest.raises(DataError, match=rf'{split}_dataloader, CocoDataset: .*{split}2017\.json: '
                                        '1 box with entries that are not finite numbers'):
        build_trainer(recipe(DETECTOR))


def test_all_faults_are_told_at_once(recipe, digits):
    pytest.importorskip('mmdet')

    def change(coco):
        coco['annotations'][0].update(bbox=[1, 2, 3], area='4')
        coco['annotations'][1]['iscrowd'] = '0'
        coco['annotations'][2]['image_id'] = 99
        coco['images'][0]['file_name'] = 'gone.jpg'

    spoil_coco(digits, change)
    spoil_coco(digits, lambda coco: coco['annotations'][0].pop('iscrowd'), 'val')
    with pytest.raises(DataError) as caught:
        build_trainer(recipe(DETECTOR, val_dataloader__persistent_workers=True))
    text = str(caught.value)
    assert text.startswith('6 faults of the data:')
    for part in ('not four numbers', 'area is not', 'iscrowd is neither', 'without iscrowd',
                 'persistent_workers=True needs workers', 'gone.jpg is not there', 'besides',
                 'images that the file does not list', "unguarded=['data_survey']"):
        assert part in text


@pytest.mark.slow
def test_sizes_of_images(recipe, digits, said):
    pytest.importorskip('mmdet')
    spoil_coco(digits, lambda coco: [image.update(width=image['height'], height=image['width'])
                                     for image in coco['images']])
    with pytest.raises(DataError, match='do not fit their image|exchanged'):
        survey(recipe(DETECTOR))
    spoil_coco(digits, lambda coco: [annotation.update(segmentation=[[1, 1, 9, 1, 9, 9]])
                                     for annotation in coco['annotations']])
    spoil_coco(digits, lambda coco: [image.update(width=image['width'] + 1)
                                     for image in coco['images']])
    with pytest.raises(DataError, match='images (are of another size|have width and height)'):
        survey(recipe(DETECTOR))


@pytest.mark.slow
def test_exif_orientation_is_named(recipe, digits):
    pytest.importorskip('mmdet')
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in (digits / 'coco' / 'val2017').iterdir():
        pixels = np.zeros(np.asarray(Image.open(path)).shape, np.uint8)
        Image.fromarray(np.pad(pixels, ((0, 8), (0, 0), (0, 0)))).save(path, exif=exif)

    def change(coco):
        for image in coco['images']:
            image['height'] += 8
        for annotation in coco['annotations']:
            x, y, width, height = annotation['bbox']
            annotation['segmentation'] = [[x, y, x + width, y, x + width, y + height]]

    spoil_coco(digits, change, 'val')
    with pytest.raises(DataError, match=r'4 images have the size .*EXIF orientation'):
        survey(recipe(DETECTOR))
    load = dict(type='LoadImageFromFile', color_type='color_ignore_orientation')
    cfg = recipe(DETECTOR)
    cfg.val_dataloader.dataset.pipeline[0] = load
    survey(cfg)


@pytest.mark.slow
def test_images_that_cannot_be_read(recipe, digits, said):
    """Others are trained on in their place; a score has no such way out."""
    pytest.importorskip('mmdet')
    broken = next((digits / 'coco' / 'train2017').iterdir())
    broken.write_text('no image')
    found = survey(recipe(DETECTOR)).findings.of(WARN)
    assert any('1 image cannot be read' in str(one) and broken.name in str(one) for one in found)
    next((digits / 'coco' / 'val2017').iterdir()).write_text('no image')
    with pytest.raises(DataError, match='val_dataloader, .*: 1 image cannot be read'):
        survey(recipe(DETECTOR))


@pytest.mark.parametrize('split', ['training', 'validation'])
def test_label_maps_in_training_and_validation(recipe, digits, split):
    pytest.importorskip('mmseg')
    phase = {'training': 'train', 'validation': 'val'}[split]
    spoilt = {'outside 0 to 255': lambda pixels: pixels + 256,
              'that no class has': lambda pixels: pixels * 0 + 200,
              'width and height exchanged': lambda pixels: pixels.T,
              'of another size': lambda pixels: pixels[:-1, :-2]}
    for path, change in zip(sorted((digits / 'ade20k' / 'annotations' / split).iterdir()),
                            spoilt.values()):
        # no square, or it looks the same in both directions
        pixels = change(np.asarray(Image.open(path))[:100].astype(np.uint16))
        kind = np.uint16 if pixels.max() > 255 else np.uint8
        Image.fromarray(np.ascontiguousarray(pixels.astype(kind))).save(path)
        image = digits / 'ade20k' / 'images' / split / f'{path.stem}.jpg'
        Image.fromarray(np.asarray(Image.open(image))[:100]).save(image)
    with pytest.raises(DataError) as caught:
        survey(recipe(SEGMENTOR))
    for message in spoilt:
        assert re.search(rf'{phase}_dataloader, BaseSegDataset: 1 label map .*{message}',
                         str(caught.value))


def test_label_maps_of_one_column(recipe, digits):
    """MMSegmentation makes a row of numbers of such a map, at which a later step fails."""
    pytest.importorskip('mmseg')
    path = min((digits / 'ade20k' / 'annotations' / 'training').iterdir())
    for file in (path, digits / 'ade20k' / 'images' / 'training' / f'{path.stem}.jpg'):
        Image.fromarray(np.asarray(Image.open(file))[:, :1]).save(file)
    with pytest.raises(DataError, match=f'1 label map of one row .*{path.name}') as caught:
        survey(recipe(SEGMENTOR))
    assert '1 fault of the data' in str(caught.value)


def test_label_maps_that_nothing_reads(recipe, digits):
    """A test that only writes predictions asks for none."""
    pytest.importorskip('mmseg')
    for path in (digits / 'ade20k' / 'annotations' / 'validation').iterdir():
        path.write_text('no image')
    cfg = recipe(SEGMENTOR)
    cfg.val_evaluator = dict(type='IoUMetric', format_only=True, output_dir='x')
    assert not any('label map' in text for text in survey(cfg).findings.looked_at
                   if text.startswith('val'))


def test_lists_and_labels(recipe, digits):
    pytest.importorskip('mmpretrain')
    file = digits / 'imagenet' / 'meta' / 'val.txt'
    lines = file.read_text().splitlines()
    file.write_text('\n'.join([lines[0].replace(' ', ','), *lines[1:]]))
    with pytest.raises(DataError, match=r'val\.txt: 1 line with a comma .*line 1'):
        build_trainer(recipe(CLASSIFIER))
    file.write_text('\n'.join([lines[0].split()[0] + ' 10', *lines[1:]]))
    with pytest.raises(DataError, match='1 image with labels that no class has, 0 to 9 fit'):
        survey(recipe(CLASSIFIER))


def test_heads_and_phases(recipe):
    pytest.importorskip('mmpretrain')
    with pytest.raises(DataError, match=r'have 10 classes, model\.head has num_classes=11'):
        survey(recipe(CLASSIFIER, model__head__num_classes=11))
    cfg = recipe(CLASSIFIER)
    names = list(cfg.classes)
    cfg.val_dataloader.dataset.metainfo = dict(classes=[names[1], names[0], *names[2:]])
    with pytest.raises(DataError, match='one is class 0, and in the data of train class 1'):
        survey(cfg)


def test_images_of_training_in_validation(recipe, digits):
    pytest.importorskip('mmpretrain')
    train = sorted((digits / 'imagenet' / 'train').rglob('*.jpg'))[0]
    val = sorted((digits / 'imagenet' / 'val').rglob('*.jpg'))[0]
    val.write_bytes(train.read_bytes())
    found = [str(one) for one in survey(recipe(CLASSIFIER)).findings.of(WARN)]
    assert any('1 of 4 compared images is trained on' in text and val.name in text
               for text in found)


def wrapped(cfg, kind):
    leaf = cfg.train_dataloader.dataset
    if kind == 'ConcatDataset':
        return dict(type=kind, datasets=[leaf, leaf])
    if kind == 'RepeatDataset':
        return dict(type=kind, times=2, dataset=leaf)
    if kind == 'ClassBalancedDataset':
        return dict(type=kind, oversample_thr=.1, dataset=leaf)
    *steps, pack = leaf.pipeline
    return dict(type=kind, dataset=dict(leaf, pipeline=steps), pipeline=[pack])


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['ConcatDataset', 'RepeatDataset', 'ClassBalancedDataset',
                                  'MultiImageMixDataset'])
def test_data_sets_in_others(recipe, digits, kind):
    pytest.importorskip('mmdet')
    cfg = recipe(DETECTOR, train_dataloader__batch_sampler=None)
    cfg.train_dataloader.dataset = wrapped(cfg, kind)
    hook = survey(cfg)
    assert 'headers of all 4 images' in hook.looked_at('train')
    spoil_coco(digits, lambda coco: coco['annotations'][0].update(bbox=None))
    findings = Findings()
    with DefaultScope.overwrite_default_scope('mmdet'):
        Files(cfg, findings, FileFacts(None, math.inf)).check(['train'])
    assert any('not four numbers' in str(found) for found in findings.of(STOP))


def test_what_is_not_known_stops_nothing(recipe, said):
    """Also a data set at which the survey itself fails."""
    pytest.importorskip('mmpretrain')

    class OddData:
        metainfo = dict(classes=3)

        def __len__(self):
            return 4

        def get_data_info(self, index):
            raise RuntimeError('of its own')

    DATASETS.register_module(module=OddData, force=True)
    cfg = recipe(CLASSIFIER)
    cfg.train_dataloader.dataset = dict(type='mmengine.OddData')
    survey(cfg)
    assert any('Data not looked at: train_dataloader, Odd' in line for line in said)


def test_crowds_are_counted_apart(recipe, said, digits):
    """They are annotations that are not trained on: check_data counts without them."""
    pytest.importorskip('mmdet')
    for part in ('train', 'val'):
        file = digits / 'coco' / 'annotations' / f'instances_{part}2017.json'
        content = json.loads(file.read_text())
        for annotation in content['annotations'][:2]:
            annotation['iscrowd'] = 1
        file.write_text(json.dumps(content))
    findings = survey(recipe(DETECTOR)).findings
    train, val = (next(text for text in findings.looked_at if text.startswith(phase))
                  for phase in ('train', 'val'))
    assert ' annotations (2 of crowds, not trained on) of 4 images in ' in train
    assert ' annotations (2 of crowds) of ' in val


@pytest.mark.parametrize(('indices', 'told'), [
    (3, True), ([0, 1, 1], True), (4, False), (9, False), ([3, 0, 1, 2], False)])
def test_images_that_are_scored_and_not_seen(recipe, indices, told):
    """COCO's evaluator counts all images of its file, those left out as without detections."""
    pytest.importorskip('mmdet')
    cfg = recipe(DETECTOR, val_dataloader__dataset__indices=indices,
                 train_dataloader__dataset__indices=3)
    doubts = [str(one) for one in survey(cfg).findings.of(WARN) if 'indices' in one.what]
    assert len(doubts) == told
    if told:
        taken = indices if indices == 3 else 2
        assert f'val_dataloader, CocoDataset: indices takes {taken} of 4 images' in doubts[0]
    del cfg.val_evaluator.ann_file
    assert not any('indices' in one.what for one in survey(cfg).findings.of(WARN))


def test_files_elsewhere_are_not_looked_at(recipe):
    pytest.importorskip('mmpretrain')
    cfg = recipe(CLASSIFIER)
    findings = Findings()
    cfg.train_dataloader.dataset.pipeline[0].backend_args = dict(backend='petrel')
    Files(cfg, findings, None)._check_dataset('train', cfg.train_dataloader.dataset)
    assert findings.not_looked_at == ['train_dataloader, CustomDataset: its files are elsewhere']


def test_it_is_left_out_by_name(recipe, digits):
    pytest.importorskip('mmdet')
    spoil_coco(digits, lambda coco: coco['annotations'][0].pop('iscrowd'), 'val')
    cfg = recipe(DETECTOR)
    cfg.unguarded = ['data_survey']
    runner = build_trainer(cfg)
    assert built_loop(runner, 'val')
    assert not any(isinstance(hook, DataSurveyHook) for hook in runner.hooks)


def test_the_others_wait_for_the_verdict_of_the_first(monkeypatch):
    """They look at nothing themselves, and stop with it."""
    monkeypatch.setattr(hook, 'is_main_process', lambda: False)
    monkeypatch.setattr(hook, 'broadcast_object_list',
                        lambda stopped, src: stopped.__setitem__(0, True))
    with pytest.raises(DataError, match='the first process found faults'):
        hook._decide_together(Findings(), lambda: pytest.fail('looked'))


def test_a_survey_that_fails_gives_a_verdict():
    findings = Findings()
    hook._decide_together(findings, lambda: 1 / 0)
    assert findings.not_looked_at == ['the data (ZeroDivisionError: division by zero)']


def test_the_last_line_says_what_was_looked_at(tmp_path, monkeypatch):
    lines, levels = [], []

    def note(line, *, logger, level):
        lines.append(line)
        levels.append(level)

    monkeypatch.setattr(data_faults, 'print_log', note)
    hook = DataSurveyHook()
    hook.findings.looked_at += ['train: 4 annotations', 'val: 2 annotations', 'train: headers']
    runner = SimpleNamespace(work_dir=str(tmp_path), _train_loop={}, _resume=False, hooks=[hook])
    faults = data_faults.DataFaultsHook()
    faults.before_run(runner)
    faults.after_train(runner)
    assert lines[-1].startswith('Faults of the training data: none seen. Looked at: ')
    assert lines[-1].endswith('; 4 annotations; headers')
    hook.findings.warn('train_dataloader: a.json', '{} odd boxes', 'a.jpg')
    hook.findings.warn('val_dataloader: b.json', '{} odd boxes', 'b.jpg')
    faults.after_train(runner)
    # what was warned of at the start is not said again
    assert lines[-1].startswith(
        'Faults of the training data: none seen (1 doubt about them, see the start of the log). ')
    assert levels[-1] == logging.INFO


@pytest.mark.slow
def test_a_file_without_faults_is_read_once(recipe, digits, monkeypatch, said):
    pytest.importorskip('mmdet')
    reads = []
    original = coco.read_json
    monkeypatch.setattr(coco, 'read_json',
                        lambda file: reads.append(file) or original(file))
    spoil_coco(digits, lambda coco: coco['annotations'][0].update(image_id=99))
    warnings = [len(survey(recipe(DETECTOR)).findings.of(WARN)) for _ in range(2)]
    assert warnings[0] == warnings[1] > 0
    assert len(reads) == 2  # of training and of validation
    spoil_coco(digits, lambda coco: coco['annotations'][0].pop('id'))
    for _ in range(2):  # faults may be mended elsewhere
        reads.clear()
        with pytest.raises(DataError, match='without a usable id'):
            build_trainer(recipe(DETECTOR))
        assert any('train2017' in file for file in reads)


def test_steps_inside_others():
    """As a test's augmentations hold them."""
    inner = SimpleNamespace()
    outer = SimpleNamespace(transforms=[SimpleNamespace(subroutines=[
        SimpleNamespace(transforms=[inner])])])
    assert inner in list(steps_below(outer))
    assert list(steps_below(None)) == [None]
