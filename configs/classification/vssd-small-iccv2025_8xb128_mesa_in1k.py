_base_ = './vssd-small-iccv2025_8xb128_in1k.py'

model = dict(type='mmvssd.MESAClassifier', mesa_weight=1.5)
default_hooks = dict(mesa=dict(type='mmvssd.MESAHook'))
