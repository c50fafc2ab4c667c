_base_ = './vssd-base_8xb256_in1k.py'

model = dict(backbone=dict(arch='base-iccv2025'))
