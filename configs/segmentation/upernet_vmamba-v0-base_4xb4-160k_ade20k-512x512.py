_base_ = ['../_base_/recipes/upernet_4xb4-160k_ade20k-512x512.py', '../_base_/backbones/vmamba-v0-base.py']

model = dict(
    backbone=dict(init_cfg=dict(checkpoint=_base_.checkpoint), **_base_.backbone),
    decode_head=dict(in_channels=_base_.dims),
    auxiliary_head=dict(in_channels=_base_.dims[2]))
