# 12 epochs of AdamW at a global batch of 16 = 8 GPUs x 2 images.
_base_ = 'mmdet::_base_/schedules/schedule_1x.py'

no_decay = dict(decay_mult=0.)
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.,
        custom_keys={
            'cpe1.bias': no_decay,
            'cpe2.bias': no_decay,
            # a key is a part of a name: VMamba's A_logs and Ds are among these
            'mixer.A_log': no_decay,
            'mixer.D': no_decay,
            'mixer.dt_bias': no_decay,
        }))

train_cfg = dict(type='mmvssd.EpochBasedTrainLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1),
]
