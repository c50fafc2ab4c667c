_base_ = './mask-rcnn_vssd-tiny_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='micro',
        init_cfg=dict(checkpoint='checkpoints/vssd-micro_in1k.pth')),
    neck=dict(in_channels=[48, 96, 192, 384]))
