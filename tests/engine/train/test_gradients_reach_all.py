"""Every parameter of every kind of model gets a gradient in a training step.

DistributedDataParallel waits for the gradients of all parameters; with ``find_unused_parameters``
it would look for those without one at every step.
"""
import re

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData

from mmvssd.cli.launch import load_config
from mmvssd.paths import project_root

pytestmark = pytest.mark.slow

WIDTHS = [16, 32, 64, 128]
VSSD_NANO = dict(embed_dims=16, depths=(1, 1, 2, 1), num_heads=(2, 2, 4, 4), d_state=8)
BACKBONES = {
    'vssd': dict(type='mmvssd.VSSD', arch=VSSD_NANO),
    'vssd mixers': dict(type='mmvssd.VSSD', with_cp=True,
                        arch=dict(VSSD_NANO, mixers=('ssd', 'bi_ssd', 'nc_ssd', 'attention'))),
    'vmamba': dict(type='mmvssd.VMamba', with_cp=True,
                   arch=dict(embed_dims=16, depths=(1, 1, 2, 1))),
    'vmamba v0': dict(type='mmvssd.VMamba',
                      arch=dict(embed_dims=16, depths=(1, 1, 2, 1), version='v0', d_state=4)),
}
RECIPES = {
    'classification/vssd-tiny_8xb128_in1k.py': dict(head=dict(in_channels=WIDTHS[-1])),
    'classification/vssd-tiny_8xb128_mesa_in1k.py': dict(head=dict(in_channels=WIDTHS[-1])),
    'detection/mask-rcnn_vssd-tiny_fpn_1x_coco.py': dict(neck=dict(in_channels=WIDTHS)),
    'segmentation/upernet_vssd-tiny_4xb4-160k_ade20k-512x512.py': dict(
        data_preprocessor=dict(size=(64, 64)), decode_head=dict(in_channels=WIDTHS, channels=32),
        auxiliary_head=dict(in_channels=WIDTHS[2], channels=32)),
}


def classified():
    from mmpretrain.structures import DataSample
    return [DataSample().set_gt_label(label) for label in (3, 7)]


def detected():
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    samples = []
    for label in (3, 7):
        mask = np.zeros((1, 64, 64), np.uint8)
        mask[:, 8:40, 16:56] = 1
        sample = DetDataSample(metainfo=dict(
            img_shape=(64, 64), ori_shape=(64, 64), pad_shape=(64, 64), scale_factor=(1., 1.)))
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor([[16., 8., 56., 40.]]), labels=torch.tensor([label]),
            masks=BitmapMasks(mask, 64, 64))
        samples.append(sample)
    return samples


def segmented():
    from mmseg.structures import SegDataSample
    samples = []
    for label in (3, 7):
        sample = SegDataSample(metainfo=dict(img_shape=(64, 64), ori_shape=(64, 64)))
        sample.gt_sem_seg = PixelData(data=torch.full((1, 64, 64), label))
        samples.append(sample)
    return samples


#: The page's configs of hosts on our backbones, by the host's config.
FINETUNE = (project_root() / 'docs' / 'finetune.md').read_text()
HOSTS_CONFIGS = {name: text for text, name in re.findall(
    r"```python\n(_base_ = '(mm\w+::[^']+)'.*?)```", FINETUNE, re.DOTALL)}
ADAMW = re.search(r'^no_decay = .*?(?=```)', FINETUNE, re.DOTALL | re.MULTILINE)[0]
#: What lets 64 pixels do: there DINO has 85 tokens to take its queries from, not 900.
SMALL = {'dino': dict(num_queries=20), 'mmseg': dict(data_preprocessor=dict(size=(64, 64)))}

SAMPLES = dict(classification=classified, detection=detected, segmentation=segmented)


@pytest.mark.parametrize('backbone', BACKBONES)
@pytest.mark.parametrize('recipe', RECIPES)
def test_every_parameter_gets_a_gradient(recipe, backbone):
    torch.manual_seed(0)
    cfg = load_config(recipe)
    cfg.merge_from_dict(dict(model=RECIPES[recipe]))
    out_indices = cfg.model.backbone.get('out_indices', range(4))
    cfg.model.backbone = dict(BACKBONES[backbone], out_indices=out_indices)
    init_default_scope(cfg.default_scope)
    preprocessor = cfg.get('data_preprocessor')
    if preprocessor:
        cfg.model.setdefault('data_preprocessor', preprocessor)
    model = MODELS.build(cfg.model).train()
    model.init_weights()
    assert without_gradient(model, SAMPLES[recipe.split('/')[0]]()) == []


def test_the_page_has_a_config_of_each_kind():
    assert {name.split('/')[0] for name in HOSTS_CONFIGS} == {
        'mmdet::mask_rcnn', 'mmdet::retinanet', 'mmdet::dino', 'mmseg::segformer', 'mmseg::fcn',
        'mmseg::upernet', 'mmpretrain::resnet'}


@pytest.mark.parametrize('name', HOSTS_CONFIGS)
def test_the_pages_configs_of_hosts_take_a_step(name, tmp_path):
    torch.manual_seed(0)
    text = HOSTS_CONFIGS[name]
    # the page asks for that
    if name.startswith(('mmdet::retinanet', 'mmseg::fcn', 'mmseg::upernet', 'mmpretrain::resnet')):
        text += ADAMW
    (tmp_path / 'mine.py').write_text(text)
    cfg = Config.fromfile(tmp_path / 'mine.py')
    host = name.split('::')[0]
    for part, settings in SMALL.items():
        if part in name:
            cfg.merge_from_dict(dict(model=settings))
    assert cfg.model.backbone.init_cfg.checkpoint == 'checkpoints/vssd-tiny_in1k.pth'
    cfg.model.backbone.init_cfg = None  # nothing is published here
    cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    init_default_scope(host)
    model = MODELS.build(cfg.model).train()
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    assert type(optimizer).__name__ == 'AdamW'
    samples = SAMPLES[dict(mmdet='detection', mmseg='segmentation',
                           mmpretrain='classification')[host]]()
    assert without_gradient(model, samples) == []
    optimizer.step()
    assert all(torch.isfinite(p).all() for p in model.parameters())


def without_gradient(model, samples):
    """Return the names of the trained parameters that a backward pass leaves without a gradient."""
    images = [torch.randint(256, (3, 64, 64), dtype=torch.uint8) for _ in samples]
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples), True)
    loss, _values = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    return [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
