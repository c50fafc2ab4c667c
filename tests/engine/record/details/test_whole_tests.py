"""A whole test of each host writes its details, and a page shows them."""
import json

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

from mmvssd.cli.command_line import write_report
from mmvssd.cli.launch import build_tester, load_config
from mmvssd.datasets import make_sample_data
from mmvssd.engine.record.details import FILE

RECIPES = {
    'classification': ('samples/vssd-nano_1xb64_digits.py', 'imagenet'),
    'detection': ('samples/mask-rcnn_vssd-nano_fpn_1xb8_digits.py', 'coco'),
    'segmentation': ('samples/upernet_vssd-nano_1xb8_digits.py', 'ade20k'),
}


@pytest.mark.slow
@pytest.mark.parametrize('task', RECIPES)
def test_details(task, tmp_path):
    recipe, kind = RECIPES[task]
    root = make_sample_data(tmp_path / 'digits', num_scenes=(2, 3), num_crops=(10, 10),
                            progress=False) / kind
    options = {'model.backbone.init_cfg': None, 'test_dataloader.num_workers': 0,
               'test_dataloader.persistent_workers': False,
               'test_dataloader.dataset.data_root': f'{root}/'}
    if task == 'detection':
        options['test_evaluator.ann_file'] = str(root / 'annotations/instances_val2017.json')
    cfg = load_config(recipe, work_dir=str(tmp_path / 'work'), options=options)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = dict(cfg.model)
        model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
        torch.save(dict(state_dict=MODELS.build(model).state_dict()), tmp_path / 'weights.pth')
    runner = build_tester(cfg, str(tmp_path / 'weights.pth'), details=True)
    scores = runner.test()
    (file, ) = (tmp_path / 'work').glob(f'*/{FILE}')
    content = json.loads(file.read_text())
    assert content['task'] == task
    assert content['images'] == (10 if task == 'classification' else 3)
    assert content['scores'] == pytest.approx({key: float(value) for key, value in scores.items()})
    assert len(content['by_class']) == (11 if task == 'segmentation' else 10)
    if task == 'classification':
        hits = sum(count for row, column, count in content['confusion']['cells'] if row == column)
        assert hits * 10 == scores['accuracy/top1']
    if task == 'segmentation':
        known = [row['IoU'] for row in content['by_class'] if row['IoU'] is not None]
        assert sum(known) / len(known) == pytest.approx(scores['mIoU'], abs=0.02)
    write_report(str(tmp_path / 'work'))
    html = (tmp_path / 'work' / 'report.html').read_text()
    assert html.count('data:image/jpeg') == 2 * len(content['worst'] + content['best'])
    assert 'cannot be shown' not in html
