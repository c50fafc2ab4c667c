"""What a test found by class and by image, against values worked out by hand."""
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from mmvssd.engine.record.details import (
    FILE,
    TestDetailsHook,
    classification,
    detection,
    segmentation,
)
from mmvssd.engine.record.details import hook as hook_module
from mmvssd.engine.record.details.curves import precision_recall, thinned
from mmvssd.reports.runs.details import details_of


def test_precision_over_recall():
    scores, right = np.array([0.9, 0.8, 0.8, 0.1]), np.array([1, 0, 1, 1], bool)
    precision, recall = precision_recall(scores, right, 4)
    assert precision.tolist() == [1, 2 / 3, 3 / 4]  # equal scores are one point
    assert recall.tolist() == [1 / 4, 2 / 4, 3 / 4]
    points = dict(map(tuple, thinned(precision, recall)))
    assert (points[0.25], points[0.5], points[0.75]) == (1, 0.75, 0.75)
    assert max(points) == 0.75
    empty = precision_recall(np.zeros(0), np.zeros(0, bool), 3)
    assert [len(part) for part in empty] == [0, 0]
    assert thinned(*empty) == []


def classified(scores, label):
    element = BaseDataElement(pred_score=torch.tensor(scores))
    if label is not None:
        element.gt_label = torch.tensor([label] if isinstance(label, int) else label)
    return dict(classification.see(element, None), path=f'{label}.png')


def test_a_classifier():
    pytest.importorskip('mmpretrain')
    results = [classified(scores, label) for scores, label in (
        ([0.9, 0.1, 0.0], 0), ([0.6, 0.4, 0.0], 1), ([0.2, 0.8, 0.0], 1), ([0.1, 0.0, 0.9], 0))]
    found = classification.sum_up(results, ['a', 'b'])
    assert found['classes'] == ['a', 'b', 'class 2']
    first, second, third = found['by_class']
    assert (first['precision'], first['recall'], first['images']) == (50, 50, 2)
    assert (second['precision'], second['recall'], third['images']) == (100, 50, 0)
    assert found['confusion']['cells'] == [[0, 0, 1], [0, 2, 1], [1, 0, 1], [1, 1, 1]]
    assert [curve['name'] for curve in found['curves']] == ['all classes', 'a', 'b']
    # of 0.9, 0.6, 0.8, 0.9 a half is right: those of 0.9 by half, of 0.6 not, of 0.8 all
    assert found['calibration']['ece'] == pytest.approx((2 * 0.4 + 0.6 + 0.2) / 4, abs=1e-4)
    shown = classification.shown(results[3])
    assert shown['predicted']['labels'] == [2, 0, 1]
    assert shown['quality'] == 0.1
    json.dumps(found)


def test_scores_that_are_no_probabilities_and_other_labels():
    pytest.importorskip('mmpretrain')
    assert classification.sum_up([classified([2.0, 5.0], 1)], [])['calibration'] is None
    for label in (None, [0, 1], 9, -1):
        assert classified([0.5, 0.5], label)['quality'] is None


def detected(boxes, scores, labels, objects):
    element = BaseDataElement()
    element.pred_instances = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor(scores), labels=torch.tensor(labels, dtype=torch.int64))
    objects = [dict(bbox=box, bbox_label=label, ignore_flag=int(ignored))
               for box, label, ignored in objects]
    return dict(detection.see(element, objects), path='a.png')


