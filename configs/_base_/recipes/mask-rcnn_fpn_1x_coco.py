# Mask R-CNN on COCO, 12 epochs; a recipe names the backbone.
_base_ = [
    '../models/mask-rcnn_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    '../schedules/coco_1x.py',
    '../mmdet_runtime.py',
]
