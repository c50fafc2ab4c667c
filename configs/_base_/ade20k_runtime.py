# Logs and checkpoints of a training that counts iterations.
_base_ = './mmseg_runtime.py'

default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=16000),
    visualization=dict(type='SegVisualizationHook'))
