_base_ = ['../_base_/recipes/vmamba_8xb128_in1k.py', '../_base_/backbones/vmamba-v0-base.py']

model = dict(backbone=_base_.backbone, head=dict(in_channels=_base_.dims[-1]))
