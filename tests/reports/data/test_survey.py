"""All faults of a recipe's data at once, with the files' names, and nothing of healthy data."""
import json
import shutil
from itertools import combinations

import cv2
import numpy as np
import pytest
from mmengine.registry import DefaultScope
from PIL import Image

from mmvssd.engine.data.findings import STOP, WARN
from mmvssd.errors import ConfigError
from mmvssd.reports.data import examine
from mmvssd.reports.data.page import as_json, page, table, verdict

CLASSIFIER = 'samples/vssd-nano_1xb64_digits.py'
DETECTOR = 'samples/mask-rcnn_vssd-nano_fpn_1xb8_digits.py'
SEGMENTOR = 'samples/upernet_vssd-nano_1xb8_digits.py'

#: Of a few images most classes are rare, and some never occur.
FEW = ('classes with fewer', 'never occur', 'no training image shows')


def told(report, severity=None):
    """Return what was found beside that the data are few."""
    found = [*report.findings.of(STOP), *report.findings.of(WARN)]
    return [f'{one.where} {one}' for one in found if severity in (None, one.severity)
            and not any(few in str(one) for few in FEW)]


def _scope_name():
    scope = DefaultScope.get_current_instance()
    return scope and scope.scope_name


@pytest.mark.parametrize(('name', 'kind'), [
    (CLASSIFIER, 'labels'), (DETECTOR, 'objects'), (SEGMENTOR, 'label maps')])
def test_healthy_data(recipe, parsed, name, kind):
    before = _scope_name()
    report = examine(recipe(name), samples=3, seed=1)
    assert told(report) == []
    assert report.findings.not_looked_at == []
    assert report.is_sensible
    assert [part.phase for part in report.parts] == ['train', 'val']
    assert [part.kind for part in report.parts] == [kind, kind]
    assert report.same == {'test': 'val'}
    assert [len(samples) for samples in report.samples.values()] == [3, 3]
    assert all(abs(sample.mean) < 4 for samples in report.samples.values() for sample in samples)
    html = parsed(page(report, name, 'again'))
    assert html.tags.count('img') == html.tags.count('figure') >= 6 + 2
    assert 'zero' in html.words
    assert verdict(report).startswith('no fault')
    assert _scope_name() == before
    content = json.loads(json.dumps(as_json(report, name)))
    assert content['sensible'] is True
    assert content['parts'][0]['images'] == (20 if name == CLASSIFIER else 8)
    total = sum(content['parts'][0]['images_with'].values())
    assert total == 20 if name == CLASSIFIER else total >= 8


def annotations(digits, split='train2017'):
    file = digits / f'coco/annotations/instances_{split}.json'
    return file, json.loads(file.read_text())


def change(digits, change_content, split='train2017'):
    file, content = annotations(digits, split)
    change_content(content)
    file.write_text(json.dumps(content))
    return content


def image_of(digits, kind='coco/train2017', number=0):
    return sorted((digits / kind).rglob('*.jpg'))[number]


# Each fault spoils the data in a place of its own, and returns what is to be told of it.

def empty(digits):
    content = change(digits, lambda content: content.update(annotations=[
        one for one in content['annotations'] if one['image_id'] != content['images'][0]['id']]))
    return WARN, ('1 image without an annotation', content['images'][0]['file_name'])


def cut_off(digits, kind='coco/train2017', number=6):
    file = image_of(digits, kind, number)
    file.write_bytes(file.read_bytes()[:-300])
    return WARN, ('1 image is cut off', file.name)


def cut_off_and_scored(digits):
    """OpenCV 4 fills what is missing with grey; with OpenCV 5 the validation would end there."""
    _, words = cut_off(digits, 'coco/val2017', 3)
    file = image_of(digits, 'coco/val2017', 3)
    image = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR)
    return (STOP if image is None else WARN), words


def in_both_parts(digits):
    scored = image_of(digits, 'coco/val2017')
    shutil.copy(image_of(digits, number=5), scored)
    width, height = Image.open(scored).size

    def resize(content):
        (image, ) = (one for one in content['images'] if one['file_name'] == scored.name)
        image.update(width=width, height=height)
        content['annotations'] = [one for one in content['annotations']
                                  if one['image_id'] != image['id']]

    change(digits, resize, 'val2017')
    return WARN, ('compared images is trained on', scored.name)


