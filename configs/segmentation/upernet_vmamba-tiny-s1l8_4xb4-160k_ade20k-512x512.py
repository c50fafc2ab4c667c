_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/ade20k_160k.py',
    '../_base_/ade20k_runtime.py',
]

model = dict(
    backbone=dict(
        type='mmvssd.VMamba',
        arch='tiny-s1l8',
        init_cfg=dict(checkpoint='checkpoints/vmamba-tiny-s1l8_in1k.pth')),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384))
