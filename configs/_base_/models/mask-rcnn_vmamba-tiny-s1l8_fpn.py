_base_ = './mask-rcnn_fpn.py'

model = dict(
    backbone=dict(
        type='mmvssd.VMamba',
        arch='tiny-s1l8',
        init_cfg=dict(checkpoint='checkpoints/vmamba-tiny-s1l8_in1k.pth')),
    neck=dict(in_channels=[96, 192, 384, 768]))
