_base_ = [
    '../_base_/models/classifier.py',
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    '../_base_/schedules/in1k_300e.py',
    '../_base_/mmpretrain_runtime.py',
]

model = dict(backbone=dict(type='mmvssd.VSSD', arch='tiny'), head=dict(in_channels=512))
train_dataloader = dict(batch_size=128)
