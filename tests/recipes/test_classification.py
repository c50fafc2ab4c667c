"""What the recipes of classifiers set, against the published settings."""
import re

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from mmengine.registry import HOOKS, MODELS, init_default_scope

from mmvssd.cli.launch import build_trainer, load_config
from mmvssd.datasets import make_sample_data
from mmvssd.paths import configs_dir

# 300 epochs: peak lr, lowest lr, lr at the start of the warm-up, GPUs, images of each
IN1K = {'vssd-base': (1.2e-3, 1.2e-5, 2e-6, 8, 256)}
IN1K['vssd-base-iccv2025'] = IN1K['vssd-base']
OTHERS = (1e-3, 1e-5, 1e-6, 8, 128)
# weights of MESA, of recipes beside those without
MESA = {'vssd-tiny': 1.0, 'vssd-small': 1.5, 'vssd-base': 2.0}
MESA.update({f'{arch}-iccv2025': weight for arch, weight in MESA.items()})

NORM = r'(^|\.)(norm\d?|bn)\.(weight|bias)$'
# of two axes, and yet without decay
MATRICES = {'vssd': [], 'vmamba': [r'\.mixer\.A_logs$', r'\.mixer\.dt_projs_bias$']}


def test_names():
    """They say the batch, and each weight of MESA has a recipe."""
    names = sorted(file.stem for file in (configs_dir() / 'classification').glob('*.py'))
    plain = {name.split('_')[0]: name for name in names if '_mesa_' not in name}
    for arch, name in plain.items():
        *_, gpus, images = IN1K.get(arch, OTHERS)
        assert name == f'{arch}_{gpus}xb{images}_in1k'
    assert set(names) - set(plain.values()) == {
        plain[arch].replace('_in1k', '_mesa_in1k') for arch in MESA}


def test_classification_schedule(classifier):
    cfg, model = classifier.cfg, classifier.model
    lr, lowest, start, gpus, images = IN1K.get(classifier.arch, OTHERS)
    assert cfg.train_dataloader.batch_size == images
    assert cfg.auto_scale_lr == dict(enable=True, base_batch_size=gpus * images)
    optimizer = dict(cfg.optim_wrapper.optimizer)
    assert {key: optimizer[key] for key in ('type', 'lr', 'betas', 'eps', 'weight_decay')} == dict(
        type='AdamW', lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05)
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=5)
    assert cfg.train_cfg == dict(
        type='mmvssd.EpochBasedTrainLoop', max_epochs=300, val_interval=1)
    warm_up, cosine = cfg.param_scheduler
    assert (warm_up.type, warm_up.end) == ('LinearLR', 20)
    assert warm_up.by_epoch
    assert warm_up.convert_to_iter_based
    assert lr * warm_up.start_factor == pytest.approx(start)
    assert start == pytest.approx(5e-7 * gpus * images / 512)
    assert (cosine.type, cosine.begin) == ('CosineAnnealingLR', 20)
    assert cosine.by_epoch
    assert cosine.convert_to_iter_based
    assert lr * cosine.eta_min_ratio == pytest.approx(lowest)
    (average, ) = cfg.custom_hooks
    assert (average.type, average.momentum) == ('EMAHook', pytest.approx(1 - 0.9999))
    assert average.evaluate_on_origin
    assert average.update_buffers
    assert average.get('begin_iter', 0) == average.get('begin_epoch', 0) == 0
    vectors = {name for name, p in model.named_parameters() if p.dim() == 1}
    assert classifier.spared() == vectors | classifier.matching(*MATRICES[classifier.family])


def test_what_decays_in_a_classifier(classifier):
    """Weights of layers and projections, each of two axes or more, and nothing else."""
    model = classifier.model
    decayless = classifier.spared()
    decaying = {name: p for name, p in model.named_parameters() if name not in decayless}
    assert all(p.dim() > 1 for p in decaying.values())
    parts = {name.split('.')[-1] for name in decaying}
    assert parts == {'vssd': {'weight'},
                     'vmamba': {'weight', 'x_proj_weight', 'dt_projs_weight'}}[classifier.family]
    assert not any(re.search(NORM, name) for name in decaying)
    every = {name for name, p in model.named_parameters() if p.dim() > 1}
    assert every - set(decaying) == classifier.matching(*MATRICES[classifier.family])


