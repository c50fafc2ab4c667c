_base_ = './upernet_vmamba-tiny-s1l8_4xb4-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='v0-base',
        init_cfg=dict(checkpoint='checkpoints/vmamba-v0-base_in1k.pth')),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512))
