_base_ = ['../_base_/recipes/mask-rcnn_fpn_ms-3x_coco.py', '../_base_/backbones/vmamba-tiny-s2l5.py']

model = dict(
    backbone=dict(init_cfg=dict(checkpoint=_base_.checkpoint), **_base_.backbone),
    neck=dict(in_channels=_base_.dims))
