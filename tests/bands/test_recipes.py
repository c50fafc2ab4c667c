"""The recipes of docs/bands.md: a step of training, a test with pictures, predictions."""
import json
import re

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmvssd.cli.launch import build_tester, build_trainer
from mmvssd.cli.predict import predict
from mmvssd.models import VSSD
from mmvssd.paths import configs_dir, project_root

HOSTS = {'detector': 'mmdet', 'segmentor': 'mmseg', 'classifier': 'mmpretrain'}
RECIPES = dict(re.findall(r'`mine/(\w+)\.py`:\n\n```python\n(.*?)```',
                          (project_root() / 'docs' / 'bands.md').read_text(), re.DOTALL))
ARCH = dict(embed_dims=24, depths=(1, 1, 1, 1), num_heads=(2, 2, 4, 8), d_state=8, mlp_ratio=2)
DIMS = [24, 48, 96, 192]
WIDTH, HEIGHT = 72, 64


def write(file, bands, dtype='uint16'):
    """Write noise about the docs' means."""
    noise = np.random.default_rng(sum(map(ord, file.stem))).normal(size=(HEIGHT, WIDTH, bands))
    image = (1500 + 300 * noise).astype(dtype)
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == '.npy':
        np.save(file, image)
    else:
        pytest.importorskip('tifffile').imwrite(file, image, photometric='minisblack',
                                                planarconfig='contig', compression='zlib')


def make_detector(root):
    for part in ('train', 'val'):
        names = [f'{part}{index}.tif' for index in range(2)]
        for name in names:
            write(root / part / name, 5)
        objects = [dict(id=index + 1, image_id=index, category_id=index + 1, bbox=[8, 8, 30, 20],
                        area=600, iscrowd=0, segmentation=[[8, 8, 38, 8, 38, 28, 8, 28]])
                   for index in range(2)]
        (root / f'{part}.json').write_text(json.dumps(dict(
            images=[dict(id=index, file_name=name, width=WIDTH, height=HEIGHT)
                    for index, name in enumerate(names)], annotations=objects,
            categories=[dict(id=1, name='field'), dict(id=2, name='house')])))


def make_segmentor(root):
    for part in ('train', 'val'):
        for index in range(2):
            write(root / part / f'{part}{index}.npy', 13)
            labels = np.zeros((HEIGHT, WIDTH), np.uint8)
            labels[20:40] = 1
            mmcv.imwrite(labels, str(root / f'{part}_labels' / f'{part}{index}.png'))


def make_classifier(root):
    for part in ('train', 'val'):
        for name in ('field', 'house'):
            write(root / part / name / f'{part}-{name}.tif', 5)


SMALL = dict(
    detector={
        'model.neck.in_channels': DIMS,
        'model.test_cfg.rcnn.score_thr': 0., 'model.test_cfg.rpn.nms_pre': 20,
        'model.test_cfg.rcnn.max_per_img': 3},
    segmentor={
        'model.decode_head.in_channels': DIMS, 'model.auxiliary_head.in_channels': DIMS[2],
        'model.decode_head.channels': 16, 'model.data_preprocessor.size': (64, 64)},
    classifier={'model.head.in_channels': DIMS[-1], 'param_scheduler': []})
LOOPS = {'train_dataloader.batch_size': 2, 'train_dataloader.num_workers': 0,
         'train_dataloader.persistent_workers': False, 'val_dataloader.num_workers': 0,
         'val_dataloader.persistent_workers': False, 'val_dataloader.batch_size': 1,
         'test_dataloader.num_workers': 0, 'test_dataloader.persistent_workers': False,
         'test_dataloader.batch_size': 1}


@pytest.fixture(params=HOSTS)
def recipe(request, tmp_path, monkeypatch):
    """A recipe of the page with a small model, its data, and a checkpoint of three bands."""
    pytest.importorskip(HOSTS[request.param])
    monkeypatch.chdir(tmp_path)
    globals()[f'make_{request.param}'](tmp_path / 'data' / 'bands')
    (tmp_path / 'configs').symlink_to(configs_dir())
    file = tmp_path / 'mine' / f'{request.param}.py'
    file.parent.mkdir()
    text = RECIPES[request.param]
    for size, small in (('(512, 512)', '(64, 64)'), ('=224', '=32'), ('=256', '=40')):
        text = text.replace(size, small)
    file.write_text(text)
    init_default_scope(HOSTS[request.param])
    (tmp_path / 'checkpoints').mkdir()
    torch.save(dict(state_dict={f'backbone.{name}': value for name, value in
                                VSSD(ARCH).state_dict().items()}),
               tmp_path / 'checkpoints' / 'vssd-micro_in1k.pth')
    cfg = Config.fromfile(file)
    cfg.model.backbone.arch = ARCH
    cfg.merge_from_dict({'work_dir': 'work',
                         'train_cfg': dict(_delete_=True, type='mmvssd.IterBasedTrainLoop',
                                           max_iters=1, val_interval=1), 'param_scheduler': [],
                         'default_hooks.checkpoint.by_epoch': False,
                         'default_hooks.checkpoint.interval': 1,
                         **LOOPS, **SMALL[request.param]})
    return request.param, cfg, tmp_path


@pytest.mark.slow
def test_it_trains_tests_and_predicts(recipe):
    name, cfg, folder = recipe
    runner = build_trainer(cfg)
    stem = next(module for module in runner.model.backbone.stem.modules()
                if isinstance(module, torch.nn.Conv2d))
    assert stem.in_channels == 5
    runner.train()
    assert np.isfinite(runner.message_hub.get_scalar('train/loss').current())
    checkpoint = str(next((folder / 'work').glob('*.pth')))
    tester = build_tester(cfg, checkpoint, show_dir='shown')
    assert tester.test()
    shown = [mmcv.imread(str(file)) for file in (folder / 'shown').rglob('*.*')]
    assert len(shown) == 2
    assert all(picture.std() > 20 for picture in shown)
    images = folder / 'data' / 'bands' / 'val'
    written = predict(cfg, checkpoint, str(images if name != 'classifier' else images / 'house'),
                      'out', device='cpu')
    entries = json.loads(written.read_text())
    assert len(entries) == 2 - (name == 'classifier')
    assert {'detector': 'instances', 'segmentor': 'segments',
            'classifier': 'classes'}[name] in entries[0]
    pictures = [mmcv.imread(str(file)) for file in (folder / 'out' / 'pictures').iterdir()]
    assert len(pictures) == len(entries)
    assert all(picture.std() > 20 for picture in pictures)