def copied(digits):
    files = sorted((digits / 'coco/train2017').iterdir())[1:5]  # of three sizes
    first, second = next((one, other) for one, other in combinations(files, 2)
                         if Image.open(one).size == Image.open(other).size)
    shutil.copy(first, second)
    return WARN, ('1 image is a copy of another one', second.name)


def unreadable(digits):
    image_of(digits, number=7).write_bytes(b'no image')
    return WARN, ('image cannot be read', image_of(digits, number=7).name)


def tiny(digits):
    def shrink(content):
        one = content['annotations'][-1]
        x, y = one['bbox'][:2]
        one.update(bbox=[x, y, 2, 2], area=4.0,
                   segmentation=[[x, y, x + 2, y, x + 2, y + 2, x, y + 2]])

    change(digits, shrink)
    return WARN, ('1 box has a side below 4 pixels', '2 x 2')


def twice(digits):
    content = change(digits, lambda content: content['annotations'].insert(
        0, dict(content['annotations'][-2], id=9999)))
    return WARN, ('1 box is there twice', f'{content["annotations"][0]["bbox"][2]:.4g} x')


def without_class(digits):
    content = change(digits, lambda content: content['annotations'][-3].update(category_id=77))
    return WARN, ('categories that the file does not list',
                  f'annotation {content["annotations"][-3]["id"]} ')


def two_points(digits):
    content = change(digits, lambda content: content['annotations'][-4].update(
        segmentation=[[1, 1, 5, 5]]))
    return WARN, ('fewer than three points', f'annotation {content["annotations"][-4]["id"]} ')


def unlisted(digits):
    folder = digits / 'coco/train2017'
    Image.new('RGB', (64, 64)).save(folder / 'more.jpg')
    (folder / '@eaDir').mkdir()
    for hidden in ('._more.jpg', '@eaDir/small.jpg'):  # which are no images of the user's
        (folder / hidden).touch()
    return WARN, ('1 image of the folder is not in the file', 'more.jpg')


def missing(digits):
    image_of(digits).unlink()
    return STOP, ('not there', '000000000001.jpg')


def outside(digits):
    change(digits, lambda content: content['annotations'][0].update(bbox=[9000, 9000, 10, 10]))
    return STOP, ('times the size of its image away', 'annotation 1 ')


def broken_json(digits):
    file, _ = annotations(digits)
    file.write_text(file.read_text()[:-50])
    return STOP, ('not valid JSON', file.name)


def no_folder(digits):
    shutil.rmtree(digits / 'coco/val2017')
    return STOP, ('val_dataloader', 'not there')


@pytest.mark.parametrize('faults', [
    [empty, cut_off, copied, in_both_parts, unreadable, tiny, twice, without_class, two_points,
     unlisted], [missing, outside], [cut_off_and_scored], [broken_json], [no_folder]],
    ids=['doubts', 'faults', 'scored', 'json', 'folder'])
def test_faults_of_detection(recipe, digits, parsed, faults):
    """Each is told of, in the table and on the page, and hides none of the others."""
    expected = [spoil(digits) for spoil in faults]
    report = examine(recipe(DETECTOR), samples=2)
    shown, printed = parsed(page(report, 'name', '')).words, table(report)
    for severity, words in expected:
        found = [text for text in told(report, severity) if all(word in text for word in words)]
        assert found, (words, told(report))
        assert words[-1].strip() in shown
        assert words[-1].strip() in printed
    assert report.is_sensible is (expected[0][0] == WARN), told(report, STOP)


def test_all_faults_at_once(recipe, digits):
    """Faults of training hide none of validation."""
    for spoil in (outside, cut_off, copied, unlisted):
        spoil(digits)
    change(digits, lambda content: content['annotations'][0].pop('area'), 'val2017')
    report = examine(recipe(DETECTOR), samples=0)
    text = '\n'.join(told(report))
    for words in ('size of its image away', 'cut off', 'is a copy', 'not in the file',
                  'annotation without area'):
        assert words in text
    assert verdict(report).startswith('2 faults')


