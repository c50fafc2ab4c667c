_base_ = './mask-rcnn_vmamba-tiny-s1l8_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='v0-small',
        init_cfg=dict(checkpoint='checkpoints/vmamba-v0-small_in1k.pth')))
