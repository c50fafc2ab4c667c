_base_ = './upernet_vssd-tiny_4xb4-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(checkpoint='checkpoints/vssd-small_in1k.pth')))
