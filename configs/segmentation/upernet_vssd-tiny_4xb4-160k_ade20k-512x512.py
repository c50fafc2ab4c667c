_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/ade20k_160k.py',
    '../_base_/ade20k_runtime.py',
]

model = dict(
    backbone=dict(
        type='mmvssd.VSSD',
        arch='tiny',
        init_cfg=dict(checkpoint='checkpoints/vssd-tiny_in1k.pth')),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256))
