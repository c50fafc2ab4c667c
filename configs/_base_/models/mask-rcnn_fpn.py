# A backbone that starts from a classifier; a recipe names it, its checkpoint and its widths.
_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'

model = dict(
    backbone=dict(_delete_=True, init_cfg=dict(type='Pretrained', prefix='backbone.')))
