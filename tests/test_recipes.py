"""What the recipes set, against the published settings; every recipe is loaded and built."""
import re
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.fileio import load
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, MODELS, init_default_scope
from torch.nn.modules.batchnorm import _BatchNorm

from mmvssd.cli.launch import build_trainer, load_config
from mmvssd.datasets import make_sample_data
from mmvssd.paths import configs_dir

README = Path(__file__).resolve().parent.parent / 'README.md'
HOSTS = {'classification': 'mmpretrain', 'detection': 'mmdet', 'segmentation': 'mmseg'}

TYPES = {'vssd': 'mmvssd.VSSD', 'vmamba': 'mmvssd.VMamba'}

# width of stage 0, drop path; millions of parameters, to the digits that are published, of the
# classifier, Mask R-CNN and UperNet
ARCHS = {
    'vssd-micro': (48, 0.1, '13.51', '33.22', '42.38'),
    'vssd-tiny': (64, 0.2, '24.27', '43.91', '54.07'),
    'vssd-small': (64, 0.4, '40.08', '59.71', None),
    'vssd-base': (96, 0.6, '88.82', None, None),
    'vssd-tiny-iccv2025': (96, 0.2, '28.19', None, None),
    'vssd-small-iccv2025': (96, 0.4, '50.42', None, None),
    'vssd-base-iccv2025': (96, 0.6, '88.82', None, None),
    'vmamba-v0-tiny': (96, 0.2, '22.89', '42', '55'),
    'vmamba-v0-small': (96, 0.3, '44.42', '64', '76'),
    'vmamba-v0-base': (128, 0.5, '76.25', '96', '110'),
    'vmamba-tiny-s2l5': (96, 0.2, '30.71', '50', '62'),
    'vmamba-small-s2l15': (96, 0.3, '50.15', '70', '82'),
    'vmamba-base-s2l15': (128, 0.6, '88.56', '108', '122'),
    'vmamba-tiny-s1l8': (96, 0.2, '30.25', '50', '62'),
    'vmamba-small-s1l20': (96, 0.3, '49.01', None, None),
    'vmamba-base-s1l20': (128, 0.5, '86.61', None, None),
}
# 300 epochs: peak lr, lowest lr, lr at the start of the warm-up, GPUs, images of each
IN1K = dict.fromkeys(ARCHS, (1e-3, 1e-5, 1e-6, 8, 128))
IN1K['vssd-base'] = IN1K['vssd-base-iccv2025'] = (1.2e-3, 1.2e-5, 2e-6, 8, 256)
# weights of MESA, of recipes beside those without
MESA = {'vssd-tiny': 1.0, 'vssd-small': 1.5, 'vssd-base': 2.0}
MESA.update({f'{arch}-iccv2025': weight for arch, weight in MESA.items()})
# epochs, milestones
COCO = {'1x': (12, [8, 11]), 'ms-3x': (36, [27, 33])}
SHORT_SIDES = [(side, 1333) for side in (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)]

NORM = r'(^|\.)(norm\d?|bn)\.(weight|bias)$'
# without decay beside norms in a dense recipe, and beside 1-D parameters in a classifier's
STATE_SPACE = {'vssd': r'\.mixer\.(A_log|D|dt_bias)$', 'vmamba': r'\.mixer\.(A_logs|Ds)$'}
POSITION = {'vssd': [r'\.cpe[12]\.bias$'], 'vmamba': []}
MATRICES = {'vssd': [], 'vmamba': [r'\.mixer\.A_logs$', r'\.mixer\.dt_projs_bias$']}


def recipes(folder):
    return sorted(file.stem for file in (configs_dir() / folder).glob('*.py'))


CLASSIFICATION = recipes('classification')
DETECTION = recipes('detection')
SEGMENTATION = recipes('segmentation')
MULTI_SCALE = [name for name in DETECTION if '_ms-3x_' in name]
EVERY = [(folder, name) for folder in HOSTS for name in recipes(folder)]