def map_of(digits, change_values, part='training', number=0):
    file = sorted((digits / 'ade20k/annotations' / part).iterdir())[number]
    Image.fromarray(change_values(np.array(Image.open(file)))).save(file)
    return file.name


@pytest.mark.parametrize(('change_values', 'words'), [
    (lambda values: np.where(values > 0, 255, 0).astype(np.uint8),
     ('0 and 255', 'Write 1 in place of 255')),
    (lambda values: values + 100, ('values that no class has', )),
    (lambda values: values[:, :, None].repeat(3, 2), ('colours or several channels', )),
    (lambda values: values[:20, :30], ('another size than their image', ))],
    ids=['0 and 255', 'out of range', 'colours', 'size'])
def test_faults_of_label_maps(recipe, digits, parsed, change_values, words):
    for number in range(8):
        name = map_of(digits, change_values, number=number)
    report = examine(recipe(SEGMENTOR), samples=2)
    text = '\n'.join(told(report, STOP))
    assert all(word in text for word in words), text
    assert name in parsed(page(report, 'name', '')).words
    assert not report.is_sensible


def test_endings_of_another_case(recipe, digits):
    for file in sorted((digits / 'ade20k/images/training').iterdir())[:3]:
        file.rename(file.with_suffix('.JPG'))
    text = '\n'.join(told(examine(recipe(SEGMENTOR), samples=0)))
    assert '3 images that end with .JPG are not read' in text


def test_faults_of_class_lists(recipe, digits):
    file = digits / 'imagenet/meta/train.txt'
    lines = file.read_text().splitlines()
    file.write_text('\n'.join([*lines, lines[0], 'absent.jpg 3', lines[1].rsplit(' ')[0] + ' 12']))
    text = '\n'.join(told(examine(recipe(CLASSIFIER), samples=2)))
    for words in ('listed already', 'absent.jpg', 'several labels'):
        assert words in text


def test_an_image_of_two_classes(recipe, digits):
    """Copies of one class are a doubt of their own, also if one is scored and one trained."""
    lines = (digits / 'imagenet/meta/train.txt').read_text().splitlines()
    labels = {line.rpartition(' ')[0]: line.rpartition(' ')[2] for line in lines}
    first, *others = labels
    twin = next(other for other in others if labels[other] != labels[first])
    scored = next(line.rpartition(' ')[0] for line in (
        digits / 'imagenet/meta/val.txt').read_text().splitlines()
        if line.rpartition(' ')[2] != labels[first])
    for part, name in (('train', twin), ('val', scored)):
        shutil.copy(digits / 'imagenet/train' / first, digits / 'imagenet' / part / name)
    found = told(examine(recipe(CLASSIFIER), samples=0), WARN)
    names = recipe(CLASSIFIER).classes
    (copy, ) = (text for text in found if '1 image is a copy of one of another class' in text)
    assert all(names[int(labels[name])] in copy and name in copy for name in (first, twin))
    (trained, ) = (text for text in found if '1 image is trained on as another class' in text)
    assert f'{names[int(labels[first])]} in training' in trained or (
        f'{names[int(labels[twin])]} in training' in trained)
    assert not any('copy of another one' in text for text in found)


def small(digits, count, side=20):
    for number in range(count):
        file = image_of(digits, 'imagenet/train', number)
        Image.open(file).resize((side, side)).save(file)


def test_small_images_that_the_recipe_enlarges(recipe, digits):
    """Of a few the others are larger; of all it is what the recipe is for."""
    cfg = recipe(CLASSIFIER)
    cfg.train_dataloader.dataset.pipeline = [
        dict(type='LoadImageFromFile'), dict(type='RandomResizedCrop', scale=64),
        dict(type='PackInputs')]
    small(digits, 2)
    found = told(examine(cfg, samples=0), WARN)
    assert any('2 images have a side below 32 pixels, and are enlarged' in text for text in found)
    small(digits, 20)
    assert not any('side' in text for text in told(examine(cfg, samples=0), WARN))


