_base_ = './mask-rcnn_vmamba-tiny-s1l8_fpn_ms-3x_coco.py'

model = dict(
    backbone=dict(
        arch='small-s2l15',
        init_cfg=dict(checkpoint='checkpoints/vmamba-small-s2l15_in1k.pth')))
