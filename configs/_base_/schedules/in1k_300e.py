# 300 epochs of AdamW at a global batch of 1024, 20 of them warm-up from 1e-6, then cosine to 1e-5.
_base_ = 'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py'

# MMPreTrain's file already leaves norms, biases and 1-D parameters without decay
optim_wrapper = dict(clip_grad=dict(max_norm=5.0))

train_cfg = dict(
    _delete_=True, type='mmvssd.EpochBasedTrainLoop', max_epochs=300, val_interval=1)

# of the peak, so that both follow where it is scaled; the cosine ends with the last epoch
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.01, by_epoch=True, begin=20,
         convert_to_iter_based=True),
]
auto_scale_lr = dict(enable=True, base_batch_size=1024)

# EMA 0.9999 = 1 - momentum, evaluated beside the raw weights. As in the published code it averages
# the whole state: BatchNorm's statistics belong to the weights that they were measured with
custom_hooks = [
    dict(type='EMAHook', momentum=1e-4, update_buffers=True, evaluate_on_origin=True,
         priority='ABOVE_NORMAL')
]
