"""Check training data, count their faults, and draw them reproducibly."""
from mmvssd.engine.data.batch_check import DataCheckHook
from mmvssd.engine.data.data_faults import DataFaultsHook
from mmvssd.engine.data.data_survey import DataSurveyHook
from mmvssd.engine.data.training_data import (
    ResumableBatchSampler,
    SeededDataset,
    SeededSampler,
)

__all__ = ['DataCheckHook', 'DataFaultsHook', 'DataSurveyHook', 'ResumableBatchSampler',
           'SeededDataset', 'SeededSampler']
