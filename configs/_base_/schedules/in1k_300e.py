# 300 epochs of AdamW at a global batch of 1024, 20 of them warm-up from 1e-6, then cosine.
_base_ = 'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py'

# MMPreTrain's file already leaves norms, biases and 1-D parameters without decay
optim_wrapper = dict(clip_grad=dict(max_norm=5.0))

# EMA 0.9999 = 1 - momentum, evaluated beside the raw weights
custom_hooks = [
    dict(type='EMAHook', momentum=1e-4, evaluate_on_origin=True, priority='ABOVE_NORMAL')
]
