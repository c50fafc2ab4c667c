_base_ = ['../_base_/recipes/mask-rcnn_fpn_1x_coco.py', '../_base_/backbones/vmamba-base-s2l15.py']

model = dict(
    backbone=dict(init_cfg=dict(checkpoint=_base_.checkpoint), **_base_.backbone),
    neck=dict(in_channels=_base_.dims))
