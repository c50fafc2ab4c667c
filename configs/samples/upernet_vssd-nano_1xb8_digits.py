_base_ = [
    'mmseg::_base_/models/upernet_swin.py',
    '../_base_/models/vssd_nano.py',
    '../_base_/datasets/digits_ade20k.py',
    '../_base_/mmseg_runtime.py',
]

# from the classifier of vssd-nano_1xb64_digits.py
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(
        _delete_=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/vssd-nano_1xb64_digits/epoch_8.pth',
            prefix='backbone.'),
        **_base_.nano),
    # no init_cfg: the host's last layer, drawn with a deviation of 0.01, holds all digits equally
    # likely for hundreds of steps
    decode_head=dict(
        init_cfg=None, in_channels=[24, 48, 96, 192], channels=64, num_classes=11),
    auxiliary_head=dict(init_cfg=None, in_channels=96, channels=64, num_classes=11))

max_epochs = 14
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0., flat_decay_mult=0.),
    clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=0, end=max_epochs,
         convert_to_iter_based=True),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=7)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(enable=False, base_batch_size=8)

log_processor = dict(by_epoch=True)  # MMSegmentation counts iterations
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=15),
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=2))
randomness = dict(seed=0)
