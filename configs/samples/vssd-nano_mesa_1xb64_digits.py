_base_ = './vssd-nano_1xb64_digits.py'

model = dict(type='mmvssd.MESAClassifier', mesa_weight=1.0)
default_hooks = dict(mesa=dict(type='mmvssd.MESAHook'))
# an average over the last 50 steps or so: the whole run has a few hundred
custom_hooks = [
    dict(type='EMAHook', momentum=0.02, update_buffers=True, evaluate_on_origin=True,
         priority='ABOVE_NORMAL')
]