def arch_of(name):
    return re.search(rf'({"|".join(TYPES)})-[^_]+', name)[0]


def family_of(name):
    return arch_of(name).split('-')[0]


@cache
def recipe(folder, name):
    """The recipe, and its model without values, which takes no time to fill."""
    pytest.importorskip(HOSTS[folder])
    cfg = load_config(f'{folder}/{name}.py')
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        return cfg, MODELS.build(cfg.model)


def spared(cfg, model):
    """Names of the parameters without weight decay; all others have the recipe's."""
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    decay = {id(p): group['weight_decay'] for group in optimizer.param_groups
             for p in group['params']}
    decays = {name: decay[id(p)] for name, p in model.named_parameters()}
    assert set(decays.values()) == {0, cfg.optim_wrapper.optimizer.weight_decay}
    return {name for name, value in decays.items() if value == 0}


def matching(model, *patterns):
    """Names of the parameters that a pattern finds; each pattern finds some."""
    found = [{name for name, _ in model.named_parameters() if re.search(pattern, name)}
             for pattern in patterns]
    assert all(found)
    return set().union(*found)


def norms(model):
    return {f'{prefix}.{name}' for prefix, module in model.named_modules()
            if isinstance(module, (torch.nn.LayerNorm, _BatchNorm))
            for name, _ in module.named_parameters(recurse=False)}


def test_each_arch_has_its_recipes():
    plain = [f'{arch}_{gpus}xb{images}_in1k' for arch, (*_, gpus, images) in IN1K.items()]
    mesa = [f'{arch}_{gpus}xb{images}_mesa_in1k' for arch, (*_, gpus, images) in IN1K.items()
            if arch in MESA]
    assert sorted(CLASSIFICATION) == sorted(plain + mesa)
    assert sorted(DETECTION) == sorted(
        f'mask-rcnn_{arch}_fpn_{schedule}_coco' for arch in ARCHS for schedule in COCO)
    assert sorted(SEGMENTATION) == sorted(
        f'upernet_{arch}_4xb4-160k_ade20k-512x512' for arch in ARCHS)


@pytest.mark.parametrize(('folder', 'name'), EVERY)
def test_model(folder, name):
    arch = arch_of(name)
    width, drop_path, *published = ARCHS[arch]
    cfg, model = recipe(folder, name)
    widths = [width, 2 * width, 4 * width, 8 * width]
    family = family_of(name)
    assert cfg.model.backbone.type == TYPES[family]
    assert f'{family}-{cfg.model.backbone.arch}' == arch
    assert list(model.backbone.dims) == widths
    rates = [block.drop_path.drop_prob for stage in model.backbone.stages for block in stage]
    assert rates == pytest.approx(np.linspace(0, drop_path, len(rates)))
    if folder == 'classification':
        assert cfg.model.head.in_channels == 8 * width
    else:
        feeds = cfg.model.neck if folder == 'detection' else cfg.model.decode_head
        assert feeds.in_channels == widths
        assert cfg.model.backbone.init_cfg == dict(
            type='Pretrained', checkpoint=f'checkpoints/{arch}_in1k.pth', prefix='backbone.')
    assert 'mmvssd' in cfg.custom_imports.imports
    assert cfg.runner_type == 'mmvssd.GuardedRunner'

    parameters = sum(p.numel() for p in model.parameters())
    millions = published[list(HOSTS).index(folder)]
    if millions is not None:
        digits = len(millions.partition('.')[2])
        assert f'{parameters / 1e6:.{digits}f}' == millions
    entries = {model['Name']: model for model in
               load(configs_dir() / folder / 'metafile.yml')['Models']}
    assert entries[name]['Metadata']['Parameters'] == parameters


