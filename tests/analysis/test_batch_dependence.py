"""Detections in a batch against those of the images alone."""
import json

import pytest
import torch
from mmengine.structures import InstanceData

from mmvssd.analysis.batch_dependence import compare, measure
from mmvssd.cli.launch import load_config
from mmvssd.errors import ConfigError
from mmvssd.registry import MODELS


def detections(*rows):
    """Rows of (left edge, score, label), each a box 10 pixels wide."""
    rows = torch.tensor(rows).reshape(-1, 3)
    left = rows[:, 0]
    return InstanceData(
        bboxes=torch.stack([left, torch.zeros_like(left), left + 10,
                            torch.full_like(left, 10)], 1),
        scores=rows[:, 1], labels=rows[:, 2].long())


def test_compare():
    alone = [detections((0, .9, 1), (50, .8, 1), (90, .5, 2), (70, .1, 1)), detections()]
    together = [detections((1, .7, 1), (50, .8, 3), (90, .25, 2)), detections((0, .6, 1))]
    change = compare(alone, together, score_thr=.3)
    # (0 and 1) and (90, though below the threshold) are kept; (50) has changed its class
    assert (change.kept, change.lost, change.new) == (2, 1, 2)
    assert change.mean_score == pytest.approx((.2 + .25) / 2)
    assert change.max_score == pytest.approx(.25)
    assert change.mean_overlap == pytest.approx((9 / 11 + 1) / 2)


def test_compare_nothing():
    assert compare([detections()], [detections()], .3) == (0, 0, 0, 0, 0, 0)


@pytest.mark.slow
def test_command(run_tool, tmp_path):
    run_tool('dataset_tools/make_sample_data.py', 'data/sample_digits', '--num-scenes', 1, 6,
             '--num-crops', 1, 1)
    images = json.loads((tmp_path / 'data/sample_digits/coco/annotations/'
                         'instances_val2017.json').read_text())['images']
    assert len({(image['height'], image['width']) for image in images}) > 1
    recipe = 'samples/mask-rcnn_vssd-nano_fpn_1xb8_digits.py'
    model = MODELS.build(dict(load_config(recipe).model, _scope_='mmdet'))
    torch.manual_seed(0)
    for parameter in model.parameters():  # detections of some score, and biases that are not zero
        torch.nn.init.normal_(parameter, std=.05)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'random.pth')
    out = run_tool('analysis_tools/batch_dependence.py', recipe, 'random.pth', '--batches', 4,
                   '--score-thr', 0.05, '--cfg-options', 'model.backbone.init_cfg=None')
    rows = [[cell.strip() for cell in line.split('│')[1:-1]] for line in out.splitlines()
            if line.startswith('│')]
    assert [row[:2] for row in rows] == [['off', '1'], ['off', '4'], ['on', '1'], ['on', '4']]
    for row in rows[::2]:  # against themselves
        assert int(row[2]) > 0
        assert row[3:8] == ['0', '0', '0.0000', '0.0000', '1.0000']
    out = run_tool('analysis_tools/batch_dependence.py', 'samples/vssd-nano_1xb64_digits.py',
                   'random.pth', expect=2)
    assert 'default_scope: got mmpretrain, expected mmdet' in out
    with pytest.raises(ConfigError, match='--batches: got 0, expected a positive number'):
        measure(load_config(recipe), 'random.pth', [4, 0])
