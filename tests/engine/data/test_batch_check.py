"""Batches that a model cannot take, at the point where the hosts' models would take them."""
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from torch import nn

from mmvssd.cli.launch import load_config
from mmvssd.engine.data.batch_check import BatchCheck
from mmvssd.errors import DataError

RECIPES = dict(
    mmpretrain='samples/vssd-nano_1xb64_digits.py',
    mmdet='samples/mask-rcnn_vssd-nano_fpn_1xb8_digits.py',
    mmseg='samples/upernet_vssd-nano_1xb8_digits.py')


def sample_of(host, label):
    """A data sample of a host with one label."""
    if host == 'mmpretrain':
        from mmpretrain.structures import DataSample
        sample = DataSample().set_gt_label(label)
    elif host == 'mmdet':
        from mmdet.structures import DetDataSample
        sample = DetDataSample(gt_instances=InstanceData(
            bboxes=torch.zeros(1, 4), labels=torch.tensor([label])))
    else:
        from mmseg.structures import SegDataSample
        labels = torch.full((1, 32, 32), 255)
        labels[0, 5, 7] = label
        sample = SegDataSample(gt_sem_seg=PixelData(data=labels))
    sample.set_metainfo(dict(img_path='some.jpg', img_shape=(32, 32)))
    return sample


def batch_of(host, label=0, channels=3):
    images = torch.zeros(2, channels, 32, 32, dtype=torch.uint8)
    samples = [sample_of(host, 1), sample_of(host, label)]
    return dict(inputs=images if host == 'mmpretrain' else list(images), data_samples=samples)


@pytest.fixture(scope='module', params=RECIPES)
def watched(request):
    """Each host's name, a model of its own, and what its labels reach to."""
    pytest.importorskip(request.param)
    cfg = load_config(RECIPES[request.param])
    init_default_scope(cfg.default_scope)
    model = dict(cfg.model)
    if 'data_preprocessor' in cfg:
        model['data_preprocessor'] = cfg.data_preprocessor
    model = MODELS.build(model)
    BatchCheck.watch(model)
    return request.param, model, 11 if request.param == 'mmseg' else 10


def test_what_fits_passes(watched):
    host, model, num_classes = watched
    for label in (0, num_classes - 1):
        assert model.data_preprocessor(batch_of(host, label), False)['inputs'].shape[1] == 3


@pytest.mark.parametrize(('channels', 'told'), [(1, '1 channel'), (4, '4 channels')])
def test_channels(watched, channels, told):
    host, model, _ = watched
    with pytest.raises(DataError, match=rf'some.jpg: the image has {told}, the model '
                                        r"takes 3\. LoadImageFromFile with color_type='color'"):
        model.data_preprocessor(batch_of(host, channels=channels), True)


@pytest.mark.parametrize('beyond', [0, 7, -1000])
def test_labels(watched, beyond):
    host, model, num_classes = watched
    label = num_classes + beyond
    with pytest.raises(DataError, match=rf'some.jpg: its label is {label}, the model has '
                                        rf'{num_classes} classes: 0 to {num_classes - 1} fit'):
        model.data_preprocessor(batch_of(host, label), True)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_boxes_that_are_not_finite(watched, value):
    """Whatever brought them about: RoIAlign ends the process at one."""
    host, model, _ = watched
    if host != 'mmdet':
        pytest.skip('no boxes')
    batch = batch_of(host)
    batch['data_samples'][1].gt_instances.bboxes[0, 2] = value
    with pytest.raises(DataError, match=r'some\.jpg: a box is not finite'):
        model.data_preprocessor(batch, True)


def test_labels_in_evaluation_are_the_metrics_matter(watched):
    host, model, num_classes = watched
    model.data_preprocessor(batch_of(host, num_classes + 3), False)


def test_other_backbones_in_channels_may_mean_a_layer():
    pytest.importorskip('mmpretrain')
    init_default_scope('mmpretrain')
    model = MODELS.build(dict(type='ImageClassifier', backbone=dict(type='MobileNetV2')))
    assert model.backbone.in_channels != 3
    BatchCheck(model)(None, (dict(inputs=torch.zeros(1, 3, 8, 8)), True))


def test_images_alone_pass(watched):
    _, model, _ = watched
    image = torch.from_numpy(np.zeros((3, 32, 32), np.uint8))
    check = BatchCheck(model)
    check(model.data_preprocessor, (dict(inputs=[image]), ))
    with pytest.raises(DataError, match=r'image 0 of the batch: the image has 2 channels'):
        check(model.data_preprocessor, (dict(inputs=[image[:2]]), ))


def test_branches_of_semi_supervised_training(watched):
    """The student learns from batches by branch, with None for images of the others."""
    host, model, num_classes = watched
    if host != 'mmdet':
        pytest.skip('no such training')
    pair = nn.Module()
    pair.student, pair.teacher = model, model

    def check(label=0, channels=3, bad_box=False):
        batch, other = batch_of(host, label, channels), batch_of(host)
        if bad_box:
            batch['data_samples'][1].gt_instances.bboxes[0, 2] = float('nan')
        BatchCheck(pair)(None, (dict(
            inputs=dict(unsup_teacher=other['inputs'], sup=[None, *batch['inputs']]),
            data_samples=dict(unsup_teacher=other['data_samples'],
                              sup=[None, *batch['data_samples']])), True))

    check()
    for settings, message in ((dict(label=num_classes), f'its label is {num_classes}'),
                              (dict(channels=4), 'the image has 4 channels'),
                              (dict(bad_box=True), 'a box is not finite')):
        with pytest.raises(DataError, match=f'some.jpg: {message}'):
            check(**settings)


def test_models_that_do_not_say_pass():
    check = BatchCheck(nn.Module())
    check(None, (dict(inputs=torch.zeros(1, 5, 8, 8)), ))
