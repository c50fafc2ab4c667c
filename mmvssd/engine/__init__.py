"""What runs around a model: hooks, launching, prediction."""
from mmvssd.engine.hooks import CheckpointCheckHook, DataCheckHook, SegmentationDrawingHook

__all__ = ['CheckpointCheckHook', 'DataCheckHook', 'SegmentationDrawingHook']
