_base_ = [
    '../_base_/models/mask-rcnn_vmamba-tiny-s1l8_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    '../_base_/schedules/coco_1x.py',
    '../_base_/mmdet_runtime.py',
]
