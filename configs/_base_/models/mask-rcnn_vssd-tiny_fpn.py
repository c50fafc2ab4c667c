_base_ = './mask-rcnn_fpn.py'

model = dict(
    backbone=dict(
        type='mmvssd.VSSD',
        arch='tiny',
        init_cfg=dict(checkpoint='checkpoints/vssd-tiny_in1k.pth')),
    neck=dict(in_channels=[64, 128, 256, 512]))
