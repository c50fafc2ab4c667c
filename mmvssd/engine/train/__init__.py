"""Training loops, early stopping, sharded training, and MESA's schedule."""
from mmvssd.engine.train.early_stopping import ResumableEarlyStoppingHook
from mmvssd.engine.train.loops import EpochBasedTrainLoop, IterBasedTrainLoop
from mmvssd.engine.train.mesa import MESAHook

__all__ = ['EpochBasedTrainLoop', 'IterBasedTrainLoop', 'MESAHook', 'ResumableEarlyStoppingHook']
