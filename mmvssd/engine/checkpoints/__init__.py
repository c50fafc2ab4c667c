"""Hooks that write, check and choose checkpoints."""
from mmvssd.engine.checkpoints.checkpoint_check import CheckpointCheckHook
from mmvssd.engine.checkpoints.safe_checkpoint import SafeCheckpointHook
from mmvssd.engine.checkpoints.tested_weights import TestedWeightsHook
from mmvssd.engine.checkpoints.work_dir import WorkDirHook

__all__ = ['CheckpointCheckHook', 'SafeCheckpointHook', 'TestedWeightsHook', 'WorkDirHook']
