_base_ = ['../_base_/samples/mask-rcnn_fpn.py', '../_base_/backbones/vssd-nano.py']

model = dict(
    backbone=dict(init_cfg=dict(checkpoint=_base_.checkpoint), **_base_.backbone),
    neck=dict(in_channels=_base_.dims))
