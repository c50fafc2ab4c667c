_base_ = './mask-rcnn_vmamba-tiny-s1l8_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='v0-base',
        init_cfg=dict(checkpoint='checkpoints/vmamba-v0-base_in1k.pth')),
    neck=dict(in_channels=[128, 256, 512, 1024]))
