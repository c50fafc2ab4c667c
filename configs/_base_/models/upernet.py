# UperNet for ADE20K on a backbone that starts from a classifier; a recipe names the backbone, its
# checkpoint and its widths.
_base_ = 'mmseg::_base_/models/upernet_swin.py'

model = dict(
    data_preprocessor=dict(size=(512, 512)),  # the crop that training pads to
    backbone=dict(_delete_=True, init_cfg=dict(type='Pretrained', prefix='backbone.')),
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150))
