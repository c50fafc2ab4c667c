_base_ = './mask-rcnn_vssd-tiny_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='base',
        init_cfg=dict(checkpoint='checkpoints/vssd-base_in1k.pth')),
    neck=dict(in_channels=[96, 192, 384, 768]))
