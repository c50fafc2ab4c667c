"""Models of the hosts train a step and predict with these ops, as with mmcv's compiled ones."""
import pytest
import torch

pytest.importorskip('mmdet.models')

from mmengine.hub import get_config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData

from mmvssd.cli.launch import load_config
from mmvssd.compat.mmcv_ops import extension, served_by

#: ResNet-18 of an eighth of its width.
NARROW = dict(type='ResNet', depth=18, base_channels=8, norm_eval=False, frozen_stages=-1)
CLASSES = 3


def sample_mask_rcnn():
    model = load_config('samples/mask-rcnn_vssd-nano_fpn_1xb8_digits.py').model
    model.backbone.init_cfg = None
    return model


def of_mmdet(name, **changes):
    """A recipe's model without the checkpoint that its backbone starts from."""
    cfg = get_config(f'mmdet::{name}')
    cfg.merge_from_dict(changes)
    cfg.model.backbone.init_cfg = None
    return cfg.model


def with_narrow_backbone(name, out_indices=(0, 1, 2, 3), **changes):
    model = of_mmdet(name, **changes)
    model.backbone = dict(NARROW, num_stages=4, out_indices=out_indices)
    if 'neck' in model:
        model.neck.in_channels = [8 * 2**stage for stage in out_indices]
    return model


def with_few_regions(model):
    """The same with small heads on few proposals, so that a step takes a second."""
    model.train_cfg.rpn_proposal.max_per_img = model.test_cfg.rpn.max_per_img = 50
    model.test_cfg.rcnn.max_per_img = 10
    heads = model.roi_head.bbox_head
    for head in heads if isinstance(heads, list) else [heads]:
        head.fc_out_channels = 64
    return model


def cascade_rcnn():
    model = with_narrow_backbone('cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py')
    for head in (*model.roi_head.bbox_head, model.roi_head.mask_head):
        head.num_classes = CLASSES
    return with_few_regions(model)


def retinanet():
    return with_narrow_backbone('retinanet/retinanet_r50_fpn_1x_coco.py',
                                **{'model.bbox_head.num_classes': CLASSES})


def deformable_convolutions_and_soft_nms():
    model = of_mmdet('dcnv2/faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco.py',
                     **{'model.backbone.base_channels': 4, 'model.backbone.frozen_stages': -1,
                        'model.neck.in_channels': [16, 32, 64, 128],
                        'model.roi_head.bbox_head.num_classes': CLASSES})
    model.test_cfg.rcnn.nms = dict(type='soft_nms', iou_threshold=0.5, min_score=0.05)
    return with_few_regions(model)


def dino():
    return with_narrow_backbone('dino/dino-4scale_r50_8xb2-12e_coco.py', (1, 2, 3), **{
        'model.num_queries': 20, 'model.encoder.num_layers': 1, 'model.decoder.num_layers': 2,
        'model.bbox_head.num_classes': CLASSES, 'model.test_cfg.max_per_img': 20,
        'model.dn_cfg.group_cfg.num_dn_queries': 6})


def deformable_detr():
    return with_narrow_backbone(
        'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py', (1, 2, 3), **{
            'model.num_queries': 20, 'model.encoder.num_layers': 1,
            'model.decoder.num_layers': 2, 'model.bbox_head.num_classes': CLASSES,
            'model.test_cfg.max_per_img': 20})


def mask2former():
    return with_narrow_backbone('mask2former/mask2former_r50_8xb2-lsj-50e_coco.py', **{
        'model.data_preprocessor.batch_augments': None,
        'model.panoptic_head.num_things_classes': CLASSES,
        'model.panoptic_head.loss_cls.class_weight': [1.] * CLASSES + [.1],
        'model.panoptic_fusion_head.num_things_classes': CLASSES,
        'model.panoptic_head.in_channels': [8, 16, 32, 64],
        'model.panoptic_head.num_queries': 10,
        'model.panoptic_head.pixel_decoder.encoder.num_layers': 1,
        'model.panoptic_head.transformer_decoder.num_layers': 1,
        'model.train_cfg.num_points': 256, 'model.test_cfg.max_per_image': 10})


def rtmdet():
    model = of_mmdet('rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py', **{
        'model.backbone.widen_factor': 0.125, 'model.neck.in_channels': [32, 64, 128],
        'model.bbox_head.num_classes': CLASSES})
    model.data_preprocessor.batch_augments = None
    return model


MAKERS = [sample_mask_rcnn, cascade_rcnn, retinanet, deformable_convolutions_and_soft_nms, dino,
          deformable_detr, mask2former, rtmdet]


def batch():
    """Two images of 64 x 96, three objects each with boxes and masks."""
    from mmdet.testing import demo_mm_inputs
    return demo_mm_inputs(2, [[3, 64, 96]] * 2, num_items=[3, 3], num_classes=CLASSES,
                          with_mask=True)


def train_a_step(make, module):
    """Build, run one step and its gradients, and predict: losses, gradients, predictions."""
    init_default_scope('mmdet')
    torch.manual_seed(0)
    with served_by(module):
        model = MODELS.build(make())
        model.init_weights()
        data = model.data_preprocessor(batch(), True)
        torch.manual_seed(0)
        losses, _ = model.parse_losses(model(**data, mode='loss'))
        losses.backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()
                     if parameter.grad is not None}
        model.eval()
        with torch.no_grad():
            predictions = model.test_step(batch())
    return losses, gradients, predictions


@pytest.mark.parametrize('make', MAKERS, ids=lambda make: make.__name__)
def test_trains_and_predicts(own_ops, make):
    loss, gradients, predictions = train_a_step(make, extension())
    assert loss.isfinite()
    assert len(gradients) > 20
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert len(predictions) == 2
    for prediction in predictions:
        assert isinstance(prediction.pred_instances, InstanceData)


@pytest.mark.parametrize('make', [sample_mask_rcnn, deformable_convolutions_and_soft_nms],
                         ids=lambda make: make.__name__)
def test_as_with_the_compiled_ops(own_ops, compiled, make):
    (loss, gradients, _), (expected, expected_gradients, _) = (
        train_a_step(make, module) for module in (extension(), compiled))
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    for name, gradient in gradients.items():
        scale = float(expected_gradients[name].abs().max())
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=0,
                                   atol=1e-3 * scale + 1e-6)
