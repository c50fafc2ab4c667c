"""Two-stage detectors in the form that is exported, beside MMDetection's own results."""
import copy
import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope

from mmvssd.cli.launch import load_config
from mmvssd.deployment.detectors import DeployedDetector, _limits
from mmvssd.deployment.export import PHOTOGRAPHS, TARGETS, Comparison, Target, export, report
from mmvssd.deployment.masks import paste_masks
from mmvssd.errors import ExportError

pytest.importorskip('mmdet')
RECIPE = 'samples/mask-rcnn_vssd-nano_fpn_1xb8_digits.py'
SMALL = dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2))


def recipe(**options):
    return load_config(RECIPE, options={
        'model.backbone.arch': SMALL, 'model.backbone.init_cfg': None,
        'model.neck.in_channels': [8, 16, 32, 64], **options})


def detector(**options):
    """A detector whose drawn weights are made so large that it finds things of all classes."""
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(recipe(**options).model)
    model.init_weights()
    with torch.no_grad():
        for name, factor in (('rpn_head.rpn_cls', 60), ('rpn_head.rpn_reg', 40),
                             ('roi_head.bbox_head.fc_cls', 300),
                             ('roi_head.bbox_head.fc_reg', 100)):
            model.get_submodule(name).weight.mul_(factor)
    return model.eval()


def pixels(height, width):
    generator = torch.Generator().manual_seed(height)
    coarse = 255 * torch.rand(1, 3, 8, 8, generator=generator)
    return torch.nn.functional.interpolate(coarse, (height, width), mode='bilinear')


OPTIONS = [
    {}, {'model.roi_head.bbox_head.reg_class_agnostic': True},
    {'model.roi_head.mask_head.class_agnostic': True},
    {'model.test_cfg.rcnn.nms.class_agnostic': True},
    {'model.test_cfg.rcnn.max_per_img': -1},
    {'model.test_cfg.rpn.nms_pre': -1, 'model.test_cfg.rpn.min_bbox_size': -1},
    {'model.test_cfg.rpn.min_bbox_size': 20},
    {'model.rpn_head.loss_cls.use_sigmoid': False},
    {'model.roi_head.bbox_roi_extractor.roi_layer.sampling_ratio': 0,
     'model.roi_head.mask_roi_extractor.roi_layer.sampling_ratio': 0,
     'model.roi_head.bbox_roi_extractor.roi_layer.aligned': False},
    {'model.data_preprocessor.pad_size_divisor': 1}]


@pytest.mark.parametrize(('options', 'normalizes'), [
    *((options, False) for options in OPTIONS), ({}, True)], ids=str)
def test_the_hosts_results(options, normalizes):
    """Sizes are no multiples of the padding's, and boxes are of all levels."""
    model = detector(**options)
    deployed = DeployedDetector(model, 'detections', normalizes)
    for size in ((160, 128), (97, 150)):
        with torch.no_grad():
            expected = deployed.truth(pixels(*size))
            found = [result.numpy() for result in deployed(deployed.prepared(pixels(*size)))]
        assert len(found[0]) > 5
        assert found[3].shape == (len(found[0]), 28, 28)
        differences = deployed.deviations(found, expected)
        assert differences == dict(boxes=pytest.approx(0, abs=1e-4), unmatched=0, masks=0,
                                   scores=pytest.approx(0, abs=1e-6))
        assert np.array_equal(found[1], expected[1])


def test_without_masks():
    model = detector(**{'model.type': 'FasterRCNN', 'model.roi_head.mask_head': None,
                        'model.roi_head.mask_roi_extractor': None})
    deployed = DeployedDetector(model, 'detections', False)
    assert deployed.outputs == ('boxes', 'labels', 'scores')
    assert deployed.facts == {}
    with torch.no_grad():
        expected = deployed.truth(pixels(96, 90))
        found = [result.numpy() for result in deployed(deployed.prepared(pixels(96, 90)))]
    assert len(found[0]) > 5
    assert deployed.deviations(found, expected)['boxes'] < 1e-4


def test_raw_results_are_what_detections_come_of():
    model = detector()
    with torch.no_grad():
        images = DeployedDetector(model, 'raw', False).prepared(pixels(96, 90))
        proposals, scores, boxes = DeployedDetector(model, 'raw', False)(images)
        found, labels, best, _ = DeployedDetector(model, 'detections', False)(images)
    assert proposals.shape == (len(scores), 4)
    assert scores.shape[1] == 11
    assert boxes.shape == (len(scores), 10, 4)
    torch.testing.assert_close(scores.sum(1), torch.ones(len(scores)))
    for box, label, score in zip(found, labels, best):
        row = (boxes[:, label] == box).all(1).nonzero().flatten()[0]
        assert scores[row, label] == score


