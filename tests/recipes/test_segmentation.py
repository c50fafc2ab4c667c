"""What the recipes of segmentors set, against the published settings."""
import cv2
import numpy as np
import pytest
from mmengine.dataset import Compose

NORM = r'(^|\.)(norm\d?|bn)\.(weight|bias)$'
# without decay, beside norms
STATE_SPACE = {'vssd': r'\.mixer\.(A_log|D|dt_bias)$', 'vmamba': r'\.mixer\.(A_logs|Ds)$'}


def test_segmentation_schedule(segmentor):
    cfg = segmentor.cfg
    assert cfg.optim_wrapper.optimizer == dict(
        type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01)
    assert 'clip_grad' not in cfg.optim_wrapper
    assert 4 * cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.train_cfg == dict(
        type='mmvssd.IterBasedTrainLoop', max_iters=160000, val_interval=16000)
    warm_up, poly = cfg.param_scheduler
    assert warm_up == dict(type='LinearLR', start_factor=1e-6, begin=0, end=1500, by_epoch=False)
    assert poly == dict(
        type='PolyLR', power=1, eta_min=0, begin=1500, end=160000, by_epoch=False)
    assert (cfg.default_hooks.checkpoint.interval, cfg.default_hooks.checkpoint.by_epoch) == (
        16000, False)
    decayless = segmentor.matching(NORM, STATE_SPACE[segmentor.family])
    assert segmentor.norms() <= decayless
    assert segmentor.spared() == decayless


def test_segmentation_heads(segmentor):
    cfg, model = segmentor.cfg, segmentor.model
    main, auxiliary = cfg.model.decode_head, cfg.model.auxiliary_head
    assert (main.type, main.num_classes) == ('UPerHead', 150)
    assert (auxiliary.type, auxiliary.num_classes, auxiliary.in_index) == ('FCNHead', 150, 2)
    assert auxiliary.in_channels == model.backbone.dims[2]
    assert main.norm_cfg.type == auxiliary.norm_cfg.type == 'SyncBN'
    assert cfg.model.test_cfg.mode == 'whole'
    crop, = [step for step in cfg.train_dataloader.dataset.pipeline if step.type == 'RandomCrop']
    assert tuple(crop.crop_size) == tuple(cfg.model.data_preprocessor.size) == (512, 512)


@pytest.fixture(scope='module')
def street(tmp_path_factory):
    """What ADE20K's data set gives a pipeline for an image 320 wide and 256 high."""
    folder = tmp_path_factory.mktemp('street')
    cv2.imwrite(str(folder / 'image.png'), np.zeros((256, 320, 3), np.uint8))
    cv2.imwrite(str(folder / 'labels.png'), np.full((256, 320), 7, np.uint8))
    return dict(img_path=str(folder / 'image.png'), seg_map_path=str(folder / 'labels.png'),
                reduce_zero_label=True, label_map=None, seg_fields=[])


def test_segmentation_test_images(segmentor, street):
    cfg = segmentor.cfg
    single = Compose(cfg.test_dataloader.dataset.pipeline)(dict(street))
    assert single['inputs'].shape == (3, 512, 640)
    assert cfg.tta_model.type == 'SegTTAModel'  # it averages
    many = Compose(cfg.tta_pipeline)(dict(street))
    seen = {(tuple(inputs.shape[1:]), sample.metainfo['flip'], sample.metainfo['flip_direction'])
            for inputs, sample in zip(many['inputs'], many['data_samples'])}
    sizes = [(384, 480), (512, 640), (640, 800)]
    assert len(many['inputs']) == 6
    assert seen == {(size, *flip) for size in sizes
                    for flip in ((False, None), (True, 'horizontal'))}
    # labels keep the size that scores are computed at; ADE20K's 7 is class 6
    assert single['data_samples'].gt_sem_seg.data.unique().tolist() == [6]
    assert all(sample.gt_sem_seg.data.shape == (1, 256, 320) for sample in many['data_samples'])
