"""Hooks for MMEngine's Runner."""
from mmvssd.engine.hooks.checkpoint_check import CheckpointCheckHook

__all__ = ['CheckpointCheckHook']
