# A UperNet for scenes of digits; a recipe names the backbone and the classifier that it starts
# from.
_base_ = [
    '../models/upernet.py',
    '../datasets/digits_ade20k.py',
    '../schedules/digits_dense.py',
    '../mmseg_runtime.py',
]

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    # no init_cfg: the host's last layer, drawn with a deviation of 0.01, holds all digits equally
    # likely for hundreds of steps
    decode_head=dict(init_cfg=None, channels=64, num_classes=11),
    auxiliary_head=dict(init_cfg=None, channels=64, num_classes=11))

max_epochs = 14
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=0, end=max_epochs,
         convert_to_iter_based=True),
]
train_cfg = dict(type='mmvssd.EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=7)

log_processor = dict(by_epoch=True)  # MMSegmentation counts iterations
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=15),
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=2))