@pytest.mark.parametrize('name', CLASSIFICATION)
def test_classification_schedule(name):
    cfg, model = recipe('classification', name)
    lr, lowest, start, gpus, images = IN1K[arch_of(name)]
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
    assert average.get('begin_iter', 0) == average.get('begin_epoch', 0) == 0
    vectors = {name for name, p in model.named_parameters() if p.dim() == 1}
    assert spared(cfg, model) == vectors | matching(model, *MATRICES[family_of(name)])


@pytest.mark.parametrize('name', CLASSIFICATION)
def test_what_decays_in_a_classifier(name):
    """Weights of layers and projections, each of two axes or more, and nothing else."""
    cfg, model = recipe('classification', name)
    decayless = spared(cfg, model)
    decaying = {name: p for name, p in model.named_parameters() if name not in decayless}
    assert all(p.dim() > 1 for p in decaying.values())
    parts = {name.split('.')[-1] for name in decaying}
    assert parts == {'vssd': {'weight'},
                     'vmamba': {'weight', 'x_proj_weight', 'dt_projs_weight'}}[family_of(name)]
    assert not any(re.search(NORM, name) for name in decaying)
    every = {name for name, p in model.named_parameters() if p.dim() > 1}
    assert every - set(decaying) == matching(model, *MATRICES[family_of(name)])


@pytest.mark.parametrize('name', CLASSIFICATION)
def test_mesa(name):
    cfg, model = recipe('classification', name)
    weight = MESA[arch_of(name)] if '_mesa_' in name else None
    kind = 'ImageClassifier' if weight is None else 'MESAClassifier'
    assert type(model).__name__ == kind
    assert getattr(model, 'mesa_weight', None) == weight
    hook = cfg.default_hooks.get('mesa')
    assert (hook is None) == (weight is None)
    if hook:
        assert HOOKS.build(hook).begin == 0.25
        without, _ = recipe('classification', name.replace('_mesa', ''))
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
    pytest.importorskip('mmpretrain')
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


@pytest.mark.parametrize(('name', 'options', 'batch'), [
    ('vssd-tiny_8xb128_in1k', {}, 2),
    ('vssd-base_8xb256_mesa_in1k', {'optim_wrapper.accumulative_counts': 3}, 6),
    ('vssd-tiny_8xb128_mesa_in1k', {'train_cfg.max_epochs': 600}, 2),
    ('vssd-tiny_8xb128_in1k', {'train_cfg.max_epochs': 30, 'param_scheduler.0.end': 2,
                               'param_scheduler.1.begin': 2}, 2),
])
def test_rates_of_a_run(name, options, batch, crops, tmp_path):
    """They follow the batch that really runs, and the schedule the number of epochs."""
    lr, lowest, start, gpus, images = IN1K[arch_of(name)]
    epochs = options.get('train_cfg.max_epochs', 300)
    steps = np.array(rates(name, crops, tmp_path, **options)) * gpus * images / batch
    assert len(steps) == 4 * epochs
    assert steps[0] == pytest.approx(start)
    warm_up = 4 * options.get('param_scheduler.0.end', 20)
    np.testing.assert_allclose(steps[:warm_up], np.linspace(start, lr, warm_up))
    turn = np.linspace(0, 1, 4 * epochs - warm_up, endpoint=False)
    cosine = lowest + (lr - lowest) * (1 + np.cos(np.pi * turn)) / 2
    np.testing.assert_allclose(steps[warm_up:], cosine, rtol=1e-4)


@pytest.mark.parametrize('name', CLASSIFICATION)
def test_classification_augmentation(name):
    cfg, _ = recipe('classification', name)
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


def test_what_the_augmentation_does():
    """rand-m9-mstd0.5-inc1: two of fifteen operations, each with probability one half."""
    cfg, _ = recipe('classification', 'vssd-tiny_8xb128_in1k')
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


def test_mixed_images_and_their_labels():
    """One of mixup and cutmix at every step, either as often; the labels are smoothed as mixed."""
    from mmpretrain.structures import DataSample
    cfg, _ = recipe('classification', 'vssd-tiny_8xb128_in1k')
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


