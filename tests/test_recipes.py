"""What the recipes set, against the published settings."""
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

from mmvssd.engine.launch import load_config

README = Path(__file__).resolve().parent.parent / 'README.md'

DETECTION = ['detection/mask-rcnn_vssd-tiny_fpn_1x_coco.py',
             'detection/mask-rcnn_vssd-tiny_fpn_ms-3x_coco.py']
CLASSIFICATION = 'classification/vssd-tiny_8xb128_in1k.py'


def build(recipe):
    cfg = load_config(recipe)
    init_default_scope(cfg.default_scope)
    return cfg, MODELS.build(cfg.model)


def decays(cfg, model):
    """Weight decay of each parameter by name."""
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    decay = {id(p): group['weight_decay'] for group in optimizer.param_groups
             for p in group['params']}
    return {name: decay[id(p)] for name, p in model.named_parameters()}


@pytest.mark.parametrize('recipe', DETECTION)
def test_detection(recipe):
    pytest.importorskip('mmdet')
    cfg, model = build(recipe)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(43.91e6, rel=1e-4)
    assert tuple(cfg.model.neck.in_channels) == model.backbone.dims == (64, 128, 256, 512)
    assert model.backbone.stages[-1][-1].drop_path.drop_prob == pytest.approx(0.2)
    assert cfg.optim_wrapper.optimizer == dict(
        type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05)
    assert 8 * cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 16
    epochs, milestones = (36, [27, 33]) if '3x' in recipe else (12, [8, 11])
    assert cfg.train_cfg.max_epochs == epochs
    warm_up, steps = cfg.param_scheduler
    assert (warm_up.start_factor, warm_up.end, warm_up.by_epoch) == (0.001, 1000, False)
    assert (steps.milestones, steps.gamma, steps.end) == (milestones, 0.1, epochs)


def test_3x_is_multi_scale():
    pytest.importorskip('mmdet')
    pipeline = load_config(DETECTION[1]).train_dataloader.dataset.pipeline
    (choice, ) = [step for step in pipeline if step.type == 'RandomChoice']
    plain, cropped = choice.transforms
    sides = [(side, 1333) for side in (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)]
    assert [tuple(scale) for scale in plain[0].scales] == sides
    assert [scale[0] for scale in cropped[0].scales] == [400, 500, 600]
    assert tuple(cropped[1].crop_size) == (384, 600)
    assert [tuple(scale) for scale in cropped[2].scales] == sides


@pytest.mark.parametrize('recipe', DETECTION)
def test_detection_decay(recipe):
    pytest.importorskip('mmdet')
    cfg, model = build(recipe)
    for name, decay in decays(cfg, model).items():
        module = model.get_submodule(name.rpartition('.')[0])
        is_norm = isinstance(module, (torch.nn.LayerNorm, torch.nn.BatchNorm2d))
        spared = is_norm or name.endswith(
            ('cpe1.bias', 'cpe2.bias', '.A_log', '.D', '.dt_bias'))
        assert decay == (0 if spared else 0.05), name


def test_classification():
    pytest.importorskip('mmpretrain')
    cfg, model = build(CLASSIFICATION)
    assert sum(p.numel() for p in model.parameters()) == 24270724
    assert 8 * cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 1024
    optimizer = dict(cfg.optim_wrapper.optimizer)
    assert {key: optimizer[key] for key in ('type', 'lr', 'betas', 'eps', 'weight_decay')} == dict(
        type='AdamW', lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05)
    assert cfg.optim_wrapper.clip_grad.max_norm == 5
    assert cfg.train_cfg.max_epochs == 300
    warm_up, cosine = cfg.param_scheduler
    assert (1e-3 * warm_up.start_factor, warm_up.end) == (1e-6, 20)
    assert (cosine.eta_min, cosine.begin) == (1e-5, 20)
    assert model.backbone.stages[-1][-1].drop_path.drop_prob == pytest.approx(0.2)
    (average, ) = cfg.custom_hooks
    assert average.momentum == pytest.approx(1 - 0.9999)
    assert average.evaluate_on_origin
    for name, decay in decays(cfg, model).items():
        assert decay == (0 if model.get_parameter(name).dim() == 1 else 0.05), name


def test_classification_augmentation():
    pytest.importorskip('mmpretrain')
    cfg = load_config(CLASSIFICATION)
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    augment, erase = steps['RandAugment'], steps['RandomErasing']
    assert (augment.magnitude_level, augment.magnitude_std, augment.policies) == (
        9, 0.5, 'timm_increasing')
    assert (erase.erase_prob, erase.mode) == (0.25, 'rand')
    assert steps['RandomResizedCrop'].interpolation == 'bicubic'
    assert [(mix.type, mix.alpha) for mix in cfg.model.train_cfg.augments] == [
        ('Mixup', 0.8), ('CutMix', 1.0)]
    assert cfg.model.head.loss.label_smooth_val == 0.1
    resize, crop = cfg.test_dataloader.dataset.pipeline[1:3]
    assert (resize.scale, resize.interpolation, crop.crop_size) == (256, 'bicubic', 224)


def test_the_readmes_config_builds(tmp_path):
    pytest.importorskip('mmdet')
    (text, ) = re.findall(r'```python\n(_base_ = .*?)```', README.read_text(), re.DOTALL)
    (tmp_path / 'mine.py').write_text(text)
    cfg = Config.fromfile(tmp_path / 'mine.py')
    init_default_scope(cfg.default_scope)
    assert MODELS.build(cfg.model).backbone.dims == (64, 128, 256, 512)
