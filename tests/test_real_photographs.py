"""From a published file to a fine-tuned detector and segmentor, on real photographs."""
import json
import shutil
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mmvssd.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent

DETECTOR = """
_base_ = {base!r}

# few regions: they cost most on a CPU
model = dict(
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=200, max_per_img=100), rcnn=dict(sampler=dict(num=32))),
    test_cfg=dict(
        rpn=dict(nms_pre=200, max_per_img=100),
        # after two steps no score is above the usual threshold
        rcnn=dict(score_thr=0., max_per_img=20)))

data_root = {data_root!r}
train_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(data_root=data_root, indices=8, pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
        dict(type='Resize', scale=(192, 128), keep_ratio=True),
        dict(type='PackDetInputs')]))
val_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(data_root=data_root, indices=4, pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(192, 128), keep_ratio=True),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
        dict(type='PackDetInputs',
             meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + '/annotations/instances_val2017.json')
test_evaluator = val_evaluator

train_cfg = dict(
    _delete_=True, type='IterBasedTrainLoop', max_iters={iterations}, val_interval=2)
param_scheduler = [dict(type='LinearLR', start_factor=0.5, by_epoch=False, begin=0, end=4)]
default_hooks = dict(
    logger=dict(interval=1), checkpoint=dict(by_epoch=False, interval=2))
"""

# an eighth of ADE20K's sizes, classes of its own
SEGMENTOR = """
_base_ = {base!r}

def eighth(scale):
    return tuple(side // 8 for side in scale)

model = dict(
    data_preprocessor=dict(size=(64, 64)),
    decode_head=dict(num_classes=80),
    auxiliary_head=dict(num_classes=80))

train_pipeline, test_pipeline, tta_pipeline = (
    _base_.train_pipeline, _base_.test_pipeline, _base_.tta_pipeline)
for step in (*train_pipeline, *test_pipeline, *tta_pipeline[1]['transforms'][0]):
    for key in ('scale', 'crop_size'):
        if key in step:
            step[key] = eighth(step[key])

own = dict(
    type='BaseSegDataset', data_root={data_root!r}, reduce_zero_label=True,
    metainfo=dict(classes={classes!r}))
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    dataset=dict(pipeline=train_pipeline, **own))
val_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(pipeline=test_pipeline, **own))
test_dataloader = val_dataloader

train_cfg = dict(max_iters={iterations}, val_interval=2)
param_scheduler = [dict(type='LinearLR', start_factor=0.5, by_epoch=False, begin=0, end=4)]
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2))
"""


def write_recipe(folder, text, base, **values):
    file = folder / f'mine_{values["iterations"]}.py'
    file.write_text(text.format(base=str(ROOT / 'configs' / base), **values))
    return file


def draw_label_maps(tiny_coco, folder, counts):
    """Lay the first photographs and their categories out as ADE20K's; returns the categories.

    Labels are 1 + index of the category, the smaller instance over the larger, 0 for the rest.
    """
    for split, name in (('train', 'training'), ('val', 'validation')):
        images, maps = (folder / kind / name for kind in ('images', 'annotations'))
        images.mkdir(parents=True)
        coco = COCO(tiny_coco / 'annotations' / f'instances_{split}2017.json')
        categories = sorted(coco.getCatIds())
        for image in coco.loadImgs(sorted(coco.getImgIds())[:counts[split]]):
            labels = np.zeros((image['height'], image['width']), np.uint8)
            found = coco.loadAnns(coco.getAnnIds(image['id']))
            for instance in sorted(found, key=lambda one: -one['area']):
                labels[coco.annToMask(instance) == 1] = (
                    1 + categories.index(instance['category_id']))
            shutil.copy(tiny_coco / f'{split}2017' / image['file_name'], images)
            mmcv.imwrite(labels, str(maps / Path(image['file_name']).with_suffix('.png')))
    return tuple(category['name'] for category in coco.loadCats(categories))


def convert_published(run_tool, folder, golden, arch):
    """Write a published classifier and convert it; returns the published weights."""
    variant = arch.replace('-', '_')
    published = {name: torch.from_numpy(value)
                 for name, value in golden.official_state_dict(variant, 'classifier').items()}
    torch.save(dict(model=published), folder / 'published.pth')
    run_tool('model_converters/convert_checkpoint.py', 'published.pth',
             f'checkpoints/{arch}_in1k.pth')
    return published


