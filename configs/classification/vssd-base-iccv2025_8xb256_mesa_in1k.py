_base_ = './vssd-base-iccv2025_8xb256_in1k.py'

model = dict(type='mmvssd.MESAClassifier', mesa_weight=2.0)
default_hooks = dict(mesa=dict(type='mmvssd.MESAHook'))
