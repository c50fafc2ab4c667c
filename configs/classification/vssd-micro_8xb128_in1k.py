_base_ = './vssd-tiny_8xb128_in1k.py'

model = dict(backbone=dict(arch='micro'), head=dict(in_channels=384))