@pytest.mark.parametrize(('scale', 'expected'), [
    ((16, 48), '20 images have a side below 32 pixels, the stride of the last stage, as the model '
     'gets them'), ((64, 64), None)])
def test_images_that_are_small_for_the_model(recipe, scale, expected):
    cfg = recipe(CLASSIFIER)
    cfg.train_dataloader.dataset.pipeline.insert(1, dict(type='Resize', scale=scale))
    found = [text for text in told(examine(cfg, samples=0), WARN) if 'side below' in text]
    assert len(found) == (expected is not None)
    assert not expected or (expected in found[0] and 'resized to 16 x 48' in found[0])


def test_a_class_that_is_scored_and_not_trained(recipe, digits):
    file = digits / 'imagenet/meta/train.txt'
    file.write_text('\n'.join(line for line in file.read_text().splitlines()
                              if not line.endswith(' 3')))
    texts = [str(one) for one in examine(recipe(CLASSIFIER), samples=0).findings.of(WARN)]
    assert any('no training image shows (1): three' in text for text in texts)


def test_data_that_are_not_there(recipe, tmp_path):
    """Each folder is told of once, and a training does not need data to test on."""
    cfg = recipe(DETECTOR)
    for phase in ('val', 'test'):
        cfg[f'{phase}_dataloader'].dataset.data_root = str(tmp_path / f'no_{phase}')
        cfg[f'{phase}_evaluator'].ann_file = str(tmp_path / f'no_{phase}' / 'val.json')
    report = examine(cfg, samples=1)
    ((fault, ), (doubt, )) = ([text for text in told(report, severity) if 'not there' in text]
                              for severity in (STOP, WARN))
    assert 'no_val is not there' in fault
    assert 'no_test is not there' in doubt
    assert list(report.samples) == ['train']


def test_validation_on_what_is_trained_on(recipe):
    cfg = recipe(CLASSIFIER)
    cfg.val_dataloader.dataset = cfg.train_dataloader.dataset
    text = '\n'.join(told(examine(cfg, samples=0), WARN))
    assert '20 of 20 compared images are trained on' in text


def test_a_pipeline_that_fails(recipe):
    cfg = recipe(CLASSIFIER)
    cfg.train_dataloader.dataset.pipeline.insert(1, dict(type='Resize', scale=(0, 0)))
    report = examine(cfg, samples=2)
    assert any('2 of 2 samples fail in the pipeline' in text for text in told(report, STOP))


def test_values_that_are_normalized_twice(recipe):
    cfg = recipe(CLASSIFIER)
    cfg.data_preprocessor.update(mean=[0.5] * 3, std=[0.2] * 3)
    report = examine(cfg, samples=2)
    assert any('where 0 and 1 are usual' in text for text in told(report, WARN))


def test_what_cannot_be_built_is_a_fault_of_the_recipe(recipe):
    cfg = recipe(CLASSIFIER)
    cfg.model.backbone.arch = 'gigantic'
    with pytest.raises(ConfigError, match='gigantic'):
        examine(cfg)


def test_names_are_shown_as_text(recipe, digits, parsed):
    name = '<script>alert("1")</script>'
    change(digits, lambda content: content['categories'][0].update(name=name))
    change(digits, lambda content: content['categories'][0].update(name=name), 'val2017')
    cfg = recipe(DETECTOR)
    for phase in ('train', 'val', 'test'):
        dataset = cfg[f'{phase}_dataloader'].dataset
        dataset.metainfo = dict(classes=(name, *dataset.metainfo.classes[1:]))
    html = page(examine(cfg, samples=6), '<b>recipe</b>', '<i>')
    assert name in parsed(html).words
    assert '<b>recipe</b>' in parsed(html).words


def test_the_users_data_stay_as_they_are(recipe, digits):
    before = {file: file.read_bytes() for file in digits.rglob('*') if file.is_file()}
    examine(recipe(DETECTOR), samples=2)
    assert {file: file.read_bytes() for file in digits.rglob('*') if file.is_file()} == before
