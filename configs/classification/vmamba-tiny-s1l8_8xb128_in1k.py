_base_ = [
    '../_base_/models/classifier.py',
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    '../_base_/schedules/in1k_300e.py',
    '../_base_/mmpretrain_runtime.py',
]

model = dict(backbone=dict(type='mmvssd.VMamba', arch='tiny-s1l8'), head=dict(in_channels=768))
train_dataloader = dict(batch_size=128)

# decay rates, and the biases of four sequences: 2-D, so that the rules for vectors miss them
no_decay = dict(decay_mult=0.)
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            'mixer.A_logs': no_decay,
            'mixer.dt_projs_bias': no_decay,
        }))
