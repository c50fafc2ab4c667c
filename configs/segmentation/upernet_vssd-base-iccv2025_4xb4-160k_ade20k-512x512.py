_base_ = './upernet_vssd-tiny_4xb4-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='base-iccv2025',
        init_cfg=dict(checkpoint='checkpoints/vssd-base-iccv2025_in1k.pth')),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384))
