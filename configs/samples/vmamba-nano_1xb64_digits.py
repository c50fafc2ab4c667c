_base_ = ['../_base_/samples/classifier.py', '../_base_/models/vmamba_nano.py']

model = dict(backbone=_base_.nano)
