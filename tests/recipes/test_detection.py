"""What the recipes of detectors set, against the published settings."""
import re

import pytest

from mmvssd.paths import configs_dir

MULTI_SCALE = [('detection', file.stem)
               for file in sorted((configs_dir() / 'detection').glob('*_ms-3x_*.py'))]
# epochs, milestones
COCO = {'1x': (12, [8, 11]), 'ms-3x': (36, [27, 33])}
SHORT_SIDES = [(side, 1333) for side in (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)]

NORM = r'(^|\.)(norm\d?|bn)\.(weight|bias)$'
# without decay, beside norms
STATE_SPACE = {'vssd': r'\.mixer\.(A_log|D|dt_bias)$', 'vmamba': r'\.mixer\.(A_logs|Ds)$'}
POSITION = {'vssd': [r'\.cpe[12]\.bias$'], 'vmamba': []}


def test_detection_schedule(detector):
    cfg = detector.cfg
    assert cfg.optim_wrapper.optimizer == dict(
        type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05)
    assert 'clip_grad' not in cfg.optim_wrapper
    assert 8 * cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 16
    epochs, milestones = COCO[re.search(r'_fpn_([^_]+)_coco', detector.name)[1]]
    loop = cfg.train_cfg
    assert (loop.type, loop.max_epochs, loop.val_interval) == (
        'mmvssd.EpochBasedTrainLoop', epochs, 1)
    warm_up, steps = cfg.param_scheduler
    assert (warm_up.type, warm_up.start_factor, warm_up.end, warm_up.by_epoch) == (
        'LinearLR', 0.001, 1000, False)
    assert (steps.type, steps.milestones, steps.gamma, steps.end, steps.by_epoch) == (
        'MultiStepLR', milestones, 0.1, epochs, True)
    family = detector.family
    decayless = detector.matching(NORM, STATE_SPACE[family], *POSITION[family])
    assert detector.norms() <= decayless
    assert detector.spared() == decayless


def test_detection_images(detector):
    cfg = detector.cfg
    flip, = [step for step in cfg.train_dataloader.dataset.pipeline if step.type == 'RandomFlip']
    assert flip.prob == 0.5
    pipelines = [cfg.test_dataloader.dataset.pipeline]
    if '_ms-3x_' not in detector.name:
        pipelines.append(cfg.train_dataloader.dataset.pipeline)
    for pipeline in pipelines:
        resize, = [step for step in pipeline if step.type == 'Resize']
        assert (tuple(resize.scale), resize.keep_ratio) == ((1333, 800), True)


@pytest.mark.parametrize('detector', MULTI_SCALE, ids='-'.join, indirect=True)
def test_3x_is_multi_scale(detector):
    pipeline = detector.cfg.train_dataloader.dataset.pipeline
    choice, = [step for step in pipeline if step.type == 'RandomChoice']
    plain, cropped = choice.transforms
    assert [tuple(scale) for scale in plain[0].scales] == SHORT_SIDES
    assert [tuple(scale) for scale in cropped[0].scales] == [(400, 1333), (500, 1333), (600, 1333)]
    assert (cropped[1].crop_type, tuple(cropped[1].crop_size)) == ('absolute_range', (384, 600))
    assert [tuple(scale) for scale in cropped[2].scales] == SHORT_SIDES
    assert all(step.keep_ratio for step in (plain[0], cropped[0], cropped[2]))
