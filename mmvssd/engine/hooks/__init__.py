"""Hooks for MMEngine's Runner."""
from mmvssd.engine.hooks.checkpoint_check import CheckpointCheckHook
from mmvssd.engine.hooks.data_check import DataCheckHook
from mmvssd.engine.hooks.data_faults import DataFaultsHook
from mmvssd.engine.hooks.finite_check import FiniteCheckHook
from mmvssd.engine.hooks.mean_loss import MeanLossHook
from mmvssd.engine.hooks.mesa import MESAHook
from mmvssd.engine.hooks.run_record import RunRecordHook
from mmvssd.engine.hooks.safe_checkpoint import SafeCheckpointHook
from mmvssd.engine.hooks.segmentation_drawing import SegmentationDrawingHook
from mmvssd.engine.hooks.tested_weights import TestedWeightsHook

__all__ = ['CheckpointCheckHook', 'DataCheckHook', 'DataFaultsHook', 'FiniteCheckHook',
           'MESAHook', 'MeanLossHook', 'RunRecordHook', 'SafeCheckpointHook',
           'SegmentationDrawingHook', 'TestedWeightsHook']
