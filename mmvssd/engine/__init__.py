"""What runs around a model, by subject: data, numerics, record, checkpoints, train."""
from mmvssd.engine.checkpoints import (
    CheckpointCheckHook,
    SafeCheckpointHook,
    TestedWeightsHook,
    WorkDirHook,
)
from mmvssd.engine.data import (
    DataCheckHook,
    DataFaultsHook,
    DataSurveyHook,
    ResumableBatchSampler,
    SeededDataset,
    SeededSampler,
)
from mmvssd.engine.guards import GuardedRunner, GuardsHook
from mmvssd.engine.numerics import FiniteCheckHook
from mmvssd.engine.record import (
    MeanLossHook,
    PredictionDrawingHook,
    RunRecordHook,
    TensorboardVisBackend,
    TestDetailsHook,
)
from mmvssd.engine.train import (
    EpochBasedTrainLoop,
    IterBasedTrainLoop,
    LearningRateDecayOptimizerConstructor,
    MESAHook,
    ResumableEarlyStoppingHook,
    UnusedParametersHook,
)

__all__ = ['CheckpointCheckHook', 'DataCheckHook', 'DataFaultsHook', 'DataSurveyHook',
           'EpochBasedTrainLoop', 'FiniteCheckHook', 'GuardedRunner', 'GuardsHook',
           'IterBasedTrainLoop', 'LearningRateDecayOptimizerConstructor', 'MESAHook',
           'MeanLossHook', 'PredictionDrawingHook',
           'ResumableBatchSampler', 'ResumableEarlyStoppingHook', 'RunRecordHook',
           'SafeCheckpointHook', 'SeededDataset', 'SeededSampler', 'TensorboardVisBackend',
           'TestDetailsHook', 'TestedWeightsHook', 'UnusedParametersHook', 'WorkDirHook']
