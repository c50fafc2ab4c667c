"""Hooks for MMEngine's Runner."""
from mmvssd.engine.hooks.checkpoint_check import CheckpointCheckHook
from mmvssd.engine.hooks.data_check import DataCheckHook
from mmvssd.engine.hooks.segmentation_drawing import SegmentationDrawingHook

__all__ = ['CheckpointCheckHook', 'DataCheckHook', 'SegmentationDrawingHook']
