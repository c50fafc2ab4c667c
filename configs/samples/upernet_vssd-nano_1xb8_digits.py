_base_ = ['../_base_/samples/upernet.py', '../_base_/backbones/vssd-nano.py']

model = dict(
    backbone=dict(init_cfg=dict(checkpoint=_base_.checkpoint), **_base_.backbone),
    decode_head=dict(in_channels=_base_.dims),
    auxiliary_head=dict(in_channels=_base_.dims[2]))