def test_mesa(classifier, load_recipe):
    cfg, model = classifier.cfg, classifier.model
    weight = MESA[classifier.arch] if '_mesa_' in classifier.name else None
    kind = 'ImageClassifier' if weight is None else 'MESAClassifier'
    assert type(model).__name__ == kind
    assert getattr(model, 'mesa_weight', None) == weight
    hook = cfg.default_hooks.get('mesa')
    assert (hook is None) == (weight is None)
    if hook:
        assert HOOKS.build(hook).begin == 0.25
        without = load_recipe('classification', classifier.name.replace('_mesa', '')).cfg
        for key in ('optim_wrapper', 'param_scheduler', 'train_dataloader', 'custom_hooks'):
            assert cfg[key] == without[key]


def test_mesa_is_a_line_away():
    cfg = load_config('classification/vmamba-tiny-s1l8_8xb128_in1k.py', options={
        'model.type': 'mmvssd.MESAClassifier', 'model.mesa_weight': 1.0,
        'default_hooks.mesa.type': 'mmvssd.MESAHook'})
    init_default_scope('mmpretrain')
    with torch.device('meta'):
        assert MODELS.build(cfg.model).mesa_weight == 1
    assert HOOKS.build(cfg.default_hooks.mesa).begin == 0.25


@pytest.fixture(scope='module')
def crops(tmp_path_factory):
    """Folder of eight images in MMPreTrain's layout."""
    folder = tmp_path_factory.mktemp('crops')
    make_sample_data(folder, num_scenes=(1, 1), num_crops=(8, 4), progress=False)
    return folder / 'imagenet'


def rates(name, crops, folder, **options):
    """Learning rates of a run of an ImageNet recipe's own schedule, four steps an epoch.

    Of a small model on eight images, two a step.
    """
    cfg = load_config(f'classification/{name}.py', work_dir=str(folder), options=options)
    cfg.model.backbone.arch = dict(
        embed_dims=16, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), d_state=4)
    cfg.model.head.in_channels = 128
    for phase, split in dict(train='train', val='val').items():
        cfg[f'{phase}_dataloader'].update(batch_size=2, num_workers=0, persistent_workers=False)
        cfg[f'{phase}_dataloader'].dataset = dict(
            type='CustomDataset', data_root=str(crops), ann_file=f'meta/{split}.txt',
            data_prefix=split, pipeline=cfg[f'{phase}_dataloader'].dataset.pipeline)
    runner = build_trainer(cfg)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.scale_lr(runner.optim_wrapper, runner.auto_scale_lr)  # as Runner.train does
    schedulers = runner.build_param_scheduler(runner.param_schedulers)
    optimizer, steps = runner.optim_wrapper.optimizer, []
    for _ in range(runner.max_iters):
        steps.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            assert not scheduler.by_epoch
            scheduler.step()
    return steps


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'options', 'batch'), [
    ('vssd-tiny_8xb128_in1k', {}, 2),
    ('vssd-base_8xb256_mesa_in1k', {'optim_wrapper.accumulative_counts': 3}, 6),
    ('vssd-tiny_8xb128_mesa_in1k', {'train_cfg.max_epochs': 600}, 2),
    ('vssd-tiny_8xb128_in1k', {'train_cfg.max_epochs': 30, 'param_scheduler.0.end': 2,
                               'param_scheduler.1.begin': 2}, 2),
])
def test_rates_of_a_run(name, options, batch, crops, tmp_path):
    """They follow the batch that really runs, and the schedule the number of epochs."""
    lr, lowest, start, gpus, images = IN1K.get(name.split('_')[0], OTHERS)
    epochs = options.get('train_cfg.max_epochs', 300)
    steps = np.array(rates(name, crops, tmp_path, **options)) * gpus * images / batch
    assert len(steps) == 4 * epochs
    assert steps[0] == pytest.approx(start)
    warm_up = 4 * options.get('param_scheduler.0.end', 20)
    np.testing.assert_allclose(steps[:warm_up], np.linspace(start, lr, warm_up))
    turn = np.linspace(0, 1, 4 * epochs - warm_up, endpoint=False)
    cosine = lowest + (lr - lowest) * (1 + np.cos(np.pi * turn)) / 2
    np.testing.assert_allclose(steps[warm_up:], cosine, rtol=1e-4)


