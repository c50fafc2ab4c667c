"""What runs around a model: hooks, launching, prediction."""
from mmvssd.engine.hooks import CheckpointCheckHook

__all__ = ['CheckpointCheckHook']
