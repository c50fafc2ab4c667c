_base_ = './upernet_vmamba-tiny-s1l8_4xb4-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='v0-tiny',
        init_cfg=dict(checkpoint='checkpoints/vmamba-v0-tiny_in1k.pth')))