def test_an_image_of_nothing():
    model = detector(**{'model.test_cfg.rcnn.score_thr': 1.1})
    deployed = DeployedDetector(model, 'detections', False)
    with torch.no_grad():
        found = [result.numpy() for result in deployed(deployed.prepared(pixels(96, 90)))]
        expected = deployed.truth(pixels(96, 90))
    assert [len(result) for result in found] == [0] * 4
    assert deployed.deviations(found, expected) == dict.fromkeys(deployed.bars(), 0)


def test_an_export_that_was_not_compared_says_so():
    nothing = Comparison((1, 3, 90, 60), 0, dict(boxes=0., unmatched=0.))
    *_, last = report('model.onnx', [nothing, nothing])
    assert last.startswith('model.onnx: written, NOT compared: the model found nothing on 2 images')
    assert '--images' in last
    first, _, last = report('model.onnx', [
        nothing, Comparison((1, 3, 90, 60), 2, dict(boxes=1e-3, unmatched=0.))])
    assert first == 'images 1 x 3 x 90 x 60, nothing was found, so nothing was compared'
    assert last == ('model.onnx: compared and written; largest differences: boxes 1.0e-03, '
                    'unmatched 0.0e+00')


def test_what_deviates_is_told():
    deployed = DeployedDetector(detector(), 'detections', False)
    with torch.no_grad():
        expected = deployed.truth(pixels(160, 128))
        found = [result.numpy() for result in deployed(deployed.prepared(pixels(160, 128)))]
    assert len(found[0]) == 30  # the recipe's most
    order = np.random.default_rng(0).permutation(30)
    shuffled = [result[order] for result in found]
    assert max(deployed.deviations(shuffled, expected).values()) < 1e-4

    def changed(name, change):
        results = [result.copy() for result in found]
        change(results[deployed.outputs.index(name)])
        return deployed.deviations(results, expected)

    def moved(boxes):
        boxes[3] += 0.1

    def lowered(scores):
        scores[3] -= 1e-3

    def emptied(masks):
        masks[:] = 0

    def renamed(labels):
        labels[3] = 77

    assert changed('boxes', moved)['boxes'] == pytest.approx(0.1, abs=1e-4)
    assert changed('scores', lowered)['scores'] == pytest.approx(1e-3, abs=1e-5)
    assert changed('masks', emptied)['masks'] > deployed.bars()['masks']
    # one is missing, and one is there that should not be
    assert changed('labels', renamed)['unmatched'] == pytest.approx(1 / 30)
    # the last of those that are kept may give way to another of the same score
    assert deployed.deviations([result[:-1] for result in found], expected)['unmatched'] == 0
    assert deployed.deviations([result[1:] for result in found], expected)['unmatched'] > 0.02
    assert deployed.deviations(found[:3], expected)['unmatched'] == np.inf


def test_a_models_own_rounding_is_allowed():
    """Whether a box is kept may depend on the last bits, and then float64 keeps another."""
    deployed = DeployedDetector(detector(), 'detections', False)
    rounding = deployed.rounding(deployed.prepared(pixels(96, 90)))
    assert rounding.keys() == deployed.bars().keys()
    assert 0 < rounding['boxes'] < 0.01
    rounding['unmatched'] = 0.2
    assert deployed.overall([rounding, dict(rounding, boxes=3., unmatched=0.5)], [10, 20]) == dict(
        rounding, boxes=3., unmatched=pytest.approx(12 / 30))


@pytest.mark.parametrize(('unmatched', 'counts', 'share'), [
    ([1, 0, 0], [1, 2, 3], 0), ([1, 0, 0], [0, 2, 3], 0), ([1 / 3, 0], [3, 0], 0),
    ([1 / 3, 1 / 2], [3, 2], 2 / 5), ([1, 0], [2, 3], 2 / 5), ([2 / 50, 0], [50, 50], 0.02),
    ([1 / 7], [7], 0),
    # nothing else was compared
    ([1], [1], 1), ([1, 0], [0, 0], 1), ([2, 0], [0, 0], 2), ([np.inf, 0], [3, 3], np.inf)])
