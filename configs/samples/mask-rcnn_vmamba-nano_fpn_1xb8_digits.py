_base_ = ['../_base_/samples/mask-rcnn_fpn.py', '../_base_/models/vmamba_nano.py']

# from the classifier of vmamba-nano_1xb64_digits.py
model = dict(
    backbone=dict(
        init_cfg=dict(checkpoint='work_dirs/vmamba-nano_1xb64_digits/epoch_8.pth'), **_base_.nano))
