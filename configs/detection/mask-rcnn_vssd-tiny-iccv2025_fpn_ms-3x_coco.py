_base_ = './mask-rcnn_vssd-tiny_fpn_ms-3x_coco.py'

model = dict(
    backbone=dict(
        arch='tiny-iccv2025',
        init_cfg=dict(checkpoint='checkpoints/vssd-tiny-iccv2025_in1k.pth')),
    neck=dict(in_channels=[96, 192, 384, 768]))