def check_started(folder, published):
    """Two steps of warm-up at a small rate leave the published weights in sight."""
    trained = read_checkpoint(folder / 'run' / 'iter_2.pth')['state_dict']
    change = (trained['backbone.stages.2.3.mlp.fc1.weight']
              - published['layers.2.blocks.3.mlp.fc1.weight'])
    assert 0 < change.abs().max() < 1e-3


def check_resumed(folder, out):
    assert 'resumed epoch: 0, iter: 2' in out
    resumed = read_checkpoint(folder / 'run' / 'iter_4.pth')
    assert resumed['message_hub']['runtime_info']['iter'] >= 3


def predict_two_and_a_torn_one(run_tool, folder, tiny_coco, recipe, *options):
    """Predict on two photographs beside half a file; returns the entries of the JSON."""
    photographs = folder / 'photographs'
    photographs.mkdir()
    for photograph in sorted((tiny_coco / 'val2017').iterdir())[:2]:
        shutil.copy(photograph, photographs)
    (photographs / 'torn.jpg').write_bytes(photograph.read_bytes()[:500])
    out = run_tool('predict.py', recipe, 'run/iter_4.pth', photographs, '--out-dir', 'predictions',
                   *options, expect=2)
    assert '1 of 3 images was left out' in out  # and the others are done
    predictions = json.loads((folder / 'predictions' / 'predictions.json').read_text())
    assert len(predictions) == len(list((folder / 'predictions' / 'pictures').iterdir())) == 2
    return predictions


def test_published_file_to_fine_tuned_detector(run_tool, tmp_path, golden, tiny_coco):
    arch = 'vmamba-tiny-s1l8'  # the segmentor is a VSSD
    published = convert_published(run_tool, tmp_path, golden, arch)
    base = f'detection/mask-rcnn_{arch}_fpn_1x_coco.py'
    first, recipe = (write_recipe(tmp_path, DETECTOR, base, data_root=str(tiny_coco), iterations=n)
                     for n in (2, 4))
    out = run_tool('train.py', first, '--work-dir', 'run')
    assert f'{arch}_in1k.pth: loaded' in out
    assert 'coco/segm_mAP' in out
    check_started(tmp_path, published)
    check_resumed(tmp_path, run_tool('train.py', recipe, '--work-dir', 'run', '--resume'))

    out = run_tool('test.py', recipe, 'run/iter_4.pth', '--show-dir', 'shown', '--work-dir', 'test')
    assert 'coco/bbox_mAP' in out
    assert len(list((tmp_path / 'shown').glob('*.jpg'))) == 4

    predictions = predict_two_and_a_torn_one(run_tool, tmp_path, tiny_coco, recipe,
                                             '--score-thr', '0')
    for prediction in predictions:
        for instance in prediction['instances']:
            assert coco_mask.decode(instance['segmentation']).shape == tuple(
                instance['segmentation']['size'])


def test_published_file_to_fine_tuned_segmentor(run_tool, tmp_path, golden, tiny_coco):
    published = convert_published(run_tool, tmp_path, golden, 'vssd-micro')
    classes = draw_label_maps(tiny_coco, tmp_path / 'ade', dict(train=6, val=2))
    base = 'segmentation/upernet_vssd-micro_4xb4-160k_ade20k-512x512.py'
    first, recipe = (write_recipe(tmp_path, SEGMENTOR, base, data_root=str(tmp_path / 'ade'),
                                  classes=classes, iterations=n) for n in (2, 4))
    out = run_tool('train.py', first, '--work-dir', 'run')
    assert 'vssd-micro_in1k.pth: loaded' in out
    assert 'mIoU' in out
    check_started(tmp_path, published)
    out = run_tool('test.py', recipe, 'run/iter_2.pth', '--tta', '--show-dir', 'shown')
    assert 'mIoU' in out
    assert len(list((tmp_path / 'shown').glob('*.jpg'))) == 2
    check_resumed(tmp_path, run_tool('train.py', recipe, '--work-dir', 'run', '--resume'))

    for prediction in predict_two_and_a_torn_one(run_tool, tmp_path, tiny_coco, recipe):
        masks = np.stack([coco_mask.decode(found['segmentation'])
                          for found in prediction['segments']])
        assert masks.shape[1:] == mmcv.imread(prediction['image']).shape[:2]
        assert (masks.sum(0) == 1).all()  # a class for every pixel
        shares = [found['share'] for found in prediction['segments']]
        assert shares == pytest.approx(masks.mean((1, 2)).tolist())
        assert shares == sorted(shares, reverse=True)
        assert {found['category'] for found in prediction['segments']} <= set(classes)