def test_one_box_in_another_place_is_rounding(unmatched, counts, share):
    """If few boxes are found, it would be a large share of them."""
    deployed = DeployedDetector(detector(), 'raw', False)
    overall = deployed.overall([dict(unmatched=value) for value in unmatched], counts)
    assert overall == dict(boxes=0, scores=0, masks=0, unmatched=pytest.approx(share))


def test_levels_are_those_of_the_hosts_logarithm():
    """A region whose size is a power of two goes where rounding puts it."""
    limits = torch.tensor(_limits(5))
    at = torch.cat([2.**torch.arange(0, 5).float(), 16 * torch.rand(1000)])
    for _ in range(3):
        at = torch.cat([at, torch.nextafter(at, torch.tensor(0.)),
                        torch.nextafter(at, torch.tensor(99.))])
    levels = (at[:, None] >= limits).sum(1)
    assert torch.equal(levels, at.log2().floor().clamp(0, 4).long())
    assert limits.tolist() == pytest.approx([2, 4, 8, 16])


def test_masks_are_pasted_as_the_host_does():
    from mmdet.models.roi_heads.mask_heads import FCNMaskHead
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(40, 2, 2, generator=generator) * torch.tensor([90., 60.])
    boxes = corners.sort(1).values.flatten(1)
    boxes[0] = torch.tensor([0., 0., 90., 60.])
    boxes[1] = torch.tensor([10.2, 10.3, 10.4, 10.9])
    # clipped to a side of the image
    boxes[2:6] = torch.tensor([[90., 5., 90., 25.], [5., 60., 40., 60.], [0., 5., 0., 25.],
                               [7.25, 8.5, 7.25, 8.5]])
    logits = 3 * torch.randn(40, 1, 28, 28, generator=generator)
    head = FCNMaskHead(num_convs=0, num_classes=1, class_agnostic=True)
    meta = dict(scale_factor=(1., 1.), ori_shape=(60, 90))
    expected = head._predict_by_feat_single(
        logits, boxes.clone(), torch.zeros(40).long(), meta,
        ConfigDict(mask_thr_binary=0.5), rescale=True)
    pasted = paste_masks(logits[:, 0].sigmoid().numpy(), boxes.numpy(), (60, 90), 0.5)
    assert pasted.any((1, 2)).sum() > 35
    assert np.mean(pasted != expected.numpy()) < 1e-5
    assert pasted[2:5].any()


def test_what_deviates_is_not_written(tmp_path, monkeypatch):
    """The host's own results on photographs are what counts."""
    models, wrong = [], {}

    def write(model, images, metadata, folder):
        models.append(model)
        assert json.loads(metadata['mask_threshold']) == 0.5
        assert images.shape[0] == 1
        (folder / 'model.onnx').write_text('exported')
        return folder / 'model.onnx'

    def load(file):
        def run(images):
            results = models[-1](torch.from_numpy(images))
            return [result.numpy() + wrong.get(name, 0)
                    for name, result in zip(models[-1].outputs, results)]
        return run

    monkeypatch.setitem(TARGETS, 'onnx', Target((), '.onnx', write, load))
    for number in range(PHOTOGRAPHS + 2):
        photograph = pixels(60 + number, 70)[0].permute(1, 2, 0).byte().numpy()
        cv2.imwrite(str(tmp_path / f'{number}.png'), photograph)
    torch.save(dict(state_dict=detector().state_dict()), tmp_path / 'weights.pth')
    out = tmp_path / 'out'
    arguments = recipe(), str(tmp_path / 'weights.pth'), str(out / 'found.onnx')
    for name, by, reason in (('boxes', 0.1, 'boxes'), ('scores', 0.01, 'scores'),
                             ('labels', 7, 'unmatched')):
        wrong = {name: by}
        with pytest.raises(ExportError, match=f'found.onnx is not written: .* in {reason}'):
            export(*arguments, to='onnx', images=[str(tmp_path / '3.png')])
        assert not out.exists()
    wrong = {}
    comparisons = export(*arguments, to='onnx', images=[str(tmp_path)])
    assert len(comparisons) == PHOTOGRAPHS
    assert all(results > 5 for _, results, _ in comparisons)
    assert comparisons[0].shape[:2] == (1, 3)
    assert [file.name for file in out.iterdir()] == ['found.onnx']


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
@pytest.mark.skipif(not hasattr(torch.export.Dim, 'DYNAMIC'),
                    reason='this PyTorch cannot leave sizes open')
