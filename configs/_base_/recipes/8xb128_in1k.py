# A classifier of ImageNet, 300 epochs at a global batch of 1024 = 8 GPUs x 128 images; a recipe
# names the backbone.
_base_ = [
    '../models/classifier.py',
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    '../schedules/in1k_300e.py',
    '../mmpretrain_runtime.py',
]

train_dataloader = dict(batch_size=128)
