_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmvssd.VSSD',
        arch='tiny',
        init_cfg=dict(
            type='Pretrained', checkpoint='checkpoints/vssd-tiny_in1k.pth', prefix='backbone.')),
    neck=dict(in_channels=[64, 128, 256, 512]))