def test_a_program():
    """Its height and width are open, and its counts of boxes."""
    model = detector(**{
        'model.backbone.arch': dict(embed_dims=8, depths=(1, ), num_heads=(1, )),
        'model.backbone.out_indices': (0, ),
        'model.neck.in_channels': [8], 'model.neck.num_outs': 2,
        'model.rpn_head.anchor_generator.strides': [4, 8],
        'model.roi_head.bbox_roi_extractor.featmap_strides': [4],
        'model.roi_head.mask_roi_extractor.featmap_strides': [4]})
    deployed = DeployedDetector(model, 'detections', True)
    open_sizes = (dict.fromkeys(deployed.open_axes, torch.export.Dim.DYNAMIC), )
    program = torch.export.export(deployed, (pixels(200, 300), ), dynamic_shapes=open_sizes,
                                  strict=False).module()
    for size in ((160, 128), (97, 150)):
        with torch.no_grad():
            expected = deployed(pixels(*size))
        for own, true in zip(program(pixels(*size)), expected):
            assert len(true) > 5
            torch.testing.assert_close(own, true, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(('options', 'reason'), [
    ({'model.test_cfg.rcnn.nms': dict(type='soft_nms', iou_threshold=0.5)},
     'test_cfg.rcnn.nms is of type soft_nms, expected nms'),
    ({'model.test_cfg.rpn.nms.max_num': 7}, 'test_cfg.rpn.nms has max_num'),
    ({'model.test_cfg.rpn.nms': None}, 'test_cfg.rpn.nms is None, expected type nms'),
    ({'model.test_cfg.rcnn.nms': dict(_delete_=True, type='nms')}, 'rcnn.nms has no iou_threshold'),
    ({'model.test_cfg.rcnn.mask_thr_binary': -1}, 'mask_thr_binary is below 0'),
    ({'model.test_cfg.rpn.max_per_img': -1}, 'test_cfg.rpn.max_per_img is not a positive number'),
    ({'model.backbone.mask_padding': True}, 'mask_padding of its backbone'),
    ({'model.roi_head.bbox_roi_extractor.roi_layer': dict(
        _delete_=True, type='RoIPool', output_size=7)}, 'averages of RoIAlign'),
    ({'model.roi_head.mask_head.type': 'CoarseMaskHead', 'model.roi_head.mask_head.num_fcs': 1},
     'roi_head.mask_head is a CoarseMaskHead of mmdet.* expected FCNMaskHead of mmdet'),
], ids=str)
def test_a_part_that_is_not_exported(options, reason):
    with pytest.raises(ExportError, match=f'MaskRCNN: .*{reason}.*What can be exported: Faster'):
        DeployedDetector(detector(**options), 'detections', False)


def test_a_detector_of_one_stage():
    from mmdet.models import RetinaNet
    model = RetinaNet.__new__(RetinaNet)
    torch.nn.Module.__init__(model)
    with pytest.raises(ExportError, match='RetinaNet: it is a RetinaNet of mmdet.* FasterRCNN or'):
        DeployedDetector(copy.copy(model), 'detections', False)


@pytest.mark.parametrize('result', DeployedDetector.results)
def test_a_detector_that_does_more(result):
    """Its boxes would be exported, and the semantic half left out."""
    from mmdet.models import MaskRCNN, PanopticFPN
    model = detector()
    for kind in (PanopticFPN, type('MaskRCNN', (MaskRCNN, ), {})):
        model.__class__ = kind
        with pytest.raises(ExportError, match=f'{kind.__name__}: it is a {kind.__name__} of '
                           f'{kind.__module__}, expected FasterRCNN or .* of mmdet'):
            DeployedDetector(model, result, False)


def test_a_part_of_the_same_name():
    """A user's own may compute something else."""
    from mmdet.models import FCNMaskHead, RPNHead
    for path, kind in (('rpn_head', RPNHead), ('roi_head.mask_head', FCNMaskHead)):
        model = detector()
        own = type(kind.__name__, (kind, ), dict(__module__=__name__))
        model.get_submodule(path).__class__ = own
        with pytest.raises(ExportError, match=f'its {path} is a {kind.__name__} of {__name__}'):
            DeployedDetector(model, 'detections', False)


def test_a_plain_detector_of_two_stages():
    deployed = DeployedDetector(detector(**{'model.type': 'TwoStageDetector'}), 'raw', False)
    assert deployed.outputs == ('proposals', 'scores', 'boxes')
