_base_ = './upernet_vmamba-tiny-s1l8_4xb4-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='small-s1l20',
        init_cfg=dict(checkpoint='checkpoints/vmamba-small-s1l20_in1k.pth')))