def test_classification_augmentation(classifier):
    cfg = classifier.cfg
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    augment, erase = steps['RandAugment'], steps['RandomErasing']
    assert (augment.magnitude_level, augment.magnitude_std, augment.num_policies,
            augment.policies) == (9, 0.5, 2, 'timm_increasing')
    # from a normal distribution, for each pixel
    assert (erase.erase_prob, erase.mode, len(erase.fill_std)) == (0.25, 'rand', 3)
    crop = steps['RandomResizedCrop']
    assert (crop.scale, crop.interpolation) == (224, 'bicubic')
    assert cfg.model.train_cfg == dict(
        augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)])
    assert cfg.data_preprocessor.num_classes == cfg.model.head.num_classes == 1000
    assert cfg.model.head.loss == dict(
        type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')
    resize, crop = cfg.test_dataloader.dataset.pipeline[1:3]
    assert (resize.scale, resize.edge, resize.interpolation) == (256, 'short', 'bicubic')
    assert crop.crop_size == 224


def test_what_the_augmentation_does(load_recipe):
    """rand-m9-mstd0.5-inc1: two of fifteen operations, each with probability one half."""
    cfg = load_recipe('classification', 'vssd-tiny_8xb128_in1k').cfg
    init_default_scope('mmpretrain')
    steps = {type(step).__name__: step
             for step in Compose(cfg.train_dataloader.dataset.pipeline).transforms}
    augment = steps['RandAugment']
    assert augment.num_policies == 2
    assert len(augment.transforms) == 15
    assert all(operation.prob == 0.5 for operation in augment.transforms)
    graded = [operation for operation in augment.transforms if operation.magnitude_range]
    assert len(graded) == 12  # the others have no strength
    for operation in graded:
        assert (operation.magnitude_level, operation.magnitude_std, operation.total_level) == (
            9, 0.5, 10)
    crop, erase = steps['RandomResizedCrop'], steps['RandomErasing']
    assert (tuple(crop.crop_ratio_range), tuple(crop.aspect_ratio_range)) == (
        (0.08, 1), pytest.approx((3 / 4, 4 / 3)))
    assert (erase.min_area_ratio, erase.max_area_ratio) == (0.02, pytest.approx(1 / 3))
    # images are BGR until the model's preprocessor; it takes this to a mean of 0 and a deviation
    # of 1 in each channel
    assert erase.fill_color == cfg.data_preprocessor.mean[::-1]
    assert erase.fill_std == cfg.data_preprocessor.std[::-1]
    assert steps['RandomFlip'].prob == 0.5


def test_mixed_images_and_their_labels(load_recipe):
    """One of mixup and cutmix at every step, either as often; the labels are smoothed as mixed."""
    from mmpretrain.structures import DataSample
    cfg = load_recipe('classification', 'vssd-tiny_8xb128_in1k').cfg
    init_default_scope('mmpretrain')
    model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor,
                              backbone=dict(cfg.model.backbone, arch='micro')))
    augments = model.data_preprocessor.batch_augments
    assert [(type(one).__name__, one.alpha) for one in augments.augments] == [
        ('Mixup', 0.8), ('CutMix', 1.0)]
    np.random.seed(0)
    torch.manual_seed(0)
    images = torch.stack([torch.zeros(3, 8, 8), torch.full((3, 8, 8), 255.)]).byte()
    kinds = {'none': 0, 'mixup': 0, 'cutmix': 0}
    for _ in range(400):
        batch = model.data_preprocessor(dict(inputs=images.clone(), data_samples=[
            DataSample().set_gt_label(label) for label in (3, 5)]), training=True)
        values = batch['inputs'][0, 0].unique()
        share = batch['data_samples'][0].gt_score
        assert share[[3, 5]].sum() == pytest.approx(1)
        black = -cfg.data_preprocessor.mean[0] / cfg.data_preprocessor.std[0]
        whole = values[0].item() == pytest.approx(black, rel=1e-5)
        # a pair is mixed with itself half of the time; cutmix's may be an empty patch
        kinds['none' if whole and len(values) == 1 else
              'mixup' if len(values) == 1 else 'cutmix'] += 1
    assert kinds['mixup'] + kinds['cutmix'] <= 220
    assert 70 <= kinds['mixup'] <= 130
    assert 60 <= kinds['cutmix'] <= 130

    # the loss of a mixed label, number by number
    logits, score = torch.randn(1, 1000), torch.zeros(1000)
    score[3], score[5] = 0.7, 0.3
    loss = model.head._get_loss(logits, [DataSample().set_gt_score(score)])['loss']
    log = logits[0].double().log_softmax(0)
    expected = -(0.9 * (0.7 * log[3] + 0.3 * log[5]) + 0.1 / 1000 * log.sum())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_another_size_is_one_setting():
    cfg = load_config('classification/vssd-tiny_8xb128_mesa_in1k.py',
                      options={'train_dataloader.dataset.pipeline.1.scale': 160})
    init_default_scope('mmpretrain')
    steps = Compose(cfg.train_dataloader.dataset.pipeline[1:])
    image = np.zeros((300, 200, 3), np.uint8)
    packed = steps(dict(img=image, gt_label=0, img_shape=image.shape[:2]))
    assert packed['inputs'].shape == (3, 160, 160)