def test_a_detector():
    pytest.importorskip('mmdet')
    left, right, far = [0, 0, 10, 10], [20, 0, 30, 10], [50, 50, 60, 60]
    results = [
        # the left one is found, the right one taken for another class, a box at nothing
        detected([left, right, far], [0.9, 0.8, 0.7], [0, 1, 1],
                 [(left, 0, False), (right, 0, False)]),
        # one at a crowd counts for nothing, one that is not sure, one that is not found
        detected([left, far], [0.9, 0.1], [0, 1], [(left, 0, True), (far, 1, False)])]
    found = detection.sum_up(results, ['a', 'b'])
    first, second = found['by_class']
    assert first == {'name': 'a', 'objects': 2, 'AP at 0.5': 50.0, 'precision': 100.0,
                     'recall': 50.0}
    assert (second['objects'], second['recall'], second['precision']) == (1, 0, 0)
    cells = {(row, column): count for row, column, count in found['confusion']['cells']}
    assert cells == {(0, 0): 1, (0, 1): 1, (2, 1): 1, (1, 2): 1}
    assert results[0]['quality'] == pytest.approx(2 * 1 / (3 + 2))
    assert results[1]['quality'] == 0
    assert found['confusion']['names'][-1] == 'nothing'
    assert len(detection.shown(results[1])['predicted']['boxes']) == 1  # the sure one
    json.dumps(found)


def test_a_small_box_in_a_large_crowd_is_no_mistake():
    pytest.importorskip('mmdet')
    person, crowd, member = [200, 200, 240, 280], [0, 0, 150, 100], [10, 10, 20, 30]
    at_its_edge = [145, 10, 165, 30]  # a quarter of it lies in the crowd
    result = detected([person, member], [0.9, 0.95], [0, 0], [(person, 0, False), (crowd, 0, True)])
    (row, ) = detection.sum_up([result], ['person'])['by_class']
    assert (row['AP at 0.5'], row['precision'], row['recall']) == (100, 100, 100)
    assert (result['quality'], result['confused']) == (1, [[0, 0]])
    result = detected([person, at_its_edge], [0.9, 0.95], [0, 0],
                      [(person, 0, False), (crowd, 0, True)])
    assert detection.sum_up([result], ['person'])['by_class'][0]['precision'] == 50
    # what finds an object counts, also in a crowd, or in an object that is difficult
    result = detected([member], [0.9], [0], [(member, 0, False), (crowd, 0, True),
                                             (member, 0, True)])
    assert result['hits'].tolist() == [True]
    # another class's crowd excuses nothing but is no background either
    result = detected([member], [0.9], [1], [(crowd, 0, True)])
    assert (result['misses'].tolist(), result['confused']) == ([True], [])


