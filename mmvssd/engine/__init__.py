"""What runs around a model: hooks, loops, launching, prediction."""
from mmvssd.engine.hooks import (
    CheckpointCheckHook,
    DataCheckHook,
    DataFaultsHook,
    FiniteCheckHook,
    MeanLossHook,
    MESAHook,
    RunRecordHook,
    SafeCheckpointHook,
    SegmentationDrawingHook,
    TestedWeightsHook,
)
from mmvssd.engine.loops import EpochBasedTrainLoop, IterBasedTrainLoop
from mmvssd.engine.tensorboard import TensorboardVisBackend
from mmvssd.engine.training_data import ResumableBatchSampler, SeededDataset

__all__ = ['CheckpointCheckHook', 'DataCheckHook', 'DataFaultsHook', 'EpochBasedTrainLoop',
           'FiniteCheckHook', 'IterBasedTrainLoop', 'MESAHook', 'MeanLossHook',
           'ResumableBatchSampler', 'RunRecordHook', 'SafeCheckpointHook', 'SeededDataset',
           'SegmentationDrawingHook', 'TensorboardVisBackend', 'TestedWeightsHook']
