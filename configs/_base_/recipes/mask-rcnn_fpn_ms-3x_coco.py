# Mask R-CNN on COCO in many scales, 36 epochs; a recipe names the backbone.
_base_ = [
    '../models/mask-rcnn_fpn.py',
    '../datasets/coco_instance_ms.py',
    '../schedules/coco_3x.py',
    '../mmdet_runtime.py',
]
