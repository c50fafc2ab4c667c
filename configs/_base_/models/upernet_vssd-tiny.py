_base_ = 'mmseg::_base_/models/upernet_swin.py'

model = dict(
    data_preprocessor=dict(size=(512, 512)),  # the crop that training pads to
    backbone=dict(
        _delete_=True,
        type='mmvssd.VSSD',
        arch='tiny',
        init_cfg=dict(
            type='Pretrained', checkpoint='checkpoints/vssd-tiny_in1k.pth', prefix='backbone.')),
    decode_head=dict(in_channels=[64, 128, 256, 512], num_classes=150),
    auxiliary_head=dict(in_channels=256, num_classes=150))
