_base_ = './mask-rcnn_vmamba-tiny-s1l8_fpn_ms-3x_coco.py'

model = dict(
    backbone=dict(
        arch='v0-tiny',
        init_cfg=dict(checkpoint='checkpoints/vmamba-v0-tiny_in1k.pth')))
