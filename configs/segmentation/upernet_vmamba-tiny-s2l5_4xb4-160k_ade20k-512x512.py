_base_ = './upernet_vmamba-tiny-s1l8_4xb4-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='tiny-s2l5',
        init_cfg=dict(checkpoint='checkpoints/vmamba-tiny-s2l5_in1k.pth')))
