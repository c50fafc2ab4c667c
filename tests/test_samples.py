"""The sample recipes as their users run them: fresh processes, a foreign folder, tiny data."""
import json
import math
import time
from pathlib import Path

import mmcv
import mmengine
import pytest
import torch
from mmengine.registry import MODELS
from pycocotools import mask as coco_mask

from mmvssd.cli.launch import load_config
from mmvssd.datasets import make_sample_data
from mmvssd.datasets.sample_data import CLASSES, SEG_CLASSES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
CLASSIFIER = 'samples/vssd-nano_1xb64_digits.py'
DETECTOR = 'samples/mask-rcnn_vssd-nano_fpn_1xb8_digits.py'
SEGMENTOR = 'samples/upernet_vssd-nano_1xb8_digits.py'
# two batches of four an epoch, read by the process itself
SMALL = ['train_dataloader.batch_size=4', 'train_dataloader.num_workers=0',
         'train_dataloader.persistent_workers=False', 'val_dataloader.num_workers=0',
         'val_dataloader.persistent_workers=False', 'test_dataloader.num_workers=0',
         'test_dataloader.persistent_workers=False', 'default_hooks.logger.interval=1']


def of(family, *recipes):
    """The same recipes with the backbone of another family."""
    return [recipe.replace('vssd', family) for recipe in recipes]


def epochs(count):
    return [*SMALL, f'train_cfg.max_epochs={count}', f'train_cfg.val_interval={count}',
            'default_hooks.checkpoint.interval=1']


def losses(work_dir):
    """Losses by step, in the order in which they were logged."""
    (log, *_) = sorted(work_dir.glob('*/vis_data/scalars.json'), reverse=True)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line['loss'] for line in lines if 'loss' in line]


def resume(run_tool, *arguments):
    """Resume a second later, for MMEngine names the folder of a run's logs by the second."""
    time.sleep(1)
    run_tool('train.py', *arguments, '--resume')


@pytest.fixture
def folder(tmp_path):
    """The foreign folder, with sample data in it."""
    make_sample_data(tmp_path / 'data' / 'sample_digits', num_scenes=(8, 6), num_crops=(8, 4),
                     progress=False)
    return tmp_path


