_base_ = './mask-rcnn_vmamba-tiny-s1l8_fpn_ms-3x_coco.py'

model = dict(
    backbone=dict(
        arch='small-s1l20',
        init_cfg=dict(checkpoint='checkpoints/vmamba-small-s1l20_in1k.pth')))