@pytest.mark.parametrize('name', DETECTION)
def test_detection_schedule(name):
    cfg, model = recipe('detection', name)
    assert cfg.optim_wrapper.optimizer == dict(
        type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05)
    assert 'clip_grad' not in cfg.optim_wrapper
    assert 8 * cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 16
    epochs, milestones = COCO[re.search(r'_fpn_([^_]+)_coco', name)[1]]
    loop = cfg.train_cfg
    assert (loop.type, loop.max_epochs, loop.val_interval) == (
        'mmvssd.EpochBasedTrainLoop', epochs, 1)
    warm_up, steps = cfg.param_scheduler
    assert (warm_up.type, warm_up.start_factor, warm_up.end, warm_up.by_epoch) == (
        'LinearLR', 0.001, 1000, False)
    assert (steps.type, steps.milestones, steps.gamma, steps.end, steps.by_epoch) == (
        'MultiStepLR', milestones, 0.1, epochs, True)
    family = family_of(name)
    decayless = matching(model, NORM, STATE_SPACE[family], *POSITION[family])
    assert norms(model) <= decayless
    assert spared(cfg, model) == decayless


@pytest.mark.parametrize('name', DETECTION)
def test_detection_images(name):
    cfg, _ = recipe('detection', name)
    flip, = [step for step in cfg.train_dataloader.dataset.pipeline if step.type == 'RandomFlip']
    assert flip.prob == 0.5
    pipelines = [cfg.test_dataloader.dataset.pipeline]
    if name not in MULTI_SCALE:
        pipelines.append(cfg.train_dataloader.dataset.pipeline)
    for pipeline in pipelines:
        resize, = [step for step in pipeline if step.type == 'Resize']
        assert (tuple(resize.scale), resize.keep_ratio) == ((1333, 800), True)


@pytest.mark.parametrize('name', MULTI_SCALE)
def test_3x_is_multi_scale(name):
    cfg, _ = recipe('detection', name)
    pipeline = cfg.train_dataloader.dataset.pipeline
    choice, = [step for step in pipeline if step.type == 'RandomChoice']
    plain, cropped = choice.transforms
    assert [tuple(scale) for scale in plain[0].scales] == SHORT_SIDES
    assert [tuple(scale) for scale in cropped[0].scales] == [(400, 1333), (500, 1333), (600, 1333)]
    assert (cropped[1].crop_type, tuple(cropped[1].crop_size)) == ('absolute_range', (384, 600))
    assert [tuple(scale) for scale in cropped[2].scales] == SHORT_SIDES
    assert all(step.keep_ratio for step in (plain[0], cropped[0], cropped[2]))


@pytest.mark.parametrize('name', SEGMENTATION)
def test_segmentation_schedule(name):
    cfg, model = recipe('segmentation', name)
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
    decayless = matching(model, NORM, STATE_SPACE[family_of(name)])
    assert norms(model) <= decayless
    assert spared(cfg, model) == decayless


@pytest.mark.parametrize('name', SEGMENTATION)
def test_segmentation_heads(name):
    cfg, model = recipe('segmentation', name)
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


@pytest.mark.parametrize('name', SEGMENTATION)
def test_segmentation_test_images(name, street):
    cfg, _ = recipe('segmentation', name)
    init_default_scope('mmseg')
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


def test_the_readmes_config_builds(tmp_path):
    pytest.importorskip('mmdet')
    (text, ) = re.findall(r'```python\n(_base_ = .*?)```', README.read_text(), re.DOTALL)
    (tmp_path / 'mine.py').write_text(text)
    cfg = Config.fromfile(tmp_path / 'mine.py')
    init_default_scope(cfg.default_scope)
    assert MODELS.build(cfg.model).backbone.dims == (64, 128, 256, 512)