@pytest.mark.parametrize('family', ['vssd', 'vmamba'])
def test_classifier_then_detector(run_tool, folder, family):
    classifier, detector = of(family, CLASSIFIER, DETECTOR)
    run_tool('train.py', classifier, '--work-dir', 'cls', '--report', '--cfg-options', *epochs(1))
    assert 'epoch 1, iteration' in (folder / 'cls' / 'report.html').read_text()
    assert all(math.isfinite(loss) for loss in losses(folder / 'cls'))
    out = run_tool('test.py', classifier, 'cls/epoch_1.pth', '--cfg-options', *SMALL,
                   '--show-dir', 'cls_pictures', '--out', 'cls.pkl')
    assert 'accuracy/top1' in out
    assert (folder / 'cls.pkl').stat().st_size > 0
    assert len(list((folder / 'cls_pictures').glob('*.png'))) == 4

    weights = 'model.backbone.init_cfg.checkpoint=cls/epoch_1.pth'
    run_tool('train.py', detector, '--work-dir', 'det', '--cfg-options', *epochs(1), weights)
    resume(run_tool, detector, '--work-dir', 'det', '--cfg-options', *epochs(2), weights)
    assert len(losses(folder / 'det')) == 2  # the second epoch alone
    out = run_tool('test.py', detector, 'det/epoch_2.pth', '--report', '--work-dir', 'tested',
                   '--cfg-options', *SMALL, '--show-dir', 'det_pictures', '--out', 'det.pkl')
    assert 'coco/segm_mAP_50' in out
    assert 'Confusion matrix' in (folder / 'tested' / 'report.html').read_text()
    drawn = [mmcv.imread(str(file)) for file in (folder / 'det_pictures').glob('*.jpg')]
    assert len(drawn) == 6
    # square scenes are scaled for the model, oblong ones are not
    assert {image.shape[0] == image.shape[1] // 2 for image in drawn} == {True, False}

    scenes = folder / 'data' / 'sample_digits' / 'coco' / 'val2017'
    run_tool('predict.py', detector, 'det/epoch_2.pth', scenes, '--score-thr', '0')
    predictions = json.loads((folder / 'predictions' / 'predictions.json').read_text())
    assert [len(list((folder / 'predictions' / 'pictures').iterdir())), len(predictions)] == [6, 6]
    found = predictions[0]['instances'][0]
    assert found['category'] in CLASSES
    assert len(found['segmentation']['size']) == 2
    assert len(found['bbox']) == 4


def test_segmentor(run_tool, folder):
    run_tool('train.py', SEGMENTOR, '--work-dir', 'seg', '--cfg-options', *epochs(1),
             'model.backbone.init_cfg=None')
    assert all(math.isfinite(loss) for loss in losses(folder / 'seg'))
    for kind, options in dict(plain=(), averaged=('--tta', )).items():
        out = run_tool('test.py', SEGMENTOR, 'seg/epoch_1.pth', *options, '--show-dir', kind,
                       '--out', f'{kind}.pkl', '--cfg-options', *SMALL)
        assert 'mIoU' in out
    plain, averaged = (mmengine.load(folder / f'{kind}.pkl') for kind in ('plain', 'averaged'))
    assert len(plain) == len(averaged) == 6
    scenes = folder / 'data' / 'sample_digits' / 'ade20k' / 'images' / 'validation'
    for one, other in zip(plain, averaged):
        scene = mmcv.imread(str(folder / one['img_path']))
        for drawn in (folder / 'plain', folder / 'averaged'):  # the annotation beside it
            picture = mmcv.imread(str(drawn / Path(one['img_path']).name))
            assert picture.shape == (scene.shape[0], 2 * scene.shape[1], 3)
        assert one['pred_sem_seg']['data'].shape[-2:] == scene.shape[:2]
        assert other['pred_sem_seg']['data'].shape[-2:] == scene.shape[:2]
    assert any((one['pred_sem_seg']['data'] != other['pred_sem_seg']['data']).any()
               for one, other in zip(plain, averaged))

    run_tool('predict.py', SEGMENTOR, 'seg/epoch_1.pth', scenes)
    predictions = json.loads((folder / 'predictions' / 'predictions.json').read_text())
    for entry, tested in zip(predictions, plain):
        labels = tested['pred_sem_seg']['data'][0].numpy()
        picture = mmcv.imread(str(folder / 'predictions' / 'pictures' / Path(entry['image']).name))
        assert picture.shape[:2] == labels.shape
        for found in entry['segments']:
            label = SEG_CLASSES.index(found['category'])
            assert (coco_mask.decode(found['segmentation']) == (labels == label)).all()
            assert found['share'] == pytest.approx((labels == label).mean())
        assert sum(found['share'] for found in entry['segments']) == pytest.approx(1)
    assert len(predictions) == 6


STEADY = {  # nothing drawn at random
    CLASSIFIER: 'train_dataloader = dict(dataset=dict(pipeline=_base_.test_pipeline))',
    SEGMENTOR: """
model = dict(
    backbone=dict(init_cfg=None),
    decode_head=dict(dropout_ratio=0.), auxiliary_head=dict(dropout_ratio=0.))
train_dataloader = dict(dataset=dict(pipeline=[
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=_base_.crop_size),
    dict(type='PackSegInputs')]))
"""}


@pytest.mark.parametrize('recipe', STEADY)
def test_resume_goes_on_where_it_stopped(run_tool, folder, recipe):
    """Two epochs in one go, and in two: the same losses, the same weights."""
    (folder / 'steady.py').write_text(
        f'_base_ = {str(ROOT / "configs" / recipe)!r}\n{STEADY[recipe]}')
    run_tool('train.py', 'steady.py', '--work-dir', 'whole', '--cfg-options', *epochs(2))
    run_tool('train.py', 'steady.py', '--work-dir', 'parts', '--cfg-options', *epochs(1))
    resume(run_tool, 'steady.py', '--work-dir', 'parts', '--cfg-options', *epochs(2))
    assert losses(folder / 'whole')[2:] == pytest.approx(losses(folder / 'parts'), rel=1e-5)
    whole, parts = (torch.load(folder / run / 'epoch_2.pth')['state_dict']
                    for run in ('whole', 'parts'))
    for name, value in whole.items():
        torch.testing.assert_close(value, parts[name], msg=name)


@pytest.mark.parametrize(('recipe', 'score'), [(DETECTOR, 'coco/bbox_mAP'), (SEGMENTOR, 'mIoU')])
def test_two_processes_on_the_cpu(run_tool, folder, recipe, score):
    out = run_tool('dist_train.sh', recipe, 2, '--work-dir', 'run', '--cfg-options',
                   *epochs(1), 'model.backbone.init_cfg=None',
                   env=dict(CUDA_VISIBLE_DEVICES='', PORT='29611'))
    assert len(losses(folder / 'run')) == 1  # eight images, two processes of four
    assert 'gloo' in out
    out = run_tool('dist_test.sh', recipe, 'run/epoch_1.pth', 2, '--cfg-options', *SMALL,
                   env=dict(CUDA_VISIBLE_DEVICES='', PORT='29612'))
    assert score in out


@pytest.mark.parametrize('recipe', [CLASSIFIER, DETECTOR, SEGMENTOR, *of('vmamba', SEGMENTOR)])
def test_mixed_precision_and_scaled_rate(run_tool, folder, recipe):
    out = run_tool('train.py', recipe, '--amp', '--auto-scale-lr', '--work-dir', 'amp',
                   '--cfg-options', *epochs(1), 'model.backbone.init_cfg=None',
                   env=dict(CUDA_VISIBLE_DEVICES=''))
    (log, ) = (folder / 'amp').glob('*/*.log')  # it keeps the config, which is not printed
    assert "type='AmpOptimWrapper'" in log.read_text()
    base = load_config(recipe).auto_scale_lr.base_batch_size
    assert f'current batch size is 4. Scaling the original LR by {4 / base}' in out
    assert all(math.isfinite(loss) for loss in losses(folder / 'amp'))


def test_averaged_over_augmentations(run_tool, folder):
    (folder / 'tta.py').write_text(f"""
_base_ = {str(ROOT / 'configs' / CLASSIFIER)!r}
tta_model = dict(type='AverageClsScoreTTA')
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[
        [dict(type='Resize', scale=64), dict(type='Resize', scale=80)],
        [dict(type='PackInputs')]])]
""")
    run_tool('train.py', 'tta.py', '--work-dir', 'cls', '--cfg-options', *epochs(1))
    for options in ((), ('--tta', )):
        run_tool('test.py', 'tta.py', 'cls/epoch_1.pth', *options, '--out', f'{len(options)}.pkl',
                 '--cfg-options', *SMALL)
    plain, averaged = (mmengine.load(folder / f'{n}.pkl') for n in (0, 1))
    assert len(plain) == len(averaged) == 4
    assert not torch.equal(plain[0]['pred_score'], averaged[0]['pred_score'])


def test_inputs_that_do_not_fit(run_tool, folder):
    """Each ends with one message and no traceback."""
    scenes = folder / 'data' / 'sample_digits' / 'coco' / 'val2017'
    (folder / 'broken').mkdir()
    (folder / 'broken' / 'half.jpg').write_bytes(next(scenes.iterdir()).read_bytes()[:200])
    (folder / 'empty').mkdir()
    torch.save(dict(state_dict={'backbone.stem.conv1.conv.weight': torch.zeros(3)}),
               folder / 'other.pth')
    model = MODELS.build(dict(load_config(CLASSIFIER).model, _scope_='mmpretrain'))
    torch.save(dict(state_dict=model.state_dict()), folder / 'whole.pth')
    other_head = {name: value[:5] if name.startswith('head') else value
                  for name, value in model.state_dict().items()}
    torch.save(dict(state_dict=other_head), folder / 'head.pth')
    (folder / 'torn.pth').write_bytes((folder / 'other.pth').read_bytes()[:300])
    for arguments, message in (
            (('train.py', DETECTOR), 'no such checkpoint file'),
            (('train.py', CLASSIFIER, '--resume', 'gone.pth'), 'gone.pth: no such checkpoint'),
            (('train.py', CLASSIFIER, '--cfg-options',
              'train_dataloader.dataset.data_root=gone'), 'data_root: gone is not there'),
            (('test.py', CLASSIFIER, 'torn.pth'), 'torn.pth: cannot be read as a checkpoint'),
            (('test.py', CLASSIFIER, 'other.pth'), 'other.pth: not the weights of this model'),
            (('test.py', CLASSIFIER, 'head.pth'), 'head.fc.bias: (5,), expected (10,)'),
            (('predict.py', CLASSIFIER, 'head.pth', 'broken'), 'head.fc.bias: (5,)'),
            (('test.py', DETECTOR, 'other.pth', '--tta'), 'no tta_model'),
            (('predict.py', CLASSIFIER, 'other.pth', 'gone'), 'no such image or folder'),
            (('predict.py', CLASSIFIER, 'other.pth', 'empty'), 'empty: holds no image'),
            (('predict.py', CLASSIFIER, 'whole.pth', 'broken'), '1 image was left out'),
            (('train.py', 'vssd-nano_digit.py'), 'similar: samples/vssd-nano_1xb64_digits.py'),
    ):
        out = run_tool(*arguments, expect=2)
        assert message in out, arguments
        assert 'Traceback' not in out, arguments
