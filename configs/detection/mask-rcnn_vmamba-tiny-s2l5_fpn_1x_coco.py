_base_ = './mask-rcnn_vmamba-tiny-s1l8_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='tiny-s2l5',
        init_cfg=dict(checkpoint='checkpoints/vmamba-tiny-s2l5_in1k.pth')))
