_base_ = './mask-rcnn_vmamba-tiny-s1l8_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='base-s1l20',
        init_cfg=dict(checkpoint='checkpoints/vmamba-base-s1l20_in1k.pth')),
    neck=dict(in_channels=[128, 256, 512, 1024]))
