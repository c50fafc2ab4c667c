_base_ = './mask-rcnn_vssd-tiny_fpn_ms-3x_coco.py'

model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(checkpoint='checkpoints/vssd-small_in1k.pth')))