def coco_curves(images):
    """Return COCO's precision at its 101 steps of recall, by class, at an overlap of 0.5."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def sized(box):
        return [box[0], box[1], box[2] - box[0], box[3] - box[1]]

    objects = [dict(image_id=image, category_id=label, bbox=sized(box), iscrowd=int(crowd),
                    area=sized(box)[2] * sized(box)[3])
               for image, (_, _, _, truth) in enumerate(images) for box, label, crowd in truth]
    truth = COCO()
    truth.dataset = dict(
        images=[dict(id=image) for image in range(len(images))],
        categories=[dict(id=label, name=str(label)) for label in (0, 1)],
        annotations=[dict(one, id=number) for number, one in enumerate(objects, 1)])
    truth.createIndex()
    found = COCO()
    boxes = [dict(image_id=image, category_id=label, bbox=sized(box), score=score,
                  area=sized(box)[2] * sized(box)[3])
             for image, (boxes, scores, labels, _) in enumerate(images)
             for box, score, label in zip(boxes, scores, labels)]
    found.dataset = dict(truth.dataset, annotations=[
        dict(one, id=number) for number, one in enumerate(boxes, 1)])
    found.createIndex()
    evaluation = COCOeval(truth, found, 'bbox')
    evaluation.params.iouThrs = np.array([0.5])
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval['precision'][0, :, :, 0, -1].T


@pytest.mark.parametrize('seed', range(3))
def test_precision_is_cocos_where_there_are_crowds(seed):
    pytest.importorskip('mmdet')
    pytest.importorskip('pycocotools')
    generator = np.random.default_rng(seed)
    images = []
    for _ in range(6):
        # objects that lie apart, each with a box near it; a crowd with boxes in and around it
        corners = np.stack(np.meshgrid(np.arange(3) * 40, np.arange(3) * 40), -1).reshape(-1, 2)
        apart = np.hstack([corners, corners + generator.uniform(12, 35, corners.shape)])
        inside = generator.uniform(180, 320, (12, 2))
        boxes = np.vstack([apart + generator.normal(0, 3, apart.shape), apart[:3],
                           np.hstack([inside, inside + generator.uniform(5, 60, inside.shape)])])
        truth = [(box.tolist(), int(label), False)
                 for box, label in zip(apart, generator.integers(0, 2, len(apart)))]
        truth += [([200.0, 200.0, 300.0, 300.0], label, True) for label in (0, 1)]
        labels = [one[1] for one in truth[:9]] + generator.integers(0, 2, 15).tolist()
        images.append((boxes.astype(np.float32).tolist(),
                       generator.uniform(0.05, 1, len(boxes)).astype(np.float32).tolist(),
                       labels, truth))
    found = detection.sum_up([detected(*image) for image in images], ['0', '1'])
    for curve, row, expected in zip(found['curves'][1:], found['by_class'], coco_curves(images)):
        mine = np.zeros(101)
        mine[:len(curve['points'])] = [precision for _, precision in curve['points']]
        assert mine == pytest.approx(expected, abs=1e-4)
        # the area below the curve, and COCO's mean of 101 points of it
        assert row['AP at 0.5'] == pytest.approx(expected.mean() * 100, abs=1)


def test_ap_is_the_hosts():
    mean_ap = pytest.importorskip('mmdet.evaluation.functional.mean_ap')
    generator = np.random.default_rng(0)
    results, boxes_of, truths = [], [], []
    for _ in range(4):
        corners = generator.uniform(0, 60, (6, 2))
        truth = np.hstack([corners, corners + generator.uniform(10, 30, (6, 2))])
        labels = generator.integers(0, 2, 6)
        boxes = truth + generator.normal(0, 3, truth.shape)
        scores = generator.uniform(0.05, 1, 6)
        results.append(detected(boxes.tolist(), scores.tolist(), labels.tolist(),
                                [(box, label, False) for box, label in zip(
                                    truth.tolist(), labels.tolist())]))
        boxes_of.append([np.hstack([boxes, scores[:, None]])[labels == label].astype(np.float32)
                         for label in (0, 1)])
        truths.append(dict(bboxes=truth.astype(np.float32), labels=labels))
    _, expected = mean_ap.eval_map(boxes_of, truths, iou_thr=0.5, nproc=1, logger='silent')
    found = detection.sum_up(results, ['a', 'b'])['by_class']
    for mine, theirs in zip(found, expected):
        assert mine['AP at 0.5'] == pytest.approx(float(theirs['ap']) * 100, abs=0.01)


def test_images_with_nothing():
    pytest.importorskip('mmdet')
    nothing = detected([], [], [], [])
    assert nothing['quality'] == 1
    missed = detected([], [], [], [([0, 0, 5, 5], 1, False)])
    assert missed['quality'] == 0
    found = detection.sum_up([nothing, missed], ['a', 'b'])
    assert found['by_class'][1]['AP at 0.5'] == 0
    assert found['by_class'][0]['AP at 0.5'] is None
    element = BaseDataElement()
    element.pred_instances = InstanceData(bboxes=torch.zeros(0, 4), scores=torch.zeros(0),
                                          labels=torch.zeros(0, dtype=torch.int64))
    assert detection.see(element, None)['quality'] is None


def segmented(found, truth):
    element = BaseDataElement()
    element.pred_sem_seg = PixelData(data=torch.tensor(found)[None])
    if truth is not None:
        element.gt_sem_seg = PixelData(data=torch.tensor(truth)[None])
    return dict(segmentation.see(element, None), path='a.png')


def test_a_segmentor():
    pytest.importorskip('mmseg')
    results = [segmented([[0, 0, 1], [1, 1, 2]], [[0, 1, 1], [1, 255, 255]]),
               segmented([[0]], [[0]])]
    found = segmentation.sum_up(results, ['a', 'b', 'c'])
    first, second, third = found['by_class']
    assert (first['pixels'], first['IoU']) == (2, pytest.approx(100 * 2 / 3, abs=0.01))
    assert (second['pixels'], second['IoU']) == (3, pytest.approx(100 * 2 / 3, abs=0.01))
    assert (third['pixels'], third['IoU'], third['recall']) == (0, None, None)
    assert found['confusion']['cells'] == [[0, 0, 2], [1, 0, 1], [1, 1, 2]]
    assert results[0]['quality'] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert segmented([[0]], None)['quality'] is None
    assert segmented([[0]], [[255]])['quality'] is None
    json.dumps([found, segmentation.shown(results[0])])


def test_large_label_maps_are_kept_small():
    packed = segmentation.see(BaseDataElement(
        pred_sem_seg=PixelData(data=torch.zeros(1, 1000, 700, dtype=torch.int64)),
        gt_sem_seg=PixelData(data=torch.zeros(1, 1000, 700, dtype=torch.int64))), None)['picture']
    assert len(packed['truth']['label_map']) < 1000


class Data:
    """A data set of ninety images that tells nothing of them."""

    metainfo = dict(classes=('a', 'b', 'c'))

    def __len__(self):
        return 90


@pytest.fixture
def runner(tmp_path):
    return SimpleNamespace(log_dir=str(tmp_path), cfg=dict(load_from='x.pth'),
                           test_dataloader=SimpleNamespace(dataset=Data()))


def test_the_hook_keeps_the_best_and_the_worst(runner, tmp_path):
    pytest.importorskip('mmpretrain')
    hook = TestDetailsHook()
    hook.before_test(runner)
    for index in range(20):
        share = index / 20
        hook.after_test_iter(runner, 0, outputs=[BaseDataElement(
            metainfo=dict(img_path=f'{index:02d}.png'), gt_label=torch.tensor([0]),
            pred_score=torch.tensor([share, 1 - share, 0.0]))])
    hook.after_test_epoch(runner, {'accuracy/top1': np.float32(50), 'name': 'x'})
    content = json.loads((tmp_path / FILE).read_text())
    assert [entry['path'] for entry in content['worst']] == [f'{i:02d}.png' for i in range(8)]
    assert [entry['path'] for entry in content['best']] == [f'{19 - i}.png' for i in range(8)]
    assert content['scores'] == {'accuracy/top1': 50.0}
    assert (content['images'], content['checkpoint']) == (20, 'x.pth')


def label_maps(index):
    """Return a prediction that is right in as many pixels as the index says."""
    truth = torch.ones(1, 10, 10, dtype=torch.int64)
    found = truth.clone().reshape(-1)
    found[index:] = 0
    return BaseDataElement(
        metainfo=dict(img_path=f'{index:02d}.png'), gt_sem_seg=PixelData(data=truth),
        pred_sem_seg=PixelData(data=found.reshape(1, 10, 10)))


def test_few_pictures_are_kept_and_processes_agree(runner, tmp_path, monkeypatch):
    pytest.importorskip('mmseg')
    sent = []

    def gather(results, size):
        sent.append(results)
        # as it does, the first of each process and then the second; the last process is the main
        return [result for together in zip(*sent) for result in together]

    def test(indices):
        hook = TestDetailsHook()
        hook.before_test(runner)
        for index in indices:
            hook.after_test_iter(runner, 0, outputs=[label_maps(index)])
            kept = [result for result in hook._results if 'picture' in result]
            assert len(kept) <= hook_module.MOST_PICTURES
        hook.after_test_epoch(runner, {})
        return json.loads((tmp_path / FILE).read_text())

    monkeypatch.setattr(hook_module, 'collect_results', gather)
    alone = test(range(90))
    assert len([result for result in sent[0] if 'picture' in result]) == 16
    assert [entry['path'] for entry in alone['worst']] == [f'{i:02d}.png' for i in range(8)]
    assert [entry['path'] for entry in alone['best']] == [f'{89 - i}.png' for i in range(8)]
    sent.clear()
    test(range(1, 90, 2))
    together = test(range(0, 90, 2))
    assert together == alone  # the worst and the best of either are among those of all


def test_only_boxes_are_kept_of_annotations(runner, monkeypatch):
    one = dict(bbox=[0, 0, 9, 9], bbox_label=0, ignore_flag=1, mask=[[0.0] * 9999])
    monkeypatch.setattr(Data, 'get_data_info', lambda self, index: dict(
        img_path=f'{index}.png', instances=[one]), raising=False)
    hook = TestDetailsHook()
    hook.before_test(runner)
    assert hook._annotations['89.png'] == [dict(bbox=[0, 0, 9, 9], bbox_label=0, ignore_flag=1)]


@pytest.mark.parametrize(('step', 'worst', 'best'), [(0, 8, []), (0.1, 5, [9, 8, 7, 6, 5])])
def test_of_a_few_images_none_is_both(runner, tmp_path, step, worst, best):
    """None is among the best whose class has no score at all."""
    pytest.importorskip('mmpretrain')
    hook = TestDetailsHook()
    hook.before_test(runner)
    for index in range(10):
        share = index * step
        hook.after_test_iter(runner, 0, outputs=[BaseDataElement(
            metainfo=dict(img_path=f'{index}.png'), gt_label=torch.tensor([0]),
            pred_score=torch.tensor([share, 1 - share, 0.0]))])
    hook.after_test_epoch(runner, {})
    content = json.loads((tmp_path / FILE).read_text())
    assert [entry['path'] for entry in content['best']] == [f'{index}.png' for index in best]
    assert [entry['path'] for entry in content['worst']] == [
        f'{index}.png' for index in range(worst)]


def test_the_best_images_of_a_detector_show_objects(runner, tmp_path):
    pytest.importorskip('mmdet')
    hook = TestDetailsHook()
    hook.before_test(runner)
    boxes = torch.tensor([[0.0, 0, 9, 9]])
    for index in range(60):
        path, count = f'{index:02d}.png', int(index in (3, 50))
        hook._annotations[path] = [dict(bbox=[0, 0, 9, 9], bbox_label=0)] * count
        sample = BaseDataElement(metainfo=dict(img_path=path))
        sample.pred_instances = InstanceData(
            bboxes=boxes[:count], scores=torch.ones(count), labels=torch.zeros(count).long())
        hook.after_test_iter(runner, 0, outputs=[sample])
    hook.after_test_epoch(runner, {})
    content = json.loads((tmp_path / FILE).read_text())
    assert [entry['path'] for entry in content['best']] == ['50.png', '03.png']
    assert content['images'] == 60


def test_scores_that_are_not_finite(runner, tmp_path):
    pytest.importorskip('mmpretrain')
    hook = TestDetailsHook()
    hook.before_test(runner)
    for index in range(40):
        hook.after_test_iter(runner, 0, outputs=[BaseDataElement(
            metainfo=dict(img_path=f'{index:02d}.png'), gt_label=torch.tensor([0]),
            pred_score=torch.tensor([float('nan') if index % 2 else index / 40, 0.5]))])
    hook.after_test_epoch(runner, {})
    content = json.loads((tmp_path / FILE).read_text())
    assert [entry['path'] for entry in content['best'][:2]] == ['38.png', '36.png']
    assert [entry['path'] for entry in content['worst'][:2]] == ['01.png', '03.png']
    shown = details_of(content)
    assert [pair.title for pair in (*shown.worst[:1], *shown.best[:1])] == [
        '01.png: nan', '38.png: 0.95']
    assert shown.charts  # precision over recall; there is no calibration
    assert content['calibration'] is None


@pytest.mark.parametrize('outputs', [[object()], [BaseDataElement()], None, ['text']])
def test_models_of_other_kinds_are_tested_all_the_same(runner, tmp_path, outputs):
    hook = TestDetailsHook()
    hook.before_test(runner)
    hook.after_test_iter(runner, 0, outputs=outputs)
    hook.after_test_epoch(runner, {})
    assert not (tmp_path / FILE).exists()
