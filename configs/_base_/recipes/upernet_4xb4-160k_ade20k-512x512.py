# UperNet on ADE20K, 160k iterations; a recipe names the backbone.
_base_ = [
    '../models/upernet.py',
    '../datasets/ade20k.py',
    '../schedules/ade20k_160k.py',
    '../ade20k_runtime.py',
]
