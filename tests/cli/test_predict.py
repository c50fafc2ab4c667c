"""Prediction where the model is made up for it; trained ones are in tests/test_samples.py."""
import json

import mmcv
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from pycocotools import mask as coco_mask

from mmvssd.cli.launch import load_config
from mmvssd.cli.predict import predict


def test_a_segmentors_classes_are_the_recipes(tmp_path, monkeypatch):
    """No data set is there, and the checkpoint names no classes, as a converted one."""
    pytest.importorskip('mmseg')
    monkeypatch.chdir(tmp_path)
    cfg = load_config('samples/upernet_vssd-nano_1xb8_digits.py')
    init_default_scope(cfg.default_scope)
    model = MODELS.build(dict(cfg.model, backbone=dict(cfg.model.backbone, init_cfg=None)))
    with torch.no_grad():
        model.decode_head.conv_seg.bias[3] = 100.  # after the background, zero and one
    torch.save(dict(state_dict=model.state_dict()), 'whole.pth')
    mmcv.imwrite(np.zeros((64, 96, 3), np.uint8), 'black.png')

    written = predict(cfg, 'whole.pth', 'black.png', 'out', device='cpu')
    (entry, ) = json.loads(written.read_text())
    assert entry['image'] == 'black.png'
    (segment, ) = entry['segments']
    assert (segment['category'], segment['share']) == ('two', 1.)
    assert coco_mask.decode(segment['segmentation']).sum() == 64 * 96
    picture = mmcv.imread('out/pictures/black.png', channel_order='rgb')
    # half of the palette's colour, as the other half is the image
    assert np.median(picture, (0, 1)).tolist() == [127, 112, 12]
