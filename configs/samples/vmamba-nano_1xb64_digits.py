_base_ = ['../_base_/samples/classifier.py', '../_base_/backbones/vmamba-nano.py']

model = dict(backbone=_base_.backbone, head=dict(in_channels=_base_.dims[-1]))
