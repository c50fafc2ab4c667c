_base_ = ['../_base_/recipes/8xb128_in1k.py', '../_base_/backbones/vssd-micro.py']

model = dict(backbone=_base_.backbone, head=dict(in_channels=_base_.dims[-1]))
