"""Write down what a run was: its facts, losses, curves and pictures."""
from mmvssd.engine.record.details import TestDetailsHook
from mmvssd.engine.record.drawing import PredictionDrawingHook
from mmvssd.engine.record.mean_loss import MeanLossHook
from mmvssd.engine.record.run_record import RunRecordHook
from mmvssd.engine.record.tensorboard import TensorboardVisBackend

__all__ = ['MeanLossHook', 'PredictionDrawingHook', 'RunRecordHook', 'TensorboardVisBackend',
           'TestDetailsHook']
