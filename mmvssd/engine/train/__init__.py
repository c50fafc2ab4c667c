"""Training loops, early stopping, decay of learning rates, sharded training, MESA's schedule."""
from mmvssd.engine.train.early_stopping import ResumableEarlyStoppingHook
from mmvssd.engine.train.layer_decay import LearningRateDecayOptimizerConstructor
from mmvssd.engine.train.loops import EpochBasedTrainLoop, IterBasedTrainLoop
from mmvssd.engine.train.mesa import MESAHook

__all__ = ['EpochBasedTrainLoop', 'IterBasedTrainLoop', 'LearningRateDecayOptimizerConstructor',
           'MESAHook', 'ResumableEarlyStoppingHook']
