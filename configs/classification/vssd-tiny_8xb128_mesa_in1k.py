_base_ = './vssd-tiny_8xb128_in1k.py'

model = dict(type='mmvssd.MESAClassifier', mesa_weight=1.0)
default_hooks = dict(mesa=dict(type='mmvssd.MESAHook'))
