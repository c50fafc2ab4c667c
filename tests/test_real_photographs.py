"""From a published file to a fine-tuned detector, on real photographs."""
import json
from pathlib import Path

import pytest
import torch
from pycocotools import mask as coco_mask

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent

RECIPE = """
_base_ = {base!r}

model = dict(
    backbone=dict(arch='micro', init_cfg=dict(checkpoint='micro.pth')),
    neck=dict(in_channels=[48, 96, 192, 384]),
    # after two steps no score is above the usual threshold
    test_cfg=dict(rcnn=dict(score_thr=0.)))

data_root = {data_root!r}
train_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(data_root=data_root, indices=8, pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
        dict(type='Resize', scale=(320, 192), keep_ratio=True),
        dict(type='PackDetInputs')]))
val_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(data_root=data_root, indices=4, pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(320, 192), keep_ratio=True),
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


def write_recipe(folder, tiny_coco, iterations):
    base = ROOT / 'configs' / 'detection' / 'mask-rcnn_vssd-tiny_fpn_1x_coco.py'
    file = folder / f'mine_{iterations}.py'
    file.write_text(RECIPE.format(base=str(base), data_root=str(tiny_coco),
                                  iterations=iterations))
    return file


def test_published_file_to_fine_tuned_detector(run_tool, tmp_path, golden, tiny_coco):
    published = {name: torch.from_numpy(value)
                 for name, value in golden.official_state_dict('vssd_micro', 'classifier').items()}
    torch.save(dict(model=published), tmp_path / 'published.pth')
    run_tool('model_converters/convert_checkpoint.py', 'published.pth', 'micro.pth')

    out = run_tool('train.py', write_recipe(tmp_path, tiny_coco, 2), '--work-dir', 'run')
    assert 'micro.pth: loaded' in out
    assert 'coco/segm_mAP' in out
    started = torch.load(tmp_path / 'run' / 'iter_2.pth')
    # two steps of warm-up at 5e-5 leave the published weights in sight
    name = 'layers.2.blocks.3.mlp.fc1.weight'
    trained = started['state_dict']['backbone.stages.2.3.mlp.fc1.weight']
    assert 0 < (trained - published[name]).abs().max() < 1e-3

    recipe = write_recipe(tmp_path, tiny_coco, 4)
    out = run_tool('train.py', recipe, '--work-dir', 'run', '--resume')
    assert 'resumed epoch: 0, iter: 2' in out
    resumed = torch.load(tmp_path / 'run' / 'iter_4.pth')
    assert resumed['message_hub']['runtime_info']['iter'] >= 3

    out = run_tool('test.py', recipe, 'run/iter_4.pth', '--show-dir', 'shown', '--work-dir', 'test')
    assert 'coco/bbox_mAP' in out
    assert len(list((tmp_path / 'shown').glob('*.jpg'))) == 4

    photographs = tmp_path / 'photographs'
    photographs.mkdir()
    for photograph in sorted((tiny_coco / 'val2017').iterdir())[:2]:
        (photographs / photograph.name).write_bytes(photograph.read_bytes())
    (photographs / 'torn.jpg').write_bytes(photograph.read_bytes()[:500])
    out = run_tool('predict.py', recipe, 'run/iter_4.pth', photographs, '--out-dir', 'predictions',
                   '--score-thr', '0', expect=2)
    assert '1 of 3 images cannot be read and were left out' in out  # and the others are done
    predictions = json.loads((tmp_path / 'predictions' / 'predictions.json').read_text())
    assert len(predictions) == len(list((tmp_path / 'predictions' / 'pictures').iterdir())) == 2
    for prediction in predictions:
        for instance in prediction['instances']:
            assert coco_mask.decode(instance['segmentation']).shape == tuple(
                instance['segmentation']['size'])
